//! Nodes that join: each dials, asks for a certificate with a token, waits for it.

use std::{
    cell::Cell,
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{runtime::Runtime, task::LocalSet};
use waxseal_ca::{Clock, JoinToken, NodeCredentials, NodeKey, Role, SystemClock, TrustBundle};
use waxseal_cluster::objects::{Availability, IssuanceState, NodeRole};
use waxseal_tests::Scene;
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{
        GetRootCaCertificateRequest, IssueNodeCertificateRequest, IssueNodeCertificateResponse,
        NodeCertificateStatusRequest, NodeCertificateStatusResponse,
    },
};

use crate::{
    dialler::Dialler,
    measure::measure,
    report::{self, Pairs},
    server::{Server, Side, order},
};

/// Joiners at once, joiners per run, and the ratio to reach.
const JOINS: [(usize, usize, Option<f64>); 3] =
    [(1, 300, None), (16, 1_000, None), (64, 2_000, Some(4.0))];
/// Until all joiners of one run have their certificates.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const ISSUE: &str = "/docker.swarmkit.v1.NodeCA/IssueNodeCertificate";
pub(crate) const STATUS: &str = "/docker.swarmkit.v1.NodeCA/NodeCertificateStatus";

/// What all joiners of a cluster know.
pub(crate) struct Cluster {
    dialler: Dialler,
    token: String,
    /// The root that the token names.
    pub(crate) trust: Arc<TrustBundle>,
}

/// What a joiner brings, made before the clock starts.
pub(crate) struct Joiner {
    pub(crate) key: NodeKey,
    pub(crate) csr: String,
}

/// What a joiner got.
pub(crate) struct Joined {
    /// Which of the joiners.
    number: usize,
    pub(crate) node_id: String,
    pub(crate) certificate: Vec<u8>,
}

/// Joins at growing numbers at once.
pub(crate) fn certify(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Server::start(scene, Side::Ours, "join", false)?;
    let stock = Server::start(scene, Side::Stock, "join", false)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let our_cluster = Rc::new(Cluster::of(&ours, &runtime)?);
    let stock_cluster = Rc::new(Cluster::of(&stock, &runtime)?);
    let mut joined = 0;
    for (at_once, count, target) in JOINS {
        let mut pairs = Pairs::default();
        for round in 0..rounds {
            for side in order(round) {
                let (server, cluster, runs) = match side {
                    Side::Ours => (&ours, &our_cluster, &mut pairs.ours),
                    Side::Stock => (&stock, &stock_cluster, &mut pairs.other),
                };
                let joiners = Joiner::many(count)?;
                let mut all = Vec::new();
                runs.push(measure(&[server], || {
                    let joining = join_all(cluster, at_once, &joiners);
                    let (joined, latencies) = LocalSet::new().block_on(&runtime, joining)?;
                    all = joined;
                    Ok(latencies)
                })?);
                cluster.check(&joiners, &all)?;
            }
            joined += count;
        }
        let title = format!("joiners certified, {at_once} at once");
        report::rates(&title, &pairs, target);
    }
    for server in [&ours, &stock] {
        let nodes = server.engine.get("/nodes")?;
        let nodes = nodes.as_array().context("not a list")?.len();
        ensure!(nodes == joined + 1, "{nodes} nodes are on record");
    }
    Ok(())
}

/// So many nodes join, unmeasured.
pub(crate) fn fill(server: &Server, count: usize) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let cluster = Rc::new(Cluster::of(server, &runtime)?);
    let joiners = Joiner::many(count)?;
    let joining = join_all(&cluster, 16, &joiners);
    let (joined, _) = LocalSet::new().block_on(&runtime, joining)?;
    cluster.check(&joiners, &joined)
}

impl Joiner {
    fn many(count: usize) -> Result<Rc<[Joiner]>> {
        (0..count).map(|_| Joiner::new()).collect()
    }

    pub(crate) fn new() -> Result<Joiner> {
        let key = NodeKey::generate()?;
        let csr = key.csr_pem()?;
        Ok(Joiner { key, csr })
    }
}

impl Cluster {
    pub(crate) fn of(server: &Server, runtime: &Runtime) -> Result<Cluster> {
        runtime.block_on(Cluster::fetch(server.remote(), server.worker_token()?))
    }

