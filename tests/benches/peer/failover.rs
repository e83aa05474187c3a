//! A leader that dies or is cut off, and disks that stall.

use std::{fs, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use waxseal_tests::{
    DaemonOptions, Managers, Scene, SecretLoad, Switch, eventually,
    fault::{Effect, Fault, Op, Rule},
    next_write,
};

use crate::{
    group::{Group, MANAGERS},
    report,
    server::Side,
};

/// Leaders of ours that die, and as many that are cut off, for each round that is asked for;
/// stock's take long to be replaced, and one of each is enough.
const OURS_PER_ROUND: usize = 3;
/// Until a write is acknowledged again.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a group has settled, before its leader goes.
const REST: Duration = Duration::from_millis(500);

/// A sync that stalls, and how often on the leader and on a follower.
const STALL: Duration = Duration::from_secs(1);
const STALLS: usize = 5;
/// Between two stalls.
const BETWEEN: Duration = Duration::from_millis(500);
const CLIENTS: usize = 2;

/// How a leader goes.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    CutOff,
}

/// The time from the end of a leader to the next acknowledged write.
pub(crate) fn failover(scene: &Scene, rounds: usize) -> Result<()> {
    for (side, rounds) in [(Side::Ours, rounds * OURS_PER_ROUND), (Side::Stock, 1)] {
        let switch = Switch::new(scene, MANAGERS as u8)?;
        let places: Vec<DaemonOptions> = (0..MANAGERS as u8)
            .map(|host| switch.options(host))
            .collect();
        let mut group = Group::at(scene, side, "switched", false, &places)?;
        for end in [End::Killed, End::CutOff] {
            let times: Vec<Duration> = (0..rounds)
                .map(|round| lose_leader(&mut group, &switch, end, round))
                .collect::<Result<_>>()
                .with_context(|| format!("{side:?}, leader {end:?}"))?;
            let title =
                format!("{side:?}: next write after the leader was {end:?}, target ≤ 2.5 s");
            report::times(&title, &times);
        }
    }
    Ok(())
}

fn lose_leader(group: &mut Group, switch: &Switch, end: End, round: usize) -> Result<Duration> {
    group.settled()?;
    sleep(REST);
    let leader = group.leader(round % MANAGERS)?;
    let asked = group.servers[(leader + 1) % MANAGERS].engine.clone();
    match end {
        End::Killed => group.servers[leader].kill()?,
        End::CutOff => switch.isolate(u8::try_from(leader)?)?,
    }
    let time = next_write(&asked, &format!("{end:?}{round}"), PATIENCE)?;
    match end {
        End::Killed => group.revive(leader)?,
        End::CutOff => switch.heal()?,
    }
    Ok(time)
}

/// Syncs that take a second, one by one, while secrets are created: how many leaderships began.
pub(crate) fn stall(scene: &Scene) -> Result<()> {
    let options = DaemonOptions {
        faults: true,
        quiet: true,
        ..DaemonOptions::default()
    };
    let group = Managers::with(scene, vec![options; MANAGERS], &[])?;
    for role in ["leader", "follower"] {
        let leader = group.leader(0)?;
        let stalled = match role {
            "leader" => leader,
            _ => (leader + 1) % MANAGERS,
        };
        let fault = Fault::on(&group.nodes[stalled]);
        let before = leaderships(&group)?;
        let load = SecretLoad::start(&group.nodes[leader].engine, role, CLIENTS);
        for _ in 0..STALLS {
            sleep(BETWEEN);
            fault.clear()?;
            fault.set(&Rule::new(Effect::Delay(STALL), Op::Sync, "raft/log-").times(1))?;
            eventually("a sync stalls", PATIENCE, || {
                ensure!(fault.hits()? > 0, "not yet");
                Ok(())
            })?;
            sleep(STALL);
        }
        sleep(BETWEEN);
        let created = load.finish().len();
        let begun = leaderships(&group)? - before;
        println!(
            "{STALLS} syncs of the {role} that took {} s each: {begun} leaderships began, target 0; \
             {created} secrets created meanwhile",
            STALL.as_secs()
        );
    }
    Ok(())
}

/// How often one of them began to lead, as they logged it.
fn leaderships(group: &Managers) -> Result<usize> {
    let mut begun = 0;
    for node in &group.nodes {
        let log = fs::read_to_string(node.log())?;
        let leads = |line: &&str| line.contains("the leader of the swarm changed");
        begun += log
            .lines()
            .filter(leads)
            .filter(|line| line.contains("Me {"))
            .count();
    }
    ensure!(begun > 0, "the logs tell no leadership");
    Ok(begun)
}
