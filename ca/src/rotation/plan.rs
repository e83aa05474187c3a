//! The plan itself.

use time::OffsetDateTime;

use super::{
    ANSWER, Action, Contact, Laggards, Member, OnRecord, Options, Plan, Progress, STALLED, View,
    Wait,
};
use crate::role::Role;

/// What is due now.
///
/// While the root rotates, members that do not say that they hold a certificate of the new one
/// are asked to renew, managers first, and it is finished once all do, or are given up as the
/// options say. Outside of a rotation, members whose certificate on record is of another root, as
/// after an abort, are asked back.
pub fn plan(view: &View<'_>) -> Plan {
    let progress: Vec<Progress> = view
        .members
        .iter()
        .map(|member| progress_of(view, member))
        .collect();
    let (done, needed) = quorum(view, &progress);
    let mut plan = Plan {
        actions: Vec::new(),
        has_quorum: done >= needed,
        wait: None,
        wake_at: wake_at(view, &progress),
        progress,
    };
    let marks = marks(view, &plan.progress);
    if !marks.is_empty() {
        plan.actions.push(Action::Mark(marks));
    }
    if let Some(options) = &view.rotation {
        let (ending, wait) = ending(view, options, &plan.progress);
        plan.actions.extend(ending);
        plan.wait = wait;
    }
    plan
}

fn progress_of(view: &View<'_>, member: &Member<'_>) -> Progress {
    if is_done(view, member) {
        return Progress::Done;
    }
    if is_given_up(view, member) {
        return Progress::Quarantined;
    }
    match member.contact {
        Contact::Never => return Progress::NeverSeen,
        Contact::Away(_) => return Progress::Away,
        Contact::Here => {}
    }
    let waited = member.asked_at.map(|at| view.now - at);
    match member.on_record {
        OnRecord::Requested => Progress::Renewing,
        OnRecord::Marked if waited.is_some_and(|waited| waited >= STALLED) => Progress::Silent,
        OnRecord::Marked => Progress::Asked,
        OnRecord::Failed => Progress::Failed,
        // Signed by the wanted root, and not said so yet: its session is made anew.
        OnRecord::Issued if member.issued_by_target == Some(true) => Progress::Renewing,
        OnRecord::Issued | OnRecord::Nothing => Progress::Queued,
    }
}

fn is_done(view: &View<'_>, member: &Member<'_>) -> bool {
    // What was signed for it last is what it is about to hold, whatever it says.
    if member.issued_by_target == Some(false) {
        return false;
    }
    let target = view.target;
    match member.holds {
        Some((subject, key)) => subject == target.subject_der && key == target.public_key_der,
        // Whoever has just joined got its first certificate of the wanted root.
        None => member.contact == Contact::Never && member.issued_by_target == Some(true),
    }
}

/// Whether this rotation ends without it.
fn is_given_up(view: &View<'_>, member: &Member<'_>) -> bool {
    let Some(options) = &view.rotation else {
        return member.quarantined_at.is_some();
    };
    let marked = member
        .quarantined_at
        .is_some_and(|at| at >= options.started_at);
    // One that came back in between counts again.
    marked && options.laggards != Laggards::Wait && had_its_chance(view, member)
}

fn is_over(view: &View<'_>, options: &Options) -> bool {
    options
        .deadline
        .is_some_and(|deadline| view.now >= deadline)
}

/// Whom to ask now: as many as the window has room for.
fn marks(view: &View<'_>, progress: &[Progress]) -> Vec<String> {
    let busy = |progress: &&Progress| matches!(progress, Progress::Asked | Progress::Renewing);
    let room = view
        .window
        .saturating_sub(progress.iter().filter(busy).count());
    let members = || view.members.iter().zip(progress);
    let due = |role: Role| {
        members()
            .filter(move |(member, _)| member.role == role)
            .filter(|(member, progress)| is_to_be_asked(view, member, **progress))
            .map(|(member, _)| member.node_id.to_owned())
    };
    due(Role::Manager)
        .chain(due(Role::Worker))
        .take(room)
        .collect()
}

fn is_to_be_asked(view: &View<'_>, member: &Member<'_>, progress: Progress) -> bool {
    // A mark stays until it is followed; without a certificate there is nothing to renew.
    let can_be = member.contact == Contact::Here
        && matches!(member.on_record, OnRecord::Issued | OnRecord::Failed);
    if !can_be {
        return false;
    }
    match progress {
        Progress::Queued if view.rotation.is_none() => member.issued_by_target == Some(false),
        Progress::Queued => true,
        Progress::Failed => is_time_again(view, member),
        // What it was given has not arrived.
        Progress::Renewing => view.rotation.is_some() && is_time_again(view, member),
        _ => false,
    }
}

