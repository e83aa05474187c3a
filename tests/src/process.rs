//! Child processes: bounded runs, and daemons with their output in a file.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::Output;

/// Between two looks at a child.
const PAUSE: Duration = Duration::from_millis(5);

/// Runs a command to its end, without input.
///
/// # Errors
/// When it cannot be started or is not done within `limit`; it is killed then.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    run_with_input(command, &[], limit)
}

/// Runs a command to its end, with `input` on its standard input.
///
/// # Errors
/// When it cannot be started or is not done within `limit`; it is killed then.
pub fn run_with_input(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {name}"))?;
    let begin = Instant::now();
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A child that does not read ends the pipe; that is its business.
        thread::spawn(move || stdin.write_all(&input));
    }
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if begin.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            let said = String::from_utf8_lossy(&rest(&stderr)).into_owned();
            bail!("{name} did not end within {limit:?}; it was killed; it had said: {said}");
        }
        thread::sleep(PAUSE);
    };
    Ok(Output {
        code: status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: rest(&stdout),
        stderr: rest(&stderr),
    })
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        sender.send(bytes)
    });
    receiver
}

/// What was read; a grandchild that holds the pipe is not waited for long.
fn rest(receiver: &mpsc::Receiver<Vec<u8>>) -> Vec<u8> {
    receiver
        .recv_timeout(Duration::from_secs(5))
        .unwrap_or_default()
}

/// A daemon that runs, its output appended to a file. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a program, given by its words; it dies with the thread that started it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(words: &[String], environment: &[(&str, &str)], log: &Path) -> Result<Running> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(words);
        command.envs(environment.iter().copied());
        Running::start_command(&mut command, log)
    }

    /// Starts a command as it is.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_command(command: &mut Command, log: &Path) -> Result<Running> {
        let output = OpenOptions::new().create(true).append(true).open(log)?;
        let name = describe(command);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Running {
            child,
            log: log.to_owned(),
        })
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("send {signal:?} to {}", self.pid()))
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// Of wait(2).
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if begin.elapsed() > limit {
                bail!(
                    "process {} still runs after {limit:?}; its log: {}",
                    self.pid(),
                    self.tail()
                );
            }
            thread::sleep(PAUSE);
        }
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// Of wait(2).
    pub fn kill(&mut self) -> Result<()> {
        let _ = self.child.kill();
        self.child.wait()?;
        Ok(())
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The last lines of a file.
fn tail(path: &Path) -> String {
    const BYTES: usize = 2000;
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(BYTES)..]).into_owned()
}
