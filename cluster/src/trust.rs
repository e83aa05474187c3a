//! Changes of the cluster's root: pure steps from one cluster object to the next.

use prost_types::Timestamp;
use time::OffsetDateTime;
use waxseal_ca::{
    BundleDigest, IssuerInfo, JoinTokens, PublicKeyDigest, Role, TOKEN_SECRET_BYTES, TrustBundle,
    rotation::NewRoot,
};

use crate::{
    apply::MAX_PAST_ROOTS,
    objects::{
        Cluster, JoinTokens as TokenTexts, Laggards, PastIssuer, PastRoot, RootCa, RootRotation,
    },
    returns::{DEFAULT_RETURN_WINDOW, return_window},
    timestamps::date_time,
};

/// Former issuers below one root on record.
const MAX_PAST_ISSUERS: usize = 16;

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

/// The root that certificates of nodes lead to first: the one to be, while the root rotates.
pub fn signing_root(root: &RootCa) -> &[u8] {
    match &root.root_rotation {
        Some(rotation) => &rotation.ca_cert,
        None => &root.ca_cert,
    }
}

/// The certificate, first in this PEM, whose key signs certificates of nodes: that of the root to
/// be while the root rotates, else of an operator's intermediate, else of the root. Empty without
/// any.
pub fn signing_certificate(cluster: &Cluster) -> &[u8] {
    let Some(root) = &cluster.root_ca else {
        return &[];
    };
    match (&root.root_rotation, cluster.signing_way.as_slice()) {
        (None, way) if !way.is_empty() => way,
        _ => signing_root(root),
    }
}

/// Subject and key of who signs certificates of nodes; nothing if that is a root which is not
/// valid at this time.
pub fn signing_issuer(cluster: &Cluster, now: OffsetDateTime) -> Option<IssuerInfo> {
    let pem = signing_certificate(cluster);
    let is_below = cluster.root_ca.as_ref()?.root_rotation.is_none();
    if is_below && !cluster.signing_way.is_empty() {
        return IssuerInfo::all_from_pem(pem).ok()?.into_iter().next();
    }
    let root = TrustBundle::from_pem(pem, now).ok()?;
    Some(root.issuer_info().clone())
}

/// Keeps the root and changes who signs below it: the key of `way`'s first certificate, or
/// without a way the root's own; empty with an external signer. A rotation that runs ends. If
/// the keys of those before are `compromised`, their leaves count only as long as nodes that are
/// there hold some.
pub fn change_issuer(
    cluster: &mut Cluster,
    key_pem: &str,
    way_pem: &str,
    compromised: bool,
    now: Timestamp,
) {
    let before = PublicKeyDigest::of_certificate_pem(signing_certificate(cluster));
    let old = match &cluster.root_ca {
        // Those that it asked to renew are asked back.
        Some(root) if root.root_rotation.is_some() => None,
        _ => Some(signing_certificate(cluster).to_vec()),
    };
    way_pem.as_bytes().clone_into(&mut cluster.signing_way);
    // What a CA did that is asked no more is nobody's trouble.
    cluster.signer_trouble = None;
    let root = cluster.root_ca.get_or_insert_default();
    key_pem.as_bytes().clone_into(&mut root.ca_key);
    root.root_rotation = None;
    let after = PublicKeyDigest::of_certificate_pem(signing_certificate(cluster));
    if let Some(cert) = old.filter(|_| before != after) {
        cluster.past_issuers.push(PastIssuer {
            cert,
            retired_at: Some(now),
            ..PastIssuer::default()
        });
        let over = cluster.past_issuers.len().saturating_sub(MAX_PAST_ISSUERS);
        cluster.past_issuers.drain(..over);
    }
    for past in &mut cluster.past_issuers {
        past.compromised |= compromised;
    }
}

/// How far nodes are with certificates of who signs now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// Some that are there are not.
    Some,
    /// Those that are there are.
    Present,
    /// All are.
    All,
}

