//! `waxseal daemon`: flags and file become a configuration, which the daemon library runs.

mod file;
mod log;
mod settings;

use std::{io, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    Underlay,
    client::no_runtime,
    failure::{Failure, chain},
    memory,
};

pub(crate) use settings::Args;

/// Threads for disk syncs and file reads; syncs are batched, so few wait at once.
const MAX_BLOCKING_THREADS: usize = 32;

/// With fewer open files a manager of some thousand nodes has not enough.
const FEW_OPEN_FILES: u64 = 8192;

/// Runs a daemon until it is told to stop.
pub(crate) fn run(
    args: Args,
    hosts: Vec<String>,
    underlay: Underlay,
    hardened: io::Result<()>,
) -> Result<(), Failure> {
    hardened.map_err(|error| {
        Failure::refused(format!("this process could not be kept from others' eyes: {error}"))
            .hint("the kernel must allow prctl(PR_SET_DUMPABLE), RLIMIT_CORE and close_range (5.11 or newer)")
    })?;
    let clock = Arc::clone(&underlay.clock);
    let settings = settings::Settings::from_flags(args, hosts, underlay)?;
    if settings.is_only_checked {
        if let Some((_, files)) = &settings.daemon.tcp {
            let loaded = files.load(Arc::clone(&clock), settings.daemon.allow_tls12);
            loaded.map_err(|error| Failure::usage(chain(&error)))?;
        }
        return crate::output::line("the configuration is valid");
    }
    log::start(&settings.log)?;
    raise_open_files();
    memory::give_back();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores)
        .max_blocking_threads(MAX_BLOCKING_THREADS)
        .thread_name("waxseal")
        .on_thread_park(waxseal_autolock::scrub_registers)
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime.block_on(async {
        let signals = Signals::catch()?;
        waxseal_daemon::run(settings.daemon, clock, ready, signals.stop()).await.map_err(|error| {
            let failure = Failure::refused(chain(&error));
            match chain(&error).contains("ermission denied") {
                true => failure.hint("run as root, or give directories of your own with -H, --data-root and --exec-root"),
                false => failure,
            }
        })
    })
}

/// As many connections of nodes as this process may have.
fn raise_open_files() {
    let files = waxseal_agent::native::raise_open_files();
    if let Some(files) = files.filter(|files| *files < FEW_OPEN_FILES) {
        tracing::warn!(
            "this process may open {files} files at most, one for each node that it manages and some; \
             give it more (`ulimit -Hn`, LimitNOFILE= of its service) if there are many nodes"
        );
    }
}

/// Tells the service manager, if one asked to be told.
fn ready() {
    tracing::info!("ready");
    if let Err(error) = tell(sd_notify::NotifyState::Ready) {
        tracing::warn!(%error, "the service manager could not be told that this daemon is ready");
    }
}

fn tell(state: sd_notify::NotifyState<'_>) -> io::Result<()> {
    // An empty variable is none.
    match std::env::var_os("NOTIFY_SOCKET").is_some_and(|socket| !socket.is_empty()) {
        true => sd_notify::notify(&[state]),
        false => Ok(()),
    }
}

/// The signals that stop a daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on they are ours; before, they end the process at once.
    fn catch() -> Result<Signals, Failure> {
        let catch = |kind| {
            signal(kind)
                .map_err(|error| Failure::refused(format!("signals cannot be caught: {error}")))
        };
        Ok(Signals {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    async fn stop(mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("stopping, as SIGTERM asks"),
            _ = self.interrupt.recv() => tracing::info!("stopping, as SIGINT asks"),
        }
        // Best effort: the service manager learns of the stop by our end in any case.
        let _ = tell(sd_notify::NotifyState::Stopping);
    }
}
