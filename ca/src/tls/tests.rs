use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Error, HandshakeKind,
    OtherError, ProtocolVersion, ServerConfig, ServerConnection,
};
use time::OffsetDateTime;

use super::*;
use crate::chain::ChainError;
use crate::clock::Clock;
use crate::identity::peer_identity;
use crate::role::Role;
use crate::test_roots::*;
use crate::test_util::ManualClock;
use crate::{CA_SERVER_NAME, MANAGER_SERVER_NAME, NodeIdentity, RootAuthority};

/// A root, a clock and a manager that listens.
struct World {
    root: RootAuthority,
    clock: Arc<ManualClock>,
    manager: Arc<LiveTls>,
}

/// What each side saw. A TLS 1.3 client has finished before the server judges its certificate,
/// so both are told.
#[derive(Debug)]
struct Outcome {
    client: Result<(), Error>,
    server: Result<(), Error>,
    peer: Option<NodeIdentity>,
    alpn: Option<Vec<u8>>,
    version: Option<ProtocolVersion>,
    kind: Option<HandshakeKind>,
}

impl World {
    fn new() -> Self {
        let root = RootAuthority::generate(NOW).unwrap();
        let clock = Arc::new(ManualClock::at(NOW));
        let manager = live(&root, &clock, "m", Role::Manager);
        Self {
            root,
            clock,
            manager,
        }
    }

    fn node(&self, node_id: &str, role: Role) -> Arc<LiveTls> {
        live(&self.root, &self.clock, node_id, role)
    }

    fn server(&self) -> Arc<ServerConfig> {
        server_tls(&self.manager, TlsOptions::default()).unwrap()
    }

    fn call(&self, caller: &Arc<LiveTls>) -> Outcome {
        let client = client_tls(caller, TlsOptions::default()).unwrap();
        handshake(&client, &self.server(), MANAGER_SERVER_NAME)
    }
}

fn live(root: &RootAuthority, clock: &Arc<ManualClock>, node_id: &str, role: Role) -> Arc<LiveTls> {
    let credentials = credentials(root, &profile(node_id, role), clock.now());
    LiveTls::new(
        bundle(root),
        Some(credentials),
        Arc::clone(clock) as Arc<dyn Clock>,
    )
}

fn anonymous(root: &RootAuthority, clock: &Arc<ManualClock>) -> Arc<LiveTls> {
    LiveTls::new(bundle(root), None, Arc::clone(clock) as Arc<dyn Clock>)
}

fn connect(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> (ClientConnection, ServerConnection) {
    let name = name.try_into().unwrap();
    let client = ClientConnection::new(Arc::clone(client), name).unwrap();
    (client, ServerConnection::new(Arc::clone(server)).unwrap())
}

/// Carries bytes both ways until neither side has more to say.
fn exchange(client: &mut ClientConnection, server: &mut ServerConnection) -> Outcome {
    let (mut client_result, mut server_result) = (Ok(()), Ok(()));
    while client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && server_result.is_ok() {
            server.read_tls(&mut wire).unwrap();
            server_result = server.process_new_packets().map(drop);
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut wire = wire.as_slice();
        while !wire.is_empty() && client_result.is_ok() {
            client.read_tls(&mut wire).unwrap();
            client_result = client.process_new_packets().map(drop);
        }
    }
    Outcome {
        client: client_result,
        server: server_result,
        peer: server
            .peer_certificates()
            .map(|certs| peer_identity(certs).unwrap()),
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
        version: server.protocol_version(),
        kind: server.handshake_kind(),
    }
}

fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &'static str,
) -> Outcome {
    let (mut client, mut server) = connect(client, server, name);
    exchange(&mut client, &mut server)
}

