//! A scenario's hand on the disk of a daemon.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Effect, Op, Rule};
use crate::Waxseal;

/// The faults of one daemon, which end with its process.
#[derive(Debug, Clone)]
pub struct Fault {
    socket: PathBuf,
}

impl Fault {
    /// Those of a daemon that was started with [`DaemonOptions::faults`](crate::DaemonOptions).
    #[must_use]
    pub fn on(daemon: &Waxseal) -> Fault {
        Fault {
            socket: daemon.fault_socket(),
        }
    }

    /// `op` on what has `part` in its path takes so much longer; see [`Rule::new`].
    ///
    /// # Errors
    /// When the daemon does not take it.
    pub fn delay(&self, part: &str, op: Op, time: Duration) -> Result<()> {
        self.set(&Rule::new(Effect::Delay(time), op, part))
    }

    /// `op` on what has `part` in its path fails with EIO.
    ///
    /// # Errors
    /// When the daemon does not take it.
    pub fn broken(&self, part: &str, op: Op) -> Result<()> {
        self.set(&Rule::new(Effect::Broken, op, part))
    }

    /// `op` on what has `part` in its path fails with ENOSPC.
    ///
    /// # Errors
    /// When the daemon does not take it.
    pub fn full(&self, part: &str, op: Op) -> Result<()> {
        self.set(&Rule::new(Effect::Full, op, part))
    }

    /// Adds any rule.
    ///
    /// # Errors
    /// When the daemon does not take it.
    pub fn set(&self, rule: &Rule) -> Result<()> {
        let said = self.say(&format!("set {rule}"))?;
        ensure!(said == "ok", "{rule}: {said}");
        Ok(())
    }

    /// The disk is whole again; what was held goes on.
    ///
    /// # Errors
    /// When the daemon does not take it.
    pub fn clear(&self) -> Result<()> {
        let said = self.say("clear")?;
        ensure!(said == "ok", "{said}");
        Ok(())
    }

    /// How often a rule took effect since the disk was whole.
    ///
    /// # Errors
    /// When the daemon does not say.
    pub fn hits(&self) -> Result<u64> {
        let said = self.say("hits")?;
        said.parse().with_context(|| said.clone())
    }

    fn say(&self, line: &str) -> Result<String> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("connect to {}", self.socket.display()))?;
        writeln!(stream, "{line}")?;
        stream.shutdown(Shutdown::Write)?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said.trim().to_owned())
    }
}
