//! Founding a cluster: `swarm init`.

use std::{net::SocketAddr, sync::Arc};

use waxseal_api::{ClusterError, InitRequest};
use waxseal_autolock::{KeyFile, KeyFileHeader, UnlockKey};
use waxseal_ca::{
    BundleDigest, CertificateExpiry, Csr, IssuedCertificate, JoinTokens, NodeCredentials, NodeKey,
    NodeProfile, PublicKeyDigest, Role, RootAuthority, RootAuthorityError, Serial,
    TOKEN_SECRET_BYTES, TrustBundle, chain_from_pem,
};
use waxseal_cluster::{
    NewCluster as NewClusterObject, new_cluster, new_id,
    objects::{
        Annotations, Availability, Certificate, Cluster, IssuanceState, IssuanceStatus,
        JoinTokens as TokenTexts, ManagerStatus, Membership, Node, NodeRole, NodeSpec, NodeState,
        NodeStatus, Reachability, RootCa,
    },
    timestamp,
};
use waxseal_manager::{NewCluster, Start};
use zeroize::Zeroize;

use crate::{
    address::{local_addresses, resolve_advertise, resolve_listen},
    daemon::Shared,
    enter::{is_local, new_raft_keys},
    keys::Keys,
    member::{Begin, Member, MemberError},
    node_file::{NodeFile, Phase},
    text::chain_text,
};

/// What was asked, checked.
pub(crate) struct Plan {
    listen: SocketAddr,
    advertise: SocketAddr,
    request: InitRequest,
}

/// Checks the addresses before anything is made.
pub(crate) fn plan(shared: &Shared, request: InitRequest) -> Result<Plan, ClusterError> {
    let invalid =
        |error: crate::address::AddressError| ClusterError::InvalidArgument(error.to_string());
    let local = local_addresses()
        .map_err(|error| ClusterError::Internal(format!("cannot list local addresses: {error}")))?;
    let listen = resolve_listen(&request.listen_addr, &local).map_err(invalid)?;
    let default = shared.config.default_advertise_addr.as_deref();
    let advertise =
        resolve_advertise(&request.advertise_addr, default, listen, &local).map_err(invalid)?;
    Ok(Plan {
        listen,
        advertise,
        request,
    })
}

/// The cluster's and the first node's keys and certificates, in memory.
struct Founded {
    cluster: Cluster,
    node: Node,
    keys: KeyFile,
    unlock_key: Option<UnlockKey>,
    trust: TrustBundle,
    credentials: Arc<NodeCredentials>,
}

