//! Who may call: the verified certificate and the node table, at the time of the call.

use tonic::{Request, Status};
use waxseal_ca::{NodeIdentity, PublicKeyDigest, Role};
use waxseal_cluster::{
    Standing, State, is_closed_issuer,
    objects::{Node, NodeRole},
    signs_on_record_only,
};
use waxseal_wire::Peer;

use crate::core::Core;

/// The caller, if it is a member in the role that its certificate says.
///
/// # Errors
/// `Unauthenticated` without a certificate; `PermissionDenied` for a node of
/// another cluster, a removed one, or one whose record bears another role.
pub(crate) fn member<T>(core: &Core, request: &Request<T>) -> Result<NodeIdentity, Status> {
    let identity = Peer::of(request)?.member()?.clone();
    core.read(|state| check_member(state, &core.cluster_id, core.clock.now(), &identity))?;
    Ok(identity)
}

/// The caller, if it is a manager by its certificate and on record.
///
/// # Errors
/// As [`member`]; `PermissionDenied` for a worker.
pub(crate) fn manager<T>(core: &Core, request: &Request<T>) -> Result<NodeIdentity, Status> {
    let identity = Peer::of(request)?.member()?.clone();
    let now = core.clock.now();
    core.read(|state| check_manager(state, &core.cluster_id, now, &identity))?;
    Ok(identity)
}

/// Whether a verified identity is that of a manager now.
pub(crate) fn check_manager(
    state: &State,
    cluster_id: &str,
    now: time::OffsetDateTime,
    identity: &NodeIdentity,
) -> Result<(), Status> {
    check_member(state, cluster_id, now, identity)?;
    match identity.role {
        Role::Manager => Ok(()),
        Role::Worker => Err(denied("this call is for managers".to_owned())),
    }
}

/// Whether another manager is of the same incarnation of the cluster; 0 says that it does
/// not know yet.
pub(crate) fn check_incarnation(state: &State, incarnation: u64) -> Result<(), Status> {
    let own = state.cluster().map_or(0, |cluster| cluster.incarnation);
    if incarnation == 0 || incarnation == own {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this manager is of incarnation {own} of the cluster, the caller of {incarnation}: the \
         cluster was made anew from one manager's data; leave it and join again"
    )))
}

/// Whether a verified identity is that of a member now, in its role.
pub(crate) fn check_member(
    state: &State,
    cluster_id: &str,
    now: time::OffsetDateTime,
    identity: &NodeIdentity,
) -> Result<(), Status> {
    let node = check_identity(state, cluster_id, now, identity)?;
    // 5. A role change acts at once: the record decides, not the certificate.
    let recorded = match node.role() {
        NodeRole::Worker => Role::Worker,
        NodeRole::Manager => Role::Manager,
    };
    if recorded != identity.role {
        return Err(denied(format!(
            "the certificate says {}, the node's record says {}; renew the certificate",
            identity.role.ou(),
            recorded.ou(),
        )));
    }
    Ok(())
}

/// The record of a verified identity that is a member's now, in whatever role.
pub(crate) fn check_identity<'a>(
    state: &'a State,
    cluster_id: &str,
    now: time::OffsetDateTime,
    identity: &NodeIdentity,
) -> Result<&'a Node, Status> {
    let node_id = &identity.node_id;
    // 1. A certificate can be of another cluster only if both share a root.
    if identity.cluster_id != cluster_id {
        return Err(denied(format!(
            "remote certificate not part of organization: {cluster_id}"
        )));
    }
    // 2. Removed nodes stay out although their certificates are still valid.
    if state.is_banned(node_id) {
        return Err(denied(format!("node {node_id} was removed from swarm")));
    }
    check_certificate(state, now, identity)?;
    // 3. A connection can outlive the certificate it was opened with.
    if now > identity.not_after {
        return Err(Status::unauthenticated(
            "the node certificate has expired; the node must renew it or leave and join again",
        ));
    }
    // 4. A record.
    state
        .node(node_id)
        .map(|node| &**node)
        .ok_or_else(|| Status::not_found("node not registered"))
}

