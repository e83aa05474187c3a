//! What the leader does about certificates on record.

use std::sync::PoisonError;

use waxseal_ca::Serial;
use waxseal_cluster::{Record, Standing, State, objects::Node};
use waxseal_wire::Connections;

use super::Ca;

/// How long after its certificate was issued a node is to have opened a session with it.
const MOVE_AFTER_SECS: i64 = 60;
/// What was asked for longer ago is left alone: so is a node that never took it.
const MOVE_WITHIN_SECS: i64 = 60 * 60;

/// The connections of a node that are to be made anew.
struct Left {
    node_id: String,
    newest: Serial,
    older: Vec<Serial>,
}

impl Ca {
    /// Has nodes come with their new certificate that keep the connection of the former one.
    ///
    /// A Docker Engine keeps its session over a renewal, and so the former certificate in use:
    /// closed once, it comes back with the new one, and the former is superseded. If it never
    /// got the new one, it comes back with the former and is left alone.
    pub(crate) fn move_to_new_certificates(&self, connections: &Connections) {
        let now = self.core.clock.now().unix_timestamp();
        let left: Vec<Left> = self.core.read(|state| {
            let nodes = state.nodes();
            nodes
                .filter_map(|node| left_behind(state, node, now))
                .collect()
        });
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        for Left {
            node_id,
            newest,
            older,
        } in left
        {
            if moved.insert(node_id.clone(), newest) == Some(newest) {
                continue;
            }
            for serial in older {
                connections.close_certificate(&node_id, &serial);
            }
        }
    }
}

fn left_behind(state: &State, node: &Node, now: i64) -> Option<Left> {
    let mut records = state.certificates_of(&node.id).rev();
    let newest = records.find(|record| record.is_issued())?;
    let age = now.saturating_sub(newest.requested_at);
    let is_due = (MOVE_AFTER_SECS..MOVE_WITHIN_SECS).contains(&age);
    if newest.used_at != 0 || !is_due || newest.standing(now) != Standing::Valid {
        return None;
    }
    let serial = |record: &Record| Serial::from_bytes(&record.serial).ok();
    let older: Vec<Serial> = records
        .filter(|record| record.standing(now) == Standing::Valid)
        .filter_map(|record| serial(record))
        .collect();
    (!older.is_empty()).then_some(())?;
    Some(Left {
        node_id: node.id.clone(),
        newest: serial(newest)?,
        older,
    })
}
