//! What the agent's loops have in common.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prost_types::Timestamp;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, watch},
    time as timer,
};
use waxseal_ca::{Clock, LiveTls};
use waxseal_wire::{Credentials, DialError, ManagerChannel, Unreachable};

use crate::{
    describe::HostFacts,
    executor::Executor,
    logs::LogBudget,
    managers::{ManagerAddress, Observed},
    random::spread,
    reports::Reports,
    status::AgentStatus,
    store::{IdentityStore, OwnAuthority},
};

/// Time for a manager to be connected to while there are others.
const IMPATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) store: Arc<dyn IdentityStore>,
    pub(crate) own_authority: Option<Arc<dyn OwnAuthority>>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) facts: HostFacts,
    pub(crate) node_id: String,
    pub(crate) status: watch::Sender<AgentStatus>,
    pub(crate) reports: Reports,
    /// A manager wants a renewal before it is due.
    pub(crate) renew: Notify,
    /// No manager knows this node by its certificate, or this node none by its trust.
    pub(crate) absent: Notify,
    /// This node wants one.
    pub(crate) renewal_requests: RenewalRequests,
    /// What may be sent of logs, over all sessions.
    pub(crate) log_budget: LogBudget,
    /// Counts renewals; a session made under an older identity is made anew.
    pub(crate) renewals: watch::Sender<u64>,
    /// The newest certificate request, to know answers to it from others.
    newest_csr: Mutex<Option<String>>,
    /// How the managers answered of late.
    observed: Mutex<Observed>,
}

impl Shared {
    pub(crate) fn new(
        parts: crate::agent::AgentConfig,
        node_id: String,
        managers: Vec<ManagerAddress>,
    ) -> Shared {
        Shared {
            clock: parts.clock,
            tls: parts.tls,
            store: parts.store,
            own_authority: parts.own_authority,
            executor: parts.executor,
            facts: parts.facts,
            node_id,
            status: watch::Sender::new(AgentStatus {
                managers,
                ..AgentStatus::default()
            }),
            reports: Reports::default(),
            renew: Notify::new(),
            absent: Notify::new(),
            renewal_requests: RenewalRequests::default(),
            log_budget: LogBudget::new(),
            renewals: watch::Sender::new(0),
            newest_csr: Mutex::default(),
            observed: Mutex::default(),
        }
    }

    /// Whether the certificate at hand has ended.
    pub(crate) fn has_expired(&self) -> bool {
        let identity = self.tls.identity();
        identity.is_some_and(|identity| identity.not_after < self.now())
    }

    /// Whether a manager knows this node now.
    pub(crate) fn has_session(&self) -> bool {
        self.status.borrow().session.is_registered()
    }

    pub(crate) fn now(&self) -> OffsetDateTime {
        self.clock.now()
    }

    /// A manager to call, one that was not tried if there is one, and whether there is
    /// yet another.
    pub(crate) fn choose_manager(&self, tried: &[String]) -> Option<(ManagerAddress, bool)> {
        let status = self.status.borrow();
        let managers = &status.managers;
        let chosen = self.observed().choose(managers, tried, spread())?;
        let is_other = |manager: &ManagerAddress| {
            manager.address != chosen.address && !tried.contains(&manager.address)
        };
        Some((chosen.clone(), managers.iter().any(is_other)))
    }

    /// What is known of the managers by their answers.
    pub(crate) fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to a manager; not for long where another one may be reached.
    ///
    /// # Errors
    /// [`DialError`], which is noted.
    pub(crate) async fn dial(
        &self,
        manager: &ManagerAddress,
        is_another: bool,
    ) -> Result<ManagerChannel, DialError> {
        let address = &manager.address;
        let dialling = ManagerChannel::dial(address, Credentials::Member(&self.tls));
        let dialled = match is_another {
            false => dialling.await,
            true => match timer::timeout(IMPATIENCE, dialling).await {
                Ok(dialled) => dialled,
                Err(_) => Err(DialError {
                    address: address.clone(),
                    cause: Unreachable::Timeout,
                }),
            },
        };
        if dialled.is_err() {
            self.observed().failed(address);
        }
        dialled
    }

    pub(crate) fn newest_csr(&self) -> Option<String> {
        self.newest_csr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn note_csr(&self, csr_pem: &str) {
        *self
            .newest_csr
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(csr_pem.to_owned());
    }
}

/// Requests for a renewal, each met by a key that is made after it.
#[derive(Debug, Default)]
pub(crate) struct RenewalRequests {
    open: AtomicBool,
    changed: Notify,
}

impl RenewalRequests {
    pub(crate) fn request(&self) {
        self.open.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// A key is about to be made.
    pub(crate) fn meet(&self) {
        self.open.store(false, Ordering::Release);
    }

    /// Completes while a request is not met. Cancel-safe.
    pub(crate) async fn wait(&self) {
        while !self.open.load(Ordering::Acquire) {
            self.changed.notified().await;
        }
    }
}

/// A time as the wire has it.
pub(crate) fn timestamp(time: OffsetDateTime) -> Timestamp {
    Timestamp {
        seconds: time.unix_timestamp(),
        nanos: i32::try_from(time.nanosecond()).unwrap_or(0),
    }
}

/// A wire time, if it is one.
pub(crate) fn moment(time: &Timestamp) -> Option<OffsetDateTime> {
    let seconds = OffsetDateTime::from_unix_timestamp(time.seconds).ok()?;
    seconds
        .replace_nanosecond(u32::try_from(time.nanos).ok()?)
        .ok()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn times_out_of_range_are_none() {
        assert_eq!(
            moment(&Timestamp {
                seconds: i64::MAX,
                nanos: 0
            }),
            None
        );
        assert_eq!(
            moment(&Timestamp {
                seconds: 0,
                nanos: -1
            }),
            None
        );
        assert_eq!(
            moment(&Timestamp {
                seconds: 0,
                nanos: i32::MAX
            }),
            None
        );
    }

    #[tokio::test]
    async fn a_request_during_a_renewal_is_not_met_by_it() {
        let requests = RenewalRequests::default();
        requests.request();
        requests.wait().await;
        requests.meet();
        assert_eq!(requests.wait().now_or_never(), None);
        requests.request();
        assert_eq!(requests.wait().now_or_never(), Some(()));
    }

    #[test]
    fn a_time_survives_the_wire() {
        let time = OffsetDateTime::from_unix_timestamp_nanos(1_700_000_000_123_456_789).unwrap();
        assert_eq!(moment(&timestamp(time)), Some(time));
    }
}
