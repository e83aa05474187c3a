//! The daemon's log: to standard error, as text or JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// Overrides the level, with the directives of `tracing-subscriber`.
const VARIABLE: &str = "WAXSEAL_LOG";

/// How much is logged. `fatal` is dockerd's, where it means `error` without what is survived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Trace,
    Debug,
    #[default]
    Info,
    Warn,
    Error,
    Fatal,
}

/// In which form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What the log is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) level: Level,
    pub(super) format: LogFormat,
}

impl Log {
    /// Our own crates at the level asked for, libraries one step quieter: at their
    /// finest they tell of bytes, not of the cluster.
    fn directives(&self) -> &'static str {
        match self.level {
            Level::Trace => "debug,waxseal=trace",
            Level::Debug => "info,waxseal=debug",
            Level::Info => "warn,waxseal=info",
            Level::Warn => "warn",
            Level::Error | Level::Fatal => "error",
        }
    }
}

/// Starts logging.
pub(super) fn start(log: &Log) -> Result<(), Failure> {
    let filter = match std::env::var(VARIABLE) {
        Ok(directives) if !directives.is_empty() => {
            EnvFilter::try_new(&directives).map_err(|error| {
                Failure::usage(format!("{VARIABLE}: {error}"))
                    .hint("write it as info, or as info,waxseal_manager=debug")
            })?
        }
        _ => EnvFilter::new(log.directives()),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    started.map_err(|error| Failure::refused(format!("the log could not be started: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_understood() {
        for level in Level::value_variants() {
            let log = Log {
                level: *level,
                format: LogFormat::Text,
            };
            assert!(EnvFilter::try_new(log.directives()).is_ok(), "{level:?}");
        }
    }
}
