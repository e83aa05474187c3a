//! One member of the simulated fleet: it joins, holds a session, beats, renews when it is asked
//! to and follows the root, as a Docker Engine does. It runs no tasks.

use std::{future::Future, net::Ipv4Addr, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use rustls::ClientConfig;
use tokio::time::{Instant, sleep, sleep_until};
use waxseal_ca::{
    Clock, IssuerInfo, NodeCredentials, NodeKey, SystemClock, TrustBundle, chain_from_pem,
};
use waxseal_cluster::objects::{
    EngineDescription, IssuanceState, NodeDescription, NodeTlsInfo, Platform, PluginDescription,
    Resources,
};
use waxseal_wire::swarmkit::{
    AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, HeartbeatResponse,
    IssueNodeCertificateRequest, IssueNodeCertificateResponse, ListenSubscriptionsRequest,
    NodeCertificateStatusRequest, NodeCertificateStatusResponse, SessionMessage, SessionRequest,
};

use super::{Fleet, Root, add, below};
use crate::{
    dialler::Dialler,
    h2::{Connection, Event},
    joins::{ISSUE, Joiner, STATUS},
};

const SESSION: &str = "/docker.swarmkit.v1.Dispatcher/Session";
const HEARTBEAT: &str = "/docker.swarmkit.v1.Dispatcher/Heartbeat";
const ASSIGNMENTS: &str = "/docker.swarmkit.v1.Dispatcher/Assignments";
const LISTEN: &str = "/docker.swarmkit.v1.LogBroker/ListenSubscriptions";

/// An engine renews so long after it is asked to.
const DEMAND_DELAY: Duration = Duration::from_millis(500);
/// After a renewal that failed an engine waits up to so long.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// Between an engine's tries to join.
const JOIN_PAUSE: Duration = Duration::from_secs(2);
/// Tries of an engine to join.
const JOIN_TRIES: usize = 5;
/// An engine's wait before a session is tried again: random below this, and longer each time …
const SESSION_PAUSE: Duration = Duration::from_millis(100);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// What an engine has in its description.
const PLUGINS: [(&str, &str); 17] = [
    ("Log", "awslogs"),
    ("Log", "fluentd"),
    ("Log", "gcplogs"),
    ("Log", "gelf"),
    ("Log", "journald"),
    ("Log", "json-file"),
    ("Log", "local"),
    ("Log", "logentries"),
    ("Log", "splunk"),
    ("Log", "syslog"),
    ("Network", "bridge"),
    ("Network", "host"),
    ("Network", "ipvlan"),
    ("Network", "macvlan"),
    ("Network", "null"),
    ("Network", "overlay"),
    ("Volume", "local"),
];

/// A key with what was issued for it.
pub(super) struct Identity {
    key: NodeKey,
    chain_pem: Vec<u8>,
    issuer: IssuerInfo,
    certified: Arc<ClientConfig>,
}

impl Identity {
    fn new(key: NodeKey, chain_pem: Vec<u8>, dialler: &Dialler) -> Result<Rc<Identity>> {
        let chain = chain_from_pem(&chain_pem)?;
        // A root that was not trusted yet when it signed comes behind the leaf.
        let issuer = match chain.len() {
            0 | 1 => dialler.trust().issuer_info().clone(),
            _ => IssuerInfo::all_from_pem(&chain_pem)?.swap_remove(1),
        };
        Ok(Rc::new(Identity {
            certified: dialler.certified(chain, &key)?,
            key,
            chain_pem,
            issuer,
        }))
    }

    /// The same, to be shown to managers that this dialler verifies.
    fn under(&self, dialler: &Dialler) -> Result<Rc<Identity>> {
        let chain = chain_from_pem(&self.chain_pem)?;
        let key = NodeKey::from_pkcs8_pem(self.key.pkcs8_pem().as_bytes())?;
        Ok(Rc::new(Identity {
            certified: dialler.certified(chain, &key)?,
            key,
            chain_pem: self.chain_pem.clone(),
            issuer: self.issuer.clone(),
        }))
    }

    /// Whether it was signed by that root.
    pub(super) fn is_of(&self, trust: &TrustBundle) -> bool {
        self.issuer == *trust.issuer_info()
    }

    /// What an engine checks as it gets a certificate; here once the clock has stopped.
    pub(super) fn check(&self, trust: &TrustBundle) -> Result<()> {
        let key = NodeKey::from_pkcs8_pem(self.key.pkcs8_pem().as_bytes())?;
        NodeCredentials::new(&self.chain_pem, key, trust, SystemClock.now())?;
        Ok(())
    }
}

/// A member, from its join to its end.
pub(super) struct Member {
    pub(super) fleet: Rc<Fleet>,
    pub(super) number: usize,
    pub(super) source: Ipv4Addr,
    pub(super) root: Rc<Root>,
    pub(super) node_id: String,
    pub(super) session_id: String,
    pub(super) identity: Rc<Identity>,
    /// For the next renewals, made before the clock starts.
    pub(super) prepared: Vec<Joiner>,
}

type Renewal = Pin<Box<dyn Future<Output = Result<(Joiner, Vec<u8>)>>>>;

/// Why a session was given up for another.
enum Renewed {
    Certificate(Box<Joiner>, Vec<u8>),
    Trust(Vec<u8>),
}

impl Member {
    /// Joins; tries again as an engine does.
    pub(super) async fn join(
        fleet: Rc<Fleet>,
        number: usize,
        source: Ipv4Addr,
        mut prepared: Vec<Joiner>,
    ) -> Result<Member> {
        let first = prepared.pop().context("no key")?;
        let root = fleet.first_root();
        let mut tries = 1;
        let joined = loop {
            match fleet.cluster.join(number, Some(source), &first.csr).await {
                Ok(joined) => break joined,
                Err(error) if tries < JOIN_TRIES => {
                    add(&fleet.tally.refused_joins);
                    fleet.show(&error);
                    tries += 1;
                    sleep(JOIN_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        };
        add(&fleet.tally.certified);
        Ok(Member {
            number,
            source,
            node_id: joined.node_id,
            session_id: String::new(),
            identity: Identity::new(first.key, joined.certificate, &root.dialler)?,
            root,
            prepared,
            fleet,
        })
    }

    /// Holds sessions, one after the other. Never ends by itself.
    pub(super) async fn live(mut self) -> Result<std::convert::Infallible> {
        let mut pause = Duration::ZERO;
        loop {
            let mut is_registered = false;
            let ended = self.session(&mut is_registered).await;
            if is_registered {
                self.fleet.left(self.number);
                pause = Duration::ZERO;
            }
            match ended {
                Ok(Renewed::Certificate(joiner, chain)) => {
                    self.identity = Identity::new(joiner.key, chain, &self.root.dialler)?;
                }
                Ok(Renewed::Trust(pem)) => {
                    self.root = self.fleet.root(&pem)?;
                    // Its chain leads to this one too.
                    self.identity = self.identity.under(&self.root.dialler)?;
                }
                Err(error) => {
                    add(&self.fleet.tally.broken);
                    self.fleet.show(&error);
                    pause = (pause * 2 + SESSION_PAUSE).min(LONGEST_PAUSE);
                    sleep(below(pause)).await;
                }
            }
        }
    }

    async fn session(&mut self, is_registered: &mut bool) -> Result<Renewed> {
        // 1. The connection and the registration.
        let (fleet, dialler) = (&self.fleet, &self.root.dialler);
        let dialling = fleet.dial(dialler, self.source, &self.identity.certified);
        let mut connection = dialling.await?;
        let request = SessionRequest {
            description: Some(self.description()),
            session_id: self.session_id.clone(),
        };
        let session = connection.open(SESSION, &request)?;
        let first = first_message(&self.fleet, &mut connection, session).await?;
        self.session_id.clone_from(&first.session_id);
        *is_registered = true;
        self.fleet
            .registered(self.number, &self.root, &self.identity);
        // 2. What an engine opens at once.
        let session_id = self.session_id.clone();
        let request = AssignmentsRequest {
            session_id: session_id.clone(),
        };
        let streams = [
            session,
            connection.open(ASSIGNMENTS, &request)?,
            connection.open(LISTEN, &ListenSubscriptionsRequest {})?,
        ];
        let beat = HeartbeatRequest { session_id };
        let mut beating = connection.open(HEARTBEAT, &beat)?;
        let mut next_beat: Option<Instant> = None;
        // 3. Beats and messages, until something that the session was made with is another.
        let mut renewal: Option<Renewal> = None;
        let mut message = Some(first);
        loop {
            if let Some(message) = message.take() {
                if !message.root_ca.is_empty() && message.root_ca != self.root.pem {
                    return Ok(Renewed::Trust(message.root_ca));
                }
                if renewal.is_none() && is_asked(&message) {
                    renewal = Some(Box::pin(self.renewal()?));
                }
            }
            let renewing = async {
                match &mut renewal {
                    Some(renewal) => renewal.await,
                    None => std::future::pending().await,
                }
            };
            let beat_due = async {
                match next_beat {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = connection.next() => match event? {
                    Event::Message(of, bytes) if of == session => {
                        message = Some(SessionMessage::decode(&bytes[..])?);
                    }
                    Event::Message(of, bytes) if of == streams[1] => {
                        let message = AssignmentsMessage::decode(&bytes[..])?;
                        self.fleet.assigned(self.number, &message);
                    }
                    Event::Message(of, bytes) if of == beating => {
                        let period = HeartbeatResponse::decode(&bytes[..])?.period;
                        let period = period.context("a beat without a period")?;
                        next_beat = Some(Instant::now() + Duration::try_from(period)?);
                    }
                    Event::End(of) if streams.contains(&of) => bail!("the server ended a stream"),
                    Event::End(of) if of == beating && next_beat.is_none() => {
                        bail!("the server refused a beat");
                    }
                    _ => {}
                },
                renewed = renewing => {
                    let (joiner, chain) = renewed?;
                    return Ok(Renewed::Certificate(Box::new(joiner), chain));
                }
                () = beat_due => {
                    next_beat = None;
                    beating = connection.open(HEARTBEAT, &beat)?;
                }
            }
        }
    }

    /// Renews over a connection of its own, until it succeeds.
    fn renewal(&mut self) -> Result<impl Future<Output = Result<(Joiner, Vec<u8>)>> + use<>> {
        let joiner = match self.prepared.pop() {
            Some(joiner) => joiner,
            None => Joiner::new()?,
        };
        let fleet = Rc::clone(&self.fleet);
        let root = Rc::clone(&self.root);
        let certified = Arc::clone(&self.identity.certified);
        let source = self.source;
        let node_id = self.node_id.clone();
        Ok(async move {
            sleep(DEMAND_DELAY).await;
            loop {
                let mut connection = fleet.dial(&root.dialler, source, &certified).await?;
                match renew(&mut connection, &node_id, &joiner.csr).await {
                    Ok(chain) => {
                        connection.close().await?;
                        return Ok((joiner, chain));
                    }
                    Err(error) => {
                        fleet.note_end(&connection, &error);
                        sleep(below(RENEWAL_PAUSE)).await;
                    }
                }
            }
        })
    }

    fn description(&self) -> NodeDescription {
        let plugin = |(r#type, name): (&str, &str)| PluginDescription {
            r#type: r#type.to_owned(),
            name: name.to_owned(),
        };
        NodeDescription {
            hostname: format!("member-{}", self.number),
            platform: Some(Platform {
                architecture: "x86_64".to_owned(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: 2_000_000_000,
                memory_bytes: 8 << 30,
                ..Resources::default()
            }),
            engine: Some(EngineDescription {
                engine_version: "20.10.24+dfsg1".to_owned(),
                plugins: PLUGINS.map(plugin).to_vec(),
                ..EngineDescription::default()
            }),
            tls_info: Some(NodeTlsInfo {
                trust_root: self.root.pem.clone(),
                cert_issuer_subject: self.identity.issuer.subject_der.clone(),
                cert_issuer_public_key: self.identity.issuer.public_key_der.clone(),
            }),
            fips: false,
        }
    }
}

async fn first_message(
    fleet: &Fleet,
    connection: &mut Connection,
    session: u32,
) -> Result<SessionMessage> {
    loop {
        let event = connection.next().await;
        match event.inspect_err(|error| fleet.note_end(connection, error))? {
            Event::Message(of, bytes) if of == session => {
                return Ok(SessionMessage::decode(&bytes[..])?);
            }
            Event::End(_) => bail!("the server refused the session"),
            Event::Message(..) => {}
        }
    }
}

/// Whether the manager wants this node to renew.
fn is_asked(message: &SessionMessage) -> bool {
    let node = message.node.as_ref();
    let certificate = node.and_then(|node| node.certificate.as_ref());
    let status = certificate.and_then(|certificate| certificate.status.as_ref());
    status.is_some_and(|status| status.state() == IssuanceState::Rotate)
}

async fn renew(connection: &mut Connection, node_id: &str, csr: &str) -> Result<Vec<u8>> {
    let request = IssueNodeCertificateRequest {
        csr: csr.as_bytes().to_vec(),
        ..IssueNodeCertificateRequest::default()
    };
    let answer: IssueNodeCertificateResponse = connection.call(ISSUE, &request).await?;
    ensure!(answer.node_id == node_id, "another node's id");
    let request = NodeCertificateStatusRequest {
        node_id: node_id.to_owned(),
    };
    let answer: NodeCertificateStatusResponse = connection.call(STATUS, &request).await?;
    let state = answer.status.unwrap_or_default().state();
    let certificate = answer.certificate.unwrap_or_default();
    ensure!(
        matches!(state, IssuanceState::Issued | IssuanceState::Rotate)
            && certificate.csr == csr.as_bytes(),
        "the certificate's state is {state:?}"
    );
    Ok(certificate.certificate)
}
