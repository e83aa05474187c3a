//! What a manager rewrites when the cluster's unlock key changed.

use crate::UnlockKey;

/// What the local key file is sealed with.
#[derive(Debug, Clone, Copy)]
pub struct HeldKey<'a> {
    /// The unlock key; `None` for a file that is open.
    pub key: Option<&'a UnlockKey>,
    /// The epoch that the file names.
    pub epoch: u64,
}

/// What the cluster's state says.
#[derive(Debug, Clone, Copy)]
pub struct ClusterKey<'a> {
    /// The unlock key; `None` while autolock is off.
    pub key: Option<&'a UnlockKey>,
    /// Its own counter, raised by one each time autolock is turned on or off and the key rotated.
    pub epoch: u64,
}

/// What to rewrite, in one atomic replacement of the key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyChange {
    /// The file is up to date.
    Nothing,
    /// Same key, newer epoch: write the file again.
    Rewrap,
    /// The key was rotated: seal under the new one, with a new DEK, as whoever had the old key
    /// and an old copy of the file would otherwise read the log on.
    RewrapAndRotateDek,
    /// Autolock was turned on: seal, with a new DEK, and renew the TLS key, as the old ones were
    /// readable on the medium.
    SealAndRotateAll,
    /// Autolock was turned off: write the file open.
    Unseal,
}

/// The cluster's state and the key file disagree about one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the key file and the cluster hold different unlock keys for epoch {epoch}; \
     rotate the key with `docker swarm unlock-key --rotate`"
)]
pub struct KeyConflict {
    /// The epoch.
    pub epoch: u64,
}

impl KeyChange {
    /// Whether the file is written at all.
    pub fn rewrites_file(self) -> bool {
        self != Self::Nothing
    }

    /// Whether the same write brings a new DEK (see [`KeyFile::rotate_dek`](crate::KeyFile)).
    pub fn rotates_dek(self) -> bool {
        matches!(self, Self::RewrapAndRotateDek | Self::SealAndRotateAll)
    }

    /// Whether a certificate for a new TLS key is to be asked for.
    pub fn renews_tls_key(self) -> bool {
        self == Self::SealAndRotateAll
    }
}

/// Compares the key file with the cluster's record.
///
/// An older record is no change: this manager has not caught up. Whoever raises a cluster from a
/// backup raises the epoch, too.
///
/// # Errors
/// [`KeyConflict`] when one epoch has two keys.
pub fn plan_key_change(
    held: HeldKey<'_>,
    cluster: ClusterKey<'_>,
) -> Result<KeyChange, KeyConflict> {
    let same = held.key == cluster.key;
    match cluster.epoch.cmp(&held.epoch) {
        std::cmp::Ordering::Less => Ok(KeyChange::Nothing),
        std::cmp::Ordering::Equal if same => Ok(KeyChange::Nothing),
        std::cmp::Ordering::Equal => Err(KeyConflict { epoch: held.epoch }),
        std::cmp::Ordering::Greater => Ok(match (held.key, cluster.key) {
            (None, None) => KeyChange::Nothing,
            (None, Some(_)) => KeyChange::SealAndRotateAll,
            (Some(_), None) => KeyChange::Unseal,
            (Some(_), Some(_)) if same => KeyChange::Rewrap,
            (Some(_), Some(_)) => KeyChange::RewrapAndRotateDek,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> UnlockKey {
        UnlockKey::from_slice(&[byte; 32]).unwrap()
    }

    #[test]
    fn one_epoch_with_two_keys_is_refused() {
        let (a, b) = (key(1), key(2));
        for (held, cluster) in [(Some(&a), Some(&b)), (None, Some(&b)), (Some(&a), None)] {
            let err = plan_key_change(
                HeldKey {
                    key: held,
                    epoch: 7,
                },
                ClusterKey {
                    key: cluster,
                    epoch: 7,
                },
            );
            assert_eq!(err, Err(KeyConflict { epoch: 7 }));
        }
    }

    #[test]
    fn every_pair_has_its_change() {
        let (a, b) = (key(1), key(2));
        let plan = |held, held_epoch, cluster, epoch| {
            plan_key_change(
                HeldKey {
                    key: held,
                    epoch: held_epoch,
                },
                ClusterKey {
                    key: cluster,
                    epoch,
                },
            )
            .unwrap()
        };
        assert_eq!(plan(None, 0, None, 0), KeyChange::Nothing);
        assert_eq!(plan(None, 0, None, 2), KeyChange::Nothing);
        assert_eq!(plan(Some(&a), 3, Some(&a), 3), KeyChange::Nothing);
        assert_eq!(plan(Some(&a), 3, Some(&b), 2), KeyChange::Nothing);
        assert_eq!(plan(Some(&a), 3, None, 2), KeyChange::Nothing);
        assert_eq!(plan(Some(&a), 3, Some(&a), 4), KeyChange::Rewrap);
        assert_eq!(
            plan(Some(&a), 3, Some(&b), 4),
            KeyChange::RewrapAndRotateDek
        );
        assert_eq!(
            plan(Some(&a), 3, Some(&b), 9),
            KeyChange::RewrapAndRotateDek
        );
        assert_eq!(plan(None, 3, Some(&b), 4), KeyChange::SealAndRotateAll);
        assert_eq!(plan(Some(&a), 3, None, 4), KeyChange::Unseal);
    }

    #[test]
    fn what_a_change_entails() {
        use KeyChange::*;
        let row = |c: KeyChange| (c.rewrites_file(), c.rotates_dek(), c.renews_tls_key());
        assert_eq!(row(Nothing), (false, false, false));
        assert_eq!(row(Rewrap), (true, false, false));
        assert_eq!(row(Unseal), (true, false, false));
        assert_eq!(row(RewrapAndRotateDek), (true, true, false));
        assert_eq!(row(SealAndRotateAll), (true, true, true));
    }
}
