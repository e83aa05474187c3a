//! The node table as the rotation of the root sees it.

use std::num::NonZeroUsize;

use time::{Duration, OffsetDateTime};
use waxseal_ca::{
    IssuerInfo, PublicKeyDigest, Role,
    rotation::{Contact, Kind, Laggards, Member, OnRecord, Options, View},
};

use crate::{
    State, date_time,
    feature::is_ours,
    objects::{
        self, Cluster, IssuanceState, IssuanceStatus, Node, NodeRole, NodeState, NodeStatus,
        RootRotation,
    },
};

/// All nodes on record, with the options of the rotation if one runs.
///
/// `target` is the root that is to have signed every leaf, `window` the most members that renew
/// at the same time where the operator did not say.
pub fn rotation_view<'a>(
    state: &'a State,
    cluster: &'a Cluster,
    target: &'a IssuerInfo,
    window: usize,
    now: OffsetDateTime,
) -> View<'a> {
    let rotation = cluster
        .root_ca
        .as_ref()
        .and_then(|root| root.root_rotation.as_ref());
    let key = PublicKeyDigest::of_spki(&target.public_key_der);
    View {
        target,
        rotation: rotation.map(options),
        members: state.nodes().map(|node| member(node, &key)).collect(),
        window: rotation.and_then(pace).map_or(window, NonZeroUsize::get),
        now,
    }
}

fn options(rotation: &RootRotation) -> Options {
    let time = |at: &Option<_>| at.as_ref().and_then(date_time);
    Options {
        started_at: time(&rotation.started_at).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        deadline: time(&rotation.deadline),
        laggards: match rotation.laggards() {
            objects::Laggards::Wait => Laggards::Wait,
            objects::Laggards::Quarantine => Laggards::Quarantine,
            objects::Laggards::Evict => Laggards::Evict,
        },
    }
}

fn pace(rotation: &RootRotation) -> Option<NonZeroUsize> {
    NonZeroUsize::new(usize::try_from(rotation.pace).ok()?)
}

fn member<'a>(node: &'a Node, target: &PublicKeyDigest) -> Member<'a> {
    let certificate = node.certificate.as_ref();
    let description = node.description.as_ref();
    let holds = description.and_then(|description| description.tls_info.as_ref());
    let time = |at: &Option<_>| at.as_ref().and_then(date_time);
    let issuer = certificate.map(|certificate| certificate.issuer.as_slice());
    Member {
        node_id: &node.id,
        role: match node.role() {
            NodeRole::Worker => Role::Worker,
            NodeRole::Manager => Role::Manager,
        },
        votes: node.manager_status.is_some(),
        kind: match description {
            None => Kind::Unknown,
            Some(_) if is_ours(node) => Kind::Ours,
            Some(_) => Kind::Engine,
        },
        contact: contact(node),
        holds: holds
            .map(|info| {
                let key = info.cert_issuer_public_key.as_slice();
                (info.cert_issuer_subject.as_slice(), key)
            })
            .filter(|(_, key)| !key.is_empty()),
        on_record: on_record(node),
        issued_by_target: issuer
            .filter(|issuer| !issuer.is_empty())
            .map(|issuer| issuer == target.as_bytes()),
        asked_at: time(&node.renewal_asked_at),
        quarantined_at: time(&node.quarantined_at),
        clock_ahead: node
            .clock
            .as_ref()
            .map(|clock| Duration::milliseconds(clock.ahead_millis)),
    }
}

fn contact(node: &Node) -> Contact {
    let since = || node.state_since.as_ref().and_then(date_time);
    match node.status.as_ref().map(NodeStatus::state) {
        Some(NodeState::Ready) => Contact::Here,
        _ if node.first_session_at.is_none() => Contact::Never,
        _ => Contact::Away(since()),
    }
}

fn on_record(node: &Node) -> OnRecord {
    let certificate = node.certificate.as_ref();
    let status = certificate.and_then(|certificate| certificate.status.as_ref());
    match status.map(IssuanceStatus::state) {
        None | Some(IssuanceState::Unknown) => OnRecord::Nothing,
        Some(IssuanceState::Renew | IssuanceState::Pending) => OnRecord::Requested,
        Some(IssuanceState::Rotate) => OnRecord::Marked,
        Some(IssuanceState::Issued) => OnRecord::Issued,
        Some(IssuanceState::Failed) => OnRecord::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{Certificate, NodeDescription, NodeTlsInfo},
        testing::{at, bootstrapped, node},
    };

    fn target() -> IssuerInfo {
        IssuerInfo {
            subject_der: b"ca".to_vec(),
            public_key_der: b"new".to_vec(),
        }
    }

    fn seen(node: &Node) -> Member<'_> {
        member(node, &PublicKeyDigest::of_spki(b"new"))
    }

    #[test]
    fn who_was_never_seen_is_told_from_who_is_away() {
        let mut one = node("n", NodeRole::Worker);
        assert_eq!(seen(&one).contact, Contact::Never);
        assert_eq!(seen(&one).kind, Kind::Unknown);
        one.first_session_at = Some(at(1));
        assert_eq!(seen(&one).contact, Contact::Away(None));
        one.state_since = Some(at(5));
        let since = OffsetDateTime::from_unix_timestamp(5).unwrap();
        assert_eq!(seen(&one).contact, Contact::Away(Some(since)));
        one.status = Some(NodeStatus {
            state: NodeState::Ready.into(),
            ..NodeStatus::default()
        });
        assert_eq!(seen(&one).contact, Contact::Here);
    }

    #[test]
    fn what_a_node_says_and_what_is_on_record_are_kept_apart() {
        let mut one = node("n", NodeRole::Manager);
        assert_eq!(
            (seen(&one).holds, seen(&one).issued_by_target),
            (None, None)
        );
        one.description = Some(NodeDescription {
            tls_info: Some(NodeTlsInfo {
                cert_issuer_subject: b"ca".to_vec(),
                cert_issuer_public_key: b"old".to_vec(),
                ..NodeTlsInfo::default()
            }),
            ..NodeDescription::default()
        });
        one.certificate = Some(Certificate {
            issuer: PublicKeyDigest::of_spki(b"new").as_bytes().to_vec(),
            status: Some(IssuanceStatus {
                state: IssuanceState::Issued.into(),
                ..IssuanceStatus::default()
            }),
            ..Certificate::default()
        });
        let member = seen(&one);
        assert_eq!(member.holds, Some((&b"ca"[..], &b"old"[..])));
        assert_eq!(member.issued_by_target, Some(true));
        assert_eq!(
            (member.on_record, member.kind),
            (OnRecord::Issued, Kind::Engine)
        );
    }

    #[test]
    fn the_operators_pace_is_the_window() {
        let state = bootstrapped();
        let mut cluster = Cluster::clone(state.cluster().unwrap());
        let now = OffsetDateTime::UNIX_EPOCH;
        let target = target();
        let view = rotation_view(&state, &cluster, &target, 9, now);
        assert_eq!(
            (view.window, view.rotation, view.members.len()),
            (9, None, 1)
        );
        cluster.root_ca.as_mut().unwrap().root_rotation = Some(RootRotation {
            pace: 3,
            deadline: Some(at(60)),
            laggards: objects::Laggards::Evict.into(),
            ..RootRotation::default()
        });
        let view = rotation_view(&state, &cluster, &target, 9, now);
        let options = view.rotation.unwrap();
        assert_eq!((view.window, options.laggards), (3, Laggards::Evict));
        assert_eq!(options.deadline, Some(now + time::Duration::MINUTE));
    }
}
