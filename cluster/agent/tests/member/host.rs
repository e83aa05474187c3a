//! The host of an agent: what it keeps, and tasks that end when told.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use waxseal_agent::{
    Agent, AgentConfig, AgentStatus, Execution, Executor, Found, HostFacts, IdentityStore,
    ManagerAddress,
    native::{Exit, LaunchError, LogOptions, LogRecord, LogStream, TaskLaunch, UserPolicy},
};
use waxseal_ca::{IssuerRules, LiveTls, NodeCredentials, Role, TrustBundle};

use crate::manager::{Manager, credentials};

#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) identities: Vec<(String, Vec<u8>)>,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) issuers: Vec<IssuerRules>,
    pub(crate) managers: Vec<Vec<ManagerAddress>>,
    pub(crate) launched: Vec<(String, Vec<Vec<u8>>)>,
    pub(crate) removed: Vec<String>,
    pub(crate) stopped: Vec<String>,
    pub(crate) tasks: HashMap<String, watch::Sender<Option<Exit>>>,
    pub(crate) found: HashMap<String, Option<Exit>>,
    pub(crate) adoptions: usize,
    pub(crate) log: Vec<LogRecord>,
    /// So often no task has a log yet.
    pub(crate) looks_in_vain: usize,
    pub(crate) store_fails: bool,
    /// Records of this task cannot be deleted.
    pub(crate) stuck: Option<String>,
    pub(crate) stops_orphans: bool,
}

#[derive(Clone, Default)]
pub(crate) struct Host(pub(crate) Arc<Mutex<Kept>>);

pub(crate) fn exit(code: i32) -> Exit {
    Exit {
        code,
        signal: None,
        oom: false,
        message: None,
    }
}

impl Host {
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    pub(crate) async fn wait_for<T>(&self, mut found: impl FnMut(&mut Kept) -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(result) = self.with(&mut found) {
                    return result;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), waiting)
            .await
            .expect("it did not happen")
    }

    pub(crate) async fn end_task(&self, task_id: &str, exit: Exit) {
        let task = self.wait_for(|kept| kept.tasks.get(task_id).cloned()).await;
        task.send_replace(Some(exit));
    }

    /// An agent with a certificate of this manager's cluster.
    pub(crate) fn agent(&self, manager: &Manager) -> Agent {
        self.aged_agent(manager, time::Duration::ZERO)
    }

    /// An agent whose certificate is this old; the manager's clock moves.
    pub(crate) fn aged_agent(&self, manager: &Manager, age: time::Duration) -> Agent {
        let credentials = credentials(&manager.root, "node", Role::Worker, manager.clock.as_ref());
        let trust = Arc::new(manager.root.trust().clone());
        let tls = LiveTls::new(trust, Some(credentials), manager.clock.clone());
        manager.clock.advance(age);
        let facts = HostFacts::read("0.1.0", BTreeMap::new(), UserPolicy::Any, false);
        Agent::start(AgentConfig {
            clock: manager.clock.clone(),
            tls,
            managers: vec![ManagerAddress::from_address(&manager.address)],
            own_authority: None,
            store: Arc::new(self.clone()),
            executor: Arc::new(self.clone()),
            facts,
        })
        .unwrap()
    }

    fn execution(&self, task_id: &str) -> Box<dyn Execution> {
        let (sender, receiver) = watch::channel(None);
        self.with(|kept| kept.tasks.insert(task_id.to_owned(), sender));
        Box::new(Process {
            host: self.clone(),
            task_id: task_id.to_owned(),
            receiver,
        })
    }
}

/// Waits until the agent's status is as wished.
pub(crate) async fn wait_for_status(agent: &Agent, wished: impl FnMut(&AgentStatus) -> bool) {
    let mut status = agent.status();
    let seen = tokio::time::timeout(Duration::from_secs(20), status.wait_for(wished)).await;
    assert!(
        seen.is_ok(),
        "it did not happen: {:?}",
        *agent.status().borrow()
    );
}

