//! Changes of the cluster's root: pure steps from one cluster object to the next.

use prost_types::Timestamp;
use time::OffsetDateTime;
use waxseal_ca::{
    BundleDigest, IssuerInfo, IssuerRules, JoinTokens, PublicKeyDigest, Role, TOKEN_SECRET_BYTES,
    TrustBundle, rotation::NewRoot,
};

use crate::{
    apply::MAX_PAST_ROOTS,
    feature::ISSUERS_LEVEL,
    objects::{
        Cluster, JoinTokens as TokenTexts, Laggards, PastIssuer, PastRoot, RootCa, RootRotation,
    },
    returns::{DEFAULT_RETURN_WINDOW, return_window},
    timestamps::date_time,
};

/// Former issuers below one root on record: what has left counts no more, as others are pinned.
const MAX_PAST_ISSUERS: usize = 16;
/// Roots to be on record whose rotation came to nothing. These are refused by name, so that one
/// that has left would count again: more than an operator begins and aborts.
const MAX_PAST_TARGETS: usize = 64;
/// An issuer whose key is in foreign hands closes after so long, whoever has not renewed, if the
/// operator names no deadline: as long as a rotation gives by default.
pub const COMPROMISED_END: time::Duration = time::Duration::minutes(10);

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
/// the keys of those before are `compromised`, their leaves count until nodes that are there have
/// renewed, and until the deadline at most.
pub fn change_issuer(
    cluster: &mut Cluster,
    key_pem: &str,
    way_pem: &str,
    options: RotationOptions,
    now: Timestamp,
) {
    // 1. Who has signed: during a rotation the root, too, for those who were not asked yet.
    abort_rotation(cluster, now);
    let old = former(signing_certificate(cluster), now);
    way_pem.as_bytes().clone_into(&mut cluster.signing_way);
    // What a CA did that is asked no more is nobody's trouble.
    cluster.signer_trouble = None;
    let root = cluster.root_ca.get_or_insert_default();
    key_pem.as_bytes().clone_into(&mut root.ca_key);
    // 2. Who signs now is none of those before.
    let after = PublicKeyDigest::of_certificate_pem(signing_certificate(cluster));
    if old.key != after.map_or_else(Vec::new, |key| key.as_bytes().to_vec()) {
        record_issuer(cluster, old);
    }
    forget_issuer(cluster, after);
    // 3. Said later, too, and of all of them: nobody knows who holds what.
    if options.compromised {
        let end = options.deadline.or_else(|| Some(after_a_while(now)));
        for past in cluster.past_issuers.iter_mut().filter(|past| !past.closed) {
            past.compromised = true;
            let earlier = past
                .closes_at
                .filter(|at| end.is_none_or(|end| at.seconds < end.seconds));
            past.closes_at = earlier.or(end);
        }
    }
}

fn after_a_while(now: Timestamp) -> Timestamp {
    let seconds = now.seconds.saturating_add(COMPROMISED_END.whole_seconds());
    Timestamp { seconds, ..now }
}

/// Ends a rotation with the root as it was. What the root to be has signed counts until its nodes
/// have renewed. Nothing happens if none runs.
pub fn abort_rotation(cluster: &mut Cluster, now: Timestamp) {
    let root = cluster.root_ca.as_mut();
    let Some(rotation) = root.and_then(|root| root.root_rotation.take()) else {
        return;
    };
    cluster.signer_trouble = None;
    // Managers of before would not know what that is; they have no other issuers either.
    if cluster.feature_level >= ISSUERS_LEVEL {
        let target = PastIssuer {
            target: true,
            ..former(&rotation.ca_cert, now)
        };
        record_issuer(cluster, target);
    }
}

fn former(cert_pem: &[u8], now: Timestamp) -> PastIssuer {
    let key = PublicKeyDigest::of_certificate_pem(cert_pem);
    PastIssuer {
        cert: cert_pem.to_vec(),
        key: key.map_or_else(Vec::new, |key| key.as_bytes().to_vec()),
        retired_at: Some(now),
        ..PastIssuer::default()
    }
}

