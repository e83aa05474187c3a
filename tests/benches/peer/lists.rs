//! Lists of many objects of each kind.

use anyhow::{Context, Result, ensure};
use waxseal_tests::Scene;

use crate::{
    http, joins,
    report::{self, Pairs},
    secrets::{self, Creations},
    server::{Server, Side, order},
};

/// Objects of each kind.
const OBJECTS: usize = 10_000;
/// The ratio to reach.
const TARGET: f64 = 3.0;
/// What `docker secret|service|node ls` asks for; nodes count the manager too.
const LISTS: [(&str, usize); 3] = [
    ("/secrets", OBJECTS),
    ("/services?status=true", OBJECTS),
    ("/nodes", OBJECTS + 1),
];

/// Lists of secrets, services without tasks, and nodes.
pub(crate) fn objects(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Server::start(scene, Side::Ours, "lists", false)?;
    let stock = Server::start(scene, Side::Stock, "lists", false)?;
    for server in [&ours, &stock] {
        secrets::fill(server, OBJECTS)?;
        let services = Creations::of("/services/create", 0, |name| {
            format!(
                r#"{{"Name":"{name}","TaskTemplate":{{"ContainerSpec":{{"Image":"bench"}}}},"Mode":{{"Replicated":{{"Replicas":0}}}}}}"#
            )
        })?;
        http::run(server.engine.socket(), 16, OBJECTS, services)?;
        joins::fill(server, OBJECTS)?;
        println!("({OBJECTS} of each kind with {:?})", server.side);
    }
    for (path, count) in LISTS {
        for server in [&ours, &stock] {
            let list = server.engine.get(path)?;
            let listed = list.as_array().context("not a list")?.len();
            ensure!(listed == count, "{listed} in {path}");
        }
        let mut pairs = Pairs::default();
        for round in 0..rounds {
            for side in order(round) {
                let (server, runs) = match side {
                    Side::Ours => (&ours, &mut pairs.ours),
                    Side::Stock => (&stock, &mut pairs.other),
                };
                runs.push(secrets::list(server, path)?);
            }
        }
        report::rates(&format!("{count} in GET {path}"), &pairs, Some(TARGET));
    }
    Ok(())
}
