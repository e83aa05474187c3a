//! Joining a cluster: from a token and some addresses to a certified identity.
//!
//! Works against our managers and stock ones. What is fetched first is trusted only
//! for the digest in the token; the token goes only to a manager verified with it.

use std::{sync::Arc, time::Duration};

use tokio::time as timer;
use tonic::Code;
use tracing::{debug, warn};
use waxseal_ca::{
    ChainError, Clock, CredentialsError, JoinToken, NodeCredentials, Role, TokenError, TrustBundle,
    TrustError, describe_root_skew, describe_skew, describe_validity_skew,
};
use waxseal_cluster::objects::Availability;
use waxseal_wire::{
    Credentials, DialError, FEATURE_LEVEL, FEATURES, ManagerChannel, Unreachable, engine_text,
    peer_text, swarmkit::GetRootCaCertificateRequest, waxseal::HelloRequest,
};
use zeroize::Zeroizing;

use crate::{
    certificate::{CertificateError, PreparedRequest, bounded},
    managers::ManagerAddress,
    random::spread,
    shared::moment,
};

/// Rounds over all addresses, for the root and for the certificate alike.
const ATTEMPTS: u32 = 5;
/// The wait between rounds.
const ATTEMPT_PAUSE: Duration = Duration::from_secs(2);
/// No round begins later: who reaches nobody is told so, and why, while the daemon's caller still
/// waits (20 s, a dial being 5).
const LAST_ROUND: Duration = Duration::from_secs(12);

/// What a join needs to know.
pub struct JoinRequest {
    /// As `docker swarm join-token` prints it.
    pub token: Zeroizing<String>,
    /// `host:port` of managers, at least one.
    pub remotes: Vec<String>,
    /// What the scheduler may do with the node at first.
    pub availability: Availability,
    /// This binary's version, told to managers of ours.
    pub version: String,
}

/// What a join gives: nothing of it is kept on disk yet.
pub struct Joined {
    /// The cluster's roots, exactly as fetched.
    pub trust: Arc<TrustBundle>,
    /// Certificate chain, key and identity.
    pub credentials: Arc<NodeCredentials>,
    /// Where to find managers until one sends its list; the one that answered is first.
    pub managers: Vec<ManagerAddress>,
    /// Whether the manager is a stock one.
    pub stock_manager: bool,
}

