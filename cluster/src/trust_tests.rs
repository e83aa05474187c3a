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
