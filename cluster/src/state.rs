//! The replicated state: what it holds and how it is read.
//!
//! Commands change it in `apply/`, objects are put in place and indexed in
//! `store.rs`, names and prefixes are resolved in `lookup.rs`.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use prost_types::Timestamp;
use waxseal_secrets::AssignmentSet;
use zeroize::Zeroizing;

use crate::{
    bans::Bans,
    certificates::{Certificates, Record, serial_of},
    change::Refusal,
    credentials::Credentials,
    index::{Groups, Names, Users},
    naming, needs,
    objects::{Ban, Cluster, Config, LimitedToken, Node, Secret, Service, Task},
    vault::Vault,
};

/// The replicated state of a cluster.
///
/// Objects and sealed payloads are shared with whoever read them.
#[derive(Clone)]
pub struct State {
    pub(crate) vault: Arc<dyn Vault>,
    pub(crate) version: u64,
    pub(crate) last_time: Option<Timestamp>,
    pub(crate) cluster: Option<Arc<Cluster>>,
    pub(crate) nodes: BTreeMap<String, Arc<Node>>,
    pub(crate) secrets: BTreeMap<String, StoredSecret>,
    pub(crate) configs: BTreeMap<String, Arc<Config>>,
    pub(crate) services: BTreeMap<String, Arc<Service>>,
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) bans: Bans,
    pub(crate) certificates: Certificates,
    pub(crate) join_tokens: BTreeMap<String, Arc<LimitedToken>>,
    /// The limited tokens of which uses are reserved, by the node that each is reserved for.
    pub(crate) reserving: BTreeMap<String, String>,
    pub(crate) secret_names: Names,
    pub(crate) config_names: Names,
    pub(crate) service_names: Names,
    pub(crate) hostnames: Groups,
    /// Nodes by the digest of the key that they last asked a certificate for.
    pub(crate) node_keys: Groups,
    pub(crate) tasks_by_node: Groups,
    pub(crate) tasks_by_service: Groups,
    pub(crate) secret_users: Users,
    pub(crate) config_users: Users,
    pub(crate) credentials: Credentials,
}

/// A secret: its object, whose data is empty, and its payload as the vault sealed it.
#[derive(Clone)]
pub(crate) struct StoredSecret {
    pub(crate) object: Arc<Secret>,
    pub(crate) sealed: Arc<[u8]>,
    pub(crate) payload_bytes: usize,
}

impl State {
    /// An empty state, before the first command.
    pub fn new(vault: Arc<dyn Vault>) -> State {
        State {
            vault,
            version: 0,
            last_time: None,
            cluster: None,
            nodes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            services: BTreeMap::new(),
            tasks: BTreeMap::new(),
            bans: Bans::default(),
            certificates: Certificates::default(),
            join_tokens: BTreeMap::new(),
            reserving: BTreeMap::new(),
            secret_names: Names::default(),
            config_names: Names::default(),
            service_names: Names::default(),
            hostnames: Groups::default(),
            node_keys: Groups::default(),
            tasks_by_node: Groups::default(),
            tasks_by_service: Groups::default(),
            secret_users: Users::default(),
            config_users: Users::default(),
            credentials: Credentials::default(),
        }
    }

    /// The counter that object versions come from.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The time of the last applied command; absent before the first.
    pub fn last_time(&self) -> Option<&Timestamp> {
        self.last_time.as_ref()
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

    /// The node whose newest certificate request bore the key with this digest.
    pub fn node_by_public_key(&self, digest: &[u8]) -> Option<&Arc<Node>> {
        self.node(self.node_keys.of(&naming::key_name(digest)).next()?)
    }

    /// Whether a node id was removed and its certificate could still be valid.
    pub fn is_banned(&self, node_id: &str) -> bool {
        self.bans.get(node_id).is_some()
    }

    /// When a node's ban ends. Absent when it is not banned, and when the ban
    /// has no end: ask [`State::is_banned`] which.
    pub fn banned_until(&self, node_id: &str) -> Option<&Timestamp> {
        self.bans.get(node_id)?.expires_at.as_ref()
    }

    /// All bans, by node id.
    pub fn bans(&self) -> impl Iterator<Item = &Ban> {
        self.bans.iter()
    }

    /// The certificate with a serial, if it is on record.
    pub fn certificate(&self, serial: &[u8]) -> Option<&Arc<Record>> {
        self.certificates.get(&serial_of(serial)?)
    }

    /// All certificates on record, by serial.
    pub fn certificates(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.certificates.iter()
    }

    /// A node's certificates on record, in the order in which they were asked for.
    pub fn certificates_of(&self, node_id: &str) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.certificates.of_node(node_id)
    }

    /// All join tokens with limits, by id.
    pub fn join_tokens(&self) -> impl Iterator<Item = &Arc<LimitedToken>> {
        self.join_tokens.values()
    }

    /// A join token with limits by its full id.
    pub fn join_token(&self, id: &str) -> Option<&Arc<LimitedToken>> {
        self.join_tokens.get(id)
    }

    /// Whether limited tokens have uses to give back, or are to be forgotten, at `now` (seconds
    /// since the Unix epoch).
    pub fn has_overdue_join_tokens(&self, now: i64) -> bool {
        self.join_tokens.values().any(|token| token.is_overdue(now))
    }

    /// Whether a join over a limited token is admitted at `now` (seconds since the Unix epoch).
    /// What counts is the same question when the join is applied.
    ///
    /// # Errors
    /// [`Refusal`] with what the joiner is told.
    pub fn check_join(&self, token_id: &str, address: IpAddr, now: i64) -> Result<(), Refusal> {
        self.admit_join(token_id, Some(address), now).map(drop)
    }

    /// All secrets, without payloads.
    pub fn secrets(&self) -> impl Iterator<Item = &Arc<Secret>> {
        self.secrets.values().map(|stored| &stored.object)
    }

    /// A secret by its full id, without payload.
    pub fn secret(&self, id: &str) -> Option<&Arc<Secret>> {
        self.secrets.get(id).map(|stored| &stored.object)
    }

    /// A secret's payload, opened for sending.
    pub fn secret_payload(&self, id: &str) -> Option<Zeroizing<Vec<u8>>> {
        let stored = self.secrets.get(id)?;
        Some(self.vault.open(&stored.sealed))
    }

    /// How many bytes a secret's payload has; the payload is not opened for it.
    pub fn secret_payload_bytes(&self, id: &str) -> Option<usize> {
        self.secrets.get(id).map(|stored| stored.payload_bytes)
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

    /// The tasks assigned to a node, by id.
    pub fn tasks_of_node(&self, node_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_node
            .of(node_id)
            .filter_map(|id| self.tasks.get(id))
    }

    /// The tasks of a service, by id.
    pub fn tasks_of_service(&self, service_id: &str) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks_by_service
            .of(service_id)
            .filter_map(|id| self.tasks.get(id))
    }

    /// The ids of the secrets and configs that a node needs: those that the
    /// non-final tasks assigned to it refer to.
    pub fn assignment_set(&self, node_id: &str) -> AssignmentSet {
        AssignmentSet::of_tasks(self.tasks_of_node(node_id).map(|task| needs::of_task(task)))
    }
}
