//! Plans: (view of the state, now, randomness) to the changes that bring the
//! cluster closer to what was asked. Idempotent; the leader runs them after
//! every change and when one says it wants to be woken.
//!
//! - [`orchestrate`]: services to tasks (replicas, global, rolling updates,
//!   restarts, history);
//! - [`schedule`]: tasks to nodes, and [`unplaceable`]: why there would be none;
//! - [`check_nodes`]: heartbeats to node states, and what follows from a node
//!   that stays away;
//! - [`plan_roles`]: what was asked of nodes to their roles, on record and in the Raft
//!   group;
//! - [`rotation_view`]: the node table as the plan of a root's rotation, in `waxseal_ca`,
//!   reads it;
//! - [`build_task`], [`attachments`], [`check_outgoing_task`]: what a task looks
//!   like and what must hold of it before it is sent to a node.
//!
//! Nothing here remembers: what a plan needs to know is in the state. A plan
//! returns a bounded number of changes ([`MAX_CHANGES`]); running it again after
//! they are applied gives the rest, and at last nothing.

mod changes;
mod nodes;
mod orchestrator;
mod outgoing;
mod reaper;
mod roles;
mod rotation;
mod scheduler;
mod task;
#[cfg(test)]
mod testing;
mod times;

pub use nodes::{Heartbeat, NodesPlan, check_nodes};
pub use orchestrator::{
    MAX_CHANGES, MAX_REPLICAS, MAX_TASK_BYTES, Planned, is_current, orchestrate,
};
pub use outgoing::{OutgoingFault, check_outgoing_task};
pub use roles::{MemberView, RoleStep, RolesPlan, joins, keeps_quorum, plan_roles};
pub(crate) use roles::{desired_role, has_quorum};
pub use rotation::rotation_view;
pub use scheduler::{
    LABEL_NATIVE_TASKS, PLUGIN_ENGINE, PLUGIN_HOST, PLUGIN_LIMITS, PLUGIN_TYPE,
    constraint::{Constraint, ConstraintError, Operator, parse_constraints},
    schedule, unplaceable,
};
pub use task::{Place, attachments, build_task, is_host_image, is_job, is_wanted};
