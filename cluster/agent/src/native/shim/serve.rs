//! A running task's shim: moves output to the log, answers daemons, and waits for the end.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::socket_peercred;
use rustix::process::WaitStatus;
use waxseal_ca::{Clock, SystemClock};
use waxseal_mount::{LockedPages, child_status, children, signals, start_time};

use super::super::cgroup;
use super::super::control::{self, MAX_LINE_BYTES, Reply, Request};
use super::super::frame::Launch;
use super::super::logs::{LineBuffer, LogStream, LogWriter};
use super::super::records::{self, ExitRecord, Meta, RECORD_FORMAT};
use super::Fault;
use super::child::{OUTCOME_BYTES, OUTCOME_SIGNALLED};
use super::start::Started;

/// Daemons and their calls at one time: one daemon has a few.
const MAX_CLIENTS: usize = 64;

/// How long output is waited for after the end: some other process may hold the pipe.
const DRAIN: Duration = Duration::from_secs(2);

/// Read from a pipe at once: what a pipe holds.
const CHUNK_BYTES: usize = 64 << 10;

/// How long the processes of a task without a pid namespace are killed.
const REAP: Duration = Duration::from_secs(5);

/// The longest sleep: poll(2) takes no longer ones on some kernels.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

struct Output {
    pipe: OwnedFd,
    stream: LogStream,
    lines: LineBuffer,
    open: bool,
}

struct Client {
    stream: UnixStream,
    line: Vec<u8>,
    waits: bool,
    open: bool,
}

/// A running task's shim.
pub(super) struct Server {
    launch: Launch,
    listener: UnixListener,
    signal_fd: signals::SignalFd,
    child: u32,
    pid_namespace: bool,
    outcome: OwnedFd,
    outputs: [Output; 2],
    log: LogWriter,
    clients: Vec<Client>,
    kill_at: Option<Instant>,
    /// When a daemon was last connected.
    last_contact: Instant,
    orphaned: bool,
    _pages: LockedPages,
}

impl Server {
    /// Takes over a child whose program runs, and records who it is.
    pub(super) fn new(
        launch: Launch,
        listener: UnixListener,
        started: Started,
    ) -> Result<Self, Fault> {
        let child = started.child;
        Self::try_new(launch, listener, started).map_err(|error| {
            let _ = signals::send(child.cast_signed(), libc::SIGKILL);
            Fault::failed("record the task", &error)
        })
    }

