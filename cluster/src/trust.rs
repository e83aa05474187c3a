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
#[path = "trust_tests.rs"]
mod tests;
