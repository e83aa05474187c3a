//! A network of its own for engines that make bridges and tunnels.

use std::{fs, process::Command, time::Duration};

use anyhow::{Result, ensure};

use crate::{Running, Scene, eventually, require};

/// A network namespace with nothing but loopback. Unix sockets reach across it. Dropped, it
/// goes with the last process in it.
#[derive(Debug)]
pub struct NetworkNamespace {
    holder: Running,
}

impl NetworkNamespace {
    /// A new one.
    ///
    /// # Errors
    /// When the kernel does not give one, or `ip` is missing.
    pub fn new(scene: &Scene) -> Result<NetworkNamespace> {
        let ip = require("ip", "iproute2")?;
        let log = scene.dir().join("namespace.log");
        let mut command = Command::new("setpriv");
        command.args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--net",
            "--",
            "sh",
            "-c",
        ]);
        command.arg(format!(
            "{} link set lo up && exec sleep infinity",
            ip.display()
        ));
        let holder = Running::start_command(&mut command, &log)?;
        let namespace = NetworkNamespace { holder };
        eventually("the namespace is there", Duration::from_secs(5), || {
            let words = fs::read(format!("/proc/{}/cmdline", namespace.holder.pid()))?;
            ensure!(words.starts_with(b"sleep"), "{}", namespace.holder.tail());
            Ok(())
        })?;
        Ok(namespace)
    }

    /// The process that holds it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// The words that start a program in it.
    #[must_use]
    pub fn enter(&self) -> Vec<String> {
        let path = format!("--net=/proc/{}/ns/net", self.holder.pid());
        ["nsenter", &path, "--"].map(str::to_owned).to_vec()
    }
}
