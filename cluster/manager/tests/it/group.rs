//! Several managers of one cluster in one process, each with its own disk and port.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::broadcast;
use waxseal_ca::{Clock, test_util::ManualClock};
use waxseal_cluster::{ChangeRecord, objects::NodeRole};
use waxseal_manager::{JoinCluster, Leader, Manager, ManagerConfig, NewCluster, Start, StartError};
use waxseal_raft_store::DangerSimDisk;

use crate::{
    slow::{SlowDisk, Slowness},
    support::{DEADLINE, World, add_node, create_secret, node},
    way::Way,
};

/// Managers and what outlives them.
pub(crate) struct Group {
    pub(crate) world: World,
    pub(crate) sites: Vec<Site>,
}

/// One manager's place.
pub(crate) struct Site {
    pub(crate) node_id: String,
    pub(crate) raft_id: u64,
    pub(crate) port: u16,
    pub(crate) disk: Arc<DangerSimDisk>,
    pub(crate) slow: Slowness,
    /// Off the others' clock by so much.
    pub(crate) ahead: Duration,
    /// How the others reach it, if not directly.
    pub(crate) way: Option<Way>,
    pub(crate) manager: Option<Manager>,
    /// What it tells of changes, over its starts.
    pub(crate) changes: broadcast::Sender<ChangeRecord>,
}

impl Site {
    pub(crate) fn new(n: u64) -> Site {
        Site {
            node_id: format!("manager{n}"),
            raft_id: 0xf000_0000_0000_0000 + n,
            port: free_port(),
            disk: Arc::new(DangerSimDisk::new(n)),
            slow: Slowness::default(),
            ahead: Duration::ZERO,
            way: None,
            manager: None,
            changes: broadcast::channel(1024).0,
        }
    }

    pub(crate) fn manager(&self) -> &Manager {
        self.manager.as_ref().unwrap()
    }

    pub(crate) fn addr(&self) -> String {
        match &self.way {
            Some(way) => way.address().to_string(),
            None => format!("127.0.0.1:{}", self.port),
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

impl Group {
    /// A cluster of so many managers.
    pub(crate) async fn of(managers: u64) -> Group {
        Group::founded_at(Site::new(1), managers).await
    }

    /// As [`Group::of`], with the first one there.
    pub(crate) async fn founded_at(site: Site, managers: u64) -> Group {
        let mut group = Group {
            world: World::new(),
            sites: vec![site],
        };
        let new = NewCluster {
            cluster: group.world.cluster(),
            node: node("manager1", NodeRole::Manager),
        };
        group.start(0, Start::Found(Box::new(new))).await.unwrap();
        for n in 2..=managers {
            group.join(n).await.unwrap();
        }
        group
    }

    pub(crate) fn config(&self, site: usize) -> ManagerConfig {
        let site = &self.sites[site];
        let config = self.world.config(&site.node_id, site.raft_id, site.port);
        let clock = Arc::new(ManualClock::at(self.world.clock.now() + site.ahead));
        ManagerConfig {
            clock,
            advertise_addr: site.addr(),
            changes: site.changes.clone(),
            ..config
        }
    }

    pub(crate) async fn start(&mut self, site: usize, start: Start) -> Result<(), StartError> {
        let disk = Arc::new(SlowDisk {
            disk: self.sites[site].disk.clone(),
            slow: self.sites[site].slow.clone(),
        });
        // The port of the one that was killed is free in a moment.
        while TcpListener::bind(self.config(site).listen).is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let manager = Manager::start_on(disk, self.config(site), start).await?;
        self.sites[site].manager = Some(manager);
        Ok(())
    }

    pub(crate) async fn join(&mut self, n: u64) -> Result<(), StartError> {
        let site = Site::new(n);
        let leader = self.leader().await;
        add_node(
            self.sites[leader].manager(),
            &site.node_id,
            NodeRole::Manager,
        )
        .await;
        // Whoever is asked says who leads.
        let remotes = self.running().map(|running| self.sites[running].addr());
        let mut remotes: Vec<_> = remotes.collect();
        remotes.reverse();
        self.sites.push(site);
        let start = Start::Join(JoinCluster { remotes });
        self.start(self.sites.len() - 1, start).await
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.sites.len()).filter(|site| self.sites[*site].manager.is_some())
    }

    /// The one that leads; there is one soon.
    pub(crate) async fn leader(&self) -> usize {
        let begun = Instant::now();
        loop {
            let leads = |site: &usize| {
                let manager = self.sites[*site].manager();
                matches!(&*manager.leader().borrow(), Leader::Me { .. })
            };
            if let Some(site) = self.running().find(leads) {
                return site;
            }
            assert!(begun.elapsed() < DEADLINE, "no leader");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Ends a manager without notice: its connections break, its disk stays as it is.
    pub(crate) fn kill(&mut self, site: usize) {
        self.sites[site].disk.kill();
        drop(self.sites[site].manager.take().unwrap());
    }

    /// Creates a secret through whoever leads; how long it took.
    pub(crate) async fn write(&self, id: &str) -> Duration {
        let begun = Instant::now();
        loop {
            let leader = self.leader().await;
            match create_secret(self.sites[leader].manager(), id, 100).await {
                Ok(()) => return begun.elapsed(),
                Err(error) => assert!(begun.elapsed() < DEADLINE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Returns once all that run have these secrets.
    pub(crate) async fn all_have(&self, ids: &[String]) {
        let begun = Instant::now();
        for site in self.running() {
            let manager = self.sites[site].manager();
            for id in ids {
                while manager.read(|state| state.secret(id).is_none()) {
                    assert!(begun.elapsed() < DEADLINE, "{site} lacks {id}");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        }
    }

    pub(crate) async fn end(self) {
        for site in self.sites {
            if let Some(manager) = site.manager {
                manager.shutdown(DEADLINE).await;
            }
        }
    }
}
