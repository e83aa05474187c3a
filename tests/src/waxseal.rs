//! A daemon of ours.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::{Cli, Engine, Running, Scene, eventually, fault::SOCKET_VARIABLE, scene::LOG};

/// Name of the socket where faults are set.
const FAULT_SOCKET: &str = "fault";
/// Until a daemon answers.
const START: Duration = Duration::from_secs(20);
/// Until a daemon has stopped.
const STOP: Duration = Duration::from_secs(30);

/// What a daemon is started with beyond the defaults.
#[derive(Debug, Clone, Default)]
pub struct DaemonOptions {
    /// More words for the command line.
    pub arguments: Vec<String>,
    /// Data root other than `<scratch>/<name>/data`.
    pub data_root: Option<PathBuf>,
    /// Words before the program: a network namespace to enter, another user.
    pub wrapper: Vec<String>,
    /// More environment.
    pub environment: Vec<(&'static str, String)>,
    /// Whether its disk can be given faults, by a [`Fault`](crate::fault::Fault).
    pub faults: bool,
    /// Whether it logs at info only: for many runs, whose logs nobody searches.
    pub quiet: bool,
    /// Address other than a loopback address that nobody else has.
    pub address: Option<Ipv4Addr>,
}

/// A daemon of ours with directories of its own. Dropped, it is killed.
#[derive(Debug)]
pub struct Waxseal {
    /// Its address, free for listening.
    pub address: Ipv4Addr,
    /// The stock CLI at its socket.
    pub docker: Cli,
    /// Our CLI at its socket.
    pub cli: Cli,
    /// Plain calls.
    pub engine: Engine,
    words: Vec<String>,
    environment: Vec<(&'static str, String)>,
    dir: PathBuf,
    data_root: PathBuf,
    running: Option<Running>,
}

impl Waxseal {
    /// Starts a daemon and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn start(scene: &Scene, name: &str, options: &DaemonOptions) -> Result<Waxseal> {
        let mut daemon = Waxseal::prepare(scene, name, options)?;
        daemon.up()?;
        Ok(daemon)
    }

    /// A daemon that is not started yet.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn prepare(scene: &Scene, name: &str, options: &DaemonOptions) -> Result<Waxseal> {
        let dir = scene.dir().join(name);
        fs::DirBuilder::new().mode(0o755).create(&dir)?;
        let socket = dir.join("s");
        let data_root = options
            .data_root
            .clone()
            .unwrap_or_else(|| dir.join("data"));
        let path = |path: &Path| path.display().to_string();
        let program = match options.faults {
            true => scene.machine().waxseal_fault.clone(),
            false => scene.machine().waxseal.clone(),
        };
        let mut environment = options.environment.clone();
        if options.faults {
            environment.push((SOCKET_VARIABLE, path(&dir.join(FAULT_SOCKET))));
        }
        let mut words = options.wrapper.clone();
        words.extend([
            path(&program),
            "daemon".to_owned(),
            "-H".to_owned(),
            format!("unix://{}", socket.display()),
            "--data-root".to_owned(),
            path(&data_root),
            "--exec-root".to_owned(),
            path(&dir.join("exec")),
            "--pidfile".to_owned(),
            path(&dir.join("pid")),
            "--log-level".to_owned(),
            if options.quiet { "info" } else { "trace" }.to_owned(),
        ]);
        words.extend(options.arguments.iter().cloned());
        Ok(Waxseal {
            address: options.address.unwrap_or_else(|| scene.address()),
            docker: Cli::new(scene, &scene.machine().docker, &socket),
            cli: Cli::new(scene, &program, &socket),
            engine: Engine::new(&socket),
            words,
            environment,
            dir,
            data_root,
            running: None,
        })
    }

    /// Starts the process and waits until it answers.
    ///
    /// # Errors
    /// When it does not, with the end of its log.
    pub fn up(&mut self) -> Result<()> {
        self.launch()?;
        eventually("the daemon answers", START, || {
            if let Some(status) = self.running_mut()?.ended()? {
                bail!("the daemon ended with {status}");
            }
            self.engine.call("GET", "/_ping", None)?.expect(200)
        })
        .with_context(|| self.tail())?;
        Ok(())
    }

    /// Gives its next process a variable, in place of what it had.
    pub fn set_variable(&mut self, name: &'static str, value: String) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value));
    }

