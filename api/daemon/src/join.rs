//! Joining a cluster: `swarm join`.

use std::{
    net::{ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use waxseal_agent::{JoinError, Joined};
use waxseal_api::{ClusterError, JoinRequest};
use waxseal_autolock::{KeyFile, KeyFileHeader};
use waxseal_ca::{NodeCredentials, Role, TrustBundle};
use waxseal_manager::{JoinCluster, Start, StartError};

use crate::{
    address::{
        AddressError, local_addresses, resolve_advertise, resolve_listen, with_default_port,
    },
    daemon::Shared,
    enter::{ManagerAddresses, fetch_unlock_key, is_local, manager_addresses, new_raft_keys},
    keys::Keys,
    member::{Begin, Member, MemberError},
    node_file::{NodeFile, Phase},
    text::chain_text,
};

/// How long a new member waits for its first session; it is a member all the same.
const FIRST_SESSION: Duration = Duration::from_secs(10);

/// Joins and starts what the token makes of this node.
///
/// Until `node.pb` says member, a crash undoes it: the record that the manager
/// made stays without a session and is removed there after a day. A manager that
/// may be in the Raft group asks on instead, see [`Phase::Entering`].
///
/// Ends early once `told`, but not while a manager starts: that has its own limits, and
/// what is half started would write on.
pub(crate) async fn join(
    shared: &Arc<Shared>,
    request: JoinRequest,
    told: &CancellationToken,
) -> Result<Member, ClusterError> {
    let begun = told.run_until_cancelled(begin(shared, request)).await;
    let begun = begun.unwrap_or_else(|| Err(given_up()))?;
    let member = match begun.credentials.identity().role {
        Role::Manager => begun.into_manager(shared).await?,
        Role::Worker => begun.into_worker(shared).await?,
    };
    let mut status = member.status();
    let registered = status.wait_for(|status| status.session.is_registered());
    let limited = tokio::time::timeout(FIRST_SESSION, registered);
    if let Some(Err(_)) = told.run_until_cancelled(limited).await {
        tracing::warn!("joined, but no session with a manager yet; it is tried on");
    }
    Ok(member)
}

pub(crate) fn given_up() -> ClusterError {
    ClusterError::Internal("the join was given up".to_owned())
}

async fn begin(shared: &Arc<Shared>, request: JoinRequest) -> Result<Begun, ClusterError> {
    let addresses = Addresses::of(shared, &request)?;
    let remotes: Vec<String> = request
        .remote_addrs
        .iter()
        .map(|remote| with_default_port(remote))
        .collect();
    let asked = waxseal_agent::JoinRequest {
        token: request.join_token,
        remotes,
        availability: request.availability,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let joined = waxseal_agent::join(asked, Arc::clone(&shared.clock))
        .await
        .map_err(|error| join_error(&error))?;
    Begun::write(shared, joined, addresses).await
}

/// A join whose files are there, but for the mark that they count.
struct Begun {
    node_file: NodeFile,
    keys: Keys,
    trust: TrustBundle,
    credentials: Arc<NodeCredentials>,
}

impl Begun {
    /// Writes what a join gave; the key file of a manager sealed from its first write.
    async fn write(
        shared: &Arc<Shared>,
        joined: Joined,
        addresses: Addresses,
    ) -> Result<Begun, ClusterError> {
        let Joined {
            trust,
            credentials,
            managers,
            ..
        } = joined;
        let identity = credentials.identity();
        let is_manager = identity.role == Role::Manager;
        let mut node_file = NodeFile {
            manager: is_manager,
            listen_addr: addresses.listen_asked.clone(),
            advertise_addr: addresses.as_worker.clone(),
            listen_asked: addresses.listen_asked.clone(),
            advertise_asked: addresses.advertise_asked.clone(),
            managers: managers.iter().map(Into::into).collect(),
            ..NodeFile::joining(&identity.cluster_id, &identity.node_id)
        };
        // 1. What only managers have.
        let mut header = KeyFileHeader {
            cluster_id: identity.cluster_id.clone(),
            node_id: identity.node_id.clone(),
            kek_epoch: 0,
        };
        let (mut raft, mut unlock_key) = (None, None);
        if is_manager {
            let addresses = addresses.as_manager?;
            node_file.listen_addr = addresses.listen.to_string();
            node_file.advertise_addr = addresses.advertise.to_string();
            node_file.advertise_local = is_local(&addresses.advertise);
            let remotes: Vec<_> = managers.into_iter().map(|known| known.address).collect();
            let key = fetch_unlock_key(&remotes, &trust, &credentials, &shared.clock)
                .await
                .map_err(|error| internal(&error))?;
            header.kek_epoch = key.epoch;
            unlock_key = key.key;
            raft = Some(new_raft_keys().map_err(|error| internal(&error))?);
        }
        // 2. The mark of a join under way, then keys and certificates.
        shared
            .write_node_file(&node_file)
            .map_err(|error| internal(&error))?;
        let file = KeyFile::new(header, &credentials.key().pkcs8_pem(), raft)
            .map_err(|error| internal(&error))?;
        let keys = Keys::create(&shared.config.disk, &shared.root.swarm(), file, unlock_key)
            .map_err(|error| internal(&error))?;
        let saved = keys
            .save_trust(trust.pem())
            .and_then(|()| keys.save_certificate(credentials.chain_pem()));
        saved.map_err(|error| internal(&error))?;
        let trust = TrustBundle::from_pem(trust.pem(), shared.clock.now())
            .map_err(|error| internal(&error))?;
        Ok(Begun {
            node_file,
            keys,
            trust,
            credentials,
        })
    }

    async fn into_worker(self, shared: &Arc<Shared>) -> Result<Member, ClusterError> {
        self.start(shared, Phase::Member, Begin::Resume).await
    }

    /// Asks to be taken into the Raft group. From before the question on, a crash
    /// does not undo the join: the group may count on this node's log. Neither does an
    /// answer that does not come: the member is one whose manager asks on.
    async fn into_manager(self, shared: &Arc<Shared>) -> Result<Member, ClusterError> {
        let remotes = self.node_file.managers.iter();
        let start = Start::Join(JoinCluster {
            remotes: remotes.map(|manager| manager.addr.clone()).collect(),
        });
        let node_id = self.node_file.node_id.clone();
        let entering = self.start(shared, Phase::Entering, Begin::Manager(start));
        entering
            .await
            .map_err(|error| leaves_record(error, &node_id))
    }

    async fn start(
        mut self,
        shared: &Arc<Shared>,
        phase: Phase,
        begin: Begin,
    ) -> Result<Member, ClusterError> {
        self.node_file.phase = phase.into();
        shared
            .write_node_file(&self.node_file)
            .map_err(|error| internal(&error))?;
        Member::start(
            shared,
            self.keys,
            self.node_file,
            self.trust,
            self.credentials,
            begin,
        )
        .await
        .map_err(|error| start_error(&error))
    }
}

/// Managers are not forgotten like workers that never came.
fn leaves_record(error: ClusterError, node_id: &str) -> ClusterError {
    ClusterError::Internal(format!(
        "{error}; remove the record that this try left on a manager with `docker node demote \
         {node_id}` and `docker node rm --force {node_id}`"
    ))
}

fn internal(error: &(dyn std::error::Error + 'static)) -> ClusterError {
    ClusterError::Internal(chain_text(error))
}

/// What the API says of a member that did not start.
fn start_error(error: &MemberError) -> ClusterError {
    match error {
        MemberError::Manager(cause @ StartError::Listen { .. }) => {
            ClusterError::Internal(format!("manager stopped: {cause}"))
        }
        _ => internal(error),
    }
}

/// The addresses of a node that joins, before its role is known.
struct Addresses {
    listen_asked: String,
    advertise_asked: String,
    /// Where it says it is reached as a worker, which listens nowhere.
    as_worker: String,
    /// Where it is reached if the token makes it a manager.
    as_manager: Result<ManagerAddresses, ClusterError>,
}

impl Addresses {
    /// What was asked, which must be addresses whatever the role.
    fn of(shared: &Shared, request: &JoinRequest) -> Result<Addresses, ClusterError> {
        let (listen, advertise) = (&request.listen_addr, &request.advertise_addr);
        let as_worker = advertised(shared, request)?;
        let as_manager = manager_addresses(shared, listen, advertise, &request.remote_addrs);
        Ok(Addresses {
            listen_asked: listen.clone(),
            advertise_asked: advertise.clone(),
            as_worker,
            as_manager: as_manager
                .map_err(|error| ClusterError::InvalidArgument(chain_text(&error))),
        })
    }
}

/// Where this node says it is reached: as asked, else where the manager is
/// reached from. A worker listens nowhere, but what was asked must be an address.
fn advertised(shared: &Shared, request: &JoinRequest) -> Result<String, ClusterError> {
    let invalid = |error: AddressError| ClusterError::InvalidArgument(error.to_string());
    let local = local_addresses()
        .map_err(|error| ClusterError::Internal(format!("cannot list local addresses: {error}")))?;
    let listen = resolve_listen(&request.listen_addr, &local).map_err(invalid)?;
    let default = shared.config.default_advertise_addr.as_deref();
    if request.advertise_addr.is_empty() && default.is_none() {
        return Ok(local_address(&request.remote_addrs));
    }
    let advertise = resolve_advertise(&request.advertise_addr, default, listen, &local);
    advertise
        .map(|address| address.ip().to_string())
        .map_err(invalid)
}

/// What the API says of a failed join (spec/engine-api.md §5.2).
fn join_error(error: &JoinError) -> ClusterError {
    // Its text tells the causes already.
    let text = error.to_string();
    match error {
        JoinError::NoRemotes => ClusterError::InvalidArgument(text),
        JoinError::Unreachable(_) => ClusterError::Unavailable(text),
        JoinError::Certificate(_) | JoinError::ManagerToken { .. } => {
            ClusterError::InvalidArgument(text)
        }
        _ => ClusterError::Internal(text),
    }
}

/// The local address that a remote is reached from; empty if none is known.
/// Connecting a datagram socket sends nothing.
pub(crate) fn local_address(remotes: &[String]) -> String {
    let address = || {
        let remote = with_default_port(remotes.first()?)
            .to_socket_addrs()
            .ok()?
            .next()?;
        let any: std::net::IpAddr = match remote {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(remote).ok()?;
        Some(socket.local_addr().ok()?.ip().to_string())
    };
    address().unwrap_or_default()
}
