//! Whose calls other managers relay.

use std::sync::Arc;

use tonic::Status;
use waxseal_ca::{ChainError, LiveTls, NodeIdentity, Purpose, verify_chain};
use waxseal_wire::{RelayClaim, Vouch};

use crate::{authorize, core::Core};

/// Verifies relayed calls by the state and the roots of this moment.
pub(crate) struct Voucher {
    pub(crate) core: Arc<Core>,
    pub(crate) tls: Arc<LiveTls>,
}

impl Vouch for Voucher {
    fn vouch(
        &self,
        relayer: &NodeIdentity,
        claim: &RelayClaim<'_>,
    ) -> Result<Option<NodeIdentity>, Status> {
        let Voucher { core, tls } = self;
        let now = core.clock.now();
        // 1. Who relays is a manager on record, not only by its certificate.
        core.read(|state| {
            authorize::check_manager(state, &core.cluster_id, now, relayer)?;
            authorize::check_incarnation(state, claim.incarnation)
        })?;
        // 2. Who called it, as a handshake would find out. The roles and bans of the node
        //    table are looked at by the door and the services, as for any caller.
        if claim.chain.is_empty() {
            return Ok(None);
        }
        let verified = verify_chain(claim.chain, &tls.trust(), now, Purpose::Client);
        let verified = verified.and_then(|verified| {
            tls.check_issuer(&verified)?;
            Ok(verified)
        });
        let identity = verified.map_err(|error| chain_status(&error))?.identity;
        if identity.cluster_id != core.cluster_id {
            return Err(Status::permission_denied(format!(
                "Permission denied: remote certificate not part of organization: {}",
                core.cluster_id
            )));
        }
        Ok(Some(identity))
    }
}

