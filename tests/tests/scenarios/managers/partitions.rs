//! Cables that are cut.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use waxseal_tests::{Workload, eventually, next_write, scenario};

use super::{FAILOVER, SOON, host, on_switch};

/// For a partition that holds.
const WHILE: Duration = Duration::from_secs(4);
const CLIENTS: usize = 2;

#[test]
fn a_leader_that_is_cut_off_acknowledges_nothing_more() -> Result<()> {
    scenario("cut-leader", |scene| {
        let (switch, group) = on_switch(scene, 3)?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, CLIENTS, &[])?;
        sleep(Duration::from_secs(1));
        let leader = group.leader(0)?;
        let other = (leader + 1) % 3;
        switch.isolate(host(leader))?;
        // 1. The others go on.
        let time = next_write(&group.nodes[other].engine, "majority", FAILOVER)?;
        println!("next write after the leader was cut off: {time:?}");
        // 2. The former leader knows that it does not know.
        let hasty = group.nodes[leader].engine.clone().with_limit(WHILE);
        eventually("it answers no reads", SOON, || {
            ensure!(hasty.get("/secrets").is_err(), "it answers");
            Ok(())
        })?;
        let body = json!({"Name": "minority", "Data": "eA=="});
        let answer = hasty.call("POST", "/secrets/create", Some(&body));
        ensure!(
            answer.is_err() || answer.is_ok_and(|answer| answer.status.as_u16() != 201),
            "a write was acknowledged without a quorum"
        );
        sleep(WHILE);
        // 3. And is one of them again.
        switch.heal()?;
        group.settled()?;
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}

#[test]
fn one_way_cuts_and_a_cut_follower_split_nothing() -> Result<()> {
    scenario("one-way", |scene| {
        let (switch, group) = on_switch(scene, 3)?;
        let all = group.engines(0..3);
        let load = Workload::start(&all, CLIENTS, &[])?;
        sleep(Duration::from_secs(1));
        for round in 0..4 {
            let leader = group.leader(0)?;
            let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
            match round {
                // The leader is heard and hears nobody.
                0 => {
                    switch.cut_one_way(host(one), host(leader))?;
                    switch.cut_one_way(host(other), host(leader))?;
                }
                // The leader hears all and one of them does not hear it.
                1 => switch.cut_one_way(host(leader), host(one))?,
                // The leader and one follower do not see each other; the third sees both.
                2 => switch.cut(host(leader), host(one))?,
                // A follower alone.
                _ => switch.isolate(host(one))?,
            }
            // Whatever leads, one of the three acknowledges.
            eventually("somebody acknowledges", FAILOVER, || {
                let tries = all.iter().enumerate().map(|(index, engine)| {
                    let name = format!("r{round}-{index}");
                    next_write(engine, &name, Duration::ZERO)
                });
                ensure!(tries.filter(Result::is_ok).count() > 0, "nobody");
                Ok(())
            })?;
            sleep(WHILE / 2);
            switch.heal()?;
            group.settled()?;
        }
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}