fn record_issuer(cluster: &mut Cluster, issuer: PastIssuer) {
    let key = key_of(&issuer);
    forget_issuer(cluster, key);
    let (is_target, most) = match issuer.target {
        true => (true, MAX_PAST_TARGETS),
        false => (false, MAX_PAST_ISSUERS),
    };
    cluster.past_issuers.push(issuer);
    let alike = |past: &PastIssuer| past.target == is_target;
    let count = cluster
        .past_issuers
        .iter()
        .filter(|past| alike(past))
        .count();
    if count > most
        && let Some(oldest) = cluster.past_issuers.iter().position(alike)
    {
        cluster.past_issuers.remove(oldest);
    }
}

/// Whoever signs or is to be the root is no former issuer.
fn forget_issuer(cluster: &mut Cluster, key: Option<PublicKeyDigest>) {
    let is_it = |past: &PastIssuer| key.is_some() && key_of(past) == key;
    cluster.past_issuers.retain(|past| !is_it(past));
}

fn key_of(past: &PastIssuer) -> Option<PublicKeyDigest> {
    match <[u8; 32]>::try_from(past.key.as_slice()) {
        Ok(key) => Some(PublicKeyDigest::from_bytes(key)),
        Err(_) => PublicKeyDigest::of_certificate_pem(&past.cert),
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

/// Ends the time of former issuers below the root whose leaves nobody needs any more, and of those
/// whose end has come at that time; `None`: those wait. Nothing if there is none.
pub fn close_issuers(
    cluster: &Cluster,
    renewed: Renewed,
    now: Option<OffsetDateTime>,
) -> Option<Cluster> {
    let is_over = |past: &PastIssuer| {
        let needed = match renewed {
            Renewed::Some => true,
            Renewed::Present => !past.compromised,
            Renewed::All => false,
        };
        let ended = closing_time(past).is_some_and(|at| now.is_some_and(|now| now >= at));
        !past.closed && (!needed || ended)
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

/// When a former issuer closes whoever has not renewed, if there is such a time.
pub fn closing_time(past: &PastIssuer) -> Option<OffsetDateTime> {
    let time = |at: &Option<_>| at.as_ref().and_then(date_time);
    let retired = time(&past.retired_at).filter(|_| past.compromised);
    time(&past.closes_at).or_else(|| retired.map(|at| at + COMPROMISED_END))
}

/// The rules of this cluster.
pub fn issuer_rules(cluster: &Cluster) -> IssuerRules {
    IssuerRules {
        only: pinned_issuers(cluster),
        refused: refused_issuers(cluster),
    }
}

/// The keys whose leaves count, if others below the trusted root could sign some: those of the
/// operator's intermediate, of who signed below the same root before, and of the root to be.
/// Nothing where the root itself signs and always has: a root to be is none that others know of
/// before, so a node that was away must not be told to take no other than those of then.
fn pinned_issuers(cluster: &Cluster) -> Option<Vec<PublicKeyDigest>> {
    let has_others = cluster.past_issuers.iter().any(|past| !past.target);
    if cluster.signing_way.is_empty() && !has_others {
        return None;
    }
    let below: &[u8] = match (cluster.signing_way.as_slice(), &cluster.root_ca) {
        ([], Some(root)) => &root.ca_cert,
        (way, _) => way,
    };
    let past = cluster.past_issuers.iter().filter(|past| !past.closed);
    let own = [below, signing_certificate(cluster)].into_iter();
    let own = own.filter_map(PublicKeyDigest::of_certificate_pem);
    let mut keys: Vec<PublicKeyDigest> = own.chain(past.filter_map(key_of)).collect();
    keys.dedup();
    Some(keys)
}

/// Keys that are CAs below the trusted root by its own signature, and are to be none: of roots to
/// be that came to nothing, and of those that the root took over from when the cluster came back
/// to it.
fn refused_issuers(cluster: &Cluster) -> Vec<PublicKeyDigest> {
    let Some(root) = &cluster.root_ca else {
        return Vec::new();
    };
    let closed = |past: &&PastIssuer| past.target && past.closed;
    let closed = cluster.past_issuers.iter().filter(closed);
    let mut keys: Vec<_> = closed.filter_map(key_of).collect();
    let key = PublicKeyDigest::of_certificate_pem;
    let (present, signs) = (key(&root.ca_cert), key(signing_root(root)));
    let former: Vec<_> = cluster
        .past_roots
        .iter()
        .map(|past| key(&past.ca_cert))
        .collect();
    if let Some(before) = former.iter().rposition(|past| *past == present) {
        let since = former.into_iter().skip(before + 1);
        keys.extend(since.filter(|past| *past != signs).flatten());
    }
    keys
}

/// Whether leaves of a former issuer count no more.
pub fn is_closed_issuer(cluster: &Cluster, key: &PublicKeyDigest) -> bool {
    let past = |past: &PastIssuer| past.closed && key_of(past).as_ref() == Some(key);
    cluster.past_issuers.iter().any(past)
}

/// Whether leaves of a former issuer count only if they are on record: its key is in other hands
/// than those of the cluster.
pub fn signs_on_record_only(cluster: &Cluster, key: &PublicKeyDigest) -> bool {
    let past = |past: &PastIssuer| {
        (past.closed || past.target || past.compromised) && key_of(past).as_ref() == Some(key)
    };
    cluster.past_issuers.iter().any(past)
}

/// Begins a rotation, in the place of one that runs: the issuer switches, trust and tokens stay.
pub fn start_rotation(
    cluster: &mut Cluster,
    new: &NewRoot,
    options: RotationOptions,
    now: Timestamp,
) {
    abort_rotation(cluster, now);
    let key = PublicKeyDigest::of_certificate_pem(new.cert_pem.as_bytes());
    forget_issuer(cluster, key);
    let root = cluster.root_ca.get_or_insert_default();
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
    // They signed below the root that goes, and it is none that counts any more. It may be again:
    // what it has vouched for by name is kept.
    new.past_issuers.retain(|past| past.target);
    for past in &mut new.past_issuers {
        past.closed = true;
    }
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

    const KEPT: RotationOptions = RotationOptions {
        laggards: Laggards::Wait,
        deadline: None,
        pace: 0,
        compromised: false,
    };
    const COMPROMISED: RotationOptions = RotationOptions {
        compromised: true,
        ..KEPT
    };

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
        start_rotation(&mut cluster, &new, options, at(5));
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
        change_issuer(&mut cluster, "again", "", COMPROMISED, at(1));
        assert_eq!(pinned_issuers(&cluster), None);

        let key = |of: &RootAuthority| PublicKeyDigest::of_spki(&of.issuer_info().public_key_der);
        change_issuer(&mut cluster, "one", first.cert_pem(), KEPT, at(2));
        assert_eq!(issuer(&cluster).as_ref(), Some(first.issuer_info()));
        assert_eq!(
            pinned_issuers(&cluster),
            Some(vec![key(&first), key(&trusted)])
        );
        change_issuer(&mut cluster, "two", second.cert_pem(), KEPT, at(3));
        let all = vec![key(&second), key(&trusted), key(&first)];
        assert_eq!(pinned_issuers(&cluster), Some(all));
        assert_eq!(cluster.root_ca.as_ref().unwrap().ca_key, b"two");
        // Back to the root itself: whom others below it sign for still are no members.
        change_issuer(&mut cluster, "root", "", KEPT, at(4));
        assert_eq!(issuer(&cluster).as_ref(), Some(trusted.issuer_info()));
        assert!(pinned_issuers(&cluster).unwrap().contains(&key(&second)));
        // One who comes again stands there once.
        change_issuer(&mut cluster, "two", second.cert_pem(), KEPT, at(5));
        change_issuer(&mut cluster, "root", "", KEPT, at(6));
        assert_eq!(cluster.past_issuers.len(), 2);
        for _ in 0..MAX_PAST_ISSUERS {
            change_issuer(&mut cluster, "next", root().cert_pem(), KEPT, at(7));
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
        let close_issuers = |cluster: &Cluster, renewed| {
            super::close_issuers(cluster, renewed, Some(OffsetDateTime::UNIX_EPOCH))
        };
        assert_eq!(close_issuers(&cluster, Renewed::All), None);
        change_issuer(&mut cluster, "one", below.cert_pem(), KEPT, at(2));
        for renewed in [Renewed::Some, Renewed::Present] {
            assert_eq!(close_issuers(&cluster, renewed), None);
        }
        let after = close_issuers(&cluster, Renewed::All).unwrap();
        assert_eq!(pinned_issuers(&after), Some(vec![key(&below)]));
        assert_eq!(close_issuers(&after, Renewed::All), None);
        // One whose key leaked does not wait for those who are away; said later, too.
        change_issuer(&mut cluster, "one", below.cert_pem(), COMPROMISED, at(3));
        assert_eq!(close_issuers(&cluster, Renewed::Some), None);
        let after = close_issuers(&cluster, Renewed::Present).unwrap();
        assert_eq!(pinned_issuers(&after), Some(vec![key(&below)]));
        assert!(after.past_issuers[0].compromised);
    }

    /// A cluster whose root is this one, and rotations of it.
    struct Rooted {
        now: OffsetDateTime,
        cluster: Cluster,
    }

    impl Rooted {
        fn new() -> (Rooted, RootAuthority) {
            let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
            let root = RootAuthority::generate(now).unwrap();
            let mut cluster = Cluster::clone(bootstrapped().cluster().unwrap());
            cluster.feature_level = ISSUERS_LEVEL;
            cluster.root_ca = Some(RootCa {
                ca_cert: root.cert_pem().into(),
                ..RootCa::default()
            });
            (Rooted { now, cluster }, root)
        }

        fn root(&self) -> RootAuthority {
            RootAuthority::generate(self.now).unwrap()
        }

        fn rotate(&mut self, to: &RootAuthority, seconds: i64) {
            let new = NewRoot {
                cert_pem: to.cert_pem().to_owned(),
                key_pem: "key".to_owned().into(),
                cross_signed_pem: "cross".into(),
            };
            start_rotation(&mut self.cluster, &new, KEPT, at(seconds));
        }

        fn close(&mut self) {
            let closed = close_issuers(&self.cluster, Renewed::All, Some(self.now));
            self.cluster = closed.unwrap_or_else(|| self.cluster.clone());
        }

        fn finish(&mut self) {
            self.cluster = finished(&self.cluster);
        }

        fn refused(&self) -> Vec<PublicKeyDigest> {
            assert_eq!(
                issuer_rules(&self.cluster).only,
                None,
                "a root to be is none"
            );
            issuer_rules(&self.cluster).refused
        }
    }

    fn key(of: &RootAuthority) -> PublicKeyDigest {
        PublicKeyDigest::of_spki(&of.issuer_info().public_key_der)
    }

    #[test]
    fn a_root_to_be_that_came_to_nothing_counts_until_its_nodes_have_renewed() {
        let (mut rooted, _root) = Rooted::new();
        let (aborted, replaced, last) = (rooted.root(), rooted.root(), rooted.root());
        rooted.rotate(&aborted, 2);
        assert_eq!(rooted.refused(), []);
        abort_rotation(&mut rooted.cluster, at(3));
        let cluster = &rooted.cluster;
        assert!(cluster.root_ca.as_ref().unwrap().root_rotation.is_none());
        // What it signed counts, and only what is on record.
        assert_eq!(rooted.refused(), []);
        assert!(signs_on_record_only(cluster, &key(&aborted)));
        assert!(!is_closed_issuer(cluster, &key(&aborted)));
        for renewed in [Renewed::Some, Renewed::Present] {
            assert_eq!(close_issuers(cluster, renewed, Some(rooted.now)), None);
        }
        rooted.close();
        assert_eq!(rooted.refused(), [key(&aborted)]);
        assert!(is_closed_issuer(&rooted.cluster, &key(&aborted)));
        // So does one in whose place another comes; the one that is on its way counts.
        rooted.rotate(&replaced, 4);
        rooted.rotate(&last, 5);
        assert!(signs_on_record_only(&rooted.cluster, &key(&replaced)));
        assert!(!signs_on_record_only(&rooted.cluster, &key(&last)));
        rooted.close();
        assert_eq!(rooted.refused(), [key(&aborted), key(&replaced)]);
        // Also under the next root, from which the cluster may come back.
        rooted.rotate(&replaced, 6);
        assert_eq!(
            rooted.refused(),
            [key(&aborted)],
            "it is to be the root again"
        );
        rooted.finish();
        assert_eq!(rooted.refused(), [key(&aborted), key(&last)]);
    }

    #[test]
    fn a_root_to_be_with_text_around_it_is_refused_as_well() {
        let (mut rooted, _) = Rooted::new();
        let target = rooted.root();
        let new = NewRoot {
            cert_pem: format!("Certificate: ours\n{}\nas of today\n", target.cert_pem()),
            key_pem: String::new().into(),
            cross_signed_pem: "cross".into(),
        };
        start_rotation(&mut rooted.cluster, &new, KEPT, at(2));
        abort_rotation(&mut rooted.cluster, at(3));
        rooted.close();
        assert_eq!(rooted.refused(), [key(&target)]);
    }

    #[test]
    fn a_root_that_was_left_again_is_no_ca_below_the_one_before() {
        let (mut rooted, first) = Rooted::new();
        let second = rooted.root();
        rooted.rotate(&second, 2);
        rooted.finish();
        assert_eq!(rooted.refused(), []);
        rooted.rotate(&first, 3);
        assert_eq!(
            rooted.refused(),
            [],
            "its leaves count until all have others"
        );
        rooted.finish();
        assert_eq!(rooted.refused(), [key(&second)]);
        rooted.rotate(&second, 4);
        assert_eq!(rooted.refused(), []);
        rooted.finish();
        assert_eq!(rooted.refused(), [key(&first)]);
    }

    #[test]
    fn an_intermediate_in_the_place_of_a_rotation_leaves_both_before_it_counting() {
        let (mut rooted, root) = Rooted::new();
        let (aborted, below) = (rooted.root(), rooted.root());
        rooted.rotate(&aborted, 2);
        change_issuer(&mut rooted.cluster, "below", below.cert_pem(), KEPT, at(3));
        let all = vec![key(&below), key(&aborted), key(&root)];
        assert_eq!(issuer_rules(&rooted.cluster).only, Some(all));
        rooted.close();
        let rules = issuer_rules(&rooted.cluster);
        assert_eq!(rules.only, Some(vec![key(&below)]));
        assert_eq!(rules.refused, [key(&aborted)]);
    }

    #[test]
    fn managers_of_before_are_given_no_record_that_they_do_not_know() {
        let (mut rooted, _) = Rooted::new();
        rooted.cluster.feature_level = ISSUERS_LEVEL - 1;
        let target = rooted.root();
        rooted.rotate(&target, 2);
        abort_rotation(&mut rooted.cluster, at(3));
        assert_eq!(rooted.cluster.past_issuers, []);
    }

    #[test]
    fn the_record_of_roots_to_be_is_bounded() {
        let (mut rooted, _) = Rooted::new();
        for _ in 0..=MAX_PAST_TARGETS {
            let target = rooted.root();
            let target = PastIssuer {
                target: true,
                ..former(target.cert_pem().as_bytes(), at(1))
            };
            record_issuer(&mut rooted.cluster, target);
        }
        assert_eq!(rooted.cluster.past_issuers.len(), MAX_PAST_TARGETS);
    }

    #[test]
    fn an_issuer_in_foreign_hands_has_a_hard_end() {
        let (mut rooted, root) = Rooted::new();
        let below = rooted.root();
        change_issuer(
            &mut rooted.cluster,
            "below",
            below.cert_pem(),
            COMPROMISED,
            at(1_000),
        );
        let after = |seconds: i64| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        let end = COMPROMISED_END.whole_seconds();
        let close = |cluster: &Cluster, seconds: i64| {
            close_issuers(cluster, Renewed::Some, Some(after(seconds)))
        };
        assert_eq!(close(&rooted.cluster, 1_000 + end - 1), None);
        // Not while the managers themselves hold nothing else.
        assert_eq!(close_issuers(&rooted.cluster, Renewed::Some, None), None);
        let closed = close(&rooted.cluster, 1_000 + end).unwrap();
        assert_eq!(issuer_rules(&closed).only, Some(vec![key(&below)]));
        assert!(is_closed_issuer(&closed, &key(&root)));
        // By the operator's deadline; what was said once is not put off.
        let mut sooner = rooted.cluster.clone();
        let options = |seconds| RotationOptions {
            deadline: Some(at(seconds)),
            ..COMPROMISED
        };
        let again = |cluster: &mut Cluster, seconds| {
            change_issuer(
                cluster,
                "below",
                below.cert_pem(),
                options(seconds),
                at(1_002),
            );
        };
        again(&mut sooner, 1_005);
        again(&mut sooner, 9_999);
        assert_eq!(closing_time(&sooner.past_issuers[0]), Some(after(1_005)));
        // Of a record without a time: after its retirement.
        sooner.past_issuers[0].closes_at = None;
        assert_eq!(close(&sooner, 1_000 + end - 1), None);
        assert!(close(&sooner, 1_000 + end).is_some());
        // Others have none.
        let (mut rooted, _) = Rooted::new();
        change_issuer(
            &mut rooted.cluster,
            "below",
            below.cert_pem(),
            KEPT,
            at(1_000),
        );
        assert_eq!(close(&rooted.cluster, 1_000_000_000), None);
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
        change_issuer(&mut cluster, "key", "", KEPT, at(7));
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
