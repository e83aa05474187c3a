//! Places to say who is calling: those for addresses that members come from are apart
//! from the others, so that a flood from elsewhere leaves members in.

use std::{net::IpAddr, sync::Arc, time::Duration};

use rustix::process::{Resource, getrlimit};

use tokio::time::Instant;

use super::{
    crowd::{Bounds, Crowd, Place},
    registry::Connections,
};
use crate::limits;

/// Handshakes are idle in the sense of a crowd, so that a newcomer always gets in.
const OTHERS: Bounds = Bounds {
    what: "handshakes",
    total: limits::HANDSHAKES,
    idle_per_group: usize::MAX,
    undisturbed: Duration::ZERO,
};
const MEMBERS: Bounds = Bounds {
    what: "handshakes from members' addresses",
    ..OTHERS
};
/// Both crowds together use half of the descriptors.
const DESCRIPTOR_SHARE: u64 = 4;

/// Handshakes at once of a process that may have so many descriptors; absent: any number.
fn bound(descriptors: Option<u64>) -> usize {
    let share = descriptors.map(|count| usize::try_from(count / DESCRIPTOR_SHARE));
    match share {
        Some(Ok(share)) => share.clamp(limits::LEAST_HANDSHAKES, limits::HANDSHAKES),
        _ => limits::HANDSHAKES,
    }
}

/// Handshakes at once of this process, in each of the two crowds.
pub(super) fn bound_here() -> usize {
    bound(getrlimit(Resource::Nofile).current)
}

/// Connections that did not yet say who they are.
pub(super) struct Handshakes {
    connections: Connections,
    members: Arc<Crowd>,
    others: Arc<Crowd>,
}

impl Handshakes {
    /// `connections` tells which addresses members come from.
    pub(super) fn new(connections: Connections) -> Handshakes {
        let total = bound_here();
        let here = |bounds: Bounds| Bounds { total, ..bounds };
        Handshakes::bounded(connections, here(MEMBERS), here(OTHERS))
    }

    fn bounded(connections: Connections, members: Bounds, others: Bounds) -> Handshakes {
        Handshakes {
            connections,
            members: Crowd::new(members),
            others: Crowd::new(others),
        }
    }

    /// A place for whoever calls from `address`, for which another may have to go.
    pub(super) fn enter(&self, address: IpAddr, now: Instant) -> Option<Arc<Place>> {
        let crowd = match self.connections.is_familiar(address, now) {
            true => &self.members,
            false => &self.others,
        };
        crowd.enter(address, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMBER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn address(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    #[test]
    fn few_descriptors_make_few_handshakes() {
        assert_eq!(bound(Some(64)), limits::LEAST_HANDSHAKES);
        assert_eq!(bound(Some(4096)), 1024);
        for many in [Some(65_536), Some(u64::MAX), None] {
            assert_eq!(bound(many), limits::HANDSHAKES);
        }
    }

    #[test]
    fn a_flood_from_elsewhere_leaves_a_members_handshake_in() {
        let connections = Connections::new();
        let few = |bounds: Bounds| Bounds { total: 4, ..bounds };
        let handshakes = Handshakes::bounded(connections.clone(), few(MEMBERS), few(OTHERS));
        let now = Instant::now();
        // Unknown, it is one of many, and as the oldest the first to go.
        let unknown = handshakes.enter(MEMBER, now).unwrap();
        let _flood: Vec<_> = (0..4)
            .map(|last| handshakes.enter(address(last), now))
            .collect();
        assert!(unknown.closed.is_cancelled());
        connections.expect("node", MEMBER);
        let known = handshakes.enter(MEMBER, now).unwrap();
        let _flood: Vec<_> = (0..200)
            .map(|last| handshakes.enter(address(last), now))
            .collect();
        assert!(!known.closed.is_cancelled());
        // A removed node is as unknown as before.
        connections.close_node("node");
        let unknown = handshakes.enter(MEMBER, now).unwrap();
        let _flood: Vec<_> = (0..4)
            .map(|last| handshakes.enter(address(last), now))
            .collect();
        assert!(unknown.closed.is_cancelled());
    }
}
