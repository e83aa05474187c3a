//! Why a verb did not do what was asked: what happened, a hint, an exit code.

use std::{error::Error, fmt::Write as _, io, process::ExitCode};

use crate::output::shown;

/// Exit codes, as `waxseal --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nobody reads our output any more; that is the reader's choice and no failure.
    ClosedOutput = 0,
    /// The daemon refused, or what it was asked for failed.
    Refused = 1,
    /// The command line, a file or the standard input is not as it must be.
    Usage = 2,
    /// No daemon answers.
    Unreachable = 3,
    /// The manager is locked.
    Locked = 4,
}

/// A failure as the operator is told it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure {
            exit,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn refused(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Refused, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message)
    }

    /// What helps.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Failure {
        Failure {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// Standard output could not be written.
    pub(crate) fn output(error: &io::Error) -> Failure {
        let exit = match error.kind() {
            io::ErrorKind::BrokenPipe => Exit::ClosedOutput,
            _ => Exit::Refused,
        };
        Failure::new(
            exit,
            format!("standard output could not be written: {error}"),
        )
    }

    /// Tells the operator.
    pub(crate) fn report(&self) -> ExitCode {
        if self.exit != Exit::ClosedOutput {
            eprintln!("error: {}", shown(&self.message));
            if let Some(hint) = &self.hint {
                eprintln!("hint: {}", shown(hint));
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

/// An error and its causes, outermost first.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // An error that repeats its cause in its own text says it once.
        if !text.ends_with(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

/// What is known of a daemon's answer by its status and text: a clearer text, and what helps.
///
/// Texts are those of the Docker Engine (spec/engine-api.md §4.2, §4.3), which clients know.
pub(crate) fn from_answer(status: http::StatusCode, text: &str) -> Failure {
    let text = match text.split_once(" desc = ") {
        Some((wrapper, text)) if wrapper.starts_with("rpc error: code = ") => text,
        _ => text.trim(),
    };
    for (start, exit, message, hint) in KNOWN {
        if text.starts_with(start) {
            let message = if message.is_empty() { text } else { message };
            return Failure::new(exit, message).hint(hint);
        }
    }
    // The daemon's own texts have two parts; more are several faults in one.
    match text.split_once("; ") {
        _ if text.is_empty() => Failure::refused(format!("the daemon answered {status}")),
        Some((what, hint)) if !hint.contains("; ") => Failure::refused(what).hint(hint),
        _ => match HINTS.iter().find(|(part, _)| text.contains(part)) {
            Some((_, hint)) => Failure::refused(text).hint(*hint),
            None => Failure::refused(text),
        },
    }
}

/// Part of an answer in the engine's words, which have no second part: what helps.
const HINTS: [(&str, &str); 8] = [
    (
        " is in use by the following service",
        "take it from those services first, with `waxseal service update --secret-rm` or `--config-rm`",
    ),
    (
        " already exists",
        "choose another name, or remove what bears it",
    ),
    (
        " is not down and can't be removed",
        "have it leave with `waxseal swarm leave` there, or remove it all the same with `waxseal node rm --force`",
    ),
    (
        "It must be demoted to worker before removal",
        "change its role first with `waxseal node update --role worker`; the last manager ends its cluster with `waxseal swarm leave --force`",
    ),
    (
        "attempting to demote the last manager",
        "make another node a manager first, or end the cluster with `waxseal swarm leave --force`",
    ),
    (" is ambiguous (", "give its whole id, or more of it"),
    ("secret not found: ", "`waxseal secret ls` lists them"),
    (
        " not found",
        "look with the verb `ls`; names are compared whole, ids from their start",
    ),
];

/// Start of an answer, exit code, our text (empty: the answer itself), hint.
const KNOWN: [(&str, Exit, &str, &str); 14] = [
    (
        "Swarm is encrypted and needs to be unlocked",
        Exit::Locked,
        "this manager is locked and cannot read its Raft log",
        "run `waxseal unlock` with the unlock key; an unlocked manager prints it with `waxseal swarm unlock-key`",
    ),
    (
        "Swarm is encrypted and locked",
        Exit::Locked,
        "this manager is locked; leaving now would lose what it holds",
        "run `waxseal unlock` first, or leave all the same with `waxseal swarm leave --force`",
    ),
    (
        "This node is not a swarm manager. Use ",
        Exit::Refused,
        "this node is in no cluster, or failed to start in the one it is in",
        "`waxseal status` tells which; create one with `waxseal swarm init`, or join one with the command that `waxseal swarm join-token worker` prints on a manager",
    ),
    (
        "This node is not a swarm manager. Worker",
        Exit::Refused,
        "this node is a worker, and the cluster is changed on managers only",
        "run the command on a manager; `waxseal status` lists their addresses",
    ),
    (
        "This node is not a swarm manager. Manager",
        Exit::Refused,
        "the manager on this node is still starting, or does not reach the cluster",
        "look with `waxseal status` and try again in a moment",
    ),
    (
        "Swarm certificates have expired",
        Exit::Refused,
        "the certificate of this node has expired",
        "run `waxseal swarm leave --force`, then join again",
    ),
    (
        "This node is already part of a swarm",
        Exit::Refused,
        "this node is in a cluster already",
        "look with `waxseal status`; `waxseal swarm leave` takes it out",
    ),
    (
        "This node is not part of a swarm",
        Exit::Refused,
        "this node is in no cluster",
        "nothing is to be done; `waxseal status` says the same",
    ),
    (
        "Timeout was reached before node joined",
        Exit::Refused,
        "the node has not joined within 20 s; it goes on trying",
        "watch it with `waxseal status`, or give up with `waxseal swarm leave --force`",
    ),
    (
        "The swarm does not have a leader",
        Exit::Refused,
        "the cluster has no leader: too few managers are up",
        "start the managers that are down; `waxseal node ls` on another manager may tell which",
    ),
    (
        "swarm could not be unlocked: invalid key provided",
        Exit::Refused,
        "this is not the unlock key of this manager",
        "use the newest key; an unlocked manager prints it with `waxseal swarm unlock-key`",
    ),
    (
        "invalid key string",
        Exit::Refused,
        "this is no unlock key: one is `SWMKEY-1-` and 43 characters",
        "copy it whole, without quotes; an unlocked manager prints it with `waxseal swarm unlock-key`",
    ),
    (
        "You are attempting to leave the swarm on a node that is participating as a manager. Removing the last",
        Exit::Refused,
        "this node is the last manager; leaving erases the cluster and every secret in it",
        "leave all the same with `waxseal swarm leave --force`",
    ),
    (
        "update out of sequence",
        Exit::Refused,
        "the object was changed by somebody else in between",
        "look at it again and repeat the command",
    ),
];

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_locked_manager_has_its_own_exit_code() {
        let text = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm unlock\" to unlock it.";
        let failure = from_answer(StatusCode::SERVICE_UNAVAILABLE, text);
        assert_eq!(failure.exit, Exit::Locked);
        assert!(
            failure
                .hint
                .is_some_and(|hint| hint.contains("waxseal unlock"))
        );
    }

    #[test]
    fn the_rpc_wrapper_is_taken_off() {
        let text = "rpc error: code = AlreadyExists desc = secret db already exists";
        let failure = from_answer(StatusCode::CONFLICT, text);
        assert_eq!(
            (failure.exit, &*failure.message),
            (Exit::Refused, "secret db already exists")
        );
        let wrapped = from_answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            "rpc error: code = Unknown desc = update out of sequence",
        );
        assert!(wrapped.hint.is_some());
    }

    #[test]
    fn the_engines_words_get_a_hint() {
        for text in [
            "rpc error: code = InvalidArgument desc = secret 'db' is in use by the following service: web",
            "rpc error: code = AlreadyExists desc = secret db already exists",
            "rpc error: code = FailedPrecondition desc = node n is not down and can't be removed",
            "node walk1 is ambiguous (3 matches found)",
            "service web not found",
        ] {
            let failure = from_answer(StatusCode::BAD_REQUEST, text);
            assert!(failure.hint.is_some(), "{text}");
        }
    }

    #[test]
    fn a_text_of_two_parts_is_told_as_two() {
        let two = from_answer(StatusCode::BAD_REQUEST, "no space; free some");
        assert_eq!(
            (&*two.message, two.hint.as_deref()),
            ("no space", Some("free some"))
        );
        let three = from_answer(StatusCode::BAD_REQUEST, "a; b; c");
        assert_eq!((&*three.message, three.hint), ("a; b; c", None));
    }

    #[test]
    fn an_answer_without_a_text_names_its_status() {
        let failure = from_answer(StatusCode::BAD_GATEWAY, "");
        assert_eq!(failure.message, "the daemon answered 502 Bad Gateway");
    }
}
