//! Capabilities: which a task gets, by name, and giving up the rest.

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

/// Names by number, as in capabilities(7), without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container of the engine gets by default (moby, `oci/caps/defaults.go`).
const ENGINE_DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// A word that names no capability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` is not a capability")]
pub struct CapError {
    /// The word.
    pub name: String,
}

/// A set of capabilities; bit n is capability n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapSet(u64);

impl CapSet {
    /// The 14 that a container of the engine gets by default.
    pub fn engine_default() -> Self {
        let bit = |name: &&str| {
            NAMES
                .iter()
                .position(|known| known == name)
                .map_or(0, |n| 1 << n)
        };
        Self(ENGINE_DEFAULT.iter().map(bit).sum())
    }

    /// What a native task gets by default: the engine's without `MKNOD`. A container's devices are
    /// bounded by its device cgroup, a native task's would be the host's disks.
    pub fn native_default() -> Self {
        let mknod = NAMES.iter().position(|name| *name == "MKNOD");
        Self(Self::engine_default().0 & !mknod.map_or(0, |n| 1 << n))
    }

    /// Whether the capability with this name, without `CAP_`, is in the set.
    pub fn has(self, name: &str) -> bool {
        let number = NAMES.iter().position(|known| *known == name);
        number.is_some_and(|n| self.0 & (1 << n) != 0)
    }

    /// The set with `add` added and `drop` taken away, by the engine's rules: names with or without
    /// `CAP_`, in any case; `ALL` stands for all; with `ALL` added, `drop` is what is left out.
    ///
    /// # Errors
    /// The first word that names no capability.
    pub fn adjusted(self, add: &[String], drop: &[String]) -> Result<Self, CapError> {
        let (add, drop) = (named(add)?, named(drop)?);
        let all = (1 << NAMES.len()) - 1;
        Ok(match (add == all, drop == all) {
            (true, _) => Self(all & !drop),
            (false, true) => Self(add),
            (false, false) => Self((self.0 & !drop) | add),
        })
    }

    /// The set's bits, bit n for capability n.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// The set with these bits.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Takes everything else out of the bounding set of this process, for ever. Needs `SETPCAP`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bound(self) -> io::Result<()> {
        for number in 0..u64::BITS {
            if self.0 & (1 << number) != 0 {
                continue;
            }
            // SAFETY: the call takes numbers only.
            let answer = unsafe {
                libc::prctl(
                    libc::PR_CAPBSET_DROP,
                    libc::c_ulong::from(number),
                    0u64,
                    0u64,
                    0u64,
                )
            };
            if answer != 0 {
                let error = io::Error::last_os_error();
                // Past the last one that the kernel knows.
                return match error.raw_os_error() {
                    Some(libc::EINVAL) => Ok(()),
                    _ => Err(error),
                };
            }
        }
        Ok(())
    }

    /// Makes the set this process's own: permitted and effective, as far as it holds them, and
    /// none inheritable.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn hold(self) -> io::Result<()> {
        let held = rustix::thread::capabilities(None)?;
        let kept = held.permitted & CapabilitySet::from_bits_retain(self.0);
        let inheritable = CapabilitySet::empty();
        let sets = CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable,
        };
        Ok(set_capabilities(None, sets)?)
    }
}

fn named(names: &[String]) -> Result<u64, CapError> {
    let mut bits = 0;
    for name in names {
        let upper = name.to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if bare == "ALL" {
            return Ok((1 << NAMES.len()) - 1);
        }
        match NAMES.iter().position(|known| *known == bare) {
            Some(number) => bits |= 1 << number,
            None => return Err(CapError { name: name.clone() }),
        }
    }
    Ok(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn unknown_names_are_refused() {
        let refused = CapSet::engine_default().adjusted(&words(&["NET_ADMIN", "FLY"]), &[]);
        assert_eq!(
            refused,
            Err(CapError {
                name: "FLY".to_owned()
            })
        );
    }

    #[test]
    fn the_default_is_the_engines() {
        // What `CapEff` of a container's first process shows: 00000000a80425fb.
        assert_eq!(CapSet::engine_default().bits(), 0xa804_25fb);
    }

    #[test]
    fn native_tasks_make_no_devices_unless_asked() {
        let set = CapSet::native_default();
        assert_eq!(set.bits(), 0xa004_25fb);
        assert!(!set.has("MKNOD") && set.has("CHOWN") && !set.has("FLY"));
        assert!(set.adjusted(&words(&["MKNOD"]), &[]).unwrap().has("MKNOD"));
    }

    #[test]
    fn add_and_drop_follow_the_engine() {
        let set = CapSet::engine_default();
        let all = (1u64 << 41) - 1;
        let adjusted =
            |add: &[&str], drop: &[&str]| set.adjusted(&words(add), &words(drop)).unwrap().bits();
        assert_eq!(adjusted(&["cap_sys_nice"], &[]), set.bits() | 1 << 23);
        assert_eq!(adjusted(&[], &["CHOWN"]), set.bits() & !1);
        assert_eq!(adjusted(&["KILL"], &["ALL"]), 1 << 5);
        assert_eq!(adjusted(&["ALL"], &["CHOWN"]), all & !1);
    }
}
