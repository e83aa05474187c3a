//! Writes and reads of a manager, wherever the leader is.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, watch},
    time::{self, Instant},
};
use tokio_util::task::TaskTracker;
use tonic::Code;
#[cfg(test)]
use waxseal_ca::Clock;
use waxseal_cluster::{
    Applied, CodecError, MAX_COMMAND_BYTES, State, Wiped, decode_command, encode_command, timestamp,
};
use waxseal_raft_store::Member;
use waxseal_wire::{
    Course, ToLeader,
    swarmkit::{LogSelector, LogSubscriptionOptions},
    waxseal::{ProposeRequest, ReadIndexRequest},
};

use super::{
    fate::{self, Fate},
    logs::{self, LogsError},
    outcome::{self, Told},
    reads::{ReadError, Rounds},
};
#[cfg(test)]
use crate::pulse::Pulse;
use crate::{
    error::ProposeError,
    leadership::Leader,
    log_broker::LogLines,
    proposer::{Proposer, Rejected},
    raft::RaftId,
    timekeeping::Timekeeper,
};

type Metrics = openraft::RaftMetrics<RaftId, Member>;

/// Time for a leader to be found (requirements of the API: then there is none).
const LEADER_WAIT: Duration = Duration::from_secs(5);
/// Pause before a leader is tried again that did not propose.
const PAUSE: Duration = Duration::from_millis(20);
/// Time for this manager to apply what the leader has.
const APPLY_WAIT: Duration = Duration::from_secs(5);
/// Time for the leader to carry a command out: longer than it tries itself.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Bytes of commands on their way to the leader at once; less than its door takes of
/// a manager ([`waxseal_wire::limits::REQUEST_BYTES_PER_MANAGER`]).
const BYTES_ON_THE_WAY: usize = 32 * 1024 * 1024;
const _: () = assert!(
    BYTES_ON_THE_WAY < waxseal_wire::limits::REQUEST_BYTES_PER_MANAGER
        && MAX_COMMAND_BYTES < BYTES_ON_THE_WAY
);

/// The managers together, as one of them sees it.
pub(crate) struct Group {
    proposer: Proposer,
    state: Arc<RwLock<State>>,
    leader: watch::Receiver<Leader>,
    course: watch::Receiver<Course>,
    /// Absent in tests of single parts.
    metrics: Option<watch::Receiver<Metrics>>,
    rounds: Rounds,
    on_the_way: Semaphore,
    lease: Box<Lease>,
    time: Arc<Timekeeper>,
}

/// Whether no other manager can have been elected yet, while this one leads.
pub(crate) type Lease = dyn Fn() -> bool + Send + Sync;

/// One try at having a command carried out.
enum Attempt {
    Ended(Result<Applied, ProposeError>),
    /// It certainly took no effect.
    NotProposed(Wiped),
    /// Nor did it here, as the leader's disk is full; why.
    NoRoom(Wiped, String),
    Unknown(Wiped),
}

impl Group {
    pub(crate) fn new(
        proposer: Proposer,
        state: Arc<RwLock<State>>,
        leader: watch::Receiver<Leader>,
        course: watch::Receiver<Course>,
        metrics: watch::Receiver<Metrics>,
        lease: Box<Lease>,
        time: Arc<Timekeeper>,
    ) -> Group {
        Group {
            proposer,
            state,
            leader,
            course,
            metrics: Some(metrics),
            rounds: Rounds::default(),
            on_the_way: Semaphore::new(BYTES_ON_THE_WAY),
            lease,
            time,
        }
    }

    /// One whose manager leads and writes nothing.
    #[cfg(test)]
    pub(crate) fn ended(state: Arc<RwLock<State>>, clock: Arc<dyn Clock>) -> Group {
        let time = Timekeeper::new(clock, Pulse::new(), Arc::clone(&state));
        Group {
            proposer: Proposer::ended(),
            state,
            leader: watch::channel(Leader::Me { term: 1 }).1,
            course: watch::channel(Course::Here).1,
            metrics: None,
            rounds: Rounds::default(),
            on_the_way: Semaphore::new(BYTES_ON_THE_WAY),
            lease: Box::new(|| true),
            time: Arc::new(time),
        }
    }

    /// Whether this manager leads, with everything acknowledged applied, and its clock is
    /// the one that the others know.
    pub(crate) fn leads(&self) -> bool {
        matches!(*self.leader.borrow(), Leader::Me { .. }) && self.time.is_steady()
    }

    /// The time for a command that is about to be proposed.
    pub(crate) fn stamp(&self) -> ::time::OffsetDateTime {
        match self.leads() {
            true => self.time.stamp(),
            // The leader puts its own there.
            false => self.time.now(),
        }
    }

    /// The clock.
    pub(crate) fn time(&self) -> &Timekeeper {
        &self.time
    }

    /// Whether this manager leads and its state has everything that was acknowledged
    /// before now: no other can have acknowledged anything.
    pub(crate) fn holds_lease(&self) -> bool {
        self.leads() && (self.lease)()
    }

