//! Secrets created and read with three managers, beside three stock ones and one of ours.

use std::path::Path;

use anyhow::Result;
use waxseal_tests::Scene;

use crate::{
    group::Group,
    http,
    measure::{Measured, measure},
    report::{self, Pairs},
    secrets::{self, Creations, LISTED},
    server::{Server, Side, order},
};

/// Connections; secrets per run, ours and stock's; and the ratio to reach.
const CREATIONS: [(usize, [usize; 2], f64); 3] = [
    (1, [1_500, 600], 2.0),
    (16, [6_000, 1_200], 2.0),
    (64, [12_000, 2_000], 15.0),
];

/// Reads of few secrets first, then creations of many.
pub(crate) fn measure_all(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Group::start(scene, Side::Ours, "three", false)?;
    let stock = Group::start(scene, Side::Stock, "three", false)?;
    read(scene, rounds, &ours, &stock)?;
    create(rounds, &ours, &stock)
}

fn read(scene: &Scene, rounds: usize, ours: &Group, stock: &Group) -> Result<()> {
    let alone = Server::start(scene, Side::Ours, "alone", false)?;
    let leader = &ours.servers[ours.leader(0)?];
    let follower = &ours.servers[(ours.leader(0)? + 1) % ours.servers.len()];
    let stock = &stock.servers[stock.leader(0)?];
    for server in [leader, stock, &alone] {
        secrets::fill(server, LISTED)?;
    }
    let sides = [leader, stock, &alone, follower];
    let mut runs: [Vec<(Measured, Measured)>; 4] = Default::default();
    for round in 0..rounds {
        for step in 0..sides.len() {
            let side = (round + step) % sides.len();
            let server = sides[side];
            runs[side].push((
                secrets::list(server, "/secrets")?,
                secrets::inspect(server)?,
            ));
        }
    }
    for (names, [left, right], target) in [
        (["leader of 3", "stock of 3"], [0, 1], None),
        (["leader of 3", "alone"], [0, 2], Some(1.0)),
        (["follower", "alone"], [3, 2], None),
    ] {
        let (mut lists, mut inspections) = (Pairs::of(names), Pairs::of(names));
        let part = |side: usize, of: fn(&(Measured, Measured)) -> &Measured| {
            runs[side].iter().map(of).cloned().collect::<Vec<_>>()
        };
        lists.ours = part(left, |run| &run.0);
        lists.other = part(right, |run| &run.0);
        inspections.ours = part(left, |run| &run.1);
        inspections.other = part(right, |run| &run.1);
        report::rates(&format!("{LISTED} secrets listed"), &lists, target);
        report::rates("secrets inspected, 64 connections", &inspections, target);
    }
    Ok(())
}

fn create(rounds: usize, ours: &Group, stock: &Group) -> Result<()> {
    let mut first = LISTED;
    for (connections, [our_count, stock_count], target) in CREATIONS {
        let mut leaders = Pairs::default();
        let mut doors = Pairs::of(["follower", "leader"]);
        let mut run = |group: &Group, socket: &Path, count| {
            let creations = Creations::from(first)?;
            first += count;
            measure(&group.all(), || {
                http::run(socket, connections, count, creations)
            })
        };
        for round in 0..rounds {
            let [leader, follower] = ours.sockets()?;
            for side in order(round) {
                match side {
                    Side::Ours => leaders.ours.push(run(ours, leader, our_count)?),
                    Side::Stock => {
                        let [leader, _] = stock.sockets()?;
                        leaders.other.push(run(stock, leader, stock_count)?);
                    }
                }
            }
            doors.ours.push(run(ours, follower, our_count)?);
        }
        doors.other = leaders.ours.clone();
        let title = format!("secrets created, 3 managers, {connections} connections");
        report::rates(&title, &leaders, Some(target));
        report::rates(&title, &doors, None);
    }
    Ok(())
}
