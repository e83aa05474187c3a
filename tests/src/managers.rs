//! Several managers of one cluster.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{DaemonOptions, Engine, Scene, Waxseal, eventually};

/// Until a group has a leader that reaches all.
const SETTLE: Duration = Duration::from_secs(30);
/// One try at a write, when the time to the next acknowledged one is measured.
const TRY: Duration = Duration::from_millis(1_500);

/// The managers of a cluster, by the order in which they joined.
#[derive(Debug)]
pub struct Managers {
    /// The daemons.
    pub nodes: Vec<Waxseal>,
}

/// A manager as `docker node ls` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its node id.
    pub id: String,
    /// `ready`, `down`, …
    pub state: String,
    /// `reachable`, `unreachable`; empty if it is no manager.
    pub reachability: String,
    /// Whether it leads.
    pub leader: bool,
}

impl Managers {
    /// So many, on loopback addresses of their own, quiet; the first founds the cluster with more
    /// words, the others join with the manager token.
    ///
    /// # Errors
    /// When one does not start or join.
    pub fn start(scene: &Scene, count: usize, words: &[&str]) -> Result<Managers> {
        let options = DaemonOptions {
            quiet: true,
            ..DaemonOptions::default()
        };
        Managers::with(scene, vec![options; count], words)
    }

    /// One for each of the options.
    ///
    /// # Errors
    /// When one does not start or join.
    pub fn with(scene: &Scene, options: Vec<DaemonOptions>, words: &[&str]) -> Result<Managers> {
        let mut nodes: Vec<Waxseal> = Vec::new();
        for (index, options) in options.iter().enumerate() {
            let node = Waxseal::start(scene, &format!("m{index}"), options)?;
            match nodes.first() {
                None => drop(node.init(words)?),
                Some(first) => {
                    let said = node.join(&manager_token(first)?, &first.remote())?;
                    ensure!(said.contains("joined a swarm as a manager"), "{said}");
                }
            }
            nodes.push(node);
        }
        let managers = Managers { nodes };
        managers.settled()?;
        Ok(managers)
    }

    /// Waits until all members lead or are reachable, as each of the daemons says.
    ///
    /// # Errors
    /// When that does not happen.
    pub fn settled(&self) -> Result<()> {
        settled(&self.engines(0..self.nodes.len()))
    }

    /// The sockets of some.
    #[must_use]
    pub fn engines(&self, of: impl IntoIterator<Item = usize>) -> Vec<Engine> {
        of.into_iter()
            .map(|index| self.nodes[index].engine.clone())
            .collect()
    }

    /// Which one leads, as one of them says.
    ///
    /// # Errors
    /// When it does not say in time, or the leader is none of these daemons.
    pub fn leader(&self, asked: usize) -> Result<usize> {
        leader(&self.engines(0..self.nodes.len()), asked)
    }

    /// Those that do not lead.
    ///
    /// # Errors
    /// As [`Managers::leader`].
    pub fn followers(&self) -> Result<Vec<usize>> {
        let leader = self.leader(0)?;
        Ok((0..self.nodes.len())
            .filter(|index| *index != leader)
            .collect())
    }
}

/// Waits until all of these managers, and no others, lead or are reachable, as each of them says.
///
/// # Errors
/// When that does not happen.
pub fn settled(managers: &[Engine]) -> Result<()> {
    for engine in managers {
        eventually("one leads and all are reachable", SETTLE, || {
            let all = standings(engine)?;
            let known = || all.iter().filter(|one| !one.reachability.is_empty());
            ensure!(
                known().count() == managers.len()
                    && known().all(|one| one.reachability == "reachable")
                    && known().filter(|one| one.leader).count() == 1,
                "{all:?}"
            );
            Ok(())
        })?;
    }
    Ok(())
}

/// Which of these managers leads, as one of them says.
///
/// # Errors
/// When it does not say in time, or the leader is none of them.
pub fn leader(managers: &[Engine], asked: usize) -> Result<usize> {
    eventually("one leads", SETTLE, || {
        let all = standings(&managers[asked])?;
        let leader = all.iter().find(|one| one.leader).context("none leads")?;
        for (index, engine) in managers.iter().enumerate() {
            if node_id(engine).is_ok_and(|id| id == leader.id) {
                return Ok(index);
            }
        }
        bail!("{leader:?} is none of the managers that answer")
    })
}

/// How long it takes until a manager acknowledges a write.
///
/// # Errors
/// When it does not within `limit`.
pub fn next_write(engine: &Engine, name: &str, limit: Duration) -> Result<Duration> {
    let begin = Instant::now();
    let hasty = engine.clone().with_limit(TRY);
    let mut number = 0;
    eventually("a write is acknowledged", limit, || {
        number += 1;
        let body = json!({"Name": format!("{name}-{number}"), "Data": "eA=="});
        hasty
            .call("POST", "/secrets/create", Some(&body))?
            .expect(201)?;
        Ok(())
    })?;
    Ok(begin.elapsed())
}

/// The manager's join token.
///
/// # Errors
/// When it is not given.
pub fn manager_token(node: &Waxseal) -> Result<String> {
    node.docker.ok(&["swarm", "join-token", "-q", "manager"])
}

/// A daemon's own node id.
///
/// # Errors
/// When it has none.
pub fn node_id(engine: &Engine) -> Result<String> {
    let info = engine.get("/info")?;
    let id = info["Swarm"]["NodeID"].as_str().unwrap_or_default();
    ensure!(!id.is_empty(), "the daemon is no node");
    Ok(id.to_owned())
}

/// All nodes, as a manager shows them.
///
/// # Errors
/// When it does not.
pub fn standings(engine: &Engine) -> Result<Vec<Standing>> {
    let nodes = engine.get("/nodes")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let standing = |node: &Value| Standing {
        id: text(&node["ID"]),
        state: text(&node["Status"]["State"]),
        reachability: text(&node["ManagerStatus"]["Reachability"]),
        leader: node["ManagerStatus"]["Leader"].as_bool().unwrap_or(false),
    };
    Ok(nodes
        .as_array()
        .context("no list")?
        .iter()
        .map(standing)
        .collect())
}