/// Whether the certificate itself still counts: it was not revoked, no newer one of the node has
/// taken its place, and who signed it is no issuer whose time is over. What has no record is
/// judged by its node alone, unless it may be signed by a former issuer whose key is in others'
/// hands.
pub(crate) fn check_certificate(
    state: &State,
    now: time::OffsetDateTime,
    identity: &NodeIdentity,
) -> Result<(), Status> {
    let node_id = &identity.node_id;
    let Some(cluster) = state.cluster() else {
        return Ok(());
    };
    let over = || {
        Err(denied(format!(
            "certificate {} of node {node_id} is of a former issuer whose time is over; run \
             `docker swarm leave --force` on that node, then join it with a token",
            identity.serial
        )))
    };
    let Some(record) = state.certificate(identity.serial.as_bytes()) else {
        let doubtful = |key| signs_on_record_only(cluster, key);
        return match identity.above.iter().any(doubtful) {
            true => over(),
            false => Ok(()),
        };
    };
    let issuer = record.issuer.as_deref().and_then(|key| key.try_into().ok());
    let issuer = issuer.map(PublicKeyDigest::from_bytes);
    if issuer.is_some_and(|key| is_closed_issuer(cluster, &key)) {
        return over();
    }
    match record.standing(now.unix_timestamp()) {
        _ if *record.node_id != **node_id => Err(denied(format!(
            "the serial of this certificate of node {node_id} is that of another node's"
        ))),
        Standing::Revoked => Err(denied(format!(
            "certificate {} of node {node_id} was revoked; run `docker swarm leave --force` on \
             that node, then join with a token to come back as a new node",
            identity.serial
        ))),
        Standing::Superseded => Err(denied(format!(
            "certificate {} of node {node_id} was superseded by a newer one that the node uses; \
             connect with that one",
            identity.serial
        ))),
        Standing::Requested | Standing::Valid | Standing::Expired => Ok(()),
    }
}

fn denied(reason: String) -> Status {
    Status::permission_denied(format!("Permission denied: {reason}"))
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};
    use tonic::Code;
    use waxseal_ca::{RootAuthority, rotation::NewRoot, serial::Serial};
    use waxseal_cluster::{
        RotationOptions, abort_rotation,
        objects::{Cluster, RemoveNode, UpdateCluster, command::Op},
        start_rotation, timestamp,
    };

    use super::*;
    use crate::testing::{CLUSTER, NOW, World};

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(NOW).unwrap()
    }

    fn identity(node_id: &str) -> NodeIdentity {
        NodeIdentity {
            cluster_id: CLUSTER.into(),
            role: Role::Worker,
            node_id: node_id.into(),
            serial: Serial::from_random([7; 20]).unwrap(),
            not_before: now() - Duration::HOUR,
            not_after: now() + Duration::HOUR,
            above: [].into(),
        }
    }

    fn code(state: &State, identity: &NodeIdentity) -> Code {
        match check_member(state, CLUSTER, now(), identity) {
            Ok(()) => Code::Ok,
            Err(status) => status.code(),
        }
    }

    #[test]
    fn only_a_member_in_its_role_and_time_is_one() {
        let mut world = World::new();
        let known = identity("w1");
        let foreign = NodeIdentity {
            cluster_id: "another".into(),
            ..known.clone()
        };
        let expired = NodeIdentity {
            not_after: now() - Duration::SECOND,
            ..known.clone()
        };
        let forged = NodeIdentity {
            role: Role::Manager,
            ..known.clone()
        };
        let state = &world.state;
        assert_eq!(code(state, &foreign), Code::PermissionDenied);
        assert_eq!(code(state, &expired), Code::Unauthenticated);
        assert_eq!(code(state, &identity("nobody")), Code::NotFound);
        assert_eq!(code(state, &forged), Code::PermissionDenied);
        assert_eq!(code(state, &known), Code::Ok);
        // A former role is no obstacle where it is replaced.
        assert!(check_identity(state, CLUSTER, now(), &forged).is_ok());
        world.run(Op::RemoveNode(RemoveNode {
            node_id: "w1".into(),
            force: true,
            ..RemoveNode::default()
        }));
        assert_ne!(code(&world.state, &known), Code::Ok);
    }

    #[test]
    fn of_a_root_that_was_given_up_only_what_is_on_record_counts_and_not_for_ever() {
        let mut world = World::new();
        let root = || RootAuthority::generate(now()).unwrap();
        let target = root();
        let key = PublicKeyDigest::of_spki(&target.issuer_info().public_key_der);
        let mut cluster = Cluster::clone(world.state.cluster().unwrap());
        cluster.root_ca.get_or_insert_default().ca_cert = root().cert_pem().into();
        let new = NewRoot {
            cert_pem: target.cert_pem().to_owned(),
            key_pem: String::new().into(),
            cross_signed_pem: String::new(),
        };
        let at = timestamp(now());
        start_rotation(&mut cluster, &new, RotationOptions::default(), at);
        let update = |cluster: &Cluster| {
            Op::UpdateCluster(UpdateCluster {
                cluster: Some(cluster.clone()),
                ..UpdateCluster::default()
            })
        };
        world.run(update(&cluster));
        // Signed by whoever has its key, for a node that there is.
        let forged = NodeIdentity {
            serial: Serial::from_random([9; 20]).unwrap(),
            above: [key].into(),
            ..identity("w1")
        };
        assert_eq!(
            code(&world.state, &forged),
            Code::Ok,
            "it is the root to be"
        );
        abort_rotation(&mut cluster, at);
        world.run(update(&cluster));
        assert_eq!(code(&world.state, &forged), Code::PermissionDenied);
        assert!(check_identity(&world.state, CLUSTER, now(), &forged).is_err());
        // Others, without a record or with it, are as good as before.
        assert_eq!(code(&world.state, &identity("w1")), Code::Ok);
    }
}