fn refused_with(error: ChainError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

fn text_of(result: &Result<(), Error>) -> String {
    result.as_ref().unwrap_err().to_string()
}

#[test]
fn an_expired_client_certificate_is_refused_and_named_so() {
    let world = World::new();
    let worker = world.node("w", Role::Worker);
    world.clock.advance(time::Duration::days(100));
    world.manager.swap_identity(credentials(
        &world.root,
        &profile("m", Role::Manager),
        world.clock.now(),
    ));
    let outcome = world.call(&worker);
    let error = outcome.server.unwrap_err();
    let expired = matches!(
        &error,
        Error::InvalidCertificate(CertificateError::ExpiredContext { .. })
    );
    assert!(expired, "{error}");
    assert_eq!(
        outcome.client,
        Err(Error::AlertReceived(AlertDescription::CertificateExpired))
    );
    let advice = describe_handshake_failure(&outcome.client.unwrap_err()).unwrap();
    assert!(advice.contains("not valid at this time"), "{advice}");
}

#[test]
fn a_client_certificate_of_another_cluster_is_refused() {
    let (world, other) = (World::new(), World::new());
    let stranger = other.node("w", Role::Worker);
    stranger.swap_trust(bundle(&world.root));
    // Its own cluster id differs not, as both worlds use the same; only the root does.
    let outcome = world.call(&stranger);
    let bad = Error::InvalidCertificate(CertificateError::BadSignature);
    assert_eq!(outcome.server, Err(bad));
    assert!(outcome.client.is_err());
}

#[test]
fn a_manager_of_another_cluster_is_refused() {
    let (world, other) = (World::new(), World::new());
    let outcome = other.call(&world.node("w", Role::Worker));
    let error = outcome.client.unwrap_err();
    assert_eq!(
        error,
        Error::InvalidCertificate(CertificateError::BadSignature)
    );
    assert!(
        describe_handshake_failure(&error)
            .unwrap()
            .contains("token of this cluster")
    );
}

#[test]
fn a_manager_of_another_cluster_under_the_same_root_is_refused() {
    let world = World::new();
    let mut theirs = profile("m", Role::Manager);
    theirs.cluster_id = "another".to_owned();
    world
        .manager
        .swap_identity(credentials(&world.root, &theirs, NOW));
    let outcome = world.call(&world.node("w", Role::Worker));
    let found = "another".to_owned();
    assert_eq!(
        text_of(&outcome.client),
        refused_with(ChainError::OtherCluster { found }).to_string()
    );
    // Without an identity there is nothing to compare with yet.
    let outcome = world.call(&anonymous(&world.root, &world.clock));
    assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
}

#[test]
fn a_worker_does_not_pass_for_a_manager() {
    let world = World::new();
    let impostor = world.node("w1", Role::Worker);
    let server = server_tls(&impostor, TlsOptions::default()).unwrap();
    let worker = world.node("w2", Role::Worker);
    let client = client_tls(&worker, TlsOptions::default()).unwrap();
    for name in [MANAGER_SERVER_NAME, CA_SERVER_NAME] {
        let outcome = handshake(&client, &server, name);
        let not_for_name = Error::InvalidCertificate(CertificateError::NotValidForName);
        assert_eq!(outcome.client, Err(not_for_name));
    }
    let outcome = handshake(&client, &server, "swarm-worker");
    let not_a_manager = refused_with(ChainError::NotAManager(Role::Worker));
    assert_eq!(text_of(&outcome.client), not_a_manager.to_string());
}

#[test]
fn an_expired_root_is_refused_by_both_sides() {
    let mut world = World::new();
    world.root = foreign_root(Duration::from_secs(86_400));
    world.manager = world.node("m", Role::Manager);
    let worker = world.node("w", Role::Worker);
    assert_eq!(world.call(&worker).client, Ok(()));
    world.clock.advance(time::Duration::days(2));
    let now = world.clock.now();
    let refusal = refused_with(ChainError::NoValidRoot { now }).to_string();
    assert_eq!(text_of(&world.call(&worker).client), refusal);
    // Past the client's check, the server refuses too.
    let client = blind_client(&worker);
    let outcome = handshake(&client, &world.server(), MANAGER_SERVER_NAME);
    assert_eq!(text_of(&outcome.server), refusal);
}

/// A client that presents the node's chain and checks nothing.
fn blind_client(node: &Arc<LiveTls>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::DangerAcceptAnyServer))
        .with_client_cert_resolver(Arc::new(live::LiveResolver(Arc::clone(node))));
    Arc::new(config)
}

#[test]
fn clocks_that_disagree_are_told_with_direction() {
    let world = World::new();
    let late_clock = Arc::new(ManualClock::at(NOW));
    let worker = live(&world.root, &late_clock, "w", Role::Worker);
    // A manager certified three days from now, by the worker's clock.
    world.clock.advance(time::Duration::days(3));
    world.manager.swap_identity(credentials(
        &world.root,
        &profile("m", Role::Manager),
        world.clock.now(),
    ));
    let error = world.call(&worker).client.unwrap_err();
    let advice = describe_handshake_failure(&error).unwrap();
    assert!(
        advice.contains("at least 3 d 0 h behind the manager's"),
        "{advice}"
    );
    late_clock.set(NOW + time::Duration::days(200));
    let error = world.call(&worker).client.unwrap_err();
    let advice = describe_handshake_failure(&error).unwrap();
    assert!(advice.contains("ago by this host's clock"), "{advice}");
}

#[test]
fn callers_without_a_certificate_pass_only_where_allowed() {
    let world = World::new();
    let client = join_tls(
        bundle(&world.root),
        Arc::clone(&world.clock) as Arc<dyn Clock>,
    )
    .unwrap();
    let outcome = handshake(&client, &world.server(), CA_SERVER_NAME);
    assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
    assert_eq!(outcome.peer, None);
    let required = TlsOptions {
        client_certificates: ClientCertificates::Required,
        ..TlsOptions::default()
    };
    let server = server_tls(&world.manager, required).unwrap();
    let outcome = handshake(&client, &server, CA_SERVER_NAME);
    assert_eq!(outcome.server, Err(Error::NoCertificatesPresented));
}

