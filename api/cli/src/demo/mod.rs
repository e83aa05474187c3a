//! `waxseal demo`: the main job on this machine, with the same daemons and calls as on real hosts.
//!
//! Everything lives under one temporary directory: state, sockets, logs. Whatever happens, what
//! was started is taken down again, in the order: members leave (their tasks end), daemons stop,
//! the directory goes. Every wait has an end.

mod check;
mod leftovers;
mod member;
mod steps;
mod story;

use std::path::Path;

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    client::no_runtime,
    failure::{Exit, Failure},
    output,
};
use leftovers::Leftovers;
use member::Member;
use story::Story;

/// Longest name of a directory that leaves room for a socket's name in it.
const MAX_DIR_BYTES: usize = 80;

/// See the main job on this machine: cluster, secret, task, lock, unlock; nothing is left behind
///
/// Starts a manager and a worker on 127.0.0.1 with directories of their own, creates a sealed
/// cluster, and runs a service that reads a secret from /run/secrets. Needs no set-up and no
/// root; without root, the kernel must allow user namespaces. Prints each step with its time and
/// the docker command that does the same.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep the daemons' logs also after success
    #[arg(long)]
    keep_logs: bool,
}

/// The machines of the demonstration.
struct Stage {
    dir: TempDir,
    manager: Member,
    worker: Member,
    leftovers: Leftovers,
}

pub(crate) fn run(args: Args, hosts: &[String]) -> Result<(), Failure> {
    if !hosts.is_empty() {
        return Err(
            Failure::usage("the demonstration brings its own daemons and takes no -H")
                .hint("run `waxseal demo` alone"),
        );
    }
    check::this_machine()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| no_runtime(&error))?;
    runtime.block_on(show(args))
}

async fn show(args: Args) -> Result<(), Failure> {
    let mut stop = Stop::catch()?;
    let dir = directory()?;
    let mut stage = Stage {
        manager: Member::new("manager", dir.path()),
        worker: Member::new("worker", dir.path()),
        leftovers: Leftovers::of(dir.path()),
        dir,
    };
    let mut story = Story::begin();
    let shown = tokio::select! {
        shown = steps::all(&mut stage, &mut story) => shown,
        () = stop.asked() => Err(Failure::refused("stopped before its end")),
    };
    // A daemon that is gone explains more than what was waited for.
    let shown = shown.map_err(|failure| {
        let mut members = [&mut stage.manager, &mut stage.worker].into_iter();
        members.find_map(Member::has_ended).unwrap_or(failure)
    });
    let is_stopped = stop.was_asked;
    // 1. Taken down, whatever happened. A signal now would only leave more behind: it is not heard.
    let torn_down = tear_down(&mut stage).await;
    // 2. The directory goes, but for the logs if something is to be read in them.
    let keep = (shown.is_err() && !is_stopped) || torn_down.is_err() || args.keep_logs;
    let logs = remove(stage.dir, keep)?;
    let logs_hint = |failure: Failure| match (&logs, &failure.hint) {
        (Some(logs), None) => {
            failure.hint(format!("the daemons' logs are kept in {}", logs.display()))
        }
        (Some(logs), Some(hint)) => {
            let hint = format!("{hint}; the daemons' logs are kept in {}", logs.display());
            failure.hint(hint)
        }
        (None, _) => failure,
    };
    match (shown, torn_down) {
        (Err(failure), _) if is_stopped => Err(failure.hint("nothing is left behind")),
        (Err(failure), _) => Err(logs_hint(story.failed(failure))),
        (Ok(()), Err(failure)) => Err(logs_hint(failure)),
        (Ok(()), Ok(())) => {
            if let (true, Some(logs)) = (args.keep_logs, &logs) {
                output::line(format!("the daemons' logs are in {}", logs.display()))?;
            }
            story.end()
        }
    }
}

/// Members leave, daemons stop; what went on without a daemon is ended.
async fn tear_down(stage: &mut Stage) -> Result<(), Failure> {
    stage.leftovers.look_for_tasks();
    stage.worker.tear_down().await;
    stage.manager.tear_down().await;
    stage.leftovers.end_shims().await;
    stage.leftovers.none()
}

/// A directory of our own; elsewhere if its name leaves no room for a socket's.
fn directory() -> Result<TempDir, Failure> {
    let usual = std::env::temp_dir();
    let parent = if usual.as_os_str().len() <= MAX_DIR_BYTES {
        &*usual
    } else {
        Path::new("/tmp")
    };
    tempfile::Builder::new()
        .prefix("waxseal-demo-")
        .tempdir_in(parent)
        .map_err(|error| {
            Failure::refused(format!(
                "no directory could be made in {}: {error}",
                parent.display()
            ))
            .hint("set TMPDIR to a directory that you may write")
        })
}

/// Removes the directory; answers where the logs are if they are kept.
fn remove(dir: TempDir, keep_logs: bool) -> Result<Option<std::path::PathBuf>, Failure> {
    let path = dir.path().to_owned();
    let failed = |error: std::io::Error| {
        Failure::refused(format!("{} could not be removed: {error}", path.display()))
            .hint(format!("remove it with `rm -r {}`", path.display()))
    };
    if !keep_logs {
        dir.close().map_err(failed)?;
        return Ok(None);
    }
    let kept = dir.keep();
    for entry in std::fs::read_dir(&kept).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        let is_log = entry
            .extension()
            .is_some_and(|extension| extension == "log");
        match entry.is_dir() {
            true => std::fs::remove_dir_all(&entry).map_err(failed)?,
            false if !is_log => std::fs::remove_file(&entry).map_err(failed)?,
            false => {}
        }
    }
    Ok(Some(kept))
}

/// The wish to end early: Ctrl-C, SIGTERM or a lost terminal.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    was_asked: bool,
}

impl Stop {
    fn catch() -> Result<Stop, Failure> {
        let catch = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Refused, format!("signals cannot be caught: {error}"))
            })
        };
        Ok(Stop {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
            was_asked: false,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
        self.was_asked = true;
    }
}
