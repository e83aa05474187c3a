//! Joining a cluster: `swarm join`.

use std::{
    net::{ToSocketAddrs, UdpSocket},
    sync::Arc,
    time::Duration,
};

use waxseal_agent::{JoinError, Joined, SessionStatus};
use waxseal_api::{ClusterError, JoinRequest};
use waxseal_autolock::{KeyFile, KeyFileHeader};
use waxseal_ca::TrustBundle;

use crate::{
    address::{
        AddressError, local_addresses, resolve_advertise, resolve_listen, with_default_port,
    },
    daemon::Shared,
    keys::Keys,
    member::Member,
    node_file::{NODE_FILE_FORMAT, NodeFile, Phase},
    text::chain_text,
};

/// How long a new member waits for its first session; it is a member all the same.
const FIRST_SESSION: Duration = Duration::from_secs(10);

/// Joins and starts the worker.
///
/// Until `node.pb` says member, a crash undoes it: the record that the manager
/// made stays without a session and is removed there after a day.
pub(crate) async fn join(
    shared: &Arc<Shared>,
    request: JoinRequest,
) -> Result<Member, ClusterError> {
    let internal =
        |error: &(dyn std::error::Error + 'static)| ClusterError::Internal(chain_text(error));
    let advertise_addr = advertised(shared, &request)?;
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
    let Joined {
        trust,
        credentials,
        managers,
        ..
    } = waxseal_agent::join(asked, Arc::clone(&shared.clock))
        .await
        .map_err(|error| join_error(&error))?;
    let identity = credentials.identity();
    let mut node_file = NodeFile {
        format: NODE_FILE_FORMAT,
        phase: Phase::Joining.into(),
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id.clone(),
        manager: false,
        listen_addr: request.listen_addr,
        advertise_addr,
        managers: managers.iter().map(Into::into).collect(),
        incarnation: 0,
        renewal_due: false,
        checksum: 0,
    };
    shared
        .write_node_file(&node_file)
        .map_err(|error| internal(&error))?;
    let header = KeyFileHeader {
        cluster_id: identity.cluster_id.clone(),
        node_id: identity.node_id.clone(),
        kek_epoch: 0,
    };
    let file = KeyFile::new(header, &credentials.key().pkcs8_pem(), None)
        .map_err(|error| internal(&error))?;
    let keys = Keys::create(&shared.root.swarm(), file, None).map_err(|error| internal(&error))?;
    keys.save_trust(trust.pem())
        .map_err(|error| internal(&error))?;
    keys.save_certificate(credentials.chain_pem())
        .map_err(|error| internal(&error))?;
    node_file.phase = Phase::Member.into();
    shared
        .write_node_file(&node_file)
        .map_err(|error| internal(&error))?;
    let trust =
        TrustBundle::from_pem(trust.pem(), shared.clock.now()).map_err(|error| internal(&error))?;
    let member = Member::start(shared, keys, node_file, trust, credentials, None)
        .await
        .map_err(|error| internal(&error))?;
    let mut status = member.status();
    let registered =
        status.wait_for(|status| matches!(status.session, SessionStatus::Registered { .. }));
    if tokio::time::timeout(FIRST_SESSION, registered)
        .await
        .is_err()
    {
        tracing::warn!("joined, but no session with a manager yet; it is tried on");
    }
    Ok(member)
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