    async fn fetch(remote: String, token: String) -> Result<Cluster> {
        let channel = ManagerChannel::dial(&remote, Credentials::FetchRoot).await?;
        let request = GetRootCaCertificateRequest {};
        let answer = channel.ca().get_root_ca_certificate(request).await?;
        let pem = answer.into_inner().certificate;
        JoinToken::parse(&token)?.check_bundle(&pem)?;
        let trust = Arc::new(TrustBundle::from_pem(&pem, SystemClock.now())?);
        Ok(Cluster {
            dialler: Dialler::new(remote.parse()?, Arc::clone(&trust))?,
            token,
            trust,
        })
    }

    /// A dialler of this cluster's manager that trusts another root.
    pub(crate) fn dialler_of(&self, trust: Arc<TrustBundle>) -> Result<Dialler> {
        self.dialler.trusting(trust)
    }

    pub(crate) async fn join(
        &self,
        number: usize,
        source: Option<Ipv4Addr>,
        csr: &str,
    ) -> Result<Joined> {
        // 1. A connection without a certificate.
        let mut connection = self.dialler.join(source).await?;
        // 2. The request, with the token.
        let request = IssueNodeCertificateRequest {
            role: NodeRole::Worker.into(),
            csr: csr.as_bytes().to_vec(),
            token: self.token.as_bytes().to_vec(),
            availability: Availability::Active.into(),
        };
        let answer: IssueNodeCertificateResponse = connection.call(ISSUE, &request).await?;
        let node_id = answer.node_id;
        // 3. The certificate, which the manager holds the call for.
        let request = NodeCertificateStatusRequest {
            node_id: node_id.clone(),
        };
        let answer: NodeCertificateStatusResponse = connection.call(STATUS, &request).await?;
        let state = answer.status.unwrap_or_default().state();
        if state != IssuanceState::Issued {
            bail!("the certificate's state is {state:?}");
        }
        connection.close().await?;
        Ok(Joined {
            number,
            node_id,
            certificate: answer.certificate.unwrap_or_default().certificate,
        })
    }

    /// Each has a certificate of this cluster for its own key.
    fn check(&self, joiners: &[Joiner], joined: &[Joined]) -> Result<()> {
        ensure!(joined.len() == joiners.len(), "some did not join");
        for Joined {
            number,
            node_id,
            certificate,
        } in joined
        {
            let joiner = joiners.get(*number).context("one too many")?;
            let key = NodeKey::from_pkcs8_pem(joiner.key.pkcs8_pem().as_bytes())?;
            let now = SystemClock.now();
            let credentials = NodeCredentials::new(certificate, key, &self.trust, now)?;
            let identity = credentials.identity();
            ensure!(
                identity.role == Role::Worker && identity.node_id == *node_id,
                "a certificate is for {identity:?}"
            );
        }
        Ok(())
    }
}

/// All joins, so many at once; what each got and how long each took.
async fn join_all(
    cluster: &Rc<Cluster>,
    at_once: usize,
    joiners: &Rc<[Joiner]>,
) -> Result<(Vec<Joined>, Vec<Duration>)> {
    let next = Rc::new(Cell::new(0));
    let clients: Vec<_> = (0..at_once)
        .map(|_| {
            let (cluster, joiners, next) =
                (Rc::clone(cluster), Rc::clone(joiners), Rc::clone(&next));
            tokio::task::spawn_local(async move {
                let (mut joined, mut latencies) = (Vec::new(), Vec::new());
                while let Some(joiner) = joiners.get(next.get()) {
                    let number = next.replace(next.get() + 1);
                    let begin = Instant::now();
                    joined.push(cluster.join(number, None, &joiner.csr).await?);
                    latencies.push(begin.elapsed());
                }
                anyhow::Ok((joined, latencies))
            })
        })
        .collect();
    let all = async {
        let (mut joined, mut latencies) = (Vec::new(), Vec::new());
        for client in clients {
            let (some, times) = client.await??;
            joined.extend(some);
            latencies.extend(times);
        }
        Ok((joined, latencies))
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .context("no certificates in time")?
}
