//! Nodes that join: each dials, asks for a certificate with a token, waits for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use waxseal_ca::{Clock, JoinToken, NodeKey, SystemClock, TrustBundle};
use waxseal_cluster::objects::{Availability, IssuanceState, NodeRole};
use waxseal_tests::Scene;
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::{
        GetRootCaCertificateRequest, IssueNodeCertificateRequest, NodeCertificateStatusRequest,
    },
};

use crate::{
    measure::measure,
    report::{self, Pairs},
    server::{Server, Side, order},
};

/// Joiners at once, joiners per run, and the ratio to reach.
const JOINS: [(usize, usize, Option<f64>); 3] =
    [(1, 300, None), (16, 1_000, None), (64, 2_000, Some(4.0))];
/// Until one joiner has its certificate.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all joiners of a cluster know.
struct Cluster {
    remote: String,
    token: String,
    trust: Arc<TrustBundle>,
    clock: Arc<dyn Clock>,
}

/// Joins at growing numbers at once.
pub(crate) fn certify(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Server::start(scene, Side::Ours, "join", false)?;
    let stock = Server::start(scene, Side::Stock, "join", false)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let cluster = |server: &Server| {
        let fetching = Cluster::fetch(server.remote(), server.worker_token()?);
        anyhow::Ok(Arc::new(runtime.block_on(fetching)?))
    };
    let (our_cluster, stock_cluster) = (cluster(&ours)?, cluster(&stock)?);
    let mut joined = 0;
    for (at_once, count, target) in JOINS {
        let mut pairs = Pairs::default();
        for round in 0..rounds {
            for side in order(round) {
                let (server, cluster, runs) = match side {
                    Side::Ours => (&ours, &our_cluster, &mut pairs.ours),
                    Side::Stock => (&stock, &stock_cluster, &mut pairs.stock),
                };
                let requests = requests(count)?;
                runs.push(measure(server, || {
                    runtime.block_on(join_all(cluster, at_once, requests))
                })?);
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

/// Requests for certificates, each with a key of its own.
fn requests(count: usize) -> Result<Vec<String>> {
    let request = |_| Ok(NodeKey::generate()?.csr_pem()?);
    (0..count).map(request).collect()
}

impl Cluster {
    async fn fetch(remote: String, token: String) -> Result<Cluster> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let channel = ManagerChannel::dial(&remote, Credentials::FetchRoot).await?;
        let request = GetRootCaCertificateRequest {};
        let answer = channel.ca().get_root_ca_certificate(request).await?;
        let pem = answer.into_inner().certificate;
        JoinToken::parse(&token)?.check_bundle(&pem)?;
        let trust = Arc::new(TrustBundle::from_pem(&pem, clock.now())?);
        Ok(Cluster {
            remote,
            token,
            trust,
            clock,
        })
    }

    async fn join(&self, csr: &str) -> Result<()> {
        // 1. A connection without a certificate.
        let credentials = Credentials::Join {
            trust: &self.trust,
            clock: &self.clock,
        };
        let channel = ManagerChannel::dial(&self.remote, credentials).await?;
        // 2. The request, with the token.
        let request = IssueNodeCertificateRequest {
            role: NodeRole::Worker.into(),
            csr: csr.as_bytes().to_vec(),
            token: self.token.as_bytes().to_vec(),
            availability: Availability::Active.into(),
        };
        let mut node_ca = channel.node_ca();
        let node_id = node_ca
            .issue_node_certificate(request)
            .await?
            .into_inner()
            .node_id;
        // 3. The certificate, which the manager holds the call for.
        let request = NodeCertificateStatusRequest { node_id };
        let answer = node_ca.node_certificate_status(request).await?.into_inner();
        let state = answer.status.unwrap_or_default().state();
        if state != IssuanceState::Issued {
            bail!("the certificate's state is {state:?}");
        }
        let certificate = answer.certificate.unwrap_or_default().certificate;
        ensure!(!certificate.is_empty(), "there is no certificate");
        Ok(())
    }
}

/// All joins, so many at once; how long each took.
async fn join_all(
    cluster: &Arc<Cluster>,
    at_once: usize,
    requests: Vec<String>,
) -> Result<Vec<Duration>> {
    let requests = Arc::new(requests);
    let next = Arc::new(AtomicUsize::new(0));
    let joiners: Vec<_> = (0..at_once)
        .map(|_| {
            let (cluster, requests, next) = (
                Arc::clone(cluster),
                Arc::clone(&requests),
                Arc::clone(&next),
            );
            tokio::spawn(async move {
                let mut latencies = Vec::new();
                while let Some(csr) = requests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begin = Instant::now();
                    tokio::time::timeout(PATIENCE, cluster.join(csr))
                        .await
                        .context("no certificate in time")??;
                    latencies.push(begin.elapsed());
                }
                anyhow::Ok(latencies)
            })
        })
        .collect();
    let mut latencies = Vec::with_capacity(requests.len());
    for joiner in joiners {
        latencies.extend(joiner.await??);
    }
    Ok(latencies)
}
