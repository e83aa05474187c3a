//! Root rotation: who is to renew next, what holds it up, when it is finished.
//!
//! A pure, idempotent plan: from a view of the members and the time to what is due now. Whoever
//! leads runs it after every change; a leader that ends between two actions leaves the rest to
//! the next one. The order of things (spec/pki.md §11): the issuer has switched before the first
//! plan, trust and tokens switch with [`Action::Finish`], last.

mod change;
mod pace;
mod plan;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use time::{Duration, OffsetDateTime};

use crate::chain::IssuerInfo;
use crate::role::Role;

pub(crate) use change::LEAST_LIFE;
pub use change::{Change, ChangeRefusal, NewRoot, Present, UnsignedRoot, Wanted, decide_change};
pub use pace::{MOST_AT_ONCE, Pace};
pub use plan::plan;

/// A member that was asked and says nothing for so long is none that others wait for.
pub const STALLED: Duration = Duration::seconds(10);
/// A member that was asked so long ago is asked once more if its answer was lost, and had its
/// chance when the deadline comes.
pub const ANSWER: Duration = Duration::seconds(30);
/// A clock that is off by more than this is pointed out: certificates are backdated by an hour.
const CLOCK_OFF: Duration = Duration::minutes(50);

/// What becomes of members that have not renewed when the deadline comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Laggards {
    /// The rotation waits for them, as a stock manager's does.
    #[default]
    Wait,
    /// It ends without them; they have to prove themselves when they return.
    Quarantine,
    /// Workers are removed; managers, which only a demotion can remove, are quarantined.
    Evict,
}

/// What the operator asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// When the issuer switched.
    pub started_at: OffsetDateTime,
    /// When `laggards` says what happens to the rest; absent: never.
    pub deadline: Option<OffsetDateTime>,
    /// What then.
    pub laggards: Laggards,
}

/// Whether a member can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contact {
    /// It has a session.
    Here,
    /// It has none, since then if that is known.
    Away(Option<OffsetDateTime>),
    /// It was recorded and has never shown itself.
    Never,
}

/// What kind of program a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ours.
    Ours,
    /// A Docker Engine.
    Engine,
    /// It has not described itself.
    Unknown,
}

/// The newest certificate of a member, as the record has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRecord {
    /// None.
    Nothing,
    /// Asked for by the member, not signed yet.
    Requested,
    /// Marked: the member is to ask for another.
    Marked,
    /// Signed.
    Issued,
    /// Could not be signed.
    Failed,
}

/// A member as the record has it.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its id.
    pub node_id: &'a str,
    /// Its role.
    pub role: Role,
    /// Whether it counts in the quorum of managers.
    pub votes: bool,
    /// Program.
    pub kind: Kind,
    /// Whether it can be asked.
    pub contact: Contact,
    /// Subject and key (DER) of who signed the certificate that it says it holds.
    pub holds: Option<(&'a [u8], &'a [u8])>,
    /// State of the newest certificate.
    pub on_record: OnRecord,
    /// Whether the newest certificate that was signed is one of the wanted root; absent if the
    /// record does not say.
    pub issued_by_target: Option<bool>,
    /// When it was last asked to renew, or given a certificate.
    pub asked_at: Option<OffsetDateTime>,
    /// When a rotation was last finished, or is to be, without it.
    pub quarantined_at: Option<OffsetDateTime>,
    /// How far its clock is ahead, where known.
    pub clock_ahead: Option<Duration>,
}

/// Everything that a plan is made of.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// The root that is to have signed every leaf.
    pub target: &'a IssuerInfo,
    /// Present while the root rotates.
    pub rotation: Option<Options>,
    /// All nodes on record.
    pub members: Vec<Member<'a>>,
    /// Most members that renew at the same time.
    pub window: usize,
    /// The leader's clock.
    pub now: OffsetDateTime,
}

/// What is due now; each stands for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask these members to renew.
    Mark(Vec<String>),
    /// Note that the rotation ends without these.
    Quarantine(Vec<String>),
    /// Remove these workers.
    Evict(Vec<String>),
    /// Switch trust and tokens.
    Finish,
}

/// How far a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It holds a certificate of the wanted root.
    Done,
    /// Its turn comes.
    Queued,
    /// Asked, and not heard of since.
    Asked,
    /// Its request is being signed, or signed and on its way.
    Renewing,
    /// Asked a while ago; its session lives and it does nothing.
    Silent,
    /// Its request could not be signed; it is asked again.
    Failed,
    /// It has no session.
    Away,
    /// Recorded, and never seen.
    NeverSeen,
    /// The rotation ends without it.
    Quarantined,
}

/// What keeps a rotation from its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Members that are on their way.
    Members {
        /// How many.
        count: usize,
    },
    /// Only members that cannot be asked, and no rule that ends it without them.
    Absent {
        /// How many.
        count: usize,
    },
    /// The managers that have renewed are no majority: the rest could not go on without the
    /// others.
    Quorum {
        /// How many have.
        done: usize,
        /// How many are needed.
        needed: usize,
    },
}

/// What to do now, and how things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// By member, in the order of the view.
    pub progress: Vec<Progress>,
    /// Whether the managers that are done are a majority, which goes on without the others.
    pub has_quorum: bool,
    /// Why it is not finished; nothing outside of a rotation.
    pub wait: Option<Wait>,
    /// When to plan again if nothing changes until then.
    pub wake_at: Option<OffsetDateTime>,
}

impl Member<'_> {
    /// Whether its clock is so far off that certificates do not seem valid to it.
    pub fn clock_is_off(&self) -> bool {
        self.clock_ahead
            .is_some_and(|ahead| ahead.abs() > CLOCK_OFF)
    }
}
