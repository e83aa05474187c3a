//! Status reports of one node, gathered into few commands.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prost::Message;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::task::TaskTracker;
use waxseal_cluster::{
    MAX_BATCH_BYTES, State, bound_task_status,
    objects::{Task, TaskReport, TaskStatus},
};
use waxseal_wire::{clean_name, clean_text};

use crate::error::ProposeError;

/// Bytes of reports in one command, so that it shares an entry with others; one
/// report is far smaller.
const COMMAND_BYTES: usize = MAX_BATCH_BYTES / 2;

type Written = Result<(), ProposeError>;
type Caller = oneshot::Sender<Written>;
/// One report of each task.
type Latest = BTreeMap<String, TaskReport>;

/// The reports that say something new of the node's own tasks, texts cut and
/// without what a terminal obeys. Others
/// are left out: an error would end the session, and what nobody applies is not
/// for the log.
pub(super) fn news(
    state: &State,
    node_id: &str,
    reports: impl Iterator<Item = TaskReport>,
) -> Vec<TaskReport> {
    let is_news = |mut report: TaskReport| {
        let status = report.status.as_mut()?;
        bound_task_status(status);
        clean_task_status(status);
        // Escapes are longer than what they stand for.
        bound_task_status(status);
        let task = state.task(&report.task_id)?;
        (task.node_id == node_id && !says_so_already(task, status)).then_some(report)
    };
    reports.filter_map(is_news).collect()
}

/// Events and clients show these as they are.
fn clean_task_status(status: &mut TaskStatus) {
    clean_text(&mut status.message);
    clean_text(&mut status.err);
    if let Some(container) = &mut status.container {
        clean_name(&mut container.container_id);
    }
}

fn says_so_already(task: &Task, status: &TaskStatus) -> bool {
    task.status.as_ref().is_some_and(|known| {
        // Whose word it is and since when is not the node's to say.
        let known = TaskStatus {
            applied_at: status.applied_at,
            applied_by: status.applied_by.clone(),
            ..known.clone()
        };
        known == *status
    })
}

/// Gathers reports; each caller returns only when its own have taken effect, or
/// with what kept them from it. Nothing is kept then: the node reports again.
///
/// Of each task the furthest state waits, so that no more wait than the node has
/// tasks. A task of its own writes, as a caller may go away at any moment while
/// others wait for the same command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<Queue>>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Latest,
    callers: Vec<Caller>,
    /// Whether a task writes; it looks at the queue once more before it ends.
    writing: bool,
    last_command: Option<Instant>,
}

impl Reports {
    /// Adds reports and sees to it that they are written, no sooner than `pause`
    /// after the node's command before.
    pub(crate) async fn add<F>(
        &self,
        reports: Vec<TaskReport>,
        pause: Duration,
        tasks: &TaskTracker,
        write: impl Fn(Vec<TaskReport>) -> F + Send + 'static,
    ) -> Written
    where
        F: Future<Output = Written> + Send + 'static,
    {
        let (caller, written) = oneshot::channel();
        let starts = {
            let mut queue = self.lock();
            for report in reports {
                queue.insert(report);
            }
            queue.callers.push(caller);
            !std::mem::replace(&mut queue.writing, true)
        };
        if starts {
            tasks.spawn(self.clone().write_waiting(pause, write));
        }
        // Gone without an answer: the manager stops.
        written.await.unwrap_or(Err(ProposeError::Stopped))
    }

    async fn write_waiting<F>(self, pause: Duration, write: impl Fn(Vec<TaskReport>) -> F)
    where
        F: Future<Output = Written> + Send,
    {
        loop {
            self.pause(pause).await;
            let Some((reports, callers)) = self.take() else {
                return;
            };
            let mut written = Ok(());
            for command in commands(reports.into_values()) {
                self.pause(pause).await;
                written = write(command).await;
                self.lock().last_command = Some(Instant::now());
                if written.is_err() {
                    break;
                }
            }
            for caller in callers {
                // It may have gone away; its reports are written all the same.
                let _ = caller.send(written.clone());
            }
        }
    }

