//! What is cut short on the way to more managers, or back to one.

use std::{thread, thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{
    DaemonOptions, Managers, Waxseal, eventually,
    fault::{Fault, Op},
    long_run, manager_token, next_write, scenario,
};

use super::{FAILOVER, SOON};

/// Moments at which it is cut short, after it was asked for.
const MOMENTS_MS: [u64; 3] = [30, 250, 600];
const LONG_MOMENTS: u64 = 24;
const LONG_STEP_MS: u64 = 45;
/// Each sync of the disk takes so long, so that there is something to cut.
const SYNC: Duration = Duration::from_millis(60);

fn moments() -> Vec<Duration> {
    let millis: Vec<u64> = match long_run() {
        true => (0..LONG_MOMENTS)
            .map(|number| number * LONG_STEP_MS)
            .collect(),
        false => MOMENTS_MS.to_vec(),
    };
    millis.into_iter().map(Duration::from_millis).collect()
}

fn slow() -> DaemonOptions {
    DaemonOptions {
        faults: true,
        quiet: true,
        ..DaemonOptions::default()
    }
}

fn slows_down(node: &Waxseal) -> Result<()> {
    Fault::on(node).delay("raft/", Op::Sync, SYNC)
}

/// Asks a daemon for something that is cut short by the death of one.
fn cut_short<'a>(
    asked: &Waxseal,
    words: &'a [&'a str],
    moment: Duration,
    die: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let docker = asked.docker.clone();
    thread::scope(|scope| {
        let asking = scope.spawn(move || docker.run(words));
        sleep(moment);
        die()?;
        let output = asking.join().map_err(|_| anyhow::anyhow!("a panic"))??;
        Ok(output.code == 0)
    })
}

/// A secret that was acknowledged; names are given once.
fn has(node: &Waxseal, name: &str) -> Result<()> {
    let names = node.docker.ok(&["secret", "ls", "--format", "{{.Name}}"])?;
    ensure!(
        names.lines().any(|known| known == name),
        "no {name}: {names}"
    );
    Ok(())
}

#[test]
fn a_forced_new_cluster_that_is_cut_short_is_one_or_none() -> Result<()> {
    scenario("force-cut", |scene| {
        let Managers { nodes } = Managers::with(scene, vec![slow(); 2], &[])?;
        let Ok([mut one, mut two]) = <[Waxseal; 2]>::try_from(nodes) else {
            anyhow::bail!("not two");
        };
        for (round, moment) in moments().into_iter().enumerate() {
            let name = format!("kept{round}");
            next_write(&one.engine, &name, SOON)?;
            two.kill()?;
            // 1. It dies in the middle of being forced.
            slows_down(&one)?;
            let pid = one.pid()?;
            let force = ["swarm", "init", "--force-new-cluster"];
            let told = cut_short(&one, &force, moment, || kill(pid))?;
            one.kill()?;
            one.up()?;
            one.reaches("active")?;
            // 2. Either it is alone, and acknowledges, or it waits for the other.
            let name = format!("alone{round}");
            let hasty = one.engine.clone().with_limit(Duration::from_secs(3));
            let alone = next_write(&hasty, &name, Duration::from_secs(2)).is_ok();
            ensure!(alone || !told, "it was forced and is not alone");
            println!("cut after {moment:?}: told {told}, alone {alone}");
            two.up()?;
            two.reaches("active")?;
            if alone {
                // 3. What it acknowledged alone, no former member takes away.
                eventually("the other is told what to do", SOON, || {
                    let said = two.cli.ok(&["status"])?;
                    ensure!(said.contains("goes on without this manager"), "{said}");
                    Ok(())
                })?;
                next_write(&one.engine, &format!("still{round}"), FAILOVER)?;
                has(&one, &format!("{name}-1"))?;
                ensure!(two.docker.fails(&["secret", "ls"])?.contains("leader"));
                two.docker.ok(&["swarm", "leave", "--force"])?;
                two.join(&manager_token(&one)?, &one.remote())?;
            }
            let group = Managers {
                nodes: vec![one, two],
            };
            group.settled()?;
            for node in &group.nodes {
                has(node, &format!("kept{round}-1"))?;
            }
            let Ok([first, second]) = <[Waxseal; 2]>::try_from(group.nodes) else {
                anyhow::bail!("not two");
            };
            // Each of them is forced in turn.
            (one, two) = (second, first);
        }
        Ok(())
    })
}

/// SIGKILL of a daemon that another thread holds.
fn kill(pid: u32) -> Result<()> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    let pid = pid.ok_or_else(|| anyhow::anyhow!("no pid"))?;
    rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
    Ok(())
}

#[test]
fn a_join_that_is_cut_short_costs_no_quorum() -> Result<()> {
    scenario("join-cut", |scene| {
        let mut first = Waxseal::start(scene, "first", &slow())?;
        first.init(&[])?;
        let mut node = Waxseal::start(scene, "node", &slow())?;
        for (round, moment) in moments().into_iter().enumerate() {
            let name = format!("before{round}");
            next_write(&first.engine, &name, SOON)?;
            let token = manager_token(&first)?;
            let (own, remote) = (node.remote(), first.remote());
            let join = [
                "swarm",
                "join",
                "--listen-addr",
                &own,
                "--advertise-addr",
                &own,
                "--token",
                &token,
                &remote,
            ];
            // 1. In turn the manager dies that takes it in, or the one that joins.
            for daemon in [&first, &node] {
                slows_down(daemon)?;
            }
            let leader_dies = round % 2 == 0;
            let pid = if leader_dies {
                first.pid()?
            } else {
                node.pid()?
            };
            let told = cut_short(&node, &join, moment, || kill(pid))?;
            let died = if leader_dies { &mut first } else { &mut node };
            died.kill()?;
            died.up()?;
            for daemon in [&first, &node] {
                Fault::on(daemon).clear()?;
            }
            // 2. Whatever the joiner was told, the two of them have a quorum.
            let name = format!("after{round}");
            next_write(&first.engine, &name, SOON)?;
            let state = node.engine.get("/info")?["Swarm"]["LocalNodeState"].clone();
            println!("cut after {moment:?}: told {told}, the joiner is {state}");
            has(&first, &format!("before{round}-1"))?;
            // 3. And it can join, or is a member.
            if state == "inactive" {
                node.join(&manager_token(&first)?, &first.remote())?;
            }
            let group = Managers {
                nodes: vec![first, node],
            };
            group.settled()?;
            group.nodes[1].reaches("active")?;
            let Ok([one, two]) = <[Waxseal; 2]>::try_from(group.nodes) else {
                anyhow::bail!("not two");
            };
            (first, node) = (one, two);
            // 4. Back to one, for the next round; what a cut join left is removed.
            node.docker.ok(&["swarm", "leave", "--force"])?;
            eventually("it is alone again", SOON, || {
                let shown = first.cli.ok(&["manager", "ls"])?;
                ensure!(shown.contains("1 of 1 managers"), "{shown}");
                Ok(())
            })?;
        }
        Ok(())
    })
}