fn chain_status(error: &ChainError) -> Status {
    Status::unauthenticated(format!(
        "the relayed caller's certificate is not accepted: {error}"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use waxseal_ca::{
        CertificateExpiry, Csr, NodeCredentials, NodeKey, NodeProfile, Role, RootAuthority,
        serial::Serial, test_util::ManualClock,
    };
    use waxseal_cluster::objects::{
        ManagerStatus, NodeObservation, NodeRole, NodeSpec, ObserveNodes, RemoveNode, UpdateNode,
        command::Op,
    };

    use super::*;
    use crate::testing::{CLUSTER, NOW, World};

    struct Desk {
        root: RootAuthority,
        clock: Arc<ManualClock>,
    }

    impl Desk {
        fn new() -> Desk {
            let now = time::OffsetDateTime::from_unix_timestamp(NOW).unwrap();
            Desk {
                root: RootAuthority::generate(now).unwrap(),
                clock: Arc::new(ManualClock::at(now)),
            }
        }

        fn credentials(&self, cluster: &str, node_id: &str, role: Role) -> Arc<NodeCredentials> {
            use waxseal_ca::Clock;
            let now = self.clock.now();
            let key = NodeKey::generate().unwrap();
            let csr = Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap();
            let profile = NodeProfile {
                cluster_id: cluster.into(),
                node_id: node_id.into(),
                role,
                expiry: CertificateExpiry::DEFAULT,
            };
            let serial = Serial::from_random([7; 20]).unwrap();
            let issued = self.root.issue(&profile, &csr, serial, now).unwrap();
            NodeCredentials::new(issued.pem.as_bytes(), key, self.root.trust(), now).unwrap()
        }

        fn voucher(&self, world: World) -> Voucher {
            let mut core = Arc::into_inner(world.core()).unwrap();
            core.clock = self.clock.clone();
            Voucher {
                core: Arc::new(core),
                tls: LiveTls::new(
                    Arc::new(self.root.trust().clone()),
                    None,
                    self.clock.clone(),
                ),
            }
        }
    }

    fn vouch(
        voucher: &Voucher,
        relayer: &NodeCredentials,
        caller: Option<&NodeCredentials>,
    ) -> Result<Option<NodeIdentity>, Code> {
        let claim = RelayClaim {
            chain: caller.map_or(&[][..], NodeCredentials::chain),
            incarnation: 0,
        };
        voucher
            .vouch(relayer.identity(), &claim)
            .map_err(|status| status.code())
    }

    #[test]
    fn only_managers_on_record_relay() {
        let desk = Desk::new();
        let mut world = World::new();
        let worker = desk.credentials(CLUSTER, "w1", Role::Worker);
        // A certificate of a role that the record does not have, or of no record.
        let posing = desk.credentials(CLUSTER, "w1", Role::Manager);
        let nobody = desk.credentials(CLUSTER, "nobody", Role::Manager);
        let manager = desk.credentials(CLUSTER, "m1", Role::Manager);
        world.run(Op::CreateNode(waxseal_cluster::objects::CreateNode {
            node: Some(crate::testing::node("m2", NodeRole::Manager)),
        }));
        let voucher = desk.voucher(world);
        let refused = Err(Code::PermissionDenied);
        assert_eq!(vouch(&voucher, &worker, None), refused);
        assert_eq!(vouch(&voucher, &posing, None), refused);
        assert_eq!(vouch(&voucher, &nobody, None), Err(Code::NotFound));
        assert_eq!(vouch(&voucher, &manager, None), Ok(None));
        // Demoted and removed ones relay no more, whatever their certificates say.
        let demoted = desk.credentials(CLUSTER, "m2", Role::Manager);
        assert_eq!(vouch(&voucher, &demoted, None), Ok(None));
        let run = |op| {
            let mut state = voucher.core.state.write().unwrap();
            let now = time::OffsetDateTime::from_unix_timestamp(NOW).unwrap();
            let now = waxseal_cluster::timestamp(now);
            let test = crate::component("test");
            state
                .apply(waxseal_cluster::objects::Command::new(test, now, op))
                .unwrap();
        };
        // One that stays, so that the other may go.
        run(Op::ObserveNodes(ObserveNodes {
            nodes: vec![NodeObservation {
                node_id: "m1".into(),
                manager_status: Some(ManagerStatus::default()),
                ..NodeObservation::default()
            }],
        }));
        let mut update = UpdateNode {
            node_id: "m2".into(),
            spec: Some(NodeSpec::default()),
            ..UpdateNode::default()
        };
        update.set_role(NodeRole::Worker);
        run(Op::UpdateNode(update));
        assert_eq!(vouch(&voucher, &demoted, None), refused);
        run(Op::RemoveNode(RemoveNode {
            node_id: "m2".into(),
            force: true,
            ban_expires_at: Some(prost_types::Timestamp {
                seconds: NOW + 1_000_000,
                nanos: 0,
            }),
        }));
        assert_eq!(vouch(&voucher, &demoted, None), refused);
    }

    #[test]
    fn callers_are_verified_anew() {
        let (desk, other) = (Desk::new(), Desk::new());
        let voucher = desk.voucher(World::new());
        let manager = desk.credentials(CLUSTER, "m1", Role::Manager);
        let own = desk.credentials(CLUSTER, "w1", Role::Worker);
        let accepted = vouch(&voucher, &manager, Some(&own)).unwrap().unwrap();
        assert_eq!(
            (accepted.node_id.as_str(), accepted.role),
            ("w1", Role::Worker)
        );
        let foreign = other.credentials(CLUSTER, "w1", Role::Worker);
        assert_eq!(
            vouch(&voucher, &manager, Some(&foreign)),
            Err(Code::Unauthenticated)
        );
        let elsewhere = desk.credentials("elsewhere", "w1", Role::Worker);
        assert_eq!(
            vouch(&voucher, &manager, Some(&elsewhere)),
            Err(Code::PermissionDenied)
        );
        // A later one of the relaying manager, so that only the caller's is too old.
        desk.clock.advance(time::Duration::days(89));
        let manager = desk.credentials(CLUSTER, "m1", Role::Manager);
        assert!(vouch(&voucher, &manager, Some(&own)).is_ok());
        desk.clock.advance(time::Duration::days(2));
        assert_eq!(
            vouch(&voucher, &manager, Some(&own)),
            Err(Code::Unauthenticated)
        );
    }

    #[test]
    fn another_incarnation_is_refused() {
        let desk = Desk::new();
        let world = World::new();
        let own = world.state.cluster().unwrap().incarnation;
        let voucher = desk.voucher(world);
        let manager = desk.credentials(CLUSTER, "m1", Role::Manager);
        let answer = |incarnation| {
            let claim = RelayClaim {
                chain: &[],
                incarnation,
            };
            voucher.vouch(manager.identity(), &claim).is_ok()
        };
        assert!(answer(0) && answer(own));
        assert!(!answer(own + 1));
    }
}
