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
    hosts: Vec<Host>,
}

#[derive(Debug)]
struct Host {
    space: NetworkNamespace,
    address: Ipv4Addr,
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
            let host = Host {
                space: NetworkNamespace::new(scene)?,
                address: Ipv4Addr::new(10, 99, 0, index + 1),
            };
            let pid = host.space.pid();
            inside(
                &segment,
                &format!("ip link add h{index} type veth peer name eth0 netns {pid}"),
            )?;
            inside(&segment, &format!("ip link set h{index} master br0 up"))?;
            inside(&host.space, "ip link set eth0 up")?;
            host.take_address()?;
            made.push(host);
        }
        Ok(Switch {
            _segment: segment,
            hosts: made,
        })
    }

    /// A host's network namespace.
    #[must_use]
    pub fn space(&self, host: u8) -> &NetworkNamespace {
        &self.host(host).space
    }

    /// A host's address.
    #[must_use]
    pub fn address(&self, host: u8) -> Ipv4Addr {
        self.host(host).address
    }

    /// For a daemon on a host.
    #[must_use]
    pub fn options(&self, host: u8) -> DaemonOptions {
        DaemonOptions {
            wrapper: self.host(host).space.enter(),
            address: Some(self.host(host).address),
            ..DaemonOptions::default()
        }
    }

    fn host(&self, host: u8) -> &Host {
        &self.hosts[usize::from(host)]
    }

    /// Gives a host another address; nobody has the former one then.
    ///
    /// # Errors
    /// When it cannot be set.
    pub fn renumber(&mut self, host: u8, last: u8) -> Result<Ipv4Addr> {
        let host = &mut self.hosts[usize::from(host)];
        host.address = Ipv4Addr::new(10, 99, 0, last);
        inside(&host.space, "ip address flush dev eth0")?;
        host.take_address()?;
        Ok(host.address)
    }

    /// Nothing that `from` sends reaches `to` any more; silently, as when a cable is cut.
    ///
    /// # Errors
    /// When the rule cannot be set.
    pub fn cut_one_way(&self, from: u8, to: u8) -> Result<()> {
        let source = self.host(from).address;
        inside(
            &self.host(to).space,
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
            inside(&host.space, "iptables -F INPUT")?;
        }
        Ok(())
    }
}

impl Host {
    /// In a private network that nothing outside the namespaces sees.
    fn take_address(&self) -> Result<()> {
        let words = format!("ip address add {}/24 dev eth0", self.address);
        inside(&self.space, &words)
    }
}

fn inside(namespace: &NetworkNamespace, words: &str) -> Result<()> {
    let enter = namespace.enter();
    let mut command = Command::new(&enter[0]);
    command.args(&enter[1..]).args(words.split(' '));
    let output = run(&mut command, LIMIT)?;
    ensure!(output.code == 0, "`{words}`: {}", output.err());
    Ok(())
}
