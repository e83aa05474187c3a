//! The replicated state and how commands change it.

use std::{collections::BTreeMap, sync::Arc};

use zeroize::Zeroizing;

use crate::{
    change::{Applied, Refusal},
    objects::{Cluster, Command, Config, Node, Secret, Service, StateSnapshot, Task},
    vault::Vault,
};

/// The outcome of looking an object up by id, name or id prefix.
#[derive(Clone, Debug)]
pub enum Lookup<T> {
    /// Exactly one matched.
    Found(Arc<T>),
    /// None matched.
    NotFound,
    /// So many matched at the first step that gave anything.
    Ambiguous(usize),
}

/// The replicated state of a cluster.
pub struct State {
    vault: Arc<dyn Vault>,
    version: u64,
    cluster: Option<Arc<Cluster>>,
    nodes: BTreeMap<String, Arc<Node>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    configs: BTreeMap<String, Arc<Config>>,
    services: BTreeMap<String, Arc<Service>>,
    tasks: BTreeMap<String, Arc<Task>>,
}

impl State {
    /// An empty state, before the first command.
    pub fn new(vault: Arc<dyn Vault>) -> State {
        State {
            vault,
            version: 0,
            cluster: None,
            nodes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            services: BTreeMap::new(),
            tasks: BTreeMap::new(),
        }
    }
    /// Applies a command, whole or not at all.
    pub fn apply(&mut self, _command: Command) -> Result<Applied, Refusal> {
        todo!()
    }
    /// The whole state, payloads opened, for the sealed snapshot file only.
    pub fn snapshot(&self) -> StateSnapshot {
        todo!()
    }
    /// The state that [`State::snapshot`] was taken of.
    pub fn restore(_snapshot: StateSnapshot, _vault: Arc<dyn Vault>) -> Result<State, Refusal> {
        todo!()
    }
    /// The counter that object versions come from.
    pub fn version(&self) -> u64 {
        self.version
    }
    /// The cluster object; absent before the bootstrap command.
    pub fn cluster(&self) -> Option<&Arc<Cluster>> {
        self.cluster.as_ref()
    }
    /// All nodes, by id. The same shape for the other kinds.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes.values()
    }
    /// A node by its full id.
    pub fn node(&self, id: &str) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }
    /// Whether a node id was removed and its certificate could still be valid.
    pub fn is_banned(&self, _node_id: &str) -> bool {
        todo!()
    }
    /// All secrets, without payloads.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values()
    }
    /// A secret by its full id, without payload.
    pub fn secret(&self, id: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(id)
    }
    /// A secret's payload, opened for sending.
    pub fn secret_payload(&self, _id: &str) -> Option<Zeroizing<Vec<u8>>> {
        let _ = &self.vault;
        todo!()
    }
    /// All configs, with their data.
    pub fn configs(&self) -> impl Iterator<Item = &Arc<Config>> {
        self.configs.values()
    }
    /// A config by its full id.
    pub fn config(&self, id: &str) -> Option<&Arc<Config>> {
        self.configs.get(id)
    }
    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
    /// A service by its full id.
    pub fn service(&self, id: &str) -> Option<&Arc<Service>> {
        self.services.get(id)
    }
    /// All tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }
    /// A task by its full id.
    pub fn task(&self, id: &str) -> Option<&Arc<Task>> {
        self.tasks.get(id)
    }
    /// The tasks assigned to a node.
    pub fn tasks_of_node(&self, _node_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }
    /// The tasks of a service.
    pub fn tasks_of_service(&self, _service_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values()
    }
    /// A node by id, hostname or id prefix, in this order.
    pub fn find_node(&self, _input: &str) -> Lookup<Node> {
        todo!()
    }
    /// A secret by id, name (any case) or id prefix.
    pub fn find_secret(&self, _input: &str) -> Lookup<Secret> {
        todo!()
    }
    /// A config by id, name (any case) or id prefix.
    pub fn find_config(&self, _input: &str) -> Lookup<Config> {
        todo!()
    }
    /// A service by id, name (exact) or id prefix.
    pub fn find_service(&self, _input: &str) -> Lookup<Service> {
        todo!()
    }
    /// A task by id, generated name or id prefix.
    pub fn find_task(&self, _input: &str) -> Lookup<Task> {
        todo!()
    }
}
