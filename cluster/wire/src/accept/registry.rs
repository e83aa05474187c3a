//! The open connections of members, so that a removal acts on them at once.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use waxseal_ca::{NodeIdentity, Role, serial::Serial};

use super::{body::Budget, familiar::Familiar};
use crate::limits::CONNECTIONS_PER_NODE;

/// Whether the holder of a verified certificate still counts as a member.
pub type Admit = dyn Fn(&NodeIdentity) -> bool + Send + Sync;

/// The open connections of members, by node.
///
/// Cloning gives another handle on the same connections.
#[derive(Clone, Default)]
pub struct Connections {
    shared: Arc<Mutex<Registry>>,
    /// Asked for each new connection; absent, all are admitted.
    admit: Option<Arc<Admit>>,
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connections").field(&self.shared).finish()
    }
}

#[derive(Debug, Default)]
struct Registry {
    next: u64,
    nodes: HashMap<String, Node>,
    /// Where they came from of late, connected or not.
    familiar: Familiar,
}

/// The connections of one node, and its calls that other managers relay.
#[derive(Debug)]
struct Node {
    /// In the order of their start.
    open: Vec<Entry>,
    budget: Arc<Budget>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    identity: NodeIdentity,
    address: SocketAddr,
    kind: Kind,
    closed: CancellationToken,
}

/// What a node has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Connection,
    RelayedCall,
}

/// Keeps a connection or a relayed call in the registry until it is dropped.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Connections,
    node_id: String,
    number: u64,
    /// What all connections of the node may use together.
    pub(super) budget: Arc<Budget>,
    /// Cancelled when the connection has to end at once.
    pub(super) closed: CancellationToken,
}

impl Node {
    fn of(role: Role) -> Node {
        let budget = match role {
            Role::Worker => Budget::of_node(),
            Role::Manager => Budget::of_manager(),
        };
        Node {
            // Most nodes have one, for as long as they live.
            open: Vec::with_capacity(1),
            budget: Arc::new(budget),
        }
    }

    /// Closes the oldest connection if there are as many as there may be.
    fn make_room(&mut self) {
        let is_connection = |entry: &Entry| entry.kind == Kind::Connection;
        let open = self.open.iter();
        if open.filter(|entry| is_connection(entry)).count() < CONNECTIONS_PER_NODE {
            return;
        }
        if let Some(oldest) = self.open.iter().position(is_connection) {
            self.open.remove(oldest).closed.cancel();
        }
    }
}

impl Connections {
    /// No connections yet; whoever has a certificate is taken for a member.
    pub fn new() -> Connections {
        Connections::default()
    }

    /// No connections yet; who is not admitted is served as if without a certificate.
    ///
    /// `admit` is asked once the connection can be closed by [`close_node`], so one of
    /// a node that is removed meanwhile is either refused by it or closed.
    ///
    /// [`close_node`]: Connections::close_node
    pub fn admitting(admit: Arc<Admit>) -> Connections {
        Connections {
            shared: Arc::default(),
            admit: Some(admit),
        }
    }

    /// Closes all connections of a node at once, calls under way included, those that
    /// are relayed too, and says how many connections and relayed calls there were.
    pub fn close_node(&self, node_id: &str) -> usize {
        let mut registry = self.lock();
        registry.familiar.forget(node_id);
        let Some(node) = registry.nodes.remove(node_id) else {
            return 0;
        };
        drop(registry);
        node.open.iter().for_each(|entry| entry.closed.cancel());
        node.open.len()
    }

    /// Closes the connections made with the certificate of this serial.
    pub fn close_certificate(&self, node_id: &str, serial: &Serial) -> usize {
        let mut registry = self.lock();
        let Some(node) = registry.nodes.get_mut(node_id) else {
            return 0;
        };
        let before = node.open.len();
        node.open.retain(|entry| {
            let stays = entry.identity.serial != *serial;
            if !stays {
                entry.closed.cancel();
            }
            stays
        });
        before - node.open.len()
    }

    /// Closes the connections whose identity is not to stay, and names their nodes.
    pub fn retain(&self, stays: impl Fn(&NodeIdentity) -> bool) -> Vec<String> {
        let mut gone = Vec::new();
        for (node_id, node) in &mut self.lock().nodes {
            let before = node.open.len();
            node.open.retain(|entry| {
                let stays = stays(&entry.identity);
                if !stays {
                    entry.closed.cancel();
                }
                stays
            });
            if node.open.len() < before {
                gone.push(node_id.clone());
            }
        }
        gone
    }

    /// Says where a member connected from before this listener was there.
    pub fn expect(&self, node_id: &str, address: IpAddr) {
        let now = Instant::now();
        self.lock().familiar.note(node_id, address, now);
    }

    /// Whether a member connected from this address of late.
    pub(super) fn is_familiar(&self, address: IpAddr, now: Instant) -> bool {
        self.lock().familiar.knows(address, now)
    }

    /// Remote addresses of a node's open connections and relayed calls, the newest last.
    pub fn addresses_of_node(&self, node_id: &str) -> Vec<SocketAddr> {
        self.lock()
            .nodes
            .get(node_id)
            .map(|node| node.open.iter().map(|entry| entry.address).collect())
            .unwrap_or_default()
    }

    /// How many connections are open.
    pub fn count(&self) -> usize {
        let registry = self.lock();
        let open = registry.nodes.values().flat_map(|node| &node.open);
        open.filter(|entry| entry.kind == Kind::Connection).count()
    }

    /// Notes a connection, unless its certificate is not admitted any more.
    pub(super) fn register(
        &self,
        identity: &NodeIdentity,
        address: SocketAddr,
    ) -> Option<Registration> {
        self.admitted(identity, address, Kind::Connection)
    }

    /// Notes a relayed call, unless its caller's certificate is not admitted any more.
    pub(super) fn register_relayed(
        &self,
        identity: &NodeIdentity,
        address: SocketAddr,
    ) -> Option<Registration> {
        self.admitted(identity, address, Kind::RelayedCall)
    }

    fn admitted(
        &self,
        identity: &NodeIdentity,
        address: SocketAddr,
        kind: Kind,
    ) -> Option<Registration> {
        let registration = self.note(identity, address, kind);
        // Not under the lock: who is asked has locks of its own.
        let is_admitted = self.admit.as_ref().is_none_or(|admit| admit(identity));
        if !is_admitted {
            return None;
        }
        self.expect(&identity.node_id, address.ip());
        Some(registration)
    }

    fn note(&self, identity: &NodeIdentity, address: SocketAddr, kind: Kind) -> Registration {
        let closed = CancellationToken::new();
        let node_id = identity.node_id.clone();
        let mut registry = self.lock();
        let number = registry.next;
        registry.next += 1;
        let node = registry
            .nodes
            .entry(node_id.clone())
            .or_insert_with(|| Node::of(identity.role));
        if kind == Kind::Connection {
            node.make_room();
        }
        node.open.push(Entry {
            number,
            identity: identity.clone(),
            address,
            kind,
            closed: closed.clone(),
        });
        let budget = Arc::clone(&node.budget);
        Registration {
            connections: self.clone(),
            node_id,
            number,
            budget,
            closed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // No code that holds the lock leaves the map half changed.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut registry = self.connections.lock();
        if let Some(node) = registry.nodes.get_mut(&self.node_id) {
            node.open.retain(|entry| entry.number != self.number);
            if node.open.is_empty() {
                registry.nodes.remove(&self.node_id);
            }
        }
    }
}
