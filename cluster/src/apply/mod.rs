//! Applying commands: every replica runs this on the same commands in the same
//! order and comes to the same state.
//!
//! A handler checks first and changes then, so that a refused command leaves
//! the state as it was. Commands with many independent parts (task changes,
//! task reports, node observations) are never refused for one of them: a part
//! that was overtaken is skipped and counted.

mod certificate;
mod cluster;
mod config;
mod join_token;
mod node;
#[cfg(test)]
mod properties;
mod records;
mod renewal;
mod returns;
mod secret;
mod service;
mod signer;
mod task;

pub use cluster::MAX_PAST_ROOTS;
pub use records::{MAX_LIVE_CERTIFICATES, UNASKED_RENEWAL_SECS};
pub use task::bound_task_status;

use crate::{
    change::{Applied, Change, Refusal},
    codec::COMMAND_FORMAT,
    meta::{Stamp, version_of},
    objects::{Actor, Command, Meta, command::Op},
    state::State,
};

/// What a handler did.
#[derive(Default)]
struct Effect {
    changes: Vec<Change>,
    skipped: usize,
}

impl From<Change> for Effect {
    fn from(change: Change) -> Effect {
        Effect::from(vec![change])
    }
}

impl From<Vec<Change>> for Effect {
    fn from(changes: Vec<Change>) -> Effect {
        Effect {
            changes,
            skipped: 0,
        }
    }
}

impl State {
    /// Applies a command, whole or not at all.
    ///
    /// Raises the version by one and gives that version to all objects that
    /// the command changed. Bans that have ended by the command's time are
    /// dropped after it.
    ///
    /// # Errors
    /// [`Refusal`]; the state is then exactly as before. A replica that meets
    /// [`Refusal::TooNew`] must stop: what others apply it cannot.
    pub fn apply(&mut self, command: Command) -> Result<Applied, Refusal> {
        let stamp = self.check_head(&command)?;
        let Some(op) = command.op else {
            // An operation that this binary does not know decodes to none.
            return Err(Refusal::TooNew {
                found: command.format.max(COMMAND_FORMAT + 1),
                supported: COMMAND_FORMAT,
            });
        };
        if self.cluster.is_none() && !matches!(op, Op::Bootstrap(_)) {
            return Err(Refusal::precondition(
                "the cluster does not exist yet; its first command must create it",
            ));
        }
        let actor = command.actor.unwrap_or_default();
        let effect = self.dispatch(op, &actor, &stamp)?;
        self.version = stamp.version;
        self.last_time = Some(stamp.time);
        self.bans.expire(&stamp.time);
        self.forget_ended_certificates(&stamp.time);
        Ok(Applied {
            version: stamp.version,
            changes: effect.changes,
            skipped: effect.skipped,
        })
    }

    fn check_head(&self, command: &Command) -> Result<Stamp, Refusal> {
        if command.format > COMMAND_FORMAT {
            return Err(Refusal::TooNew {
                found: command.format,
                supported: COMMAND_FORMAT,
            });
        }
        if command.format == 0 {
            return Err(Refusal::missing("format"));
        }
        Ok(Stamp {
            version: self.version + 1,
            time: command.time.ok_or(Refusal::missing("time"))?,
        })
    }

    fn dispatch(&mut self, op: Op, actor: &Actor, stamp: &Stamp) -> Result<Effect, Refusal> {
        match op {
            Op::Bootstrap(op) => self.bootstrap(op, stamp),
            Op::UpdateCluster(op) => self.update_cluster(op, stamp),
            Op::CreateNode(op) => self.create_node(op, stamp),
            Op::UpdateNode(op) => self.update_node(op, stamp),
            Op::RemoveNode(op) => self.remove_node(op, stamp),
            Op::RequestCertificate(op) => self.request_certificate(op, actor, stamp),
            Op::StoreCertificate(op) => self.store_certificate(op, stamp),
            Op::ObserveNodes(op) => Ok(self.observe_nodes(op, stamp)),
            Op::CreateSecret(op) => self.create_secret(op, stamp),
            Op::UpdateSecret(op) => self.update_secret(op, stamp),
            Op::RemoveSecret(op) => self.remove_secret(&op),
            Op::CreateConfig(op) => self.create_config(op, stamp),
            Op::UpdateConfig(op) => self.update_config(op, stamp),
            Op::RemoveConfig(op) => self.remove_config(&op),
            Op::CreateService(op) => self.create_service(op, stamp),
            Op::UpdateService(op) => self.update_service(op, stamp),
            Op::RemoveService(op) => self.remove_service(&op, stamp),
            Op::ChangeTasks(op) => Ok(self.change_tasks(op, stamp)),
            Op::ReportTasks(op) => Ok(self.report_tasks(op, stamp)),
            Op::MarkForRenewal(op) => Ok(self.mark_for_renewal(op, actor, stamp)),
            Op::QuarantineNodes(op) => Ok(self.quarantine_nodes(&op, stamp)),
            Op::RevokeCertificates(op) => self.revoke_certificates(op, actor, stamp),
            Op::CreateJoinToken(op) => self.create_join_token(op, actor, stamp),
            Op::RevokeJoinToken(op) => self.revoke_join_token(&op, stamp),
            Op::ReturnReservations(_) => Ok(self.return_reservations(stamp)),
            Op::NoteSigner(op) => self.note_signer(op),
            Op::GrantReturn(op) => self.grant_return(op, stamp),
            Op::NoteReturn(op) => self.note_return(op, stamp),
            Op::ApproveReturn(op) => self.approve_return(op, stamp),
            Op::SetReturnWindow(op) => self.set_return_window(&op, stamp),
        }
    }
}