impl IdentityStore for Host {
    fn save_identity<'a>(
        &'a self,
        credentials: &'a Arc<NodeCredentials>,
        trust: &'a Arc<TrustBundle>,
    ) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.with(|kept| {
                if kept.store_fails {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let serial = credentials.identity().serial.to_string();
                kept.identities.push((serial, trust.pem().to_vec()));
                Ok(())
            })
        })
    }

    fn save_trust<'a>(&'a self, trust: &'a TrustBundle) -> BoxFuture<'a, io::Result<()>> {
        let kept = self.with(|kept| {
            if kept.store_fails {
                return Err(io::ErrorKind::StorageFull.into());
            }
            kept.roots.push(trust.pem().to_vec());
            Ok(())
        });
        Box::pin(async { kept })
    }

    fn save_issuers<'a>(
        &'a self,
        rules: &'a IssuerRules,
        _: &'a TrustBundle,
    ) -> BoxFuture<'a, io::Result<()>> {
        self.with(|kept| kept.issuers.push(rules.clone()));
        Box::pin(async { Ok(()) })
    }

    fn save_managers<'a>(
        &'a self,
        managers: &'a [ManagerAddress],
    ) -> BoxFuture<'a, io::Result<()>> {
        self.with(|kept| kept.managers.push(managers.to_vec()));
        Box::pin(async { Ok(()) })
    }
}

impl Executor for Host {
    fn runs_image(&self, image: &str) -> bool {
        image.starts_with("host")
    }

    fn check(&self, _: &TaskLaunch) -> Result<(), LaunchError> {
        Ok(())
    }

    fn launch(&self, launch: TaskLaunch) -> BoxFuture<'_, Result<Box<dyn Execution>, LaunchError>> {
        let files = launch.files.iter().map(|file| file.data.to_vec()).collect();
        self.with(|kept| kept.launched.push((launch.task_id.clone(), files)));
        let execution = self.execution(&launch.task_id);
        Box::pin(async { Ok(execution) })
    }

    fn adopt(&self) -> BoxFuture<'_, io::Result<Vec<(String, Found)>>> {
        let found = self.with(|kept| {
            kept.adoptions += 1;
            kept.found.clone()
        });
        let found = found.into_iter().map(|(task_id, ended)| match ended {
            Some(exit) => (task_id, Found::Ended(exit)),
            None => {
                let execution = self.execution(&task_id);
                (task_id, Found::Running(execution))
            }
        });
        let found = found.collect();
        Box::pin(async { Ok(found) })
    }

    fn remove<'a>(&'a self, task_id: &'a str) -> BoxFuture<'a, io::Result<()>> {
        let stuck = self.with(|kept| {
            kept.removed.push(task_id.to_owned());
            kept.stuck.as_deref() == Some(task_id)
        });
        Box::pin(async move {
            match stuck {
                true => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
                false => Ok(()),
            }
        })
    }

    fn stops_orphans(&self) -> bool {
        self.with(|kept| kept.stops_orphans)
    }

    fn logs(&self, _: &str, options: LogOptions) -> io::Result<mpsc::Receiver<LogRecord>> {
        let is_in_vain = self.with(|kept| {
            let left = kept.looks_in_vain;
            kept.looks_in_vain = left.saturating_sub(1);
            left > 0
        });
        if is_in_vain {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (sender, receiver) = mpsc::channel(1024);
        let records = self.with(|kept| kept.log.clone());
        let wanted = records.into_iter().filter(|record| match record.stream {
            LogStream::Stdout => options.streams.stdout,
            LogStream::Stderr => options.streams.stderr,
        });
        wanted.for_each(|record| sender.try_send(record).unwrap());
        if options.follow {
            tokio::spawn(async move { sender.closed().await });
        }
        Ok(receiver)
    }
}

struct Process {
    host: Host,
    task_id: String,
    receiver: watch::Receiver<Option<Exit>>,
}

impl Execution for Process {
    fn pid(&self) -> u32 {
        4711
    }

    fn wait(&self) -> BoxFuture<'_, Exit> {
        let mut receiver = self.receiver.clone();
        Box::pin(async move {
            let ended = receiver.wait_for(Option::is_some).await;
            ended
                .ok()
                .and_then(|exit| exit.clone())
                .unwrap_or_else(|| exit(255))
        })
    }

    fn stop(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            self.host.with(|kept| {
                kept.stopped.push(self.task_id.clone());
                kept.tasks[&self.task_id].send_replace(Some(exit(143)));
            });
            Ok(())
        })
    }
}
