//! A member of the demonstration: a daemon in a process of its own.

use std::{
    fs::OpenOptions,
    net::{Ipv4Addr, TcpListener},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::{sleep, timeout},
};

use crate::{client::Client, failure::Failure, socket::Socket, swarm};

/// A daemon answers within milliseconds; on a machine under load it may take longer.
const START: Duration = Duration::from_secs(10);
/// Tasks end within their grace period, 10 s unless told otherwise.
const LEAVE: Duration = Duration::from_secs(15);
/// A daemon that stops ends its calls and loops within its shutdown timeout.
const STOP: Duration = Duration::from_secs(10);
const SHUTDOWN_TIMEOUT_SECS: &str = "5";
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A daemon with its directories.
pub(super) struct Member {
    name: &'static str,
    dir: PathBuf,
    log: PathBuf,
    socket: Socket,
    child: Option<Child>,
}

impl Member {
    pub(super) fn new(name: &'static str, dir: &Path) -> Member {
        Member {
            name,
            dir: dir.join(name),
            log: dir.join(format!("{name}.log")),
            socket: Socket::at(dir.join(format!("{name}.sock"))),
            child: None,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::new(self.socket.clone())
    }

    /// How such a daemon is started by hand.
    pub(super) fn command(&self) -> String {
        format!(
            "waxseal daemon -H {} --data-root {}",
            self.socket,
            self.dir.join("data").display()
        )
    }

    /// Starts the daemon and waits until it answers.
    pub(super) async fn start(&mut self) -> Result<u32, Failure> {
        let failed = |error: std::io::Error| {
            Failure::refused(format!(
                "the {}'s daemon could not be started: {error}",
                self.name
            ))
        };
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed)?;
        let output = log.try_clone().map_err(failed)?;
        let mut command = std::process::Command::new("/proc/self/exe");
        command
            .arg0("waxseal")
            .arg("daemon")
            .arg("--host")
            .arg(self.socket.to_string())
            .arg("--data-root")
            .arg(self.dir.join("data"))
            .arg("--exec-root")
            .arg(self.dir.join("exec"))
            // The machine's own configuration is not the demonstration's.
            .arg("--config-file=/dev/null")
            .arg(format!("--shutdown-timeout={SHUTDOWN_TIMEOUT_SECS}"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(log)
            .env_remove("NOTIFY_SOCKET")
            // Ctrl-C is for the demonstration, which stops its daemons in order.
            .process_group(0);
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id().unwrap_or_default();
        let answered = timeout(START, async {
            while self
                .client()
                .get::<serde_json::Value>("/version")
                .await
                .is_err()
            {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(status);
                }
                sleep(LOOK_EVERY).await;
            }
            Ok(())
        });
        let answered = answered.await;
        self.child = Some(child);
        match answered {
            Ok(Ok(())) => Ok(pid),
            Ok(Err(status)) => Err(self.ended(status)),
            Err(_) => Err(Failure::refused(format!(
                "the {}'s daemon does not answer after {} s",
                self.name,
                START.as_secs()
            ))),
        }
    }

    fn ended(&self, status: ExitStatus) -> Failure {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log
            .lines()
            .rfind(|line| line.starts_with("error: "))
            .unwrap_or_default();
        let why = last
            .strip_prefix("error: ")
            .map(|why| format!(": {why}"))
            .unwrap_or_default();
        Failure::refused(format!("the {}'s daemon ended ({status}){why}", self.name))
    }

    /// How the daemon ended, if it did so by itself.
    pub(super) fn has_ended(&mut self) -> Option<Failure> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(self.ended(status))
    }

    /// Stops the daemon; its tasks go on.
    pub(super) async fn stop(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if let Some(pid) = pid(&child) {
            // It may have ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        match timeout(STOP, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(self.ended(status)),
            Ok(Err(error)) => Err(Failure::refused(format!(
                "the {}'s daemon could not be awaited: {error}",
                self.name
            ))),
            Err(_) => {
                // Dropped, it is killed; waited for, it is gone.
                let _ = child.kill().await;
                Err(Failure::refused(format!(
                    "the {}'s daemon did not stop within {} s and was killed",
                    self.name,
                    STOP.as_secs()
                )))
            }
        }
    }

    /// Leaves and stops, as far as there is something to leave or stop.
    pub(super) async fn tear_down(&mut self) {
        if self.child.is_none() {
            return;
        }
        // In no cluster, or not answering: both end with the stop.
        let _ = timeout(LEAVE, swarm::leave(&self.client(), true)).await;
        let _ = self.stop().await;
    }
}

fn pid(child: &Child) -> Option<Pid> {
    child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Pid::from_raw)
}

/// An address of this machine that nobody listens on.
pub(super) fn free_address() -> Result<String, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.to_string())
        .map_err(|error| Failure::refused(format!("no port is free on 127.0.0.1: {error}")))
}
