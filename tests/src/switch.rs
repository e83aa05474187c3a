//! Hosts with addresses of their own, whose connections can be cut.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Result, ensure};

use crate::{DaemonOptions, NetworkNamespace, Scene, require, run};

/// One command of `ip` or `iptables`.
const LIMIT: Duration = Duration::from_secs(10);

/// Hosts on one Ethernet segment, each in a network namespace of its own. Unix sockets reach across.
#[derive(Debug)]
pub struct Switch {
    _segment: NetworkNamespace,
    hosts: Vec<NetworkNamespace>,
}

impl Switch {
    /// A segment with so many hosts.
    ///
    /// # Errors
    /// When the kernel gives no bridge, or `ip` or `iptables` is missing.
    pub fn new(scene: &Scene, hosts: u8) -> Result<Switch> {
        require("iptables", "iptables")?;
        let segment = NetworkNamespace::new(scene)?;
        inside(&segment, "ip link add br0 type bridge")?;
        inside(&segment, "ip link set br0 up")?;
        let mut made = Vec::new();
        for index in 0..hosts {
            let host = NetworkNamespace::new(scene)?;
            let pid = host.pid();
            inside(
                &segment,
                &format!("ip link add h{index} type veth peer name eth0 netns {pid}"),
            )?;
            inside(&segment, &format!("ip link set h{index} master br0 up"))?;
            let address = address(index);
            inside(&host, &format!("ip address add {address}/24 dev eth0"))?;
            inside(&host, "ip link set eth0 up")?;
            made.push(host);
        }
        Ok(Switch {
            _segment: segment,
            hosts: made,
        })
    }

    /// For a daemon on a host.
    #[must_use]
    pub fn options(&self, host: u8) -> DaemonOptions {
        DaemonOptions {
            wrapper: self.hosts[usize::from(host)].enter(),
            address: Some(address(host)),
            ..DaemonOptions::default()
        }
    }

    /// Nothing that `from` sends reaches `to` any more; silently, as when a cable is cut.
    ///
    /// # Errors
    /// When the rule cannot be set.
    pub fn cut_one_way(&self, from: u8, to: u8) -> Result<()> {
        let source = address(from);
        inside(
            &self.hosts[usize::from(to)],
            &format!("iptables -A INPUT -s {source} -j DROP"),
        )
    }

    /// Two hosts do not reach each other any more.
    ///
    /// # Errors
    /// When the rules cannot be set.
    pub fn cut(&self, one: u8, other: u8) -> Result<()> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    /// A host reaches no other any more.
    ///
    /// # Errors
    /// When the rules cannot be set.
    pub fn isolate(&self, host: u8) -> Result<()> {
        let others = (0..self.hosts.len()).filter_map(|other| u8::try_from(other).ok());
        for other in others.filter(|other| *other != host) {
            self.cut(host, other)?;
        }
        Ok(())
    }

    /// All reach all again.
    ///
    /// # Errors
    /// When the rules cannot be removed.
    pub fn heal(&self) -> Result<()> {
        for host in &self.hosts {
            inside(host, "iptables -F INPUT")?;
        }
        Ok(())
    }
}

/// A private network that nothing outside the namespaces sees.
fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, host + 1)
}

fn inside(namespace: &NetworkNamespace, words: &str) -> Result<()> {
    let enter = namespace.enter();
    let mut command = Command::new(&enter[0]);
    command.args(&enter[1..]).args(words.split(' '));
    let output = run(&mut command, LIMIT)?;
    ensure!(output.code == 0, "`{words}`: {}", output.err());
    Ok(())
}
