//! A stock Docker Engine.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::{
    Cli, Engine, NetworkNamespace, Running, Scene, Switch, eventually, leftovers, require, run,
    run_with_input, scene::LOG,
};

/// Until an engine answers.
const START: Duration = Duration::from_secs(40);
/// Until an engine has stopped with its containers.
const STOP: Duration = Duration::from_secs(40);

/// The image is in no registry, and there is none to ask.
const OFFLINE: &[(&str, &str)] = &[("DOCKER_SERVICE_PREFER_OFFLINE_IMAGE", "1")];
/// For engines that share this machine's network: it is left alone.
const NO_NETWORK: &[&str] = &[
    "--iptables=false",
    "--ip6tables=false",
    "--ip-masq=false",
    "--ip-forward=false",
    "--bridge=none",
    "--userland-proxy=false",
];

/// A stock engine with directories and a containerd of its own, and the image `bb:1`
/// (busybox). Dropped, it is killed.
#[derive(Debug)]
pub struct Dockerd {
    /// An address for it to advertise.
    pub address: Ipv4Addr,
    /// The stock CLI at its socket.
    pub docker: Cli,
    /// Plain calls.
    pub engine: Engine,
    program: Vec<String>,
    environment: &'static [(&'static str, &'static str)],
    network: &'static [&'static str],
    /// Generic resources that it offers.
    resources: Vec<String>,
    dir: PathBuf,
    running: Option<Running>,
}

impl Dockerd {
    /// Starts an engine, in a network namespace if one is given, and waits until it
    /// answers; imports the image.
    ///
    /// # Errors
    /// When it does not answer, with the end of its log.
    pub fn start(
        scene: &Scene,
        name: &str,
        namespace: Option<&NetworkNamespace>,
    ) -> Result<Dockerd> {
        Dockerd::start_with(scene, name, namespace, OFFLINE)
    }

    /// The same for an engine that asks registries for the images of services.
    ///
    /// # Errors
    /// When it does not answer, with the end of its log.
    pub fn start_pulling(scene: &Scene, name: &str) -> Result<Dockerd> {
        Dockerd::start_with(scene, name, None, &[])
    }

    /// The same for an engine that offers generic resources, `KIND=VALUE` each.
    ///
    /// # Errors
    /// When it does not answer, with the end of its log.
    pub fn start_offering(scene: &Scene, name: &str, resources: &[&str]) -> Result<Dockerd> {
        let mut engine = Dockerd::prepare(scene, name, None, OFFLINE)?;
        let flags = resources
            .iter()
            .map(|one| format!("--node-generic-resource={one}"));
        engine.resources = flags.collect();
        engine.up()?;
        engine.import_image()?;
        Ok(engine)
    }

    fn start_with(
        scene: &Scene,
        name: &str,
        namespace: Option<&NetworkNamespace>,
        environment: &'static [(&'static str, &'static str)],
    ) -> Result<Dockerd> {
        let mut engine = Dockerd::prepare(scene, name, namespace, environment)?;
        engine.up()?;
        engine.import_image()?;
        Ok(engine)
    }

    fn prepare(
        scene: &Scene,
        name: &str,
        namespace: Option<&NetworkNamespace>,
        environment: &'static [(&'static str, &'static str)],
    ) -> Result<Dockerd> {
        let dir = scene.dir().join(name);
        fs::create_dir(&dir)?;
        let socket = dir.join("s");
        let mut program = namespace.map(NetworkNamespace::enter).unwrap_or_default();
        program.push(scene.machine().dockerd.display().to_string());
        Ok(Dockerd {
            address: scene.address(),
            docker: Cli::new(scene, &scene.machine().docker, &socket),
            engine: Engine::new(&socket),
            program,
            environment,
            network: NO_NETWORK,
            resources: Vec::new(),
            dir,
            running: None,
        })
    }