/// Makes a cluster and starts its first manager.
///
/// Root, leaf and cluster object are durable in one Raft entry before a file
/// shows a certificate; until `node.pb` says member, a crash undoes it all.
pub(crate) async fn found(shared: &Arc<Shared>, plan: Plan) -> Result<Member, ClusterError> {
    let Plan {
        listen,
        advertise,
        request,
    } = plan;
    let internal =
        |error: &(dyn std::error::Error + 'static)| ClusterError::Internal(chain_text(error));
    let authority = authority(&request, shared.clock.now())
        .map_err(|error| ClusterError::InvalidArgument(chain_text(&error)))?;
    let founded =
        make(shared, &request, &authority, advertise).map_err(|error| internal(&*error))?;
    let mut node_file = NodeFile {
        manager: true,
        listen_addr: listen.to_string(),
        advertise_addr: advertise.to_string(),
        listen_asked: request.listen_addr.clone(),
        advertise_asked: request.advertise_addr.clone(),
        advertise_local: is_local(&advertise),
        incarnation: founded.cluster.incarnation,
        ..NodeFile::joining(&founded.cluster.id, &founded.node.id)
    };
    // 1. The mark of an init under way, then the keys that the log needs.
    shared
        .write_node_file(&node_file)
        .map_err(|error| internal(&error))?;
    let disk = &shared.config.disk;
    let keys = Keys::create(disk, &shared.root.swarm(), founded.keys, founded.unlock_key)
        .map_err(|error| internal(&error))?;
    keys.save_trust(founded.trust.pem())
        .map_err(|error| internal(&error))?;
    // 2. The log with its first entry, and what runs on it.
    let chain_pem = founded.credentials.chain_pem().to_owned();
    let new = NewCluster {
        cluster: founded.cluster,
        node: founded.node,
    };
    let mut member = Member::start(
        shared,
        keys,
        node_file.clone(),
        founded.trust,
        founded.credentials,
        Begin::Manager(Start::Found(Box::new(new))),
    )
    .await
    .map_err(|error| match &error {
        MemberError::Manager(cause @ waxseal_manager::StartError::Listen { .. }) => {
            ClusterError::Internal(format!("manager stopped: {cause}"))
        }
        _ => internal(&error),
    })?;
    // 3. The certificate, then the mark that this is a member.
    let shown = async {
        member
            .keys
            .show_certificate(&chain_pem)
            .await
            .map_err(|error| internal(&error))?;
        node_file.phase = Phase::Member.into();
        shared
            .change_node_file(|file| file.phase = node_file.phase)
            .map_err(|error| internal(&error))
    };
    match shown.await {
        Ok(()) => {
            member.node_file = node_file;
            Ok(member)
        }
        Err(error) => {
            member.stop(true).await;
            Err(error)
        }
    }
}

/// The root that a new cluster begins with: its own, or one that the operator brings with its
/// key; or an intermediate below a root whose key stays with the operator.
fn authority(
    request: &InitRequest,
    now: time::OffsetDateTime,
) -> Result<RootAuthority, RootAuthorityError> {
    let brought = request.spec.ca_config.as_ref();
    let Some(ca) = brought.filter(|ca| !ca.signing_ca_cert.is_empty()) else {
        return RootAuthority::generate(now);
    };
    let is_chain = chain_from_pem(&ca.signing_ca_cert).is_ok_and(|chain| chain.len() > 1);
    match is_chain {
        true => RootAuthority::intermediate_from_pem(&ca.signing_ca_cert, &ca.signing_ca_key, now),
        false => RootAuthority::from_pem(&ca.signing_ca_cert, &ca.signing_ca_key, now),
    }
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

fn make(
    shared: &Shared,
    request: &InitRequest,
    authority: &RootAuthority,
    advertise: SocketAddr,
) -> Result<Founded, AnyError> {
    let now = shared.clock.now();
    let (cluster_id, node_id) = (random_id()?, random_id()?);
    let trust = TrustBundle::from_pem(authority.cert_pem().as_bytes(), now)?;
    let key = NodeKey::generate()?;
    let key_pem = key.pkcs8_pem();
    let (issued, certificate) =
        issue_first(shared, request, authority, &key, &cluster_id, &node_id)?;
    let chain_pem = issued.pem + authority.way_pem();
    let credentials = NodeCredentials::new(chain_pem.as_bytes(), key, &trust, now)?;
    let unlock_key = match request.auto_lock_managers {
        true => Some(UnlockKey::generate(|bytes| getrandom::fill(bytes))?),
        false => None,
    };
    let mut cluster = cluster_object(request, &cluster_id, authority, unlock_key.as_ref())?;
    if let Some(level) = shared.config.danger_feature_level {
        cluster.feature_level = level;
    }
    let epoch = cluster.unlock_key.as_ref().map_or(0, |record| record.epoch);
    let raft = new_raft_keys()?;
    let raft_id = raft.raft_id;
    let header = KeyFileHeader {
        cluster_id,
        node_id: node_id.clone(),
        kek_epoch: epoch,
    };
    let keys = KeyFile::new(header, &key_pem, Some(raft))?;
    let node = first_node(
        request.availability,
        node_id,
        raft_id,
        advertise,
        certificate,
    );
    Ok(Founded {
        cluster,
        node,
        keys,
        unlock_key,
        trust,
        credentials,
    })
}

/// Signs the first manager's certificate, and makes its record.
fn issue_first(
    shared: &Shared,
    request: &InitRequest,
    authority: &RootAuthority,
    key: &NodeKey,
    cluster_id: &str,
    node_id: &str,
) -> Result<(IssuedCertificate, Certificate), AnyError> {
    let csr_pem = key.csr_pem()?;
    let csr = Csr::parse(csr_pem.as_bytes())?;
    let mut random = [0u8; 20];
    getrandom::fill(&mut random)?;
    let serial = Serial::from_random(random)?;
    let configured = request
        .spec
        .ca_config
        .as_ref()
        .and_then(|config| config.node_cert_expiry)
        .and_then(|expiry| std::time::Duration::try_from(expiry).ok())
        .filter(|expiry| !expiry.is_zero());
    let expiry = match (shared.config.danger_certificate_expiry, configured) {
        (Some(expiry), _) => expiry,
        (None, Some(configured)) => CertificateExpiry::new(configured)?,
        (None, None) => CertificateExpiry::DEFAULT,
    };
    let profile = NodeProfile {
        cluster_id: cluster_id.to_owned(),
        node_id: node_id.to_owned(),
        role: Role::Manager,
        expiry,
    };
    let issued = authority.issue(&profile, &csr, serial, shared.clock.now())?;
    let certificate = Certificate {
        role: NodeRole::Manager.into(),
        csr: csr_pem.into_bytes(),
        status: Some(IssuanceStatus {
            state: IssuanceState::Issued.into(),
            err: String::new(),
        }),
        certificate: (issued.pem.clone() + authority.way_pem()).into_bytes(),
        cn: node_id.to_owned(),
        serial: serial.as_bytes().to_vec(),
        not_after: Some(timestamp(issued.identity.not_after)),
        public_key_digest: key.public_key_digest().as_bytes().to_vec(),
        issuer: PublicKeyDigest::of_spki(&authority.issuer_info().public_key_der)
            .as_bytes()
            .to_vec(),
        not_before: Some(timestamp(issued.identity.not_before)),
        ..Certificate::default()
    };
    Ok((issued, certificate))
}

fn cluster_object(
    request: &InitRequest,
    cluster_id: &str,
    authority: &RootAuthority,
    unlock_key: Option<&UnlockKey>,
) -> Result<Cluster, AnyError> {
    let digest = BundleDigest::of(authority.cert_pem().as_bytes());
    let (mut worker, mut manager) = ([0u8; TOKEN_SECRET_BYTES], [0u8; TOKEN_SECRET_BYTES]);
    getrandom::fill(&mut worker)?;
    getrandom::fill(&mut manager)?;
    let tokens = JoinTokens::generate(digest, &worker, &manager);
    // What was brought to sign with is kept in one place.
    let mut spec = request.spec.clone();
    if let Some(settings) = &mut spec.ca_config {
        settings.signing_ca_cert.clear();
        settings.signing_ca_key.zeroize();
    }
    let mut cluster = new_cluster(NewClusterObject {
        id: cluster_id.to_owned(),
        root_ca: RootCa {
            ca_key: authority.key_pem().as_bytes().to_vec(),
            ca_cert: authority.cert_pem().as_bytes().to_vec(),
            ca_cert_hash: digest.to_string(),
            join_tokens: Some(TokenTexts {
                worker: tokens.token(Role::Worker).expose_text().to_owned(),
                manager: tokens.token(Role::Manager).expose_text().to_owned(),
            }),
            root_rotation: None,
            last_forced_rotation: 0,
        },
        spec,
        unlock_key: unlock_key.map(|key| key.expose_bytes().to_vec()),
    });
    cluster.signing_way = authority.way_pem().as_bytes().to_vec();
    cluster
        .default_addr_pool
        .clone_from(&request.default_addr_pool);
    Ok(cluster)
}

fn first_node(
    availability: Availability,
    node_id: String,
    raft_id: u64,
    advertise: SocketAddr,
    certificate: Certificate,
) -> Node {
    Node {
        id: node_id,
        spec: Some(NodeSpec {
            annotations: Some(Annotations::default()),
            desired_role: NodeRole::Manager.into(),
            membership: Membership::Accepted.into(),
            availability: availability.into(),
        }),
        status: Some(NodeStatus {
            state: NodeState::Unknown.into(),
            message: String::new(),
            addr: advertise.ip().to_string(),
        }),
        manager_status: Some(ManagerStatus {
            raft_id,
            addr: advertise.to_string(),
            leader: true,
            reachability: Reachability::Reachable.into(),
        }),
        certificate: Some(certificate),
        role: NodeRole::Manager.into(),
        ..Node::default()
    }
}

pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut random = [0u8; 17];
    getrandom::fill(&mut random)?;
    Ok(new_id(random))
}