/// Ends the time of former issuers below the root whose leaves nobody needs any more. Nothing if
/// there is none.
pub fn close_issuers(cluster: &Cluster, renewed: Renewed) -> Option<Cluster> {
    let is_over = |past: &PastIssuer| {
        let needed = match renewed {
            Renewed::Some => true,
            Renewed::Present => !past.compromised,
            Renewed::All => false,
        };
        !past.closed && !needed
    };
    if !cluster.past_issuers.iter().any(is_over) {
        return None;
    }
    let mut new = cluster.clone();
    for past in new.past_issuers.iter_mut().filter(|past| is_over(past)) {
        past.closed = true;
    }
    Some(new)
}

/// The keys whose leaves count, if others below the trusted root could sign some: those of the
/// operator's intermediate, of who signed below the same root before, and of the root to be.
/// Nothing where the root itself signs and always has.
pub fn pinned_issuers(cluster: &Cluster) -> Option<Vec<PublicKeyDigest>> {
    if cluster.signing_way.is_empty() && cluster.past_issuers.is_empty() {
        return None;
    }
    let below: &[u8] = match (cluster.signing_way.as_slice(), &cluster.root_ca) {
        ([], Some(root)) => &root.ca_cert,
        (way, _) => way,
    };
    let past = cluster.past_issuers.iter().filter(|past| !past.closed);
    let past = past.map(|past| past.cert.as_slice());
    let keys = [below, signing_certificate(cluster)]
        .into_iter()
        .chain(past);
    let mut keys: Vec<PublicKeyDigest> = keys
        .filter_map(PublicKeyDigest::of_certificate_pem)
        .collect();
    keys.dedup();
    Some(keys)
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

/// Whether a former root leads to the next one still: for the return window, and for as long as
/// the default one if an operator is to decide sooner.
pub fn leads_on(past: &PastRoot, cluster: &Cluster, now: OffsetDateTime) -> bool {
    let window = return_window(cluster).max(DEFAULT_RETURN_WINDOW);
    let retired_at = past.retired_at.as_ref().and_then(date_time);
    retired_at.is_none_or(|at| (now - at).max(time::Duration::ZERO).unsigned_abs() <= window)
}

/// Drops from the record what led on from former roots and does so no longer. Nothing if there
/// is none of it.
pub fn forget_ways(cluster: &Cluster, now: OffsetDateTime) -> Option<Cluster> {
    let is_over = |past: &PastRoot| !past.cross_signed.is_empty() && !leads_on(past, cluster, now);
    if !cluster.past_roots.iter().any(is_over) {
        return None;
    }
    let mut new = cluster.clone();
    for past in new.past_roots.iter_mut().filter(|past| is_over(past)) {
        past.cross_signed.clear();
    }
    Some(new)
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
    new.signer_trouble = None;
    // They signed below the root that goes, and it is none that counts any more.
    new.past_issuers.clear();
    let over = new.past_roots.len().saturating_sub(MAX_PAST_ROOTS);
    new.past_roots.drain(..over);
    new.root_since = Some(now);
    Some(new)
}

#[cfg(test)]
mod tests {
    use waxseal_ca::RootAuthority;

    use super::*;
    use crate::objects::SignerTrouble;
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
            (root.ca_cert.as_slice(), signing_certificate(&cluster)),
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
    fn who_signs_changes_below_the_root_and_those_before_still_count() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let root = || RootAuthority::generate(now).unwrap();
        let (trusted, first, second) = (root(), root(), root());
        let mut cluster = Cluster::clone(bootstrapped().cluster().unwrap());
        cluster.root_ca = Some(RootCa {
            ca_cert: trusted.cert_pem().into(),
            ca_key: b"key".to_vec(),
            ..RootCa::default()
        });
        let issuer = |cluster: &Cluster| signing_issuer(cluster, now);
        assert_eq!(pinned_issuers(&cluster), None);
        // The root's own key once more is no other issuer.
        change_issuer(&mut cluster, "again", "", true, at(1));
        assert_eq!(pinned_issuers(&cluster), None);

        let key = |of: &RootAuthority| PublicKeyDigest::of_spki(&of.issuer_info().public_key_der);
        change_issuer(&mut cluster, "one", first.cert_pem(), false, at(2));
        assert_eq!(issuer(&cluster).as_ref(), Some(first.issuer_info()));
        assert_eq!(
            pinned_issuers(&cluster),
            Some(vec![key(&first), key(&trusted)])
        );
        change_issuer(&mut cluster, "two", second.cert_pem(), false, at(3));
        let all = vec![key(&second), key(&trusted), key(&first)];
        assert_eq!(pinned_issuers(&cluster), Some(all));
        assert_eq!(cluster.root_ca.as_ref().unwrap().ca_key, b"two");
        // Back to the root itself: whom others below it sign for still are no members.
        change_issuer(&mut cluster, "root", "", false, at(4));
        assert_eq!(issuer(&cluster).as_ref(), Some(trusted.issuer_info()));
        assert!(pinned_issuers(&cluster).unwrap().contains(&key(&second)));
        for _ in 0..MAX_PAST_ISSUERS {
            change_issuer(&mut cluster, "two", second.cert_pem(), false, at(5));
            change_issuer(&mut cluster, "root", "", false, at(6));
        }
        assert_eq!(cluster.past_issuers.len(), MAX_PAST_ISSUERS);
    }

    #[test]
    fn former_issuers_count_until_nobody_needs_them() {
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        let root = || RootAuthority::generate(now).unwrap();
        let (trusted, below) = (root(), root());
        let key = |of: &RootAuthority| PublicKeyDigest::of_spki(&of.issuer_info().public_key_der);
        let mut cluster = Cluster::clone(bootstrapped().cluster().unwrap());
        cluster.root_ca = Some(RootCa {
            ca_cert: trusted.cert_pem().into(),
            ..RootCa::default()
        });
        assert_eq!(close_issuers(&cluster, Renewed::All), None);
        change_issuer(&mut cluster, "one", below.cert_pem(), false, at(2));
        for renewed in [Renewed::Some, Renewed::Present] {
            assert_eq!(close_issuers(&cluster, renewed), None);
        }
        let after = close_issuers(&cluster, Renewed::All).unwrap();
        assert_eq!(pinned_issuers(&after), Some(vec![key(&below)]));
        assert_eq!(close_issuers(&after, Renewed::All), None);
        // One whose key leaked does not wait for those who are away; said later, too.
        change_issuer(&mut cluster, "one", below.cert_pem(), true, at(3));
        assert_eq!(close_issuers(&cluster, Renewed::Some), None);
        let after = close_issuers(&cluster, Renewed::Present).unwrap();
        assert_eq!(pinned_issuers(&after), Some(vec![key(&below)]));
        assert!(after.past_issuers[0].compromised);
    }

    #[test]
    fn the_trouble_of_a_signer_ends_with_its_time() {
        let troubled = |mut cluster: Cluster| {
            cluster.signer_trouble = Some(SignerTrouble::default());
            cluster
        };
        let cluster = troubled(rotating(false));
        assert_eq!(finished(&cluster).signer_trouble, None);
        let mut cluster = troubled(cluster);
        change_issuer(&mut cluster, "key", "", false, at(7));
        assert_eq!(cluster.signer_trouble, None);
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
    fn what_leads_on_from_former_roots_goes_after_the_return_window() {
        let day = |days: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::days(days);
        let past = |days: i64| PastRoot {
            cross_signed: b"cross".to_vec(),
            retired_at: Some(at(days * 86_400)),
            ..PastRoot::default()
        };
        let mut cluster = Cluster::clone(bootstrapped().cluster().unwrap());
        cluster.past_roots = vec![past(1), past(9)];
        let kept = |cluster: &Cluster| -> Vec<bool> {
            let ways = cluster.past_roots.iter();
            ways.map(|past| !past.cross_signed.is_empty()).collect()
        };
        // The default, 30 days, also where an operator wants to see sooner who returns.
        cluster.return_window = Some(prost_types::Duration::default());
        assert_eq!(forget_ways(&cluster, day(31)), None);
        let after = forget_ways(&cluster, day(32)).unwrap();
        assert_eq!(kept(&after), [false, true]);
        assert_eq!(
            after.past_roots[0].retired_at,
            cluster.past_roots[0].retired_at
        );
        assert_eq!(forget_ways(&after, day(32)), None);
        let days = |days: i64| prost_types::Duration {
            seconds: days * 86_400,
            nanos: 0,
        };
        cluster.return_window = Some(days(60));
        assert_eq!(forget_ways(&cluster, day(61)), None);
        assert_eq!(
            kept(&forget_ways(&cluster, day(99)).unwrap()),
            [false, false]
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