    /// Starts an engine on a host of a switch, with a bridge of its own that it publishes
    /// ports from; imports the image.
    ///
    /// # Errors
    /// When it does not answer, with the end of its log.
    pub fn on_switch(scene: &Scene, name: &str, switch: &Switch, host: u8) -> Result<Dockerd> {
        let mut engine = Dockerd::prepare(scene, name, Some(switch.space(host)), OFFLINE)?;
        engine.address = switch.address(host);
        engine.network = &["--bip=172.31.7.1/24", "--ip6tables=false"];
        engine.up()?;
        engine.import_image()?;
        Ok(engine)
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn up(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the engine runs already");
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut words = self.program.clone();
        words.extend(
            ["--debug"]
                .iter()
                .chain(self.network)
                .map(|word| (*word).to_owned()),
        );
        words.extend_from_slice(&self.resources);
        words.extend([
            format!("--data-root={}", path("data")),
            format!("--exec-root={}", path("exec")),
            format!("--pidfile={}", path("pid")),
            format!("--host=unix://{}", path("s")),
        ]);
        let log = self.dir.join(LOG);
        self.running = Some(Running::start(&words, self.environment, &log)?);
        eventually("the engine answers", START, || {
            self.engine.call("GET", "/_ping", None)?.expect(200)
        })
        .with_context(|| self.running.as_ref().map(Running::tail).unwrap_or_default())?;
        Ok(())
    }

    /// SIGTERM: containers are stopped, the engine's containerd too.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn stop(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("the engine does not run")?;
        running.signal(Signal::TERM)?;
        let ended = running.wait(STOP);
        self.running = None;
        // It leaves mounts of network namespaces behind, and what it could not stop.
        leftovers::clear(&self.dir);
        ended.map(drop)
    }

    /// SIGKILL of the engine alone: its containers and their keepers live on.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let running = self.running.as_mut().context("the engine does not run")?;
        running.signal(Signal::KILL)?;
        running.wait(STOP)?;
        self.running = None;
        Ok(())
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `docker swarm join` as a worker.
    ///
    /// # Errors
    /// When it is refused.
    pub fn join(&self, token: &str, remote: &str) -> Result<String> {
        let words = self.join_words(token, remote);
        self.docker
            .ok(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The words of `docker swarm join` at its own address.
    #[must_use]
    pub fn join_words(&self, token: &str, remote: &str) -> Vec<String> {
        let own = self.address.to_string();
        let listen = format!("{own}:2377");
        [
            "swarm",
            "join",
            "--listen-addr",
            &listen,
            "--advertise-addr",
            &own,
            "--token",
            token,
            remote,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// Its node id, once it has one.
    ///
    /// # Errors
    /// When it is in no swarm.
    pub fn node_id(&self) -> Result<String> {
        let info = self.engine.get("/info")?;
        let id = info["Swarm"]["NodeID"].as_str().unwrap_or_default();
        ensure!(
            !id.is_empty(),
            "the engine is in no swarm: {}",
            info["Swarm"]
        );
        Ok(id.to_owned())
    }

    /// Ids of the running containers.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn containers(&self) -> Result<Vec<String>> {
        let ids = self.docker.ok(&["ps", "-q", "--no-trunc"])?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// `bb:1`: busybox with its applets, built here.
    fn import_image(&self) -> Result<()> {
        let limit = Duration::from_secs(60);
        let busybox = require("busybox", "busybox-static")?;
        let root = self.dir.join("rootfs");
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        fs::copy(busybox, bin.join("busybox"))?;
        for applet in [
            "sh", "cat", "echo", "ls", "sleep", "stat", "true", "id", "mount", "grep",
        ] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        let tar = run(
            Command::new("tar").arg("-C").arg(&root).args(["-c", "."]),
            limit,
        )?;
        ensure!(tar.code == 0, "tar: {}", tar.err());
        let output = run_with_input(
            Command::new("docker")
                .env(
                    "DOCKER_HOST",
                    format!("unix://{}", self.engine.socket().display()),
                )
                .args(["import", "-", "bb:1"]),
            &tar.stdout,
            limit,
        )?;
        ensure!(output.code == 0, "docker import: {}", output.err());
        fs::remove_dir_all(root)?;
        Ok(())
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        // Its containerd and containers go with a stop in order; the scene kills what stays.
        if self.running.is_some() {
            let _ = self.stop();
        }
    }
}