    /// Starts the process and does not wait.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "the daemon runs already");
        let environment: Vec<(&str, &str)> = self
            .environment
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        self.running = Some(Running::start(&self.words, &environment, &self.log())?);
        Ok(())
    }

    /// Waits for the end of a process that should end by itself; its exit code.
    ///
    /// # Errors
    /// When it still runs.
    pub fn ends(&mut self) -> Result<i32> {
        let status = self.running_mut()?.wait(START)?;
        self.running = None;
        status
            .code()
            .with_context(|| format!("the daemon ended with {status}"))
    }

    /// SIGTERM; it must end with 0.
    ///
    /// # Errors
    /// When it does not end in time or with another code.
    pub fn stop(&mut self) -> Result<()> {
        let running = self.running_mut()?;
        running.signal(Signal::TERM)?;
        let status = running.wait(STOP)?;
        self.running = None;
        ensure!(status.success(), "the daemon ended with {status}");
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running_mut()?.kill()?;
        self.running = None;
        Ok(())
    }

    /// SIGABRT; how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub fn aborted(&mut self) -> Result<ExitStatus> {
        let running = self.running_mut()?;
        running.signal(Signal::ABORT)?;
        let status = running.wait(STOP)?;
        self.running = None;
        Ok(status)
    }

    /// Stops and starts it.
    ///
    /// # Errors
    /// When one of both fails.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.up()
    }

    /// The process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self
            .running
            .as_ref()
            .context("the daemon does not run")?
            .pid())
    }

    /// Its directory: socket, pid file, log, and unless set otherwise the data root.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its data root.
    #[must_use]
    pub fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// Its exec root.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.dir.join("exec")
    }

    pub(crate) fn fault_socket(&self) -> PathBuf {
        self.dir.join(FAULT_SOCKET)
    }

    /// What it logged, at trace, in all its runs.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.running.as_ref().map(Running::tail).unwrap_or_default()
    }

    /// `ADDRESS:2377`.
    #[must_use]
    pub fn remote(&self) -> String {
        format!("{}:2377", self.address)
    }

    /// `docker swarm init` at its own address, with more words.
    ///
    /// # Errors
    /// When it fails.
    pub fn init(&self, words: &[&str]) -> Result<String> {
        let remote = self.remote();
        let mut all = vec![
            "swarm",
            "init",
            "--listen-addr",
            &remote,
            "--advertise-addr",
            &remote,
        ];
        all.extend(words);
        self.docker.ok(&all)
    }

    /// `docker swarm join` with a token, at its own address.
    ///
    /// # Errors
    /// When it fails.
    pub fn join(&self, token: &str, remote: &str) -> Result<String> {
        let own = self.remote();
        self.docker.ok(&[
            "swarm",
            "join",
            "--listen-addr",
            &own,
            "--advertise-addr",
            &own,
            "--token",
            token,
            remote,
        ])
    }

    /// The worker's join token.
    ///
    /// # Errors
    /// When it is not given.
    pub fn worker_token(&self) -> Result<String> {
        self.docker.ok(&["swarm", "join-token", "-q", "worker"])
    }

    /// The unlock key.
    ///
    /// # Errors
    /// When it is not given.
    pub fn unlock_key(&self) -> Result<String> {
        self.docker.ok(&["swarm", "unlock-key", "-q"])
    }

    /// `docker swarm unlock`.
    ///
    /// # Errors
    /// When the key does not open it.
    pub fn unlock(&self, key: &str) -> Result<String> {
        self.docker
            .ok_with_input(&["swarm", "unlock"], format!("{key}\n").as_bytes())
    }

    /// Waits for a local node state.
    ///
    /// # Errors
    /// When it stays another.
    pub fn reaches(&self, state: &str) -> Result<()> {
        eventually(format!("state {state}"), START, || {
            let info = self.engine.get("/info")?;
            let now = info["Swarm"]["LocalNodeState"].as_str().unwrap_or_default();
            ensure!(
                now == state,
                "state is {now:?}, error {}",
                info["Swarm"]["Error"]
            );
            Ok(())
        })
    }

    fn running_mut(&mut self) -> Result<&mut Running> {
        self.running.as_mut().context("the daemon does not run")
    }
}
