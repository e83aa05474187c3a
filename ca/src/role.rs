//! The two roles of a node and the OU that says so in its certificate.

use std::fmt;

/// OU of a manager's certificate (spec/pki.md §1).
pub const MANAGER_OU: &str = "swarm-manager";
/// OU of a worker's certificate (spec/pki.md §1).
pub const WORKER_OU: &str = "swarm-worker";

/// What a node may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Runs tasks.
    Worker,
    /// Votes, signs, dispatches, and runs tasks.
    Manager,
}

impl Role {
    /// The OU of a certificate with this role.
    pub const fn ou(self) -> &'static str {
        match self {
            Self::Worker => WORKER_OU,
            Self::Manager => MANAGER_OU,
        }
    }

    /// The role that an OU stands for, if it is one of the two.
    pub fn from_ou(ou: &str) -> Option<Self> {
        match ou {
            WORKER_OU => Some(Self::Worker),
            MANAGER_OU => Some(Self::Manager),
            _ => None,
        }
    }

    /// `worker` or `manager`, as operators write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_ous_are_no_role() {
        for ou in ["", "swarm-ca", "Swarm-Manager", "swarm-manager ", "worker"] {
            assert_eq!(Role::from_ou(ou), None, "{ou:?}");
        }
    }

    #[test]
    fn a_role_survives_its_ou() {
        for role in [Role::Worker, Role::Manager] {
            assert_eq!(Role::from_ou(role.ou()), Some(role));
        }
    }
}
