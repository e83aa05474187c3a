//! Debug without contents for objects that hold keys, payloads or what users
//! put into an environment.

use std::fmt;

use prost::Message;

use crate::objects::{self, command::Op};

macro_rules! redacted {
    ($($type:ty),* $(,)?) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), " { .. }"))
            }
        }
    )*};
}

redacted!(
    objects::SecretSpec,
    objects::ConfigSpec,
    objects::container_spec::PullOptions,
    objects::CaConfig,
    objects::JoinTokens,
    objects::RootRotation,
    objects::RootCa,
    objects::UnlockKeyRecord,
    objects::Driver,
    objects::StateSnapshot,
);

impl fmt::Debug for objects::ContainerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerSpec")
            .field("image", &self.image)
            .field("secrets", &self.secrets)
            .field("configs", &self.configs)
            .finish_non_exhaustive()
    }
}

impl Op {
    /// The operation's name, as in the schema.
    pub fn kind(&self) -> &'static str {
        match self {
            Op::Bootstrap(_) => "bootstrap",
            Op::UpdateCluster(_) => "update_cluster",
            Op::CreateNode(_) => "create_node",
            Op::UpdateNode(_) => "update_node",
            Op::RemoveNode(_) => "remove_node",
            Op::RequestCertificate(_) => "request_certificate",
            Op::StoreCertificate(_) => "store_certificate",
            Op::ObserveNodes(_) => "observe_nodes",
            Op::CreateSecret(_) => "create_secret",
            Op::UpdateSecret(_) => "update_secret",
            Op::RemoveSecret(_) => "remove_secret",
            Op::CreateConfig(_) => "create_config",
            Op::UpdateConfig(_) => "update_config",
            Op::RemoveConfig(_) => "remove_config",
            Op::CreateService(_) => "create_service",
            Op::UpdateService(_) => "update_service",
            Op::RemoveService(_) => "remove_service",
            Op::ChangeTasks(_) => "change_tasks",
            Op::ReportTasks(_) => "report_tasks",
            Op::MarkForRenewal(_) => "mark_for_renewal",
            Op::QuarantineNodes(_) => "quarantine_nodes",
            Op::RevokeCertificates(_) => "revoke_certificates",
            Op::CreateJoinToken(_) => "create_join_token",
            Op::RevokeJoinToken(_) => "revoke_join_token",
            Op::ReturnReservations(_) => "return_reservations",
            Op::NoteSigner(_) => "note_signer",
            Op::GrantReturn(_) => "grant_return",
            Op::NoteReturn(_) => "note_return",
            Op::ApproveReturn(_) => "approve_return",
            Op::SetReturnWindow(_) => "set_return_window",
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {{ .. }}", self.kind())
    }
}

/// Kind and size only: consensus logs what it is given.
impl fmt::Display for objects::Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.op.as_ref().map_or("unknown", Op::kind);
        write!(f, "{kind} ({} bytes)", self.encoded_len())
    }
}

impl fmt::Debug for objects::Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({self})")
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        change::Refusal,
        objects::{
            Cluster, Driver, RootCa, UnlockKeyRecord, UpdateCluster, UpdateSecret, command::Op,
            container_spec::PullOptions,
        },
        testing::{
            annotations, bootstrapped, command, create_config, create_secret, create_service, run,
            service_spec,
        },
    };

    const MARKER: &str = "hunter2";
    /// How a derived `Debug` would show it as bytes.
    const MARKER_BYTES: &str = "104, 117, 110, 116, 101, 114, 50";

    fn assert_hidden(what: &str, shown: &[String]) {
        for shown in shown {
            let seen = shown.contains(MARKER) || shown.contains(MARKER_BYTES);
            assert!(!seen, "{what}: {shown}");
        }
    }

    fn with_everything_secret() -> Vec<Op> {
        let cluster = Cluster {
            root_ca: Some(RootCa {
                ca_key: MARKER.into(),
                ..RootCa::default()
            }),
            unlock_key: Some(UnlockKeyRecord {
                key: MARKER.into(),
                epoch: 1,
            }),
            ..Cluster::default()
        };
        let mut spec = service_spec("web", &[], &[]);
        let task = spec.task.as_mut().unwrap();
        task.log_driver = Some(Driver {
            name: "splunk".into(),
            options: [("token".to_owned(), MARKER.to_owned())].into(),
        });
        let container = task.container.as_mut().unwrap();
        container.env = vec![format!("PASSWORD={MARKER}")];
        container.pull_options = Some(PullOptions {
            registry_auth: MARKER.into(),
        });
        let secret = match create_secret("s1", "db", MARKER.as_bytes()) {
            Op::CreateSecret(op) => op.secret.unwrap(),
            _ => unreachable!(),
        };
        vec![
            create_secret("s1", "db", MARKER.as_bytes()),
            create_config("c1", "app", MARKER.as_bytes()),
            create_service("svc1", spec),
            Op::UpdateSecret(UpdateSecret {
                spec: secret.spec,
                ..UpdateSecret::default()
            }),
            Op::UpdateCluster(UpdateCluster {
                cluster: Some(cluster),
                expected_version: 0,
            }),
        ]
    }

    #[test]
    fn commands_show_kind_and_size_only() {
        for op in with_everything_secret() {
            let kind = op.kind();
            let command = command(1, op);
            let shown = [
                format!("{command:?} {command:#?} {command}"),
                format!("{:?}", command.op),
            ];
            assert_hidden(kind, &shown);
            assert!(shown[0].contains(kind), "{}", shown[0]);
        }
    }

    #[test]
    fn objects_changes_and_snapshots_hide_their_secrets() {
        let mut state = bootstrapped();
        for op in with_everything_secret() {
            let kind = op.kind();
            match run(&mut state, op) {
                Ok(applied) => assert_hidden(kind, &[format!("{applied:?} {applied:#?}")]),
                Err(refusal) => assert_hidden(kind, &[format!("{refusal:?} {refusal}")]),
            }
        }
        let snapshot = state.snapshot();
        assert_hidden("snapshot", &[format!("{snapshot:?}")]);
        for secret in &snapshot.secrets {
            assert_hidden("secret", &[format!("{secret:?} {secret:#?}")]);
        }
        for service in state.services() {
            assert_hidden("service", &[format!("{service:?} {service:#?}")]);
        }
        for config in state.configs() {
            assert_hidden("config", &[format!("{config:?}")]);
        }
        assert!(state.services().count() == 1 && state.secrets().count() == 1);
    }

    #[test]
    fn refusals_do_not_repeat_payloads() {
        let mut state = bootstrapped();
        run(&mut state, create_secret("s1", "db", b"other")).unwrap();
        let refused = Op::UpdateSecret(UpdateSecret {
            secret_id: "s1".into(),
            expected_version: 2,
            spec: Some(crate::objects::SecretSpec {
                annotations: annotations("db"),
                data: MARKER.into(),
                ..Default::default()
            }),
        });
        let refusal = run(&mut state, refused).unwrap_err();
        assert_eq!(refusal, Refusal::OnlyLabels);
        assert_hidden("update", &[format!("{refusal:?} {refusal}")]);
    }
}