fn is_time_again(view: &View<'_>, member: &Member<'_>) -> bool {
    member.asked_at.is_some_and(|at| view.now - at >= ANSWER)
}

/// How many managers are done, and how many are a majority.
fn quorum(view: &View<'_>, progress: &[Progress]) -> (usize, usize) {
    let voters = view.members.iter().filter(|member| member.votes).count();
    let moved = |(member, progress): &(&Member<'_>, &Progress)| {
        member.votes && **progress == Progress::Done
    };
    let done = view.members.iter().zip(progress).filter(moved).count();
    let needed = if voters == 0 { 0 } else { voters / 2 + 1 };
    (done, needed)
}

/// How it ends, or why not yet.
fn ending(
    view: &View<'_>,
    options: &Options,
    progress: &[Progress],
) -> (Option<Action>, Option<Wait>) {
    let open: Vec<_> = view
        .members
        .iter()
        .zip(progress)
        .filter(|(_, progress)| !matches!(progress, Progress::Done | Progress::Quarantined))
        .map(|(member, _)| member)
        .collect();
    // 1. Without a majority of managers that have the new root's certificates nobody could go on.
    let (done, needed) = quorum(view, progress);
    let no_quorum = (done < needed).then_some(Wait::Quorum { done, needed });
    // 2. Nobody is left.
    if open.is_empty() {
        return match no_quorum {
            Some(wait) => (None, Some(wait)),
            None => (Some(Action::Finish), None),
        };
    }
    // 3. Those who are left have had their time.
    let waiting = || {
        let away = |member: &&&Member<'_>| member.contact != Contact::Here;
        let count = open.len();
        match open.iter().filter(away).count() == count {
            true => Wait::Absent { count },
            false => Wait::Members { count },
        }
    };
    if options.laggards == Laggards::Wait || !is_over(view, options) {
        return (None, Some(waiting()));
    }
    if no_quorum.is_some() {
        return (None, no_quorum);
    }
    let late = |member: &&&Member<'_>| had_its_chance(view, member);
    let late: Vec<&Member<'_>> = open.iter().filter(late).copied().collect();
    (give_up(options.laggards, &late), Some(waiting()))
}

/// Whether a member that is open at the deadline was asked, and given time to answer: one that
/// lives is never cut off because others took long.
fn had_its_chance(view: &View<'_>, member: &Member<'_>) -> bool {
    match member.contact {
        Contact::Away(_) | Contact::Never => true,
        Contact::Here => match member.on_record {
            OnRecord::Nothing => true,
            // It did its part: its request waits for a signature.
            OnRecord::Requested => false,
            // Its turn to be asked has not come; what it holds may be of long ago.
            OnRecord::Issued if member.issued_by_target != Some(true) => false,
            _ => is_time_again(view, member),
        },
    }
}

fn give_up(laggards: Laggards, late: &[&Member<'_>]) -> Option<Action> {
    let ids = |members: &mut dyn Iterator<Item = &&Member<'_>>| -> Vec<String> {
        members.map(|member| member.node_id.to_owned()).collect()
    };
    let can_go = |member: &&&Member<'_>| {
        laggards == Laggards::Evict && member.role == Role::Worker && !member.votes
    };
    let evicted = ids(&mut late.iter().filter(can_go));
    if !evicted.is_empty() {
        return Some(Action::Evict(evicted));
    }
    let quarantined = ids(&mut late.iter());
    (!quarantined.is_empty()).then_some(Action::Quarantine(quarantined))
}

/// When time alone makes a difference: a silence becomes a stall, an answer overdue, a deadline
/// passes.
fn wake_at(view: &View<'_>, progress: &[Progress]) -> Option<OffsetDateTime> {
    let deadline = view.rotation.as_ref().and_then(|options| {
        let counts = options.laggards != Laggards::Wait;
        options.deadline.filter(|_| counts)
    });
    let open = |(_, progress): &(&Member<'_>, &Progress)| {
        !matches!(progress, Progress::Done | Progress::Quarantined)
    };
    let asked = view
        .members
        .iter()
        .zip(progress)
        .filter(open)
        .filter_map(|(member, _)| member.asked_at)
        .flat_map(|at| [at + STALLED, at + ANSWER]);
    asked.chain(deadline).filter(|at| *at > view.now).min()
}
