//! The words between a daemon and a running shim: lines of JSON over the control socket, one reply
//! to each request, in order.
//!
//! A shim outlives an upgrade of the daemon: what is said here may be added to and never changed;
//! fields that one side does not know are passed over.

use serde::{Deserialize, Serialize};

use super::records::ExitRecord;

/// The longest line either side takes.
pub(super) const MAX_LINE_BYTES: usize = 4096;

/// The socket's name in a task's state directory.
pub(super) const SOCKET: &str = "control";

/// What a daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub(super) enum Request {
    /// Is it there.
    Status,
    /// Send a signal, the task's own if none is given, and SIGKILL after the grace period.
    Stop {
        signal: Option<i32>,
        grace_ms: Option<u64>,
    },
    /// End it at once.
    Kill,
    /// Reply when it has ended.
    Wait,
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(super) enum Reply {
    /// It runs.
    Running,
    /// It was asked to end.
    Stopping,
    /// It has ended, and the record is on disk.
    Ended(ExitRecord),
    /// The request was not understood.
    Refused,
}

/// A message as a line.
pub(super) fn line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_words_are_refused() {
        for text in ["", "{}", "{\"op\":\"fly\"}", "[]", "\u{1f980}"] {
            assert!(serde_json::from_str::<Request>(text).is_err(), "{text}");
        }
    }

    /// Shims of earlier daemons speak these words: none of them ever changes.
    #[test]
    fn the_words_are_those_of_earlier_daemons() {
        let requests = [
            (r#"{"op":"status"}"#, Request::Status),
            (
                r#"{"op":"stop","signal":15,"grace_ms":10000}"#,
                Request::Stop {
                    signal: Some(15),
                    grace_ms: Some(10_000),
                },
            ),
            (r#"{"op":"kill"}"#, Request::Kill),
            (r#"{"op":"wait"}"#, Request::Wait),
        ];
        for (text, request) in requests {
            assert_eq!(serde_json::to_string(&request).unwrap(), text);
            assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
        }
        let exit = ExitRecord::lost("why");
        let ended =
            r#"{"is":"ended","format":1,"code":137,"signal":9,"oom":false,"message":"why"}"#;
        let replies = [
            (r#"{"is":"running"}"#, Reply::Running),
            (r#"{"is":"stopping"}"#, Reply::Stopping),
            (ended, Reply::Ended(exit)),
            (r#"{"is":"refused"}"#, Reply::Refused),
        ];
        for (text, reply) in replies {
            assert_eq!(serde_json::to_string(&reply).unwrap(), text);
            assert_eq!(serde_json::from_str::<Reply>(text).unwrap(), reply);
        }
        // A later daemon or shim may add to them.
        let newer = r#"{"op":"status","later":1}"#;
        assert_eq!(
            serde_json::from_str::<Request>(newer).unwrap(),
            Request::Status
        );
    }

    #[test]
    fn requests_are_short_and_come_back() {
        for request in [
            Request::Status,
            Request::Stop {
                signal: Some(15),
                grace_ms: Some(u64::MAX),
            },
            Request::Stop {
                signal: None,
                grace_ms: None,
            },
            Request::Kill,
            Request::Wait,
        ] {
            let line = line(&request).unwrap();
            assert!(line.len() < MAX_LINE_BYTES);
            assert_eq!(serde_json::from_slice::<Request>(&line).unwrap(), request);
        }
    }
}
