//! Outcomes of commands on their way between managers.

use waxseal_cluster::{Applied, CodecError, Refusal};
use waxseal_wire::waxseal::{
    self as wire, Failure,
    failure::Kind,
    propose_response::Outcome,
    refusal::{InUse, NameTaken, NotFound, OnlyLabels, Stale, Why},
};

use crate::{error::ProposeError, proposer::Rejected};

/// Kinds of objects as refusals name them.
const KINDS: [&str; 9] = [
    "cluster",
    "node",
    "secret",
    "config",
    "service",
    "task",
    "certificate",
    "join token",
    "object",
];

/// What a caller on another manager is told.
pub(super) fn to_wire(outcome: Result<Applied, Rejected>) -> Outcome {
    let failure = |kind: Kind, text: String| {
        let kind = kind.into();
        Outcome::Failure(Failure { kind, text })
    };
    let error = match outcome {
        Ok(applied) => {
            return Outcome::Applied(wire::Applied {
                version: applied.version,
                skipped: applied.skipped.try_into().unwrap_or(u64::MAX),
            });
        }
        Err(Rejected::NotProposed(_)) => {
            return failure(Kind::NotProposed, ProposeError::NoLeader.to_string());
        }
        Err(Rejected::NoRoom { reason, .. }) => ProposeError::NoSpace { reason },
        Err(Rejected::Unknown(_)) => ProposeError::Unknown,
        Err(Rejected::Failed(error)) => error,
    };
    let text = error.to_string();
    match error {
        ProposeError::Refused(refusal) => Outcome::Refusal(wire::Refusal {
            why: Some(why(refusal)),
        }),
        ProposeError::Malformed(_) => failure(Kind::Malformed, text),
        ProposeError::NoSpace { .. } => failure(Kind::NoSpace, text),
        ProposeError::NoLeader => failure(Kind::NotProposed, text),
        ProposeError::Stopped | ProposeError::Unknown => failure(Kind::Unknown, text),
    }
}

/// What the leader told; `None` for what cannot be read.
pub(super) fn from_wire(outcome: Outcome) -> Option<Result<Applied, Told>> {
    Some(match outcome {
        Outcome::Applied(applied) => Ok(Applied {
            version: applied.version,
            // They are news here when this manager applies them.
            changes: Vec::new(),
            skipped: applied.skipped.try_into().unwrap_or(usize::MAX),
        }),
        Outcome::Refusal(refused) => {
            let refusal = refusal(refused.why?);
            Err(Told::Failed(ProposeError::Refused(refusal)))
        }
        Outcome::Failure(failure) => Err(match failure.kind() {
            Kind::Unknown => Told::Unknown,
            Kind::NotProposed => Told::NotProposed,
            Kind::NoSpace => Told::NoRoom(failure.text),
            // It was a command when it left here.
            Kind::Malformed => {
                let what = "command";
                Told::Failed(ProposeError::Malformed(CodecError::Malformed { what }))
            }
        }),
    })
}

/// Why the leader did not carry a command out.
#[derive(Debug)]
pub(super) enum Told {
    NotProposed,
    /// Its disk is full.
    NoRoom(String),
    Unknown,
    Failed(ProposeError),
}

fn why(refusal: Refusal) -> Why {
    let text = refusal.to_string();
    match refusal {
        Refusal::NotFound { kind, id } => Why::NotFound(NotFound {
            kind: kind.to_owned(),
            id,
        }),
        Refusal::NameTaken { kind, name } => Why::NameTaken(NameTaken {
            kind: kind.to_owned(),
            name,
        }),
        Refusal::Stale => Why::Stale(Stale {}),
        Refusal::InUse {
            kind,
            name,
            services,
        } => Why::InUse(InUse {
            kind: kind.to_owned(),
            name,
            services,
        }),
        Refusal::OnlyLabels => Why::OnlyLabels(OnlyLabels {}),
        Refusal::Invalid { reason } => Why::Invalid(reason),
        Refusal::Unimplemented { reason } => Why::Unimplemented(reason),
        Refusal::Precondition { reason } => Why::Precondition(reason),
        Refusal::Exhausted { reason } => Why::Exhausted(reason),
        _ => Why::Precondition(text),
    }
}

fn refusal(why: Why) -> Refusal {
    match why {
        Why::NotFound(NotFound { kind, id }) => Refusal::NotFound {
            kind: known(&kind),
            id,
        },
        Why::NameTaken(NameTaken { kind, name }) => Refusal::NameTaken {
            kind: known(&kind),
            name,
        },
        Why::Stale(Stale {}) => Refusal::Stale,
        Why::InUse(InUse {
            kind,
            name,
            services,
        }) => Refusal::InUse {
            kind: known(&kind),
            name,
            services,
        },
        Why::OnlyLabels(OnlyLabels {}) => Refusal::OnlyLabels,
        Why::Invalid(reason) => Refusal::Invalid { reason },
        Why::Precondition(reason) => Refusal::Precondition { reason },
        Why::Exhausted(reason) => Refusal::Exhausted { reason },
        Why::Unimplemented(reason) => Refusal::Unimplemented { reason },
    }
}

fn known(kind: &str) -> &'static str {
    let known = KINDS.iter().find(|known| **known == kind);
    known.copied().unwrap_or("object")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_arrive_as_they_were() {
        let services = vec!["web".to_owned(), "db".to_owned()];
        for refusal in [
            Refusal::NotFound {
                kind: "secret",
                id: "x".into(),
            },
            Refusal::NameTaken {
                kind: "service",
                name: "web".into(),
            },
            Refusal::Stale,
            Refusal::InUse {
                kind: "config",
                name: "c".into(),
                services,
            },
            Refusal::OnlyLabels,
            Refusal::invalid("a rule"),
            Refusal::precondition("a state"),
            Refusal::Exhausted {
                reason: "too much".into(),
            },
            Refusal::Unimplemented {
                reason: "nothing".into(),
            },
        ] {
            let error = ProposeError::Refused(refusal.clone());
            let told = from_wire(to_wire(Err(Rejected::Failed(error)))).unwrap();
            match told {
                Err(Told::Failed(ProposeError::Refused(found))) => assert_eq!(found, refusal),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_certain_and_what_is_not_stay_apart() {
        let told = |rejected| from_wire(to_wire(Err(rejected))).unwrap();
        let command = || waxseal_cluster::Wiped::new(Vec::new());
        assert!(matches!(
            told(Rejected::NotProposed(command())),
            Err(Told::NotProposed)
        ));
        assert!(matches!(
            told(Rejected::Unknown(command())),
            Err(Told::Unknown)
        ));
        assert!(matches!(
            told(Rejected::Failed(ProposeError::Stopped)),
            Err(Told::Unknown)
        ));
        let reason = "full".to_owned();
        assert!(matches!(
            told(Rejected::Failed(ProposeError::NoSpace { reason })),
            Err(Told::NoRoom(reason)) if reason == "full"
        ));
    }
}
