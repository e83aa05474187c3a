//! Brings what runs here in line with what is assigned.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    assignments::AssignedSet,
    executor::Found,
    shared::Shared,
    task::{TaskDriver, Wanted},
};

/// The pause before the executor is asked once more for the tasks of earlier daemons.
const ADOPT_PAUSE: Duration = Duration::from_secs(5);

/// Owns the tasks of this node.
///
/// It acts on nothing before the first complete set came: a task of an earlier daemon
/// runs on until a manager says that it is assigned no more.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    assigned: watch::Receiver<Option<AssignedSet>>,
    wanted: HashMap<String, watch::Sender<Wanted>>,
    drivers: JoinSet<(String, Result<(), String>)>,
    found: HashMap<String, Found>,
    leaving: CancellationToken,
    not_removed: Vec<NotRemoved>,
}

/// What a node that left its cluster could not end or delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRemoved {
    /// The task; nothing if it is not known which tasks there are.
    pub task_id: Option<String>,
    /// Why.
    pub error: String,
}

impl fmt::Display for NotRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotRemoved { task_id, error } = self;
        match task_id {
            Some(task_id) => write!(
                f,
                "task {task_id} was not removed ({error}); end its processes and delete its \
                 directories `tasks/{task_id}` under data root and exec root"
            ),
            None => write!(
                f,
                "this node's tasks were not removed ({error}); end their shims, which `ps` shows \
                 as `waxseal shim`, and delete `tasks` under data root and exec root"
            ),
        }
    }
}

impl Worker {
    pub(crate) fn new(
        shared: Arc<Shared>,
        assigned: watch::Receiver<Option<AssignedSet>>,
        leaving: CancellationToken,
    ) -> Worker {
        Worker {
            shared,
            assigned,
            wanted: HashMap::new(),
            drivers: JoinSet::new(),
            found: HashMap::new(),
            leaving,
            not_removed: Vec::new(),
        }
    }

    /// Works until `leaving` is cancelled, then stops and deletes all tasks, and says of
    /// which something is left. Dropped before that, it leaves them running.
    pub(crate) async fn run(mut self) -> Vec<NotRemoved> {
        let leaving = self.leaving.clone();
        let adopting = self.adopt();
        if leaving.run_until_cancelled(adopting).await.is_none() {
            match self.shared.executor.adopt().await {
                Ok(found) => self.found = found.into_iter().collect(),
                Err(error) => self.not_removed.push(NotRemoved {
                    task_id: None,
                    error: error.to_string(),
                }),
            }
        }
        loop {
            self.reconcile();
            tokio::select! {
                () = leaving.cancelled() => break,
                changed = self.assigned.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(ended) = self.drivers.join_next() => self.note_end(ended),
            }
        }
        if leaving.is_cancelled() {
            self.remove_all().await;
        }
        self.not_removed
    }

    /// Asks the executor for the tasks of earlier daemons until it answers.
    async fn adopt(&mut self) {
        loop {
            match self.shared.executor.adopt().await {
                Ok(found) => {
                    self.found = found.into_iter().collect();
                    return;
                }
                Err(error) => {
                    warn!(%error, "cannot tell which tasks run here, trying again");
                    time::sleep(ADOPT_PAUSE).await;
                }
            }
        }
    }

    fn reconcile(&mut self) {
        let assigned = self.assigned.borrow_and_update().clone();
        let Some(set) = assigned else {
            return;
        };
        for (task_id, task) in &set.tasks {
            match self.wanted.get(task_id) {
                Some(wanted) => {
                    wanted.send_if_modified(|wanted| raise(wanted, task));
                }
                None => self.drive(
                    task_id,
                    Wanted::Assigned(Arc::clone(task)),
                    Arc::clone(task),
                ),
            }
        }
        for (task_id, wanted) in &self.wanted {
            if !set.tasks.contains_key(task_id) {
                wanted.send_if_modified(remove);
            }
        }
        // Tasks of earlier daemons that no manager assigns any more.
        let orphans: HashSet<String> = self
            .found
            .keys()
            .filter(|id| !set.tasks.contains_key(*id))
            .cloned()
            .collect();
        for task_id in orphans {
            self.drive_orphan(&task_id);
        }
    }

    fn drive_orphan(&mut self, task_id: &str) {
        let task = Arc::new(waxseal_cluster::objects::Task {
            id: task_id.to_owned(),
            ..Default::default()
        });
        self.drive(task_id, Wanted::Removed, task);
    }

    fn drive(&mut self, task_id: &str, wanted: Wanted, task: Arc<waxseal_cluster::objects::Task>) {
        let (sender, receiver) = watch::channel(wanted);
        self.wanted.insert(task_id.to_owned(), sender);
        let driver = TaskDriver {
            shared: Arc::clone(&self.shared),
            task,
            wanted: receiver,
            assigned: self.assigned.clone(),
            found: self.found.remove(task_id),
            leaving: self.leaving.clone(),
        };
        let task_id = task_id.to_owned();
        self.drivers.spawn(async move {
            let removed = driver.run().await;
            (task_id, removed)
        });
    }

    fn note_end(&mut self, ended: Result<(String, Result<(), String>), tokio::task::JoinError>) {
        match ended {
            Ok((task_id, removed)) => {
                self.wanted.remove(&task_id);
                if let Err(error) = removed {
                    let task_id = Some(task_id);
                    self.not_removed.push(NotRemoved { task_id, error });
                }
            }
            // The task itself lives on in its shim and is found at the next start.
            Err(error) => error!(%error, "a task's driver died; restart the daemon"),
        }
    }

    async fn remove_all(&mut self) {
        for task_id in self.found.keys().cloned().collect::<Vec<_>>() {
            self.drive_orphan(&task_id);
        }
        for wanted in self.wanted.values() {
            wanted.send_if_modified(remove);
        }
        while let Some(ended) = self.drivers.join_next().await {
            self.note_end(ended);
        }
    }
}

/// Desired states only grow; a task that is being deleted does not come back.
fn raise(wanted: &mut Wanted, task: &Arc<waxseal_cluster::objects::Task>) -> bool {
    match wanted {
        Wanted::Assigned(known) if task.desired_state > known.desired_state => {
            *wanted = Wanted::Assigned(Arc::clone(task));
            true
        }
        Wanted::Assigned(_) | Wanted::Removed => false,
    }
}

fn remove(wanted: &mut Wanted) -> bool {
    let changes = matches!(wanted, Wanted::Assigned(_));
    *wanted = Wanted::Removed;
    changes
}
