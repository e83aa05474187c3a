//! Native tasks on this machine: as root, again without root in a user namespace, and there once
//! more where the kernel refuses a fresh `/proc`.
//!
//! The binary is its own shim, daemon that dies, and other user, so it has its own `main`. Words on
//! the command line choose cases by name.

#![expect(clippy::unwrap_used, reason = "a test")]

mod basics;
mod covers;
mod lifetime;
mod secrecy;
mod support;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use support::{Case, Setting};

/// Debian's `nobody`.
const UNPRIVILEGED: u32 = 65534;

const AGAIN: &str = "--again-as-user";
const COVERED: &str = "--with-proc-covered";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("shim") => return waxseal_agent::native::shim_main(),
        Some(lifetime::DAEMON) => return lifetime::daemon_that_dies(&arguments[1..]),
        Some(covers::CONNECT) => return covers::connect(&arguments[1..]),
        Some(secrecy::STRANGER) => return secrecy::stranger(&arguments[1..]),
        _ => {}
    }
    // As a daemon does, which the executor must get along with.
    waxseal_mount::harden::harden_process().unwrap();
    let words: Vec<_> = arguments
        .iter()
        .filter(|word| !word.starts_with('-'))
        .cloned()
        .collect();
    let covered = arguments.iter().any(|word| word == COVERED);
    let again = covered || arguments.iter().any(|word| word == AGAIN);
    let setting = Setting {
        root: rustix::process::geteuid().is_root(),
        covered,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut failed = runtime.block_on(run(setting, &words));
    drop(runtime);
    if setting.root && !again {
        failed += usize::from(!as_user(&words, AGAIN, None));
        // A tmpfs over a part of /proc, in a mount namespace of its own, as containers have it.
        failed += usize::from(!as_user(&words, COVERED, Some("/proc/fs")));
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(setting: Setting, words: &[String]) -> usize {
    let chosen = [
        basics::CASES,
        covers::CASES,
        secrecy::CASES,
        lifetime::CASES,
    ]
    .concat();
    let chosen = chosen.into_iter().filter(|(name, case)| {
        case.fits(setting) && (words.is_empty() || words.iter().any(|word| name.contains(word)))
    });
    let mut failed = 0;
    for (name, case) in chosen {
        let began = Instant::now();
        let Case { run, .. } = case;
        let passed = tokio::spawn(run(setting)).await.is_ok();
        let verdict = if passed { "ok" } else { "FAILED" };
        println!(
            "{setting}: {name}: {verdict} ({} ms)",
            began.elapsed().as_millis()
        );
        failed += usize::from(!passed);
    }
    failed
}

/// Runs this binary again as an unprivileged user.
fn as_user(words: &[String], how: &str, cover: Option<&str>) -> bool {
    let id = UNPRIVILEGED.to_string();
    let mut again = match cover {
        None => {
            let mut again = Command::new("/proc/self/exe");
            again.uid(UNPRIVILEGED).gid(UNPRIVILEGED);
            again
        }
        Some(path) => {
            let script = format!("mount -t tmpfs none {path} && exec setpriv \"$@\"");
            let mut again = Command::new("unshare");
            again.args([
                "--mount", "sh", "-c", &script, "sh", "--reuid", &id, "--regid", &id,
            ]);
            again
                .args(["--clear-groups", "--"])
                .arg(std::env::current_exe().unwrap());
            again
        }
    };
    again.arg(how).args(words).current_dir("/");
    again.status().is_ok_and(|status| status.success())
}