#[test]
fn a_listener_without_an_identity_refuses() {
    let world = World::new();
    let server = server_tls(&anonymous(&world.root, &world.clock), TlsOptions::default()).unwrap();
    let worker = world.node("w", Role::Worker);
    let client = client_tls(&worker, TlsOptions::default()).unwrap();
    assert!(
        handshake(&client, &server, MANAGER_SERVER_NAME)
            .server
            .is_err()
    );
}

#[test]
fn a_node_is_known_by_its_certificate() {
    let world = World::new();
    let outcome = world.call(&world.node("w", Role::Worker));
    assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
    let peer = outcome.peer.unwrap();
    assert_eq!((peer.node_id.as_str(), peer.role), ("w", Role::Worker));
    assert_eq!(peer.cluster_id, CLUSTER);
    assert_eq!(outcome.alpn.as_deref(), Some(b"h2".as_slice()));
    assert_eq!(outcome.version, Some(ProtocolVersion::TLSv1_3));
}

#[test]
fn tls_1_2_only_by_option_and_alpn_never_required() {
    let world = World::new();
    let worker = world.node("w", Role::Worker);
    let old_client = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verify::DangerAcceptAnyServer))
            .with_client_cert_resolver(Arc::new(live::LiveResolver(Arc::clone(&worker))));
        Arc::new(config)
    };
    let old = old_client(&[&rustls::version::TLS12]);
    let outcome = handshake(&old, &world.server(), MANAGER_SERVER_NAME);
    assert!(outcome.server.is_err());
    assert_eq!(
        outcome.client,
        Err(Error::AlertReceived(AlertDescription::ProtocolVersion))
    );

    let options = TlsOptions {
        allow_tls12: true,
        ..TlsOptions::default()
    };
    let server = server_tls(&world.manager, options).unwrap();
    let outcome = handshake(&old, &server, MANAGER_SERVER_NAME);
    assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
    assert_eq!(outcome.version, Some(ProtocolVersion::TLSv1_2));
    assert_eq!(
        (outcome.alpn, outcome.peer.unwrap().node_id.as_str()),
        (None, "w")
    );
    let new = old_client(&[&rustls::version::TLS13]);
    let outcome = handshake(&new, &world.server(), MANAGER_SERVER_NAME);
    assert_eq!((outcome.client, outcome.alpn), (Ok(()), None));
}

#[test]
fn no_session_is_resumed() {
    let world = World::new();
    let worker = world.node("w", Role::Worker);
    for allow_tls12 in [false, true] {
        let options = TlsOptions {
            allow_tls12,
            ..TlsOptions::default()
        };
        let server = server_tls(&world.manager, options).unwrap();
        // A client that would resume if it were offered a ticket or a session id.
        let mut eager = (*blind_client(&worker)).clone();
        eager.resumption = rustls::client::Resumption::in_memory_sessions(8);
        let ours = client_tls(&worker, options).unwrap();
        for client in [Arc::new(eager), ours] {
            for _ in 0..2 {
                let outcome = handshake(&client, &server, MANAGER_SERVER_NAME);
                assert_eq!(outcome.kind, Some(HandshakeKind::Full));
                assert_eq!(outcome.peer.unwrap().node_id, "w");
            }
        }
    }
}

#[test]
fn identity_and_trust_are_swapped_under_an_open_connection() {
    let world = World::new();
    let (worker, server) = (world.node("w", Role::Worker), world.server());
    let client = client_tls(&worker, TlsOptions::default()).unwrap();
    let (mut caller, mut listener) = connect(&client, &server, MANAGER_SERVER_NAME);
    assert_eq!(exchange(&mut caller, &mut listener).server, Ok(()));

    // The worker is promoted: the next handshake shows it, over the same configurations.
    worker.swap_identity(credentials(&world.root, &profile("w", Role::Manager), NOW));
    let outcome = handshake(&client, &server, MANAGER_SERVER_NAME);
    assert_eq!(outcome.peer.unwrap().role, Role::Manager);

    // The manager trusts another root: the next handshake fails, the open connection lives.
    world
        .manager
        .swap_trust(bundle(&RootAuthority::generate(NOW).unwrap()));
    assert!(
        handshake(&client, &server, MANAGER_SERVER_NAME)
            .server
            .is_err()
    );
    caller.writer().write_all(b"still here").unwrap();
    assert_eq!(exchange(&mut caller, &mut listener).server, Ok(()));
    let mut heard = [0; 10];
    listener.reader().read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn the_root_is_fetched_from_whoever_answers() {
    let world = World::new();
    world.clock.set(OffsetDateTime::UNIX_EPOCH);
    let outcome = handshake(&fetch_root_tls().unwrap(), &world.server(), CA_SERVER_NAME);
    assert_eq!((outcome.client, outcome.server), (Ok(()), Ok(())));
    assert_eq!(outcome.peer, None);
}