/// Optimistic concurrency: the version must be exactly the one that was read.
fn check_version(expected: u64, meta: Option<&Meta>) -> Result<(), Refusal> {
    if expected == version_of(meta) {
        Ok(())
    } else {
        Err(Refusal::Stale)
    }
}

/// As [`check_version`], where 0 stands for "whatever it is".
fn check_version_if_given(expected: u64, meta: Option<&Meta>) -> Result<(), Refusal> {
    match expected {
        0 => Ok(()),
        _ => check_version(expected, meta),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        objects::{RemoveSecret, StateSnapshot},
        testing::{at, bootstrap, bootstrapped, command, create_secret, run},
        vault::PlainVault,
    };

    fn refused(state: &mut State, command: Command) -> Refusal {
        let before = state.snapshot();
        let refusal = state.apply(command).unwrap_err();
        assert_eq!(
            state.snapshot(),
            before,
            "a refused command changed the state"
        );
        refusal
    }

    #[test]
    fn newer_formats_and_unknown_operations_stop_the_binary() {
        let mut state = bootstrapped();
        let op = create_secret("s1", "db", b"x");
        let mut newer = command(1000, op);
        newer.format = COMMAND_FORMAT + 1;
        let too_new = Refusal::TooNew {
            found: COMMAND_FORMAT + 1,
            supported: COMMAND_FORMAT,
        };
        assert_eq!(refused(&mut state, newer), too_new);
        let mut unknown = command(1000, create_secret("s1", "db", b"x"));
        unknown.op = None;
        assert_eq!(refused(&mut state, unknown), too_new);
    }

    #[test]
    fn commands_without_head() {
        let mut state = bootstrapped();
        let mut no_format = command(1000, create_secret("s1", "db", b"x"));
        no_format.format = 0;
        assert!(matches!(
            refused(&mut state, no_format),
            Refusal::Invalid { .. }
        ));
        let mut no_time = command(1000, create_secret("s1", "db", b"x"));
        no_time.time = None;
        assert!(matches!(
            refused(&mut state, no_time),
            Refusal::Invalid { .. }
        ));
    }

    #[test]
    fn operations_without_their_parts_are_invalid() {
        let mut state = bootstrapped();
        let hollow = [
            Op::CreateSecret(Default::default()),
            Op::CreateConfig(Default::default()),
            Op::CreateService(Default::default()),
            Op::CreateNode(Default::default()),
            Op::UpdateCluster(Default::default()),
            Op::UpdateSecret(Default::default()),
            Op::UpdateConfig(Default::default()),
            Op::RequestCertificate(Default::default()),
            Op::StoreCertificate(Default::default()),
        ];
        for op in hollow {
            let kind = op.kind();
            let refusal = refused(&mut state, command(1000, op));
            assert!(
                matches!(refusal, Refusal::Invalid { .. }),
                "{kind}: {refusal}"
            );
        }
    }

    #[test]
    fn nothing_before_the_cluster_exists() {
        let mut state = State::new(Arc::new(PlainVault));
        let refusal = refused(&mut state, command(1, create_secret("s1", "db", b"x")));
        assert!(matches!(refusal, Refusal::Precondition { .. }));
        assert_eq!(state.snapshot(), {
            let mut empty = StateSnapshot::default();
            empty.format = crate::SNAPSHOT_FORMAT;
            empty
        });
    }

    #[test]
    fn a_cluster_is_created_once() {
        let mut state = bootstrapped();
        let refusal = refused(&mut state, command(1, bootstrap()));
        assert!(matches!(refusal, Refusal::Precondition { .. }));
    }

    #[test]
    fn versions_and_times_come_from_the_command() {
        let mut state = bootstrapped();
        assert_eq!(state.version(), 1);
        let applied = state
            .apply(command(77, create_secret("s1", "db", b"x")))
            .unwrap();
        assert_eq!((applied.version, state.version()), (2, 2));
        let meta = state.secret("s1").unwrap().meta.unwrap();
        assert_eq!(meta.version.unwrap().index, 2);
        assert_eq!(
            (meta.created_at, meta.updated_at),
            (Some(at(77)), Some(at(77)))
        );
        assert_eq!(state.last_time(), Some(&at(77)));
        // A refused command takes no version.
        let missing = Op::RemoveSecret(RemoveSecret {
            secret_id: "none".into(),
        });
        run(&mut state, missing).unwrap_err();
        assert_eq!(state.version(), 2);
    }
}