    fn try_new(launch: Launch, listener: UnixListener, started: Started) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let log = LogWriter::create(&launch.log_dir)?;
        let shim = std::process::id();
        records::write_meta(
            Path::new("."),
            &Meta {
                format: RECORD_FORMAT,
                task_id: launch.task_id.clone(),
                shim_pid: shim,
                shim_start: start_time(shim).ok_or(ErrorKind::NotFound)?,
                pid: started.main,
                // It may have ended already; then no process has this start.
                pid_start: start_time(started.main).unwrap_or_default(),
                boot_id: records::boot_id()?,
                notes: started.notes,
            },
        )?;
        let output = |pipe, stream| Output {
            pipe,
            stream,
            lines: LineBuffer::default(),
            open: true,
        };
        Ok(Self {
            outputs: [
                output(started.stdout, LogStream::Stdout),
                output(started.stderr, LogStream::Stderr),
            ],
            signal_fd: signals::SignalFd::new()?,
            child: started.child,
            pid_namespace: started.pid_namespace,
            outcome: started.outcome,
            _pages: started.pages,
            launch,
            listener,
            log,
            clients: Vec::new(),
            kill_at: None,
            last_contact: Instant::now(),
            orphaned: false,
        })
    }

    /// Serves until the task has ended and its record is on disk.
    pub(super) fn serve(mut self) -> ExitCode {
        let status = loop {
            if let Some(status) = self.reap() {
                break status;
            }
            if self.round(self.next_wake()).is_err() {
                // Without poll there is no shim; the task must not be left without one.
                self.kill();
            }
            self.keep_time();
        };
        self.end_rest();
        let deadline = Instant::now() + DRAIN;
        while self.outputs.iter().any(|output| output.open) && Instant::now() < deadline {
            if self.round(Some(deadline)).is_err() {
                break;
            }
        }
        for output in &mut self.outputs {
            let log = &mut self.log;
            output
                .lines
                .finish(|line| log.add(output.stream, SystemClock.now(), line));
        }
        self.log.flush();
        let record = self.record(status);
        if let Some(group) = &self.launch.cgroup {
            let _ = cgroup::remove(group);
        }
        if records::write_exit(Path::new("."), &record).is_err() {
            return ExitCode::FAILURE;
        }
        for client in self.clients.iter_mut().filter(|client| client.waits) {
            client.reply(&Reply::Ended(record.clone()));
        }
        ExitCode::SUCCESS
    }

    /// Takes the status of all that ended; the child's if it is among them.
    fn reap(&self) -> Option<WaitStatus> {
        let mut ended = None;
        while let Ok(Some((pid, status))) = child_status(None) {
            if pid == self.child {
                ended = Some(status);
            }
        }
        ended
    }

    /// Waits for something to happen, until `wake`, and deals with it.
    fn round(&mut self, wake: Option<Instant>) -> io::Result<()> {
        let ready = self.poll(wake)?;
        let [signals_ready, connects, outputs @ ..] = &ready.fixed;
        if *signals_ready {
            self.take_signals()?;
        }
        for (output, ready) in self.outputs.iter_mut().zip(outputs) {
            if *ready {
                output.read(&mut self.log);
            }
        }
        self.log.flush();
        for index in ready.clients {
            self.hear(index);
        }
        let before = self.clients.len();
        self.clients.retain(|client| client.open);
        if before != 0 {
            self.last_contact = Instant::now();
        }
        if *connects {
            self.accept();
        }
        Ok(())
    }

    fn poll(&self, wake: Option<Instant>) -> io::Result<Ready> {
        let wanted = |open: bool| {
            if open {
                PollFlags::IN
            } else {
                PollFlags::empty()
            }
        };
        let mut fds = vec![
            PollFd::from_borrowed_fd(self.signal_fd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        // A closed pipe would be ready for ever: it is polled no more.
        for output in self.outputs.iter().filter(|output| output.open) {
            fds.push(PollFd::from_borrowed_fd(output.pipe.as_fd(), PollFlags::IN));
        }
        for client in &self.clients {
            fds.push(PollFd::from_borrowed_fd(
                client.stream.as_fd(),
                wanted(client.open),
            ));
        }
        let timeout = wake.map(|wake| {
            let left = wake
                .saturating_duration_since(Instant::now())
                .min(LONGEST_SLEEP);
            Timespec::try_from(left).unwrap_or_default()
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut happened = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || happened.next().unwrap_or_default();
        let (signals, connects) = (next(), next());
        let [first, second] = &self.outputs;
        let first = first.open && next();
        let second = second.open && next();
        let clients = (0..self.clients.len()).filter(|_| next()).collect();
        Ok(Ready {
            fixed: [signals, connects, first, second],
            clients,
        })
    }

    fn next_wake(&self) -> Option<Instant> {
        let orphan = self.orphan_deadline();
        match (self.kill_at, orphan) {
            (Some(kill), Some(orphan)) => Some(kill.min(orphan)),
            (kill, orphan) => kill.or(orphan),
        }
    }

    fn orphan_deadline(&self) -> Option<Instant> {
        let after = Duration::from_millis(self.launch.orphan_stop_ms?);
        if self.orphaned || !self.clients.is_empty() {
            return None;
        }
        self.last_contact.checked_add(after)
    }

    fn keep_time(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.kill();
        }
        if self.orphan_deadline().is_some_and(|at| at <= now) {
            self.orphaned = true;
            self.stop(None, None);
        }
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signal_fd.take()? {
            // The child's end is found by `reap`; a wish that the shim ends is one for the task.
            if signal == libc::SIGTERM || signal == libc::SIGINT {
                self.stop(None, None);
            }
        }
        Ok(())
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else {
            return;
        };
        let ours = rustix::process::geteuid();
        let same = socket_peercred(&stream).is_ok_and(|peer| peer.uid == ours);
        if !same || self.clients.len() >= MAX_CLIENTS || stream.set_nonblocking(true).is_err() {
            return;
        }
        self.last_contact = Instant::now();
        self.clients.push(Client {
            stream,
            line: Vec::new(),
            waits: false,
            open: true,
        });
    }

    fn hear(&mut self, index: usize) {
        let requests = match self.clients.get_mut(index) {
            Some(client) => client.requests(),
            None => return,
        };
        for request in requests {
            let reply = match request {
                None => Some(Reply::Refused),
                Some(Request::Status) => Some(Reply::Running),
                Some(Request::Stop { signal, grace_ms }) => {
                    self.stop(signal, grace_ms.map(Duration::from_millis));
                    Some(Reply::Stopping)
                }
                Some(Request::Kill) => {
                    self.kill();
                    Some(Reply::Stopping)
                }
                Some(Request::Wait) => None,
            };
            let Some(client) = self.clients.get_mut(index) else {
                return;
            };
            match reply {
                Some(reply) => client.reply(&reply),
                None => client.waits = true,
            }
        }
    }

    fn stop(&mut self, signal: Option<i32>, grace: Option<Duration>) {
        let signal = signal.unwrap_or(self.launch.stop_signal);
        if signal == libc::SIGKILL {
            return self.kill();
        }
        let _ = signals::send(self.child.cast_signed(), signal);
        let grace = grace.unwrap_or(Duration::from_millis(self.launch.grace_ms));
        let at = Instant::now().checked_add(grace);
        // A second, shorter wish counts; a longer one does not prolong the first.
        self.kill_at = match (self.kill_at, at) {
            (Some(old), Some(new)) => Some(old.min(new)),
            (old, new) => old.or(new),
        };
    }

    fn kill(&self) {
        if let Some(group) = &self.launch.cgroup {
            let _ = cgroup::kill(group);
        }
        let _ = signals::send(self.child.cast_signed(), libc::SIGKILL);
    }

    /// Ends what is left of a task without a pid namespace: what became the shim's children.
    fn end_rest(&self) {
        if let Some(group) = &self.launch.cgroup {
            let _ = cgroup::kill(group);
        }
        let deadline = Instant::now() + REAP;
        while !self.pid_namespace && Instant::now() < deadline {
            let left = children().unwrap_or_default();
            if left.is_empty() {
                return;
            }
            for pid in left {
                let _ = signals::send(pid.cast_signed(), libc::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
            let _ = self.reap();
        }
    }

    fn record(&self, status: WaitStatus) -> ExitRecord {
        let mut outcome = [0; OUTCOME_BYTES];
        let told = rustix::io::read(&self.outcome, &mut outcome);
        let [kind, number @ ..] = outcome;
        let number = i32::from_le_bytes(number);
        let (code, signal) = match told {
            Ok(OUTCOME_BYTES) if kind == OUTCOME_SIGNALLED => (128 + number, Some(number)),
            Ok(OUTCOME_BYTES) => (number, None),
            _ => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => (code, None),
                (None, signal) => (128 + signal.unwrap_or_default(), signal),
            },
        };
        let oom = self
            .launch
            .cgroup
            .as_deref()
            .is_some_and(cgroup::out_of_memory);
        let message = oom.then(|| "the task was killed for want of memory".to_owned());
        ExitRecord {
            format: RECORD_FORMAT,
            code,
            signal,
            oom,
            message,
        }
    }
}

struct Ready {
    /// Signals, connections, standard output, standard error.
    fixed: [bool; 4],
    clients: Vec<usize>,
}

impl Output {
    fn read(&mut self, log: &mut LogWriter) {
        let mut chunk = vec![0; CHUNK_BYTES];
        match rustix::io::read(&self.pipe, &mut chunk) {
            Ok(0) => self.open = false,
            Ok(got) => {
                let (stream, now) = (self.stream, SystemClock.now());
                self.lines
                    .push(&chunk[..got], |line| log.add(stream, now, line));
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.open = false,
        }
    }
}

impl Client {
    /// The requests that have arrived whole; `None` for one that is not understood.
    fn requests(&mut self) -> Vec<Option<Request>> {
        let mut chunk = [0; MAX_LINE_BYTES];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.open = false,
            Ok(got) => self.line.extend_from_slice(&chunk[..got]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
        let mut requests = Vec::new();
        while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
            requests.push(serde_json::from_slice(&self.line[..end]).ok());
            self.line.drain(..=end);
        }
        if self.line.len() > MAX_LINE_BYTES {
            self.open = false;
        }
        requests
    }

    fn reply(&mut self, reply: &Reply) {
        let sent = control::line(reply).and_then(|line| self.stream.write_all(&line));
        self.open &= sent.is_ok();
    }
}
