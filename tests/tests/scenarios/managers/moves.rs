//! Managers that come back at other addresses.

use anyhow::{Result, ensure};
use waxseal_tests::{Managers, Switch, Workload, eventually, next_write, node_id, scenario};

use super::{FAILOVER, SOON, host, on_switch};

/// Stops some managers, gives their hosts other addresses, and starts them again.
fn move_some(switch: &mut Switch, group: &mut Managers, who: &[(usize, u8)]) -> Result<()> {
    for (index, _) in who {
        group.nodes[*index].kill()?;
    }
    for (index, last) in who {
        group.nodes[*index].address = switch.renumber(host(*index), *last)?;
    }
    for (index, _) in who {
        group.nodes[*index].up()?;
    }
    Ok(())
}

/// All say of all where they are.
fn all_know(group: &Managers) -> Result<()> {
    group.settled()?;
    for node in &group.nodes {
        for other in &group.nodes {
            let path = format!("/nodes/{}", node_id(&other.engine)?);
            eventually("its address is known", SOON, || {
                let shown = node.engine.get(&path)?["ManagerStatus"]["Addr"].clone();
                ensure!(
                    shown == other.remote(),
                    "{shown} is to be {}",
                    other.remote()
                );
                Ok(())
            })?;
        }
    }
    Ok(())
}

#[test]
fn one_a_minority_and_all_managers_move() -> Result<()> {
    scenario("moves", |scene| {
        let (mut switch, mut group) = on_switch(scene, 5)?;
        let all = group.engines(0..5);
        let load = Workload::start(&all, 1, &[])?;
        // 1. One, which leads.
        let leader = group.leader(0)?;
        move_some(&mut switch, &mut group, &[(leader, 101)])?;
        next_write(&group.nodes[(leader + 1) % 5].engine, "one", FAILOVER)?;
        all_know(&group)?;
        // 2. Two, one of which gets the address of the other.
        let (one, other) = ((leader + 1) % 5, (leader + 2) % 5);
        let former = group.nodes[one].address.octets()[3];
        move_some(&mut switch, &mut group, &[(one, 102), (other, former)])?;
        next_write(&group.nodes[leader].engine, "two", FAILOVER)?;
        all_know(&group)?;
        // 3. All. Nobody is where anybody looks; one address for each is enough.
        let everybody: Vec<_> = (0..5).map(|index| (index, host(index) + 201)).collect();
        move_some(&mut switch, &mut group, &everybody)?;
        let said = group.nodes[0].docker.fails(&["node", "ls"])?;
        ensure!(said.contains("does not have a leader"), "{said}");
        for (index, node) in group.nodes.iter().enumerate() {
            let known = group.nodes[(index + 1) % 5].remote();
            node.cli.ok(&["manager", "peer", &known])?;
        }
        next_write(&group.nodes[0].engine, "all", SOON)?;
        all_know(&group)?;
        load.finish(&all, scene.dir())?;
        Ok(())
    })
}
