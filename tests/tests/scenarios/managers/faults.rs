//! Slow and full disks of managers.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{
    DaemonOptions, Managers, Workload, eventually,
    fault::{Fault, Op},
    next_write, scenario,
};

use super::{FAILOVER, SOON};

/// A sync of a slow disk: shorter than what a follower waits, with a heartbeat before it.
const STALL: Duration = Duration::from_secs(1);
const CLIENTS: usize = 2;

#[test]
fn slow_and_full_disks_lose_nothing() -> Result<()> {
    scenario("disks", |scene| {
        let options = DaemonOptions {
            faults: true,
            quiet: true,
            ..DaemonOptions::default()
        };
        let group = Managers::with(scene, vec![options; 3], &[])?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, CLIENTS, &[])?;
        sleep(STALL);
        // 1. Syncs of the leader take a second each: somebody acknowledges all the time.
        let leader = group.leader(0)?;
        let fault = Fault::on(&group.nodes[leader]);
        fault.delay("raft/log-", Op::Sync, STALL)?;
        for round in 0..3 {
            let other = &group.nodes[(leader + 1) % 3].engine;
            next_write(other, &format!("slow{round}"), FAILOVER)?;
        }
        fault.clear()?;
        group.settled()?;
        // 2. A follower's disk is full: the others go on, and it is one of them again.
        let follower = group.followers()?[0];
        let fault = Fault::on(&group.nodes[follower]);
        for op in [Op::Write, Op::Allocate, Op::Open] {
            fault.full("raft/", op)?;
        }
        let leader = group.leader((follower + 1) % 3)?;
        for round in 0..5 {
            next_write(
                &group.nodes[leader].engine,
                &format!("full{round}"),
                FAILOVER,
            )?;
        }
        sleep(2 * STALL);
        fault.clear()?;
        let mut group = group;
        // One that stopped for it says so and is started again.
        let state = group.nodes[follower].engine.get("/info")?["Swarm"]["LocalNodeState"].clone();
        if state != "active" {
            println!("the follower was {state}");
            group.nodes[follower].restart()?;
        }
        eventually("it follows again", SOON, || {
            group.nodes[follower].engine.get("/secrets")
        })?;
        group.settled()?;
        let count = load.finish(&all, scene.dir())?;
        ensure!(count > 10, "{count}");
        Ok(())
    })
}