    /// The managers, by node id, with their addresses, as the newest membership has them.
    pub(crate) fn managers(&self) -> Vec<Member> {
        let Some(metrics) = &self.metrics else {
            return Vec::new();
        };
        let metrics = metrics.borrow();
        let mut members: Vec<_> = metrics.membership_config.nodes().collect();
        members.sort_by_key(|(_, member)| &member.node_id);
        members
            .into_iter()
            .map(|(_, member)| member.clone())
            .collect()
    }

    /// Completes when the managers are not `known` any more.
    pub(crate) async fn managers_changed(&self, known: &[Member]) {
        let Some(mut metrics) = self.metrics.clone() else {
            return std::future::pending().await;
        };
        while self.managers() == known {
            if metrics.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Makes an encoded command durable and applies it, here as well.
    pub(crate) async fn propose(&self, command: Wiped) -> Result<Applied, ProposeError> {
        let attempt = match self.leads() {
            true => self.propose_here(command).await,
            false => Attempt::NotProposed(command),
        };
        match attempt {
            Attempt::Ended(outcome) => outcome,
            // Seldom, and large as a future.
            other => Box::pin(self.propose_somewhere(other)).await,
        }
    }

    /// As [`Group::propose`], but by this manager or not at all.
    pub(crate) async fn propose_as_leader(&self, command: Wiped) -> Result<Applied, Rejected> {
        if !self.leads() {
            return Err(Rejected::NotProposed(command));
        }
        self.proposer.propose(command).await
    }

    /// The command, with the time that it is now.
    pub(crate) fn stamped(&self, command: &[u8]) -> Result<Wiped, CodecError> {
        let mut command = decode_command(command)?;
        command.time = Some(timestamp(self.stamp()));
        encode_command(&command)
    }

    async fn propose_here(&self, command: Wiped) -> Attempt {
        // The others may not have noticed yet that the clock is wrong.
        if !self.time.is_steady() {
            return Attempt::NotProposed(command);
        }
        match self.proposer.propose(command).await {
            Ok(applied) => Attempt::Ended(Ok(applied)),
            Err(Rejected::NotProposed(command)) => Attempt::NotProposed(command),
            Err(Rejected::NoRoom { reason, .. }) if self.managers().len() < 2 => {
                Attempt::Ended(Err(ProposeError::NoSpace { reason }))
            }
            Err(Rejected::NoRoom { command, reason }) => Attempt::NoRoom(command, reason),
            Err(Rejected::Unknown(command)) => Attempt::Unknown(command),
            Err(Rejected::Failed(error)) => Attempt::Ended(Err(error)),
        }
    }

    /// Tries until the command took effect, was refused, or that cannot be told. It is
    /// proposed again only when it certainly is not to take effect any more.
    async fn propose_somewhere(&self, first: Attempt) -> Result<Applied, ProposeError> {
        let mut attempt = first;
        let mut until = Instant::now() + LEADER_WAIT;
        // Whether an attempt before this one may have taken effect.
        let mut repeated = false;
        // What the leader said that has no room, until another leads.
        let mut no_room = None;
        loop {
            let command = match attempt {
                Attempt::Ended(Err(ProposeError::Refused(_))) if repeated => {
                    return Err(ProposeError::Unknown);
                }
                Attempt::Ended(outcome) => return outcome,
                Attempt::NotProposed(command) => command,
                Attempt::NoRoom(command, reason) => {
                    no_room = Some(reason);
                    command
                }
                Attempt::Unknown(command) => {
                    self.linearize().await.map_err(|_| ProposeError::Unknown)?;
                    match fate::of(&self.state(), &command) {
                        Fate::Done { version } => {
                            return Ok(Applied {
                                version,
                                ..Applied::default()
                            });
                        }
                        Fate::Unclear => return Err(ProposeError::Unknown),
                        Fate::NotYet if repeated => return Err(ProposeError::Unknown),
                        Fate::NotYet => {
                            repeated = true;
                            until = Instant::now() + LEADER_WAIT;
                        }
                    }
                    command
                }
            };
            let course = self.course_until(until).await;
            let Some(course) = course else {
                return Err(match no_room {
                    _ if repeated => ProposeError::Unknown,
                    Some(reason) => ProposeError::NoSpace { reason },
                    None => ProposeError::NoLeader,
                });
            };
            attempt = match course {
                Course::Leader(leader) => self.propose_there(&leader, command).await,
                // It may have waited, and been given its time by a clock that was wrong.
                _ => match self.stamped(&command) {
                    Ok(command) => self.propose_here(command).await,
                    Err(error) => return Err(error.into()),
                },
            };
            if let Attempt::NotProposed(_) | Attempt::NoRoom(..) = attempt {
                time::sleep(PAUSE).await;
            }
        }
    }

    /// Who leads, if that is known in time.
    async fn course_until(&self, until: Instant) -> Option<Course> {
        if Instant::now() >= until {
            return None;
        }
        let mut course = self.course.clone();
        let known = course.wait_for(|course| !matches!(course, Course::Nowhere));
        // Without its sender the manager stops.
        let course = time::timeout_at(until, known).await.ok()?.ok()?;
        Some(course.clone())
    }

    async fn propose_there(&self, leader: &ToLeader, command: Wiped) -> Attempt {
        let bytes = u32::try_from(command.len()).unwrap_or(u32::MAX);
        let Ok(_place) = self.on_the_way.acquire_many(bytes).await else {
            return Attempt::Ended(Err(ProposeError::Stopped));
        };
        if leader.over.is_cancelled() || leader.channel.is_closed() {
            return Attempt::NotProposed(command);
        }
        let request = ProposeRequest {
            incarnation: leader.incarnation,
            command: leader.channel.sealing().seal(&command),
        };
        let mut control = leader.channel.control();
        let asking = time::timeout(ANSWER_WAIT, control.propose(request));
        let response = match leader.over.run_until_cancelled(asking).await {
            Some(Ok(Ok(response))) => response.into_inner(),
            Some(Ok(Err(status))) if is_refused_at_the_door(status.code()) => {
                tracing::warn!(%status, "the leader refused a command");
                return Attempt::NotProposed(command);
            }
            _ => return Attempt::Unknown(command),
        };
        let outcome = response.outcome.and_then(outcome::from_wire);
        match outcome {
            None | Some(Err(Told::Unknown)) => Attempt::Unknown(command),
            Some(Err(Told::NotProposed)) => Attempt::NotProposed(command),
            Some(Ok(applied)) => {
                self.wait_applied(response.version.max(applied.version))
                    .await;
                Attempt::Ended(Ok(applied))
            }
            // It hands over, or nobody else has any either: then it says so again.
            Some(Err(Told::NoRoom(reason))) => Attempt::NoRoom(command, reason),
            Some(Err(Told::Failed(error))) => {
                // What the refusal is about is seen here too.
                self.wait_applied(response.version).await;
                Attempt::Ended(Err(error))
            }
        }
    }

    /// Returns once this manager's state has everything that was acknowledged before
    /// the call.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(crate) async fn linearize(&self) -> Result<(), ReadError> {
        if self.holds_lease() {
            return Ok(());
        }
        Box::pin(self.catch_up()).await
    }

    async fn catch_up(&self) -> Result<(), ReadError> {
        let until = Instant::now() + LEADER_WAIT;
        loop {
            let course = self.course_until(until).await;
            match course.ok_or(ReadError::NoLeader)? {
                Course::Leader(_) => {
                    let asking = self.rounds.ask(self.ask_version());
                    let version = time::timeout_at(until, asking).await;
                    if let Some(version) = version.map_err(|_| ReadError::NoLeader)? {
                        return match self.wait_applied(version).await {
                            true => Ok(()),
                            false => Err(ReadError::Behind),
                        };
                    }
                }
                _ if self.holds_lease() => return Ok(()),
                _ => {}
            }
            time::sleep(PAUSE).await;
        }
    }

    /// The output of tasks, from the leader, which is another manager.
    ///
    /// # Errors
    /// [`LogsError`].
    pub(crate) async fn logs(
        &self,
        selector: LogSelector,
        options: LogSubscriptionOptions,
        tasks: &TaskTracker,
    ) -> Result<LogLines, LogsError> {
        match self.course_until(Instant::now() + LEADER_WAIT).await {
            Some(Course::Leader(leader)) => logs::from(leader, selector, options, tasks).await,
            _ => Err(LogsError::NoLeader),
        }
    }

    /// The leader's version, if there is one that answers.
    async fn ask_version(&self) -> Option<u64> {
        let Course::Leader(leader) = self.course.borrow().clone() else {
            return None;
        };
        let request = ReadIndexRequest {
            incarnation: leader.incarnation,
        };
        let mut control = leader.channel.control();
        let asking = time::timeout(LEADER_WAIT, control.read_index(request));
        match leader.over.run_until_cancelled(asking).await? {
            Ok(Ok(answer)) => Some(answer.into_inner().version),
            Ok(Err(status)) => {
                tracing::debug!(%status, "the leader gave no version");
                None
            }
            Err(_) => None,
        }
    }

    /// Waits until this manager's state has a version; whether it has.
    async fn wait_applied(&self, version: u64) -> bool {
        let has = || self.state().version() >= version;
        if has() {
            return true;
        }
        let Some(mut metrics) = self.metrics.clone() else {
            return false;
        };
        let waiting = async {
            // Each applied entry shows there.
            while !has() {
                if metrics.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        time::timeout(APPLY_WAIT, waiting).await.unwrap_or(false)
    }

    fn state(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Codes that a call gets before its service sees it, or in place of that.
fn is_refused_at_the_door(code: Code) -> bool {
    matches!(
        code,
        Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::Unimplemented
            | Code::FailedPrecondition
            | Code::NotFound
    )
}
