use time::macros::datetime;

use super::*;

const NOW: OffsetDateTime = datetime!(2026-11-20 13:00 UTC);
const OLD: (&[u8], &[u8]) = (b"ca", b"old");
const NEW: (&[u8], &[u8]) = (b"ca", b"new");

fn target() -> IssuerInfo {
    IssuerInfo {
        subject_der: NEW.0.to_vec(),
        public_key_der: NEW.1.to_vec(),
    }
}

fn options(laggards: Laggards, deadline: Option<OffsetDateTime>) -> Options {
    Options {
        started_at: NOW - Duration::MINUTE,
        deadline,
        laggards,
    }
}

fn member(node_id: &str) -> Member<'_> {
    Member {
        node_id,
        role: Role::Worker,
        votes: false,
        kind: Kind::Ours,
        contact: Contact::Here,
        holds: Some(OLD),
        on_record: OnRecord::Issued,
        issued_by_target: Some(false),
        asked_at: None,
        quarantined_at: None,
        clock_ahead: None,
    }
}

fn manager(node_id: &str) -> Member<'_> {
    Member {
        role: Role::Manager,
        votes: true,
        ..member(node_id)
    }
}

fn moved(member: Member<'_>) -> Member<'_> {
    Member {
        holds: Some(NEW),
        issued_by_target: Some(true),
        ..member
    }
}

fn away(member: Member<'_>) -> Member<'_> {
    Member {
        contact: Contact::Away(Some(NOW - Duration::HOUR)),
        ..member
    }
}

fn planned(members: &[Member<'_>], window: usize, options: Options) -> Plan {
    plan(&View {
        target: &target(),
        rotation: Some(options),
        members: members.to_vec(),
        window,
        now: NOW,
    })
}

fn waiting(members: &[Member<'_>]) -> Plan {
    planned(members, 100, options(Laggards::Wait, None))
}

fn ids(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

#[test]
fn nothing_is_finished_before_every_member_has_moved() {
    let lists = [
        vec![manager("m"), moved(member("w"))],
        vec![moved(manager("m")), member("w")],
        vec![moved(manager("m")), away(member("w"))],
        vec![
            moved(manager("m")),
            Member {
                holds: None,
                ..member("w")
            },
        ],
        // The same name is not enough: the key tells roots apart.
        vec![
            moved(manager("m")),
            Member {
                holds: Some((NEW.0, OLD.1)),
                ..moved(member("w"))
            },
        ],
    ];
    for members in lists {
        let plan = waiting(&members);
        assert!(!plan.actions.contains(&Action::Finish), "{plan:?}");
        assert!(plan.wait.is_some());
    }
    let plan = waiting(&[moved(manager("m")), moved(member("w"))]);
    assert_eq!(plan.actions, [Action::Finish]);
    assert_eq!(plan.wait, None);
}

#[test]
fn managers_are_asked_first_and_no_more_than_the_window_has_room_for() {
    let members = [member("w1"), member("w2"), manager("m1"), manager("m2")];
    let asked = |window| planned(&members, window, options(Laggards::Wait, None)).actions;
    assert_eq!(asked(0), []);
    assert_eq!(asked(3), [Action::Mark(ids(&["m1", "m2", "w1"]))]);
    let mut busy = members.clone();
    busy[0].on_record = OnRecord::Requested;
    busy[2].on_record = OnRecord::Marked;
    busy[2].asked_at = Some(NOW);
    let plan = planned(&busy, 3, options(Laggards::Wait, None));
    assert_eq!(plan.actions, [Action::Mark(ids(&["m2"]))]);
    assert_eq!(
        plan.progress,
        [
            Progress::Renewing,
            Progress::Queued,
            Progress::Asked,
            Progress::Queued
        ]
    );
}

#[test]
fn who_stalls_takes_no_room_and_is_not_asked_twice() {
    let mut silent = member("w1");
    silent.on_record = OnRecord::Marked;
    silent.asked_at = Some(NOW - STALLED);
    let plan = planned(&[silent, member("w2")], 1, options(Laggards::Wait, None));
    assert_eq!(plan.actions, [Action::Mark(ids(&["w2"]))]);
    assert_eq!(plan.progress[0], Progress::Silent);
    assert_eq!(plan.wake_at, Some(NOW - STALLED + ANSWER));
}

#[test]
fn who_is_away_is_asked_when_it_returns() {
    assert_eq!(waiting(&[away(member("w"))]).actions, []);
    assert_eq!(waiting(&[member("w")]).actions, [Action::Mark(ids(&["w"]))]);
}

#[test]
fn a_lost_answer_and_a_failed_signature_are_asked_for_again_after_a_while() {
    let mut lost = member("w1");
    lost.issued_by_target = Some(true);
    let mut failed = member("w2");
    failed.on_record = OnRecord::Failed;
    for member in [lost, failed] {
        let at = |seconds: i64| {
            let mut member = member.clone();
            member.asked_at = Some(NOW - Duration::seconds(seconds));
            waiting(&[member]).actions
        };
        assert_eq!(at(5), []);
        assert_eq!(at(30), [Action::Mark(ids(&[member.node_id]))]);
    }
}

#[test]
fn the_absent_block_only_under_wait() {
    let members = [
        moved(manager("m")),
        moved(member("w1")),
        away(member("w2")),
        away(manager("m2")),
        Member {
            contact: Contact::Never,
            ..member("w3")
        },
        moved(manager("m3")),
    ];
    let late = || Some(NOW);
    let plan = waiting(&members);
    assert_eq!(plan.wait, Some(Wait::Absent { count: 3 }));
    assert_eq!(plan.actions, []);

    let early = options(Laggards::Quarantine, Some(NOW + Duration::SECOND));
    let plan = planned(&members, 9, early);
    assert_eq!(plan.actions, []);
    assert_eq!(plan.wake_at, Some(NOW + Duration::SECOND));

    let plan = planned(&members, 9, options(Laggards::Quarantine, late()));
    assert_eq!(plan.actions, [Action::Quarantine(ids(&["w2", "m2", "w3"]))]);

    // A manager cannot just be removed.
    let plan = planned(&members, 9, options(Laggards::Evict, late()));
    assert_eq!(plan.actions, [Action::Evict(ids(&["w2", "w3"]))]);
    let left: Vec<_> = members
        .iter()
        .filter(|member| !["w2", "w3"].contains(&member.node_id))
        .cloned()
        .collect();
    let plan = planned(&left, 9, options(Laggards::Evict, late()));
    assert_eq!(plan.actions, [Action::Quarantine(ids(&["m2"]))]);
}

#[test]
fn it_is_finished_without_the_quarantined_of_this_rotation_only() {
    let mut gone = away(member("w"));
    let end = options(Laggards::Quarantine, Some(NOW));
    gone.quarantined_at = Some(end.started_at - Duration::SECOND);
    let members = [moved(manager("m")), gone];
    let plan = planned(&members, 9, end);
    assert_eq!(plan.actions, [Action::Quarantine(ids(&["w"]))]);
    let mut members = members;
    members[1].quarantined_at = Some(NOW);
    assert_eq!(planned(&members, 9, end).actions, [Action::Finish]);
    // Back in between, it is asked after all.
    members[1].contact = Contact::Here;
    let plan = planned(&members, 9, end);
    assert_eq!(plan.actions, [Action::Mark(ids(&["w"]))]);
    members[1].contact = Contact::Away(None);
    // Under another rule it is waited for after all.
    let plan = planned(&members, 9, options(Laggards::Wait, None));
    assert_eq!(plan.actions, []);
}

#[test]
fn who_lives_gets_its_time_after_the_deadline_too() {
    let end = options(Laggards::Quarantine, Some(NOW));
    let plan = planned(&[moved(manager("m")), member("w")], 9, end);
    assert_eq!(plan.actions, [Action::Mark(ids(&["w"]))]);
    // So does one that waits for its turn and has its certificate from long ago.
    let mut queued = member("w");
    queued.asked_at = Some(NOW - Duration::HOUR);
    let plan = planned(&[moved(manager("m")), queued.clone()], 9, end);
    assert_eq!(plan.actions, [Action::Mark(ids(&["w"]))]);
    let plan = planned(&[moved(manager("m")), queued], 0, end);
    assert_eq!(plan.actions, []);
    let mut silent = member("w");
    silent.on_record = OnRecord::Marked;
    silent.asked_at = Some(NOW - STALLED);
    let plan = planned(&[moved(manager("m")), silent.clone()], 9, end);
    assert_eq!(plan.actions, []);
    silent.asked_at = Some(NOW - ANSWER);
    let plan = planned(&[moved(manager("m")), silent.clone()], 9, end);
    assert_eq!(plan.actions, [Action::Quarantine(ids(&["w"]))]);
    // Whose request the leader has not signed is not late.
    silent.on_record = OnRecord::Requested;
    let plan = planned(&[moved(manager("m")), silent], 9, end);
    assert_eq!(plan.actions, []);
}

#[test]
fn managers_without_a_majority_do_not_finish() {
    let members = [
        moved(manager("m1")),
        away(manager("m2")),
        away(manager("m3")),
    ];
    for laggards in [Laggards::Quarantine, Laggards::Evict] {
        let plan = planned(&members, 9, options(laggards, Some(NOW)));
        assert_eq!(plan.actions, []);
        assert_eq!(plan.wait, Some(Wait::Quorum { done: 1, needed: 2 }));
    }
}

#[test]
fn who_has_just_joined_with_a_certificate_of_the_new_root_counts() {
    let new = Member {
        contact: Contact::Never,
        holds: None,
        issued_by_target: Some(true),
        ..member("w")
    };
    assert_eq!(
        waiting(&[moved(manager("m")), new]).actions,
        [Action::Finish]
    );
}

#[test]
fn after_an_abort_those_who_had_moved_are_asked_back() {
    let back = |members: &[Member<'_>]| {
        plan(&View {
            target: &target(),
            rotation: None,
            members: members.to_vec(),
            window: 9,
            now: NOW,
        })
    };
    let mut unknown = member("w2");
    unknown.issued_by_target = None;
    let plan = back(&[
        member("w1"),
        unknown,
        moved(member("w3")),
        away(member("w4")),
    ]);
    assert_eq!(plan.actions, [Action::Mark(ids(&["w1"]))]);
    assert_eq!(plan.wait, None);
}

#[test]
fn clocks_that_are_off_by_most_of_the_backdate_are_told() {
    let off = |ahead: Option<Duration>| {
        let mut member = member("w");
        member.clock_ahead = ahead;
        member.clock_is_off()
    };
    assert!(!off(None) && !off(Some(Duration::minutes(-50))));
    assert!(off(Some(Duration::minutes(51))) && off(Some(Duration::minutes(-51))));
}