    async fn pause(&self, pause: Duration) {
        let last = self.lock().last_command;
        if let Some(last) = last {
            tokio::time::sleep_until(last + pause).await;
        }
    }

    /// What is written next, and for whom; `None` if nobody waits, and then nobody
    /// writes any more.
    fn take(&self) -> Option<(Latest, Vec<Caller>)> {
        let mut queue = self.lock();
        if queue.callers.is_empty() {
            queue.writing = false;
            return None;
        }
        let Queue {
            waiting, callers, ..
        } = &mut *queue;
        Some((std::mem::take(waiting), std::mem::take(callers)))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn insert(&mut self, report: TaskReport) {
        let state = |report: &TaskReport| report.status.as_ref().map(|status| status.state);
        let further = self
            .waiting
            .get(&report.task_id)
            .is_some_and(|waiting| state(waiting) > state(&report));
        if !further {
            self.waiting.insert(report.task_id.clone(), report);
        }
    }
}

/// Divides reports into commands of at most [`COMMAND_BYTES`], in order.
fn commands(reports: impl Iterator<Item = TaskReport>) -> Vec<Vec<TaskReport>> {
    let mut commands = Vec::new();
    let mut command = Vec::new();
    let mut bytes = 0;
    for report in reports {
        let len = report.encoded_len();
        if !command.is_empty() && bytes + len > COMMAND_BYTES {
            commands.push(std::mem::take(&mut command));
            bytes = 0;
        }
        bytes += len;
        command.push(report);
    }
    if !command.is_empty() {
        commands.push(command);
    }
    commands
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use waxseal_cluster::objects::TaskState;

    use super::*;
    use crate::testing::World;

    const PAUSE: Duration = Duration::from_millis(100);

    fn report(id: &str) -> TaskReport {
        TaskReport {
            task_id: id.to_owned(),
            status: None,
        }
    }

    fn with_state(id: &str, state: TaskState) -> TaskReport {
        TaskReport {
            task_id: id.into(),
            status: Some(TaskStatus {
                state: state.into(),
                ..TaskStatus::default()
            }),
        }
    }

    type Shown = (Vec<TaskReport>, oneshot::Sender<Written>);

    /// A writer that shows each command; the test answers it.
    struct Writer {
        tasks: TaskTracker,
        commands: mpsc::UnboundedSender<Shown>,
    }

    impl Writer {
        fn new() -> (Writer, mpsc::UnboundedReceiver<Shown>) {
            let (commands, shown) = mpsc::unbounded_channel();
            let tasks = TaskTracker::new();
            (Writer { tasks, commands }, shown)
        }

        async fn add(&self, to: &Reports, reports: Vec<TaskReport>) -> Written {
            let commands = self.commands.clone();
            to.add(reports, PAUSE, &self.tasks, move |command| {
                let (answer, answered) = oneshot::channel();
                commands.send((command, answer)).unwrap();
                async move { answered.await.unwrap() }
            })
            .await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_command_fails_its_callers_and_not_the_next() {
        let reports = Reports::default();
        let (writer, mut commands) = Writer::new();
        let (failed, ()) = tokio::join!(writer.add(&reports, vec![report("a")]), async {
            let (_, answer) = commands.recv().await.unwrap();
            answer.send(Err(ProposeError::NoLeader)).unwrap();
        });
        assert!(matches!(failed, Err(ProposeError::NoLeader)));
        let (written, ()) = tokio::join!(writer.add(&reports, vec![report("b")]), async {
            let (command, answer) = commands.recv().await.unwrap();
            assert_eq!(command, [report("b")]);
            answer.send(Ok(())).unwrap();
        });
        written.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_goes_away_takes_no_other_report_with_it() {
        let reports = Reports::default();
        let (writer, mut commands) = Writer::new();
        let mut gone = Box::pin(writer.add(&reports, vec![report("a")]));
        assert!(futures::poll!(&mut gone).is_pending());
        let mut stays = Box::pin(writer.add(&reports, vec![report("b")]));
        assert!(futures::poll!(&mut stays).is_pending());
        let (command, answer) = commands.recv().await.unwrap();
        assert_eq!(command.len(), 2);
        drop(gone);
        assert!(futures::poll!(&mut stays).is_pending(), "not written yet");
        answer.send(Ok(())).unwrap();
        stays.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn of_one_task_the_furthest_state_is_written() {
        let reports = Reports::default();
        let (writer, mut commands) = Writer::new();
        let running = with_state("a", TaskState::Running);
        let many = vec![with_state("a", TaskState::Ready); 1_000];
        let (first, second, ()) = tokio::join!(
            writer.add(&reports, vec![running.clone()]),
            writer.add(&reports, many),
            async {
                let (command, answer) = commands.recv().await.unwrap();
                assert_eq!(command, [running]);
                answer.send(Ok(())).unwrap();
            }
        );
        first.unwrap();
        second.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn many_reports_take_several_commands_with_pauses_between() {
        let reports = Reports::default();
        let (writer, mut commands) = Writer::new();
        let start = Instant::now();
        let text = "m".repeat(1_000);
        let many = (0..1_000).map(|n| {
            let mut report = with_state(&n.to_string(), TaskState::Running);
            report.status.as_mut().unwrap().message.clone_from(&text);
            report
        });
        let answering = async {
            let (mut seen, mut count) = (0, 0);
            while seen < 1_000 {
                let (command, answer) = commands.recv().await.unwrap();
                let bytes: usize = command.iter().map(Message::encoded_len).sum();
                assert!(bytes <= COMMAND_BYTES, "{bytes}");
                seen += command.len();
                count += 1;
                answer.send(Ok(())).unwrap();
            }
            count
        };
        let (written, count) = tokio::join!(writer.add(&reports, many.collect()), answering);
        written.unwrap();
        assert!(count > 5, "{count}");
        assert_eq!(start.elapsed(), PAUSE * (count - 1));
    }

    #[test]
    fn only_news_of_own_tasks_is_kept() {
        let mut world = World::new();
        world.create_task("svc1", "t1", "w1", TaskState::Running);
        world.create_task("svc1", "t2", "w2", TaskState::Running);
        let news_of =
            |id: &str, state| news(&world.state, "w1", [with_state(id, state)].into_iter()).len();
        assert_eq!(news_of("t1", TaskState::Complete), 1);
        assert_eq!(news_of("t1", TaskState::Running), 0, "known");
        assert_eq!(news_of("t2", TaskState::Complete), 0, "another's");
        assert_eq!(news_of("t3", TaskState::Complete), 0, "nobody's");
        assert!(news(&world.state, "w1", [report("t1")].into_iter()).is_empty());
        let mut long = with_state("t1", TaskState::Failed);
        long.status.as_mut().unwrap().err = "e".repeat(100_000);
        let cut = news(&world.state, "w1", [long].into_iter());
        assert!(cut[0].encoded_len() < 2_000);
        let mut evil = with_state("t1", TaskState::Failed);
        evil.status.as_mut().unwrap().err = "one\n\x1b[2Jtwo".into();
        let shown = news(&world.state, "w1", [evil].into_iter());
        let shown = shown[0].status.as_ref().unwrap();
        assert_eq!(shown.err, "one\n\\u{1b}[2Jtwo");
    }

    #[tokio::test(start_paused = true)]
    async fn reports_that_wait_together_share_a_command() {
        let reports = Reports::default();
        let (writer, mut commands) = Writer::new();
        let start = Instant::now();
        let first = writer.add(&reports, vec![report("first")]);
        let answer_one = async {
            let (command, answer) = commands.recv().await.unwrap();
            answer.send(Ok(())).unwrap();
            command.len()
        };
        let (written, count) = tokio::join!(first, answer_one);
        written.unwrap();
        assert_eq!((count, start.elapsed()), (1, Duration::ZERO), "at once");
        let calls = (0..10).map(|n| writer.add(&reports, vec![report(&n.to_string())]));
        let answer_all = async {
            let (command, answer) = commands.recv().await.unwrap();
            answer.send(Ok(())).unwrap();
            command.len()
        };
        let (written, count) = tokio::join!(futures::future::join_all(calls), answer_all);
        assert!(written.into_iter().all(|written| written.is_ok()));
        assert_eq!((count, start.elapsed()), (10, PAUSE), "together");
    }
}
