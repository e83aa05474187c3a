//! Where one scenario plays.

use std::{
    fs,
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, anyhow, ensure};

use crate::{Dockerd, Machine, Waxseal, leftovers, mounts_below, processes_below};

/// The log in a daemon's directory.
pub(crate) const LOG: &str = "log";
/// So many lines of each log are shown of a scenario that failed.
const SHOWN_LINES: usize = 40;
/// So much of each of them.
const SHOWN_CHARS: usize = 300;

/// One scenario's scratch directory and addresses.
#[derive(Debug)]
pub struct Scene {
    dir: PathBuf,
    machine: &'static Machine,
}

/// Plays a scenario, and clears up behind it.
///
/// # Errors
/// What `play` returns, or that it left processes or mounts behind; the scratch directory
/// is kept then, and named.
pub fn scenario(name: &str, play: impl FnOnce(&Scene) -> Result<()>) -> Result<()> {
    let machine = Machine::look()?;
    let dir = tempfile::Builder::new()
        .prefix(&format!("wx-{name}."))
        .tempdir()?
        .keep();
    let scene = Scene { dir, machine };
    let played = catch_unwind(AssertUnwindSafe(|| play(&scene)));
    let outcome = match played {
        Ok(Ok(())) => scene.nothing_left(),
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(anyhow!("panicked: {}", panic_text(&*panic))),
    };
    leftovers::clear(&scene.dir);
    match outcome {
        Ok(()) => {
            fs::remove_dir_all(&scene.dir)?;
            Ok(())
        }
        Err(error) => {
            scene.show_logs();
            let kept = scene.dir.display();
            Err(error.context(format!(
                "scenario {name} failed; state and logs are kept in {kept}"
            )))
        }
    }
}

/// Whether operators are told a line of a log.
fn told(line: &&str) -> bool {
    !line.contains("TRACE") && !line.contains("DEBUG") && !line.contains("level=debug")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no text".to_owned())
}

impl Scene {
    /// The scratch directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The programs in use.
    #[must_use]
    pub fn machine(&self) -> &'static Machine {
        self.machine
    }

    /// A loopback address that nobody else on this machine uses.
    #[must_use]
    pub fn address(&self) -> Ipv4Addr {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // 16 bits of the process id keep runs apart that share the machine.
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let next = u8::try_from(next % 250 + 1).unwrap_or(1);
        Ipv4Addr::new(127, high | 0x80, low, next)
    }

    /// Starts a daemon of ours that logs at trace.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn waxseal(&self, name: &str) -> Result<Waxseal> {
        Waxseal::start(self, name, &crate::DaemonOptions::default())
    }

    /// Starts a stock engine with the image `bb:1`.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn dockerd(&self, name: &str) -> Result<Dockerd> {
        Dockerd::start(self, name, None)
    }

    /// What its daemons logged last, for who has the output of the tests only.
    fn show_logs(&self) {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for log in entries.map(|entry| entry.path().join(LOG)) {
            let Ok(text) = fs::read(&log) else {
                continue;
            };
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().rev().filter(told).take(SHOWN_LINES).collect();
            println!("--- the end of {}, without its details:", log.display());
            for line in lines.iter().rev() {
                println!("{}", line.chars().take(SHOWN_CHARS).collect::<String>());
            }
        }
    }

    fn nothing_left(&self) -> Result<()> {
        let left = processes_below(&self.dir)?;
        ensure!(left.is_empty(), "processes were left behind: {left:?}");
        let mounts = mounts_below(&self.dir)?;
        ensure!(mounts.is_empty(), "mounts were left behind: {mounts:?}");
        Ok(())
    }
}
