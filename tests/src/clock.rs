//! Wall clocks that are wrong, of single processes; their monotonic clocks are not.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use time::Duration;

use crate::{DaemonOptions, Scene, fault::CLOCK_VARIABLE, require};

/// Makes a process see times that are so far off: `-3h`, `+100d`.
///
/// # Errors
/// When the library that does it is missing.
pub fn clock_environment(offset: &str) -> Result<Vec<(&'static str, String)>> {
    require("faketime", "faketime")?;
    let library = fs::read_dir("/usr/lib")?
        .filter_map(Result::ok)
        .map(|entry| entry.path().join("faketime/libfaketime.so.1"))
        .find(|path| path.is_file())
        .context("libfaketime.so.1 is not below /usr/lib")?;
    Ok(vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAKETIME", offset.to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
    ])
}

/// The wall clock of a daemon that is set while it runs: libfaketime shows several threads the
/// true time now and then when it is told of another.
#[derive(Debug)]
pub struct DaemonClock {
    file: PathBuf,
}

impl DaemonClock {
    /// One that is so far off.
    ///
    /// # Errors
    /// When it cannot be set.
    pub fn new(scene: &Scene, name: &str, offset: Duration) -> Result<DaemonClock> {
        let file = scene.dir().join(format!("clock-{name}"));
        let clock = DaemonClock { file };
        clock.set(offset)?;
        Ok(clock)
    }

    /// Sets it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, offset: Duration) -> Result<()> {
        // Read at any moment, whole.
        let new = self.file.with_extension("new");
        fs::write(&new, offset.whole_seconds().to_string())?;
        fs::rename(&new, &self.file).with_context(|| self.file.display().to_string())
    }

    /// Sets it right.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_right(&self) -> Result<()> {
        self.set(Duration::ZERO)
    }

    /// For a daemon that is to have it.
    #[must_use]
    pub fn options(&self) -> DaemonOptions {
        DaemonOptions {
            faults: true,
            quiet: true,
            environment: vec![(CLOCK_VARIABLE, self.file.display().to_string())],
            ..DaemonOptions::default()
        }
    }
}