/// Why a join failed. The first part of each text is what Docker's engine says.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The token is malformed or does not fit what the cluster shows.
    #[error("{}", token_text(.0))]
    Token(#[from] TokenError),
    /// No address was given.
    #[error("at least 1 RemoteAddr is required to join; give the address of a manager")]
    NoRemotes,
    /// No manager could be reached.
    #[error("{}", dial_text(.0))]
    Unreachable(#[from] DialError),
    /// A manager answered a call with an error.
    #[error("{}; the manager's log says more", engine_text(.0))]
    Call(tonic::Status),
    /// The clocks are further apart than certificates allow for.
    #[error("{skew}")]
    Clock {
        /// Which way, how much, and what to do.
        skew: String,
    },
    /// The fetched root cannot be used.
    #[error("the cluster's root certificate cannot be used: {0}")]
    Root(#[from] TrustError),
    /// No certificate.
    #[error("{}", certificate_text(.0))]
    Certificate(#[from] CertificateError),
    /// The token is that of a manager of a stock cluster.
    #[error(
        "the token is for managers, and of a Docker Engine's cluster this node can only be a \
         worker; join with what `docker swarm join-token worker` prints on a manager, and remove \
         the record that this try left there with `docker node demote {node_id}` and `docker node \
         rm --force {node_id}`"
    )]
    ManagerToken {
        /// The id that the manager gave.
        node_id: String,
    },
}

/// A failed dial in the words of the engine, which clients know.
fn dial_text(error: &DialError) -> String {
    let DialError { address, cause } = error;
    let why = match cause {
        Unreachable::Refused => format!("dial tcp {address}: connect: connection refused"),
        Unreachable::Timeout => format!("dial tcp {address}: i/o timeout"),
        _ => return error.to_string(),
    };
    format!(
        "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error while \
         dialing {why}\"; {}",
        cause.hint()
    )
}

fn token_text(error: &TokenError) -> String {
    match error {
        TokenError::BundleMismatch { expected, found } => format!(
            "remote CA does not match fingerprint. Expected: {}; found {}: check the manager's \
             address, and get the present token with `docker swarm join-token worker` there",
            expected.hex(),
            found.hex()
        ),
        other => other.to_string(),
    }
}

fn certificate_text(error: &CertificateError) -> String {
    match error {
        CertificateError::Refused(status) if status.code() == Code::InvalidArgument => format!(
            "{}; get the present token with `docker swarm join-token worker` on a manager",
            engine_text(status)
        ),
        other => other.to_string(),
    }
}

impl JoinError {
    /// Whether another address or a later try may succeed.
    fn is_passing(&self) -> bool {
        match self {
            JoinError::Unreachable(error) => !matches!(error.cause, Unreachable::Clock { .. }),
            JoinError::Call(_) => true,
            JoinError::Certificate(error) => error.is_passing(),
            _ => false,
        }
    }
}

/// Joins a cluster. May take as long as a manager lets it wait: the caller bounds it.
///
/// # Errors
/// [`JoinError`]; nothing is left behind here, and at the manager only what the error says.
pub async fn join(request: JoinRequest, clock: Arc<dyn Clock>) -> Result<Joined, JoinError> {
    let token = JoinToken::parse(&request.token)?;
    if request.remotes.is_empty() {
        return Err(JoinError::NoRemotes);
    }
    let joiner = Joiner {
        request,
        token,
        clock,
    };
    joiner.run().await
}

struct Joiner {
    request: JoinRequest,
    token: JoinToken,
    clock: Arc<dyn Clock>,
}

/// What the first connection told.
struct Fetched {
    trust: Arc<TrustBundle>,
    stock_manager: bool,
}

/// What later tries have from earlier ones.
#[derive(Default)]
struct Progress {
    fetched: Option<Fetched>,
    /// The same for all tries: to managers of ours a repeated request is the same one,
    /// so that a lost answer leaves no second node behind.
    prepared: Option<PreparedRequest>,
}

impl Joiner {
    async fn run(self) -> Result<Joined, JoinError> {
        let mut progress = Progress::default();
        let mut attempt = 0;
        let begin = timer::Instant::now();
        loop {
            attempt += 1;
            let error = match self.round(&mut progress).await {
                Ok(joined) => return Ok(joined),
                Err(error) => error,
            };
            let is_late = begin.elapsed() + ATTEMPT_PAUSE > LAST_ROUND;
            if attempt >= ATTEMPTS || is_late || !error.is_passing() {
                return Err(error);
            }
            warn!(%error, attempt, "joining failed, trying again");
            timer::sleep(ATTEMPT_PAUSE).await;
        }
    }

    /// Tries each address once, in random order; the last error counts.
    async fn round(&self, progress: &mut Progress) -> Result<Joined, JoinError> {
        let remotes = &self.request.remotes;
        let count = u64::try_from(remotes.len()).unwrap_or(u64::MAX);
        let start = usize::try_from(spread() % count).unwrap_or(0);
        let mut outcome = Err(JoinError::NoRemotes);
        for address in remotes.iter().cycle().skip(start).take(remotes.len()) {
            outcome = self.try_manager(address, progress).await;
            match &outcome {
                Err(error) if error.is_passing() => debug!(%error, address, "manager did not help"),
                _ => break,
            }
        }
        outcome
    }

    async fn try_manager(
        &self,
        address: &str,
        progress: &mut Progress,
    ) -> Result<Joined, JoinError> {
        // 1. The roots, over a connection that proves nothing.
        let fetched = match progress.fetched.take() {
            Some(fetched) => fetched,
            None => self.fetch_root(address).await?,
        };
        let Fetched {
            trust,
            stock_manager,
        } = &*progress.fetched.insert(fetched);
        // 2. The token, only to a manager that those roots vouch for.
        let credentials = Credentials::Join {
            trust,
            clock: &self.clock,
        };
        let channel = ManagerChannel::dial(address, credentials)
            .await
            .map_err(unreachable)?;
        let prepared = match progress.prepared.take() {
            Some(prepared) => prepared,
            None => PreparedRequest::new()?,
        };
        let token = self.token.expose_text();
        let issuing = prepared.issue(&channel, token, self.request.availability);
        let chain = match issuing.await {
            Ok(chain) => chain,
            Err(error) => {
                progress.prepared = Some(prepared);
                return Err(error.into());
            }
        };
        // 3. What came is checked like anything from outside.
        let checked = chain.check(prepared, trust, self.clock.now());
        let credentials = checked.map_err(issued)?;
        let identity = credentials.identity();
        if identity.role != Role::Worker && *stock_manager {
            return Err(JoinError::ManagerToken {
                node_id: peer_text(&identity.node_id),
            });
        }
        Ok(Joined {
            trust: Arc::clone(trust),
            managers: self.managers_from(address),
            stock_manager: *stock_manager,
            credentials,
        })
    }

    async fn fetch_root(&self, address: &str) -> Result<Fetched, JoinError> {
        let channel = ManagerChannel::dial(address, Credentials::FetchRoot).await?;
        let mut ca = channel.ca();
        let request = GetRootCaCertificateRequest {};
        let answer = bounded(request, |request| ca.get_root_ca_certificate(request));
        let pem = answer.await.map_err(JoinError::Call)?.certificate;
        self.token.check_bundle(&pem)?;
        let stock_manager = self.compare_clocks(&channel).await?;
        let trust = TrustBundle::from_pem(&pem, self.clock.now()).map_err(root)?;
        let trust = Arc::new(trust);
        Ok(Fetched {
            trust,
            stock_manager,
        })
    }

    /// Greets the manager, if it is one of ours, and says whether it is a stock one.
    ///
    /// The answer comes over an unverified connection, so that it can only make this
    /// join fail, and with a better text than a refused certificate would give.
    async fn compare_clocks(&self, channel: &ManagerChannel) -> Result<bool, JoinError> {
        let request = HelloRequest {
            version: self.request.version.clone(),
            feature_level: FEATURE_LEVEL,
            features: FEATURES.iter().map(ToString::to_string).collect(),
        };
        let mut hello = channel.hello();
        let answer = match bounded(request, |request| hello.greet(request)).await {
            Ok(answer) => answer,
            Err(status) if status.code() == Code::Unimplemented => return Ok(true),
            Err(status) => return Err(JoinError::Call(status)),
        };
        let remote = answer.server_time.and_then(|time| moment(&time));
        match remote.and_then(|remote| describe_skew(self.clock.now(), remote)) {
            Some(skew) => Err(JoinError::Clock { skew }),
            None => Ok(false),
        }
    }

    fn managers_from(&self, answered: &str) -> Vec<ManagerAddress> {
        let others = self
            .request
            .remotes
            .iter()
            .filter(|address| *address != answered);
        std::iter::once(answered)
            .chain(others.map(String::as_str))
            .map(ManagerAddress::from_address)
            .collect()
    }
}

/// A root that is not valid yet is in use elsewhere: this host's clock is behind.
fn root(error: TrustError) -> JoinError {
    let skew = match &error {
        TrustError::NotValidYet {
            not_before, now, ..
        } => describe_root_skew(*now, *not_before),
        _ => None,
    };
    skew.map_or(JoinError::Root(error), |skew| JoinError::Clock { skew })
}

/// A certificate that is not valid yet was just signed: this host's clock is behind.
fn issued(error: CertificateError) -> JoinError {
    if let CertificateError::Unusable(CredentialsError::Chain(chain)) = &error {
        let skew = match chain {
            ChainError::NotValidYet { not_before, now } => {
                describe_validity_skew(*now, *not_before, *not_before)
            }
            ChainError::Expired { not_after, now } => {
                describe_validity_skew(*now, *not_after, *not_after)
            }
            _ => None,
        };
        if let Some(skew) = skew {
            return JoinError::Clock { skew };
        }
    }
    JoinError::Certificate(error)
}

/// A dial that failed for the clock is about the clock.
fn unreachable(error: DialError) -> JoinError {
    match error.cause {
        Unreachable::Clock { skew } => JoinError::Clock { skew },
        _ => JoinError::Unreachable(error),
    }
}
