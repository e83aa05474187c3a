//! Three managers of one cluster.

use std::{path::Path, time::Duration};

use anyhow::Result;
use waxseal_tests::{DaemonOptions, Engine, Scene, leader, settled};

use crate::server::{Server, Side};

/// Managers of a cluster.
pub(crate) const MANAGERS: usize = 3;
/// Until a server that starts is a member.
const PATIENCE: Duration = Duration::from_secs(60);

/// The managers of one cluster, all of one side.
pub(crate) struct Group {
    pub(crate) servers: Vec<Server>,
}

impl Group {
    /// On loopback addresses of their own.
    pub(crate) fn start(
        scene: &Scene,
        side: Side,
        name: &str,
        is_autolocked: bool,
    ) -> Result<Group> {
        let places = vec![DaemonOptions::default(); MANAGERS];
        Group::at(scene, side, name, is_autolocked, &places)
    }

    /// One at each of the places.
    pub(crate) fn at(
        scene: &Scene,
        side: Side,
        name: &str,
        is_autolocked: bool,
        places: &[DaemonOptions],
    ) -> Result<Group> {
        let mut servers: Vec<Server> = Vec::new();
        for (index, place) in places.iter().enumerate() {
            let server = Server::boot(scene, side, &format!("{name}{index}"), place)?;
            match servers.first() {
                None => server.found(is_autolocked)?,
                Some(first) => server.join(first)?,
            }
            servers.push(server);
        }
        let group = Group { servers };
        group.settled()?;
        Ok(group)
    }

    /// All of them, for what measures them together.
    pub(crate) fn all(&self) -> Vec<&Server> {
        self.servers.iter().collect()
    }

    /// Waits until one leads and all are reachable.
    pub(crate) fn settled(&self) -> Result<()> {
        settled(&self.engines())
    }

    /// Which one leads, as one of them says.
    pub(crate) fn leader(&self, asked: usize) -> Result<usize> {
        leader(&self.engines(), asked)
    }

    /// The leader's socket and a follower's.
    pub(crate) fn sockets(&self) -> Result<[&Path; 2]> {
        let leader = self.leader(0)?;
        let socket = |index: usize| self.servers[index % MANAGERS].engine.socket();
        Ok([socket(leader), socket(leader + 1)])
    }

    /// Starts one that was killed.
    pub(crate) fn revive(&mut self, index: usize) -> Result<()> {
        let server = &mut self.servers[index];
        server.launch()?;
        server.state(PATIENCE, "active").map(drop)
    }

    fn engines(&self) -> Vec<Engine> {
        let engine = |server: &Server| server.engine.clone();
        self.servers.iter().map(engine).collect()
    }
}

impl Drop for Group {
    /// Not in order: a stock manager without a quorum does not end for minutes.
    fn drop(&mut self) {
        for server in &mut self.servers {
            if let Err(error) = server.end() {
                eprintln!("a server did not end: {error:#}");
            }
        }
    }
}
