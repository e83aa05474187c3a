//! Time, processor time and memory of one piece of work.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::server::Server;

/// What one side needed for one piece of work.
#[derive(Debug, Clone)]
pub(crate) struct Measured {
    /// How many were done.
    pub(crate) count: usize,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
    /// Of each, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Of the servers' processes.
    pub(crate) server_cpu: Duration,
    /// Of this process.
    pub(crate) client_cpu: Duration,
    /// The most memory that a server's process had meanwhile.
    pub(crate) peak_kib: u64,
}

impl Measured {
    /// Done per second.
    pub(crate) fn rate(&self) -> f64 {
        self.count as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that so many percent stayed below.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let at = (self.latencies.len() * percent / 100).min(last);
        self.latencies.get(at).copied().unwrap_or_default()
    }
}

/// Measures `work`, which answers how long each of its calls took. Of several servers, processor
/// time is that of all, memory that of the largest.
pub(crate) fn measure(
    servers: &[&Server],
    work: impl FnOnce() -> Result<Vec<Duration>>,
) -> Result<Measured> {
    let pids: Vec<u32> = servers
        .iter()
        .map(|server| server.pid())
        .collect::<Result<_>>()?;
    let all = || pids.iter().copied().map(cpu).sum::<Result<Duration>>();
    for pid in &pids {
        reset_peak(*pid)?;
    }
    let (server_before, client_before) = (all()?, cpu(std::process::id())?);
    let begin = Instant::now();
    let mut latencies = work()?;
    let elapsed = begin.elapsed();
    let (server_after, client_after) = (all()?, cpu(std::process::id())?);
    latencies.sort_unstable();
    ensure!(!latencies.is_empty(), "nothing was measured");
    let peaks = pids.iter().map(|pid| memory_kib(*pid, "VmHWM"));
    let peaks: Vec<u64> = peaks.collect::<Result<_>>()?;
    Ok(Measured {
        count: latencies.len(),
        elapsed,
        latencies,
        server_cpu: server_after.saturating_sub(server_before),
        client_cpu: client_after.saturating_sub(client_before),
        peak_kib: peaks.into_iter().max().unwrap_or_default(),
    })
}

/// User and system time of a process, in steps of the kernel's clock tick.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    // USER_HZ, which Linux fixes for everything it shows.
    const TICK: Duration = Duration::from_millis(10);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may have blanks: fields count from behind it, the state being the third.
    let fields = stat.rsplit(") ").next().unwrap_or_default();
    let mut times = fields.split(' ').skip(11);
    let mut next = || -> Result<u32> { Ok(times.next().context("stat is too short")?.parse()?) };
    let (user, system) = (next()?, next()?);
    Ok(TICK * (user + system))
}

/// A line of `/proc/PID/status` that is in KiB: `VmRSS`, `VmHWM`.
pub(crate) fn memory_kib(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

/// From now on the peak counts anew.
fn reset_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// The one in the middle of sorted values.
pub(crate) fn median<T: Copy>(sorted: &[T]) -> T {
    sorted[sorted.len() / 2]
}
