//! The two servers, each with a directory and an address of its own.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};
use waxseal_tests::{DaemonOptions, Engine, Running, Scene, eventually};

/// Until a server answers or stops.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a server that starts.
const PAUSE: Duration = Duration::from_millis(1);

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `waxseal daemon`.
    Ours,
    /// `dockerd` as the distribution has it.
    Stock,
}

/// A server at work. Dropped, it is stopped.
pub(crate) struct Server {
    pub(crate) side: Side,
    pub(crate) engine: Engine,
    address: Ipv4Addr,
    words: Vec<String>,
    dir: PathBuf,
    running: Option<Running>,
}

impl Server {
    /// Starts a server in a directory of that name and makes it the manager of a new cluster.
    pub(crate) fn start(
        scene: &Scene,
        side: Side,
        name: &str,
        is_autolocked: bool,
    ) -> Result<Server> {
        let server = Server::boot(scene, side, name, &DaemonOptions::default())?;
        server.found(is_autolocked)?;
        Ok(server)
    }

    /// Starts a server in a directory of that name, in no cluster yet; of the options, its address
    /// and what to wrap it into count.
    pub(crate) fn boot(
        scene: &Scene,
        side: Side,
        name: &str,
        options: &DaemonOptions,
    ) -> Result<Server> {
        let dir = scene.dir().join(format!("{name}-{side:?}"));
        fs::create_dir(&dir)?;
        let socket = dir.join("s");
        let mut server = Server {
            side,
            engine: Engine::new(&socket),
            address: options.address.unwrap_or_else(|| scene.address()),
            words: words(scene, side, &dir, &options.wrapper),
            dir,
            running: None,
        };
        server.launch()?;
        server.state(PATIENCE, "inactive")?;
        Ok(server)
    }

    /// Makes it the manager of a new cluster.
    pub(crate) fn found(&self, is_autolocked: bool) -> Result<()> {
        let remote = self.remote();
        let body = json!({
            "ListenAddr": remote,
            "AdvertiseAddr": remote,
            "Spec": {"EncryptionConfig": {"AutoLockManagers": is_autolocked}},
        });
        self.post("/swarm/init", &body)
    }

    /// Makes it another manager of a cluster.
    pub(crate) fn join(&self, first: &Server) -> Result<()> {
        let remote = self.remote();
        let body = json!({
            "ListenAddr": remote,
            "AdvertiseAddr": remote,
            "RemoteAddrs": [first.remote()],
            "JoinToken": first.token("Manager")?,
        });
        self.post("/swarm/join", &body)
    }

    /// Starts it and waits until it is locked.
    pub(crate) fn lock_up(&mut self) -> Result<()> {
        self.launch()?;
        self.state(PATIENCE, "locked").map(drop)
    }

    /// Opens its disk.
    pub(crate) fn unlock(&self, key: &str) -> Result<()> {
        self.post("/swarm/unlock", &json!({ "UnlockKey": key }))
    }

    fn post(&self, path: &str, body: &Value) -> Result<()> {
        let answer = self.engine.call("POST", path, Some(body))?;
        answer.expect(200).map(drop)
    }

    /// Starts the process and waits for nothing.
    pub(crate) fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the server runs already");
        self.running = Some(Running::start(&self.words, &[], &self.dir.join("log"))?);
        Ok(())
    }

    /// Waits for a local node state; how long that took.
    pub(crate) fn state(&self, patience: Duration, state: &str) -> Result<Duration> {
        let begin = Instant::now();
        loop {
            let now = self.engine.get("/info");
            match &now {
                Ok(info) if info["Swarm"]["LocalNodeState"] == state => return Ok(begin.elapsed()),
                _ if begin.elapsed() > patience => {
                    let running = self.running.as_ref().map(Running::tail).unwrap_or_default();
                    return now
                        .and_then(|info| anyhow::bail!("the state is {}", info["Swarm"]))
                        .with_context(|| running);
                }
                _ => std::thread::sleep(PAUSE),
            }
        }
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else {
            return Ok(());
        };
        running.signal(Signal::TERM)?;
        running.wait(PATIENCE)?;
        self.clear()
    }

    /// Ends it, however it is.
    pub(crate) fn end(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
        }
        self.clear()
    }

    fn clear(&self) -> Result<()> {
        // The engine's containerd ends by itself once the engine has.
        eventually("nothing is left", PATIENCE, || {
            let left = waxseal_tests::processes_below(&self.dir)?;
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(())
        })?;
        // One that was killed left its mounts to the one that was started after it.
        waxseal_tests::clear(&self.dir);
        Ok(())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the server does not run")?;
        running.kill()
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Result<u32> {
        Ok(self
            .running
            .as_ref()
            .context("the server does not run")?
            .pid())
    }

    /// Where managers and joiners reach it.
    pub(crate) fn remote(&self) -> String {
        format!("{}:2377", self.address)
    }

    /// The token of workers.
    pub(crate) fn worker_token(&self) -> Result<String> {
        self.token("Worker")
    }

    fn token(&self, role: &str) -> Result<String> {
        text(&self.engine.get("/swarm")?["JoinTokens"][role])
    }

    /// The unlock key.
    pub(crate) fn unlock_key(&self) -> Result<String> {
        text(&self.engine.get("/swarm/unlockkey")?["UnlockKey"])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("a server did not stop: {error:#}");
        }
    }
}

fn text(value: &Value) -> Result<String> {
    Ok(value.as_str().context("not a text")?.to_owned())
}

fn words(scene: &Scene, side: Side, dir: &Path, wrapper: &[String]) -> Vec<String> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut words = wrapper.to_vec();
    words.extend(match side {
        Side::Ours => vec![
            scene.machine().waxseal.display().to_string(),
            "daemon".to_owned(),
        ],
        Side::Stock => [
            &*scene.machine().dockerd.display().to_string(),
            "--iptables=false",
            "--ip6tables=false",
            "--ip-masq=false",
            "--ip-forward=false",
            "--bridge=none",
            "--userland-proxy=false",
        ]
        .map(str::to_owned)
        .to_vec(),
    });
    words.extend([
        format!("--data-root={}", path("data")),
        format!("--exec-root={}", path("exec")),
        format!("--pidfile={}", path("pid")),
        format!("--host=unix://{}", path("s")),
    ]);
    words
}

/// A server of each side; the order of the pair turns each round.
pub(crate) fn order(round: usize) -> [Side; 2] {
    match round % 2 {
        0 => [Side::Ours, Side::Stock],
        _ => [Side::Stock, Side::Ours],
    }
}
