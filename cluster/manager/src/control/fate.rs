//! What became of a command whose proposer got no answer.

use std::sync::Arc;

use waxseal_cluster::{
    State, decode_command,
    objects::{Meta, command::Op},
    version_of,
};

/// What a state says of a command, once it has all that was acknowledged and all that a
/// former leader may have left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// What was asked for is so.
    Done {
        /// Of the state, by then.
        version: u64,
    },
    /// It is not; proposing it again does no harm.
    NotYet,
    /// Cannot be told from the state.
    Unclear,
}

/// Judges an encoded command: what is created is known by its id, which is used once;
/// what is updated by the version that the update was made for.
pub(super) fn of(state: &State, command: &[u8]) -> Fate {
    let Ok(Some(op)) = decode_command(command).map(|command| command.op) else {
        return Fate::Unclear;
    };
    let done = Fate::Done {
        version: state.version(),
    };
    let created = |is_there: bool| if is_there { done } else { Fate::NotYet };
    let removed = |is_there: bool| if is_there { Fate::NotYet } else { done };
    let updated = |version: Option<u64>, expected: u64| match version {
        // Of several of the same update one is taken, the others are out of sequence.
        Some(version) if expected != 0 && version == expected => Fate::NotYet,
        _ => Fate::Unclear,
    };
    match op {
        Op::CreateSecret(create) => created(
            create
                .secret
                .is_some_and(|new| state.secret(&new.id).is_some()),
        ),
        Op::CreateConfig(create) => created(
            create
                .config
                .is_some_and(|new| state.config(&new.id).is_some()),
        ),
        Op::CreateService(create) => created(
            create
                .service
                .is_some_and(|new| state.service(&new.id).is_some()),
        ),
        Op::CreateNode(create) => {
            created(create.node.is_some_and(|new| state.node(&new.id).is_some()))
        }
        Op::CreateJoinToken(create) => created(
            create
                .token
                .is_some_and(|new| state.join_token(&new.id).is_some()),
        ),
        Op::RemoveSecret(remove) => removed(state.secret(&remove.secret_id).is_some()),
        Op::RemoveConfig(remove) => removed(state.config(&remove.config_id).is_some()),
        Op::RemoveService(remove) => removed(state.service(&remove.service_id).is_some()),
        Op::RemoveNode(remove) => removed(state.node(&remove.node_id).is_some()),
        Op::UpdateCluster(update) => updated(
            state
                .cluster()
                .map(|cluster| version(cluster.meta.as_ref())),
            update.expected_version,
        ),
        Op::UpdateSecret(update) => updated(
            state.secret(&update.secret_id).map(meta_version),
            update.expected_version,
        ),
        Op::UpdateConfig(update) => updated(
            state.config(&update.config_id).map(meta_version),
            update.expected_version,
        ),
        Op::UpdateService(update) => updated(
            state.service(&update.service_id).map(meta_version),
            update.expected_version,
        ),
        Op::UpdateNode(update) => updated(
            state.node(&update.node_id).map(meta_version),
            update.expected_version,
        ),
        _ => Fate::Unclear,
    }
}

fn version(meta: Option<&Meta>) -> u64 {
    version_of(meta)
}

trait Versioned {
    fn meta(&self) -> Option<&Meta>;
}

macro_rules! versioned {
    ($($kind:ident),*) => {$(
        impl Versioned for waxseal_cluster::objects::$kind {
            fn meta(&self) -> Option<&Meta> {
                self.meta.as_ref()
            }
        }
    )*};
}

versioned!(Secret, Config, Service, Node);

fn meta_version<T: Versioned>(object: &Arc<T>) -> u64 {
    version_of(object.meta())
}

#[cfg(test)]
mod tests {
    use waxseal_cluster::{
        encode_command,
        objects::{
            Command, CreateSecret, ObserveNodes, RemoveSecret, Secret, SecretSpec, UpdateSecret,
        },
        timestamp,
    };

    use super::*;
    use crate::testing::{NOW, World};

    fn fate(world: &World, op: Op) -> Fate {
        let now = time::OffsetDateTime::from_unix_timestamp(NOW).unwrap();
        let command = Command::new(crate::component("test"), timestamp(now), op);
        of(&world.state, &encode_command(&command).unwrap())
    }

    fn create(id: &str) -> Op {
        Op::CreateSecret(CreateSecret {
            secret: Some(Secret {
                id: id.into(),
                spec: Some(SecretSpec::default()),
                ..Secret::default()
            }),
        })
    }

    fn update(id: &str, expected_version: u64) -> Op {
        Op::UpdateSecret(UpdateSecret {
            secret_id: id.into(),
            expected_version,
            spec: None,
        })
    }

    fn remove(id: &str) -> Op {
        Op::RemoveSecret(RemoveSecret {
            secret_id: id.into(),
        })
    }

    #[test]
    fn what_the_state_does_not_tell_is_unclear() {
        let world = World::new();
        let version = meta_version(world.state.secret("s1").unwrap());
        assert_eq!(fate(&world, update("s1", version + 1)), Fate::Unclear);
        assert_eq!(fate(&world, update("s1", 0)), Fate::Unclear);
        assert_eq!(fate(&world, update("gone", 1)), Fate::Unclear);
        let observed = Op::ObserveNodes(ObserveNodes::default());
        assert_eq!(fate(&world, observed), Fate::Unclear);
        assert_eq!(of(&world.state, b"no command"), Fate::Unclear);
    }

    #[test]
    fn ids_and_versions_tell() {
        let world = World::new();
        let version = world.state.version();
        assert_eq!(fate(&world, create("s1")), Fate::Done { version });
        assert_eq!(fate(&world, create("s2")), Fate::NotYet);
        assert_eq!(fate(&world, remove("s2")), Fate::Done { version });
        assert_eq!(fate(&world, remove("s1")), Fate::NotYet);
        let present = meta_version(world.state.secret("s1").unwrap());
        assert_eq!(fate(&world, update("s1", present)), Fate::NotYet);
    }
}
