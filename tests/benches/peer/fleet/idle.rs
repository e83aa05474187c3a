//! What sessions cost in which nothing happens but beats.

use std::time::{Duration, Instant};

use anyhow::Result;
use waxseal_tests::Scene;

use super::{Host, raise_descriptors};
use crate::{
    measure::{cpu, memory_kib},
    report::{self, Pairs},
    server::{Server, Side},
};

/// Sessions of both sides, and of ours alone.
const BOTH: usize = 1_000;
const OURS: usize = 10_000;
/// So many join at once.
const AT_ONCE: usize = 250;
/// KiB for each session that ours may take.
const TARGET: f64 = 60.0;
/// Until what the joins brought up has settled.
const SETTLE: Duration = Duration::from_secs(12);
/// For so long it is looked at what the sessions cost.
const SPAN: Duration = Duration::from_secs(20);

struct Idle {
    sessions: usize,
    /// Resident memory of the server, without sessions and with them.
    before_kib: u64,
    after_kib: u64,
    server_cpu: Duration,
    client_cpu: Duration,
    span: Duration,
}

impl Idle {
    fn each_kib(&self) -> f64 {
        (self.after_kib.saturating_sub(self.before_kib)) as f64 / self.sessions as f64
    }

    /// Percent of one processor.
    fn percent(&self, cpu: Duration) -> f64 {
        100.0 * cpu.as_secs_f64() / self.span.as_secs_f64()
    }
}

/// Memory and processor time per session.
pub(crate) fn idle(scene: &Scene) -> Result<()> {
    raise_descriptors(OURS)?;
    let mut pairs = Pairs::default();
    pairs.ours.push(stay(scene, Side::Ours, BOTH)?);
    pairs.other.push(stay(scene, Side::Stock, BOTH)?);
    let title = format!("memory for each of {BOTH} idle sessions");
    report::figure(&title, "KiB", &pairs, Some(TARGET), Idle::each_kib);
    let title = format!("processor time with {BOTH} idle sessions");
    report::figure(&title, "% of a core", &pairs, None, |idle: &Idle| {
        idle.percent(idle.server_cpu)
    });
    stay(scene, Side::Ours, OURS).map(drop)
}

fn stay(scene: &Scene, side: Side, sessions: usize) -> Result<Idle> {
    let server = Server::start(scene, side, &format!("fleet-idle{sessions}"), false)?;
    let pid = server.pid()?;
    std::thread::sleep(Duration::from_secs(1));
    let before_kib = memory_kib(pid, "VmRSS")?;
    let begin = Instant::now();
    let mut host = Host::gathered(&server, sessions, AT_ONCE, 1)?;
    eprintln!(
        "  {side:?}: {sessions} joined in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    host.rest(SETTLE);
    let times = || anyhow::Ok((cpu(pid)?, cpu(std::process::id())?, Instant::now()));
    let (server_before, client_before, begin) = times()?;
    host.rest(SPAN);
    let (server_after, client_after, end) = times()?;
    let idle = Idle {
        sessions,
        before_kib,
        after_kib: memory_kib(pid, "VmRSS")?,
        server_cpu: server_after.saturating_sub(server_before),
        client_cpu: client_after.saturating_sub(client_before),
        span: end - begin,
    };
    println!(
        "{side:?}, {sessions} idle sessions: {:.1} KiB each ({:.0} MiB with {:.0} MiB before), \
         server {:.1} % of a core, clients {:.1} %, sessions that broke {}",
        idle.each_kib(),
        idle.after_kib as f64 / 1024.0,
        idle.before_kib as f64 / 1024.0,
        idle.percent(idle.server_cpu),
        idle.percent(idle.client_cpu),
        host.fleet.tally.broken.get(),
    );
    Ok(idle)
}
