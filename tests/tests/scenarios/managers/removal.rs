//! Who is removed, demoted or leaves is cut off by every manager within a second.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{runtime::Runtime, time::timeout};
use tonic::Code;
use waxseal_ca::{Clock, LiveTls, NodeCredentials, NodeKey, SystemClock, TrustBundle};
use waxseal_tests::{Engine, Managers, Waxseal, eventually, node_id, scenario};
use waxseal_wire::{
    Credentials, ManagerChannel,
    swarmkit::HeartbeatRequest,
    waxseal::{MembersRequest, ReadIndexRequest},
};

use super::SOON;

/// Issue 3: removal acts at once.
const AT_ONCE: Duration = Duration::from_secs(1);
/// How often the machine is asked whether it stands still.
const TICK: Duration = Duration::from_millis(5);

/// Measures for how long this process got no processor: that is nobody's fault.
struct Stalls {
    stop: Arc<AtomicBool>,
    longest: Arc<AtomicU64>,
}

impl Stalls {
    fn watch() -> Stalls {
        let stalls = Stalls {
            stop: Arc::default(),
            longest: Arc::default(),
        };
        let (stop, longest) = (Arc::clone(&stalls.stop), Arc::clone(&stalls.longest));
        thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                thread::sleep(TICK);
                let late = begin.elapsed().saturating_sub(TICK).as_millis();
                longest.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        stalls
    }

    fn end(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}

/// Whoever took a node's key and certificate from its disk.
struct Double {
    tls: Arc<LiveTls>,
    remotes: Vec<String>,
    channels: Vec<ManagerChannel>,
    is_manager: bool,
}

impl Double {
    /// Connected as `node` to each of the managers.
    async fn of(node: &Waxseal, managers: &[&Waxseal], is_manager: bool) -> Result<Double> {
        let dir = node.data_root().join("swarm/certificates");
        let read = |name: &str| fs::read(dir.join(name)).with_context(|| name.to_owned());
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let now = clock.now();
        let trust = TrustBundle::from_pem(&read("swarm-root-ca.crt")?, now)?;
        let key = String::from_utf8(read("swarm-node.key")?)?;
        let end = "-----END PRIVATE KEY-----";
        let (key, _) = key.split_once(end).context("no plain key")?;
        let key = NodeKey::from_pkcs8_pem(format!("{key}{end}\n").as_bytes())?;
        let chain = read("swarm-node.crt")?;
        let credentials = NodeCredentials::new(&chain, key, &trust, now)?;
        let tls = LiveTls::new(Arc::new(trust), Some(credentials), clock);
        let mut double = Double {
            tls,
            remotes: managers.iter().map(|manager| manager.remote()).collect(),
            channels: Vec::new(),
            is_manager,
        };
        for remote in &double.remotes {
            let channel = ManagerChannel::dial(remote, Credentials::Member(&double.tls)).await?;
            ensure!(!double.is_refused(&channel).await?, "refused before");
            double.channels.push(channel);
        }
        Ok(double)
    }

    /// Whether a call is refused for who makes it.
    async fn is_refused(&self, channel: &ManagerChannel) -> Result<bool> {
        let code = match self.is_manager {
            true => {
                let asked = channel.control().members(MembersRequest::default()).await;
                asked.err().map(|status| status.code())
            }
            false => {
                let beat = HeartbeatRequest::default();
                let beaten = channel.dispatcher().heartbeat(beat).await;
                beaten.err().map(|status| status.code())
            }
        };
        let refused = [
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::NotFound,
        ];
        Ok(code.is_some_and(|code| refused.contains(&code)))
    }

    /// When the last of its connections ended, and that no new one is of use from then on.
    async fn cut_off(self) -> Result<Instant> {
        let mut last = Instant::now();
        for channel in &self.channels {
            timeout(SOON, channel.closed())
                .await
                .context("it stays open")?;
            last = last.max(Instant::now());
        }
        for remote in &self.remotes {
            let dialled = ManagerChannel::dial(remote, Credentials::Member(&self.tls)).await;
            if let Ok(channel) = dialled {
                let answer = channel
                    .control()
                    .read_index(ReadIndexRequest::default())
                    .await;
                ensure!(answer.is_err(), "{remote} answers a manager's call");
                ensure!(self.is_refused(&channel).await?, "{remote} takes a call");
            }
        }
        Ok(last)
    }
}

/// Does it, and says how long after the answer the node was cut off.
fn acts_at_once(
    runtime: &Runtime,
    what: &str,
    double: Double,
    act: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let stalls = Stalls::watch();
    let watching = runtime.spawn(double.cut_off());
    act()?;
    let answered = Instant::now();
    let cut_off = runtime.block_on(watching)?.context(what.to_owned())?;
    let took = cut_off.saturating_duration_since(answered);
    let stalled = stalls.end();
    println!("{what}: cut off {took:?} after the answer; the machine stood still for {stalled:?}");
    ensure!(
        took < AT_ONCE + stalled,
        "{what}: {took:?}, stalls of {stalled:?}"
    );
    Ok(())
}

fn remove(engine: &Engine, id: &str) -> Result<()> {
    let answer = engine.call("DELETE", &format!("/nodes/{id}?force=true"), None)?;
    answer.expect(200).map(drop)
}

#[test]
fn removal_demotion_and_leave_act_at_once_on_every_manager() -> Result<()> {
    scenario("cut-off", |scene| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let group = Managers::start(scene, 3, &[])?;
        let worker = scene.waxseal("worker")?;
        worker.join(&group.nodes[0].worker_token()?, &group.nodes[0].remote())?;
        let [first, second] = group.followers()?[..] else {
            anyhow::bail!("not two followers");
        };
        let leader = group.leader(first)?;
        // 1. A worker is removed, asked of a follower.
        let all: Vec<&Waxseal> = group.nodes.iter().collect();
        let double = runtime.block_on(Double::of(&worker, &all, false))?;
        let id = node_id(&worker.engine)?;
        acts_at_once(&runtime, "node rm", double, || {
            remove(&group.nodes[first].engine, &id)
        })?;
        worker.docker.ok(&["swarm", "leave"])?;
        // 2. A manager is demoted.
        let others = [&group.nodes[leader], &group.nodes[second]];
        let double = runtime.block_on(Double::of(&group.nodes[first], &others, true))?;
        let id = node_id(&group.nodes[first].engine)?;
        acts_at_once(&runtime, "node demote", double, || {
            let demote = ["node", "demote", &id];
            eventually("it is demoted", SOON, || {
                group.nodes[leader].docker.ok(&demote).map(drop)
            })
        })?;
        eventually("it is a worker", SOON, || {
            let info = group.nodes[first].engine.get("/info")?;
            ensure!(info["Swarm"]["ControlAvailable"] == false, "a manager");
            Ok(())
        })?;
        // 3. A manager leaves.
        let others = [&group.nodes[leader]];
        let double = runtime.block_on(Double::of(&group.nodes[second], &others, true))?;
        acts_at_once(&runtime, "swarm leave", double, || {
            let leave = ["swarm", "leave", "--force"];
            group.nodes[second].docker.ok(&leave).map(drop)
        })
    })
}
