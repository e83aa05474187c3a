//! Waiting for the tasks of a service, and telling what they do.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Service, WaitArgs, tasks::Task};
use crate::{
    client::{Client, filters},
    failure::Failure,
    output::shown,
};

/// Time between two looks, as the stock CLI has it.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// For so long all tasks must have run.
const STEADY: Duration = Duration::from_secs(2);

/// What one look saw.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// So many tasks run of so many.
    Under { running: u64, wanted: u64 },
    /// The update stopped by itself.
    Stopped { message: String },
    /// All tasks of a job have completed.
    Completed,
    /// No task runs and none will: they ended and are not started again.
    Ended { error: Option<String> },
}

/// Waits until all tasks have run for a moment, unless told not to.
pub(super) async fn wait(client: &Client, id: &str, args: &WaitArgs) -> Result<(), Failure> {
    if args.detach {
        return Ok(());
    }
    let started = Instant::now();
    let mut told = Told {
        quiet: args.quiet,
        ..Told::default()
    };
    let mut steady_since: Option<Instant> = None;
    let mut ended_since: Option<Instant> = None;
    loop {
        let service: Service = Service::read(client, id).await?;
        let path = format!(
            "/tasks?{}",
            filters(&[("service", &[&service.id]), ("_up-to-date", &["true"])])
        );
        let tasks: Vec<Task> = client.get(&path).await?;
        told.tasks(&service, &tasks);
        let seen = look(&service, &tasks);
        let is_ended = matches!(seen, Look::Ended { .. });
        match seen {
            Look::Stopped { message } => {
                return Err(Failure::refused(format!("the update stopped: {}", shown(&message)))
                    .hint(format!("look with `waxseal service ps {0}`; `waxseal service update --rollback {0}` goes back", shown(service.name()))));
            }
            Look::Under { running, wanted } if running >= wanted => {
                let since = *steady_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STEADY || wanted == 0 {
                    told.line(&format!("all {wanted} tasks run"));
                    return Ok(());
                }
            }
            Look::Under { .. } => steady_since = None,
            Look::Completed => {
                told.line("the job is complete");
                return Ok(());
            }
            // A moment, since the next task may be on its way.
            Look::Ended { error } => {
                if ended_since.get_or_insert_with(Instant::now).elapsed() >= STEADY {
                    return ended(&service, error);
                }
            }
        }
        if !is_ended {
            ended_since = None;
        }
        if args
            .timeout
            .is_some_and(|timeout| started.elapsed() > timeout)
        {
            return Err(Failure::refused(
                "not all tasks run within the time given; they are tried on",
            )
            .hint(format!(
                "look with `waxseal service ps {}`",
                shown(service.name())
            )));
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            _ = tokio::signal::ctrl_c() => {
                told.line("this goes on in the background; `waxseal service ps` shows how");
                return Ok(());
            }
        }
    }
}

fn ended(service: &Service, error: Option<String>) -> Result<(), Failure> {
    let Some(error) = error else { return Ok(()) };
    let name = shown(service.name());
    Err(
        Failure::refused(format!("the tasks of {name} failed: {}", shown(&error))).hint(format!(
            "see what they printed with `waxseal service logs {name}`"
        )),
    )
}

fn look(service: &Service, tasks: &[Task]) -> Look {
    if let Some(update) = &service.update_status
        && matches!(update.state.as_str(), "paused" | "rollback_paused")
    {
        return Look::Stopped {
            message: update.message.clone(),
        };
    }
    if let Some(completions) = service.completions() {
        return look_at_job(completions, tasks);
    }
    let live: Vec<&Task> = tasks
        .iter()
        .filter(|task| {
            matches!(
                task.desired_state.as_str(),
                "running" | "ready" | "accepted"
            )
        })
        .collect();
    if live.is_empty() && service.replicas() != Some(0) {
        let failed = |task: &&Task| matches!(task.status.state.as_str(), "failed" | "rejected");
        let is_over = |task: &Task| task.status.state == "complete" || failed(&task);
        if !tasks.is_empty() && tasks.iter().all(is_over) {
            let error = tasks
                .iter()
                .find(failed)
                .map(|task| task.status.err.clone());
            return Look::Ended { error };
        }
    }
    let wanted = match service.replicas() {
        Some(replicas) => replicas,
        None => u64::try_from(live.len()).unwrap_or(u64::MAX).max(1),
    };
    let running = live
        .iter()
        .filter(|task| task.desired_state == "running" && task.status.state == "running")
        .count();
    Look::Under {
        running: u64::try_from(running).unwrap_or(u64::MAX),
        wanted,
    }
}

