//! Replicated services: slots 1 to N.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Draft, MAX_REPLICAS, Settled, View, add_task, clear,
    slot::{Slot, Standing, settle, slots_of},
    tend,
};
use crate::{
    objects::{Service, TaskState},
    observed_state,
    plan::Place,
};

/// Plans for one service of so many replicas.
pub(super) fn plan(view: &View<'_>, service: &Service, replicas: u64, draft: &mut Draft<'_>) {
    let tasks = view.state.tasks_of_service(&service.id);
    let slots = slots_of(tasks.map(|task| &**task), |task| Place::Slot(task.slot));
    let mut settled = Vec::new();
    let mut empty = BTreeMap::new();
    for (place, slot) in slots {
        if !draft.changes.has_room() {
            return;
        }
        match settle(view, service, &slot, &mut draft.changes) {
            Some(standing) => settled.push(Settled { slot, standing }),
            None => {
                empty.insert(place, slot);
            }
        }
    }
    let replicas = usize::try_from(replicas.min(MAX_REPLICAS)).unwrap_or(usize::MAX);
    if settled.len() > replicas {
        for surplus in split_surplus(&mut settled, replicas) {
            if !draft.changes.has_room() {
                return;
            }
            clear(&surplus.slot, draft);
        }
    } else {
        fill(view, service, &settled, &mut empty, replicas, draft);
    }
    tend(view, service, &settled, &|_| true, draft);
}

/// Takes out the slots beyond `replicas`: first those in which nothing runs, then
/// from the nodes that run most of the service, then the highest.
fn split_surplus<'a>(settled: &mut Vec<Settled<'a>>, replicas: usize) -> Vec<Settled<'a>> {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ranked = Vec::with_capacity(settled.len());
    for (index, Settled { standing, .. }) in settled.iter().enumerate() {
        let rank = match standing {
            Standing::Held { current, stale } => {
                let running = [current, stale]
                    .into_iter()
                    .flatten()
                    .find(|task| observed_state(task) == TaskState::Running);
                match running {
                    Some(task) => {
                        let neighbours = on_node.entry(&task.node_id).or_default();
                        *neighbours += 1;
                        (0, *neighbours)
                    }
                    None => (1, 0),
                }
            }
            Standing::Due(_) => (2, 0),
            Standing::Ended(_) => (3, 0),
        };
        ranked.push((rank, index));
    }
    ranked.sort_unstable();
    let beyond: BTreeSet<usize> = ranked
        .iter()
        .skip(replicas)
        .map(|(_, index)| *index)
        .collect();
    let all = std::mem::take(settled).into_iter().enumerate();
    let (surplus, kept): (Vec<_>, Vec<_>) = all.partition(|(index, _)| beyond.contains(index));
    settled.extend(kept.into_iter().map(|(_, one)| one));
    surplus.into_iter().map(|(_, one)| one).collect()
}

/// Puts a task into the lowest slots that are free, up to `replicas` in all.
fn fill<'a>(
    view: &View<'a>,
    service: &Service,
    settled: &[Settled<'a>],
    empty: &mut BTreeMap<Place, Slot<'a>>,
    replicas: usize,
    draft: &mut Draft<'_>,
) {
    let taken: BTreeSet<&Place> = settled.iter().map(|one| &one.slot.place).collect();
    let free = (1..=MAX_REPLICAS)
        .map(Place::Slot)
        .filter(|place| !taken.contains(place));
    for place in free.take(replicas - settled.len()) {
        if !draft.changes.has_room() {
            return;
        }
        let slot = empty.remove(&place).unwrap_or_else(|| Slot::new(place));
        add_task(view, service, &slot, false, draft);
    }
}
