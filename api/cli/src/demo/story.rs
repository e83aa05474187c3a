//! What the demonstration tells: each step as it begins, its time and outcome when it is done.

use std::{future::Future, time::Duration};

use tokio::time::{Instant, timeout};

use crate::{
    failure::Failure,
    output::{self, shown},
};

/// No step may take longer, whatever it waits for.
const MAX_STEP: Duration = Duration::from_secs(30);

/// The steps so far.
pub(super) struct Story {
    began: Instant,
    number: u32,
    title: &'static str,
}

impl Story {
    pub(super) fn begin() -> Story {
        Story {
            began: Instant::now(),
            number: 0,
            title: "begin",
        }
    }

    /// Tells a step, does it, tells how it went. `command` is how it is done on real hosts.
    pub(super) async fn step<T>(
        &mut self,
        title: &'static str,
        command: &str,
        work: impl Future<Output = Result<Told<T>, Failure>>,
    ) -> Result<T, Failure> {
        self.number += 1;
        self.title = title;
        output::line(format!("{:>2}. {title}", self.number))?;
        output::line(format!("      $ {command}"))?;
        let began = Instant::now();
        let told = match timeout(MAX_STEP, work).await {
            Ok(told) => told?,
            Err(_) => {
                return Err(Failure::refused(format!(
                    "not done within {} s",
                    MAX_STEP.as_secs()
                )));
            }
        };
        for line in &told.lines {
            output::line(format!("      {}", shown(line)))?;
        }
        output::line(format!("      done in {}", seconds(began.elapsed())))?;
        Ok(told.value)
    }

    /// A failure, with the step it came from.
    pub(super) fn failed(&self, failure: Failure) -> Failure {
        let message = format!("step {} ({}): {}", self.number, self.title, failure.message);
        Failure { message, ..failure }
    }

    pub(super) fn end(&self) -> Result<(), Failure> {
        output::line(format!(
            "all {} steps in {}",
            self.number,
            seconds(self.began.elapsed())
        ))
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

/// What a step found, and what is told of it.
pub(super) struct Told<T> {
    value: T,
    lines: Vec<String>,
}

impl<T> Told<T> {
    pub(super) fn new(value: T, lines: impl IntoIterator<Item = String>) -> Told<T> {
        Told {
            value,
            lines: lines.into_iter().collect(),
        }
    }
}