/// The tasks are those of the present iteration.
fn look_at_job(completions: Option<u64>, tasks: &[Task]) -> Look {
    let count = |what: &dyn Fn(&&Task) -> bool| {
        u64::try_from(tasks.iter().filter(what).count()).unwrap_or(u64::MAX)
    };
    let completed = count(&|task| task.status.state == "complete");
    let live = count(&|task| task.desired_state == "complete" && task.status.state != "complete");
    let wanted = completions.unwrap_or_else(|| completed.saturating_add(live).max(1));
    if completed >= wanted {
        return Look::Completed;
    }
    let failed = |task: &&Task| matches!(task.status.state.as_str(), "failed" | "rejected");
    match tasks.iter().rfind(failed) {
        Some(task) if live == 0 => Look::Ended {
            error: Some(task.status.err.clone()),
        },
        _ => Look::Under {
            running: completed,
            wanted,
        },
    }
}

/// What was told already, so that it is told once.
#[derive(Debug, Default)]
struct Told {
    quiet: bool,
    states: BTreeMap<String, String>,
}

impl Told {
    fn tasks(&mut self, service: &Service, tasks: &[Task]) {
        for task in tasks {
            let status = &task.status;
            let error = if status.err.is_empty() {
                String::new()
            } else {
                format!(": {}", status.err)
            };
            let state = format!("{}{error}", status.state);
            let told = self.states.insert(task.id.clone(), state.clone());
            if told.as_ref() != Some(&state) {
                let slot = if task.slot == 0 {
                    task.node_id.clone()
                } else {
                    task.slot.to_string()
                };
                self.line(&format!("{}.{slot} {state}", service.name()));
            }
        }
    }

    /// Beside the answer on standard output, so that this stays usable in scripts.
    fn line(&self, text: &str) {
        if !self.quiet {
            eprintln!("{}", shown(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn service(spec: serde_json::Value) -> Service {
        from_value(json!({"ID": "s", "Spec": spec})).unwrap()
    }

    fn task(desired: &str, state: &str) -> Task {
        from_value(json!({"ID": "t", "DesiredState": desired, "Status": {"State": state}})).unwrap()
    }

    #[test]
    fn only_tasks_that_are_to_run_count() {
        let service = service(json!({"Mode": {"Replicated": {"Replicas": 2}}}));
        let tasks = [
            task("running", "running"),
            task("shutdown", "running"),
            task("running", "starting"),
        ];
        assert_eq!(
            look(&service, &tasks),
            Look::Under {
                running: 1,
                wanted: 2
            }
        );
    }

    #[test]
    fn a_global_service_wants_what_it_has_and_at_least_one() {
        let service = service(json!({"Mode": {"Global": {}}}));
        assert_eq!(
            look(&service, &[]),
            Look::Under {
                running: 0,
                wanted: 1
            }
        );
        let tasks = [task("running", "running"), task("running", "running")];
        assert_eq!(
            look(&service, &tasks),
            Look::Under {
                running: 2,
                wanted: 2
            }
        );
    }

    #[test]
    fn tasks_that_ended_for_good_end_the_wait() {
        let service = service(json!({"Mode": {"Replicated": {"Replicas": 1}}}));
        let mut failed = task("shutdown", "failed");
        failed.status.err = "why".into();
        let error = Some("why".to_owned());
        assert_eq!(look(&service, &[failed]), Look::Ended { error });
        assert_eq!(
            look(&service, &[task("shutdown", "complete")]),
            Look::Ended { error: None }
        );
        // One that is to start again soon.
        let tasks = [task("shutdown", "failed"), task("ready", "ready")];
        let waiting = Look::Under {
            running: 0,
            wanted: 1,
        };
        assert_eq!(look(&service, &tasks), waiting);
        assert_eq!(look(&service, &[]), waiting);
    }

    #[test]
    fn a_job_is_waited_for_until_all_has_completed() {
        let job = service(json!({"Mode": {"ReplicatedJob": {"TotalCompletions": 2}}}));
        let mut failed = task("shutdown", "failed");
        failed.status.err = "why".into();
        let done = || task("complete", "complete");
        let waiting = |running, wanted| Look::Under { running, wanted };
        assert_eq!(look(&job, &[]), waiting(0, 2));
        assert_eq!(
            look(&job, &[done(), task("complete", "running")]),
            waiting(1, 2)
        );
        let error = Some("why".to_owned());
        assert_eq!(look(&job, &[done(), failed]), Look::Ended { error });
        // What failed once and was tried again is forgotten.
        let tasks = [done(), task("shutdown", "failed"), done()];
        assert_eq!(look(&job, &tasks), Look::Completed);
        let everywhere = service(json!({"Mode": {"GlobalJob": {}}}));
        assert_eq!(look(&everywhere, &[]), waiting(0, 1));
        let tasks = [done(), task("complete", "starting")];
        assert_eq!(look(&everywhere, &tasks), waiting(1, 2));
        assert_eq!(look(&everywhere, &[done(), done()]), Look::Completed);
    }

    #[test]
    fn a_paused_update_ends_the_wait() {
        let service: Service =
            from_value(json!({"UpdateStatus": {"State": "paused", "Message": "why"}})).unwrap();
        assert_eq!(
            look(&service, &[]),
            Look::Stopped {
                message: "why".into()
            }
        );
    }
}
