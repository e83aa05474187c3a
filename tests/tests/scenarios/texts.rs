//! What the engine says, word for word: clients and scripts look for these texts.

/// A call for managers, on a node in no swarm.
pub(crate) const NO_SWARM: &str = r#"This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again."#;

/// The same on a worker.
pub(crate) const WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. Please run this command on a manager node or promote the current node to a manager.";

/// The same on a locked manager.
pub(crate) const LOCKED: &str = r#"Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it."#;

/// Init or join on a member.
pub(crate) const ALREADY: &str = r#"This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one."#;

/// Leave on a node in no swarm.
pub(crate) const NOT_PART: &str = "This node is not part of a swarm";

/// Leave without force on a locked node.
pub(crate) const LEAVE_LOCKED: &str = "Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.";

/// Leave without force on the last manager.
pub(crate) const LEAVE_LAST: &str = "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message.";

/// An unlock key of another cluster or an old one.
pub(crate) const WRONG_KEY: &str = "swarm could not be unlocked: invalid key provided";

/// A text that is no unlock key.
pub(crate) const MALFORMED_KEY: &str = "invalid key string";

/// A name that secrets and configs may not have.
pub(crate) const BAD_NAME: &str = "rpc error: code = InvalidArgument desc = invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]";

/// A token whose digest is another root's; the digest follows.
pub(crate) const WRONG_DIGEST: &str = "remote CA does not match fingerprint. Expected: ";

/// A token whose secret the cluster does not know.
pub(crate) const WRONG_TOKEN: &str =
    "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster";
