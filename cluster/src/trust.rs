//! Changes of the cluster's root: pure steps from one cluster object to the next.

use prost_types::Timestamp;
use waxseal_ca::{BundleDigest, JoinTokens, Role, TOKEN_SECRET_BYTES, rotation::NewRoot};

use crate::{
    apply::MAX_PAST_ROOTS,
    objects::{Cluster, JoinTokens as TokenTexts, Laggards, PastRoot, RootCa, RootRotation},
};

/// How a rotation is to end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RotationOptions {
    /// What becomes of nodes that have not renewed by the deadline.
    pub laggards: Laggards,
    /// Absent: none.
    pub deadline: Option<Timestamp>,
    /// Most nodes that renew at the same time; 0: what the leader can do.
    pub pace: u32,
    /// The root that goes is in foreign hands.
    pub compromised: bool,
}

/// The secrets of the tokens that come with a new root: for workers, for managers.
pub type TokenSecrets = [[u8; TOKEN_SECRET_BYTES]; 2];

/// The root that signs certificates of nodes: the one to be, while the root rotates.
pub fn signing_root(root: &RootCa) -> &[u8] {
    match &root.root_rotation {
        Some(rotation) => &rotation.ca_cert,
        None => &root.ca_cert,
    }
}

/// Begins a rotation, in the place of one that runs: the issuer switches, trust and tokens stay.
pub fn start_rotation(root: &mut RootCa, new: &NewRoot, options: RotationOptions, now: Timestamp) {
    root.root_rotation = Some(RootRotation {
        ca_cert: new.cert_pem.as_bytes().to_vec(),
        ca_key: new.key_pem.as_bytes().to_vec(),
        cross_signed_ca_cert: new.cross_signed_pem.as_bytes().to_vec(),
        started_at: Some(now),
        deadline: options.deadline,
        laggards: options.laggards.into(),
        pace: options.pace,
        compromised: options.compromised,
    });
}

/// Ends a rotation with its success: trust and tokens switch too. Nothing if none runs.
pub fn finish_rotation(
    cluster: &Cluster,
    secrets: &TokenSecrets,
    now: Timestamp,
) -> Option<Cluster> {
    let mut new = cluster.clone();
    let root = new.root_ca.as_mut()?;
    let rotation = root.root_rotation.take()?;
    let digest = BundleDigest::of(&rotation.ca_cert);
    let tokens = JoinTokens::generate(digest, &secrets[0], &secrets[1]);
    let text = |role| tokens.token(role).expose_text().to_owned();
    let old_cert = std::mem::replace(&mut root.ca_cert, rotation.ca_cert);
    root.ca_key = rotation.ca_key;
    root.ca_cert_hash = digest.to_string();
    root.join_tokens = Some(TokenTexts {
        worker: text(Role::Worker),
        manager: text(Role::Manager),
    });
    new.past_roots.push(PastRoot {
        ca_cert: old_cert,
        cross_signed: rotation.cross_signed_ca_cert,
        since: new.root_since,
        retired_at: Some(now),
        compromised: rotation.compromised,
    });
    if rotation.compromised {
        // Whoever holds that root's key could have signed any way up to it, too.
        for past in &mut new.past_roots {
            past.cross_signed.clear();
        }
    }
    let over = new.past_roots.len().saturating_sub(MAX_PAST_ROOTS);
    new.past_roots.drain(..over);
    new.root_since = Some(now);
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, bootstrapped};

    fn rotating(compromised: bool) -> Cluster {
        let mut cluster = Cluster::clone(bootstrapped().cluster().unwrap());
        let root = cluster.root_ca.as_mut().unwrap();
        root.ca_cert = b"old".to_vec();
        root.last_forced_rotation = 3;
        let new = NewRoot {
            cert_pem: "new".into(),
            key_pem: "key".to_owned().into(),
            cross_signed_pem: "cross".into(),
        };
        let options = RotationOptions {
            compromised,
            ..RotationOptions::default()
        };
        start_rotation(root, &new, options, at(5));
        cluster
    }

    fn finished(cluster: &Cluster) -> Cluster {
        let secrets = [[1; TOKEN_SECRET_BYTES], [2; TOKEN_SECRET_BYTES]];
        finish_rotation(cluster, &secrets, at(9)).unwrap()
    }

    #[test]
    fn the_issuer_switches_first_and_trust_and_tokens_last() {
        let cluster = rotating(false);
        let root = cluster.root_ca.as_ref().unwrap();
        assert_eq!(
            (root.ca_cert.as_slice(), signing_root(root)),
            (&b"old"[..], &b"new"[..])
        );
        assert_eq!(
            root.join_tokens,
            bootstrapped()
                .cluster()
                .unwrap()
                .root_ca
                .clone()
                .unwrap()
                .join_tokens
        );

        let after = finished(&cluster);
        let root = after.root_ca.as_ref().unwrap();
        assert_eq!(
            (root.ca_cert.as_slice(), root.ca_key.as_slice()),
            (&b"new"[..], &b"key"[..])
        );
        assert_eq!(root.last_forced_rotation, 3);
        assert_eq!(root.ca_cert_hash, BundleDigest::of(b"new").to_string());
        let tokens = root.join_tokens.clone().unwrap();
        let tokens = JoinTokens::parse(&tokens.worker, &tokens.manager).unwrap();
        assert_eq!(
            tokens.token(Role::Manager).digest(),
            BundleDigest::of(b"new")
        );
        let past = &after.past_roots[0];
        assert_eq!(
            (past.ca_cert.as_slice(), past.cross_signed.as_slice()),
            (&b"old"[..], &b"cross"[..])
        );
        assert_eq!(
            (past.retired_at, after.root_since),
            (Some(at(9)), Some(at(9)))
        );
        assert!(finish_rotation(&after, &Default::default(), at(10)).is_none());
    }

    #[test]
    fn a_root_in_foreign_hands_leaves_no_way_to_the_new_one() {
        let mut cluster = rotating(true);
        cluster.past_roots = vec![PastRoot {
            cross_signed: b"older".to_vec(),
            ..PastRoot::default()
        }];
        let after = finished(&cluster);
        assert!(
            after
                .past_roots
                .iter()
                .all(|past| past.cross_signed.is_empty())
        );
        assert_eq!(
            after
                .past_roots
                .iter()
                .map(|past| past.compromised)
                .collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn the_record_of_past_roots_is_bounded() {
        let mut cluster = rotating(false);
        cluster.past_roots = vec![PastRoot::default(); MAX_PAST_ROOTS];
        let after = finished(&cluster);
        assert_eq!(after.past_roots.len(), MAX_PAST_ROOTS);
        assert_eq!(after.past_roots.last().unwrap().ca_cert, b"old");
    }
}
