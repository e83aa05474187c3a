//! What goes wrong, where and how often.

use std::{fmt, io, str::FromStr, time::Duration};

use rustix::io::Errno;

/// What is done to a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Opening or creating a file.
    Open,
    /// Reading a file.
    Read,
    /// Writing to a file.
    Write,
    /// Making a file's content durable.
    Sync,
    /// Making a directory's names durable.
    SyncDir,
    /// Reserving space for a file.
    Allocate,
    /// Giving a file its name.
    Rename,
    /// Removing a file.
    Remove,
}

const OPS: [(Op, &str); 8] = [
    (Op::Open, "open"),
    (Op::Read, "read"),
    (Op::Write, "write"),
    (Op::Sync, "sync"),
    (Op::SyncDir, "sync-dir"),
    (Op::Allocate, "allocate"),
    (Op::Rename, "rename"),
    (Op::Remove, "remove"),
];

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It takes this much longer, or until the rules are cleared.
    Delay(Duration),
    /// It is not done: EIO.
    Broken,
    /// It is not done: ENOSPC.
    Full,
    /// A write stores at most this many bytes and says so, which is no error.
    Short(usize),
    /// A write stores at most this many bytes and then fails: EIO.
    Cut(usize),
}

impl Effect {
    /// The error that the caller gets, if it gets one.
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Effect::Delay(_) | Effect::Short(_) => None,
            Effect::Broken | Effect::Cut(_) => Some(Errno::IO.into()),
            Effect::Full => Some(Errno::NOSPC.into()),
        }
    }
}

/// One fault. As text, on one line: `delay=1000 sync raft/log 1`, that is effect (a delay in
/// milliseconds), operation, path, and how often if not always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) effect: Effect,
    pub(super) op: Op,
    pub(super) part: String,
    pub(super) times: Option<u64>,
}

/// A line that is no rule.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no rule; write one as `delay=1000 sync raft/log 1`")]
pub struct RuleError(String);

impl Rule {
    /// `effect` on every `op` on what has `part` in its path's last two components, as
    /// `raft/log-`, `raft/vote`, `certificates/swarm-node.key`, `node.pb`. A file keeps the name
    /// that it was opened under.
    #[must_use]
    pub fn new(effect: Effect, op: Op, part: &str) -> Rule {
        Rule {
            effect,
            op,
            part: part.to_owned(),
            times: None,
        }
    }

    /// Only this often.
    #[must_use]
    pub fn times(self, times: u64) -> Rule {
        Rule {
            times: Some(times),
            ..self
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.effect {
            Effect::Delay(time) => write!(f, "delay={}", time.as_millis())?,
            Effect::Broken => f.write_str("broken")?,
            Effect::Full => f.write_str("full")?,
            Effect::Short(bytes) => write!(f, "short={bytes}")?,
            Effect::Cut(bytes) => write!(f, "cut={bytes}")?,
        }
        let name = OPS.iter().find(|(op, _)| *op == self.op);
        let name = name.map_or("", |(_, name)| name);
        write!(f, " {name} {}", self.part)?;
        match self.times {
            Some(times) => write!(f, " {times}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(line: &str) -> Result<Rule, RuleError> {
        parse(line).ok_or_else(|| RuleError(line.to_owned()))
    }
}

fn parse(line: &str) -> Option<Rule> {
    let mut words = line.split_ascii_whitespace();
    let (effect, op, part) = (words.next()?, words.next()?, words.next()?);
    let times = words.next().map(str::parse).transpose().ok()?;
    let (effect, number) = match effect.split_once('=') {
        Some((effect, number)) => (effect, Some(number)),
        None => (effect, None),
    };
    let effect = match (effect, number) {
        ("delay", Some(millis)) => Effect::Delay(Duration::from_millis(millis.parse().ok()?)),
        ("broken", None) => Effect::Broken,
        ("full", None) => Effect::Full,
        ("short", Some(bytes)) => Effect::Short(bytes.parse().ok().filter(|bytes| *bytes > 0)?),
        ("cut", Some(bytes)) => Effect::Cut(bytes.parse().ok()?),
        _ => return None,
    };
    let (op, _) = OPS.into_iter().find(|(_, name)| *name == op)?;
    let part = part.to_owned();
    words.next().is_none().then_some(Rule {
        effect,
        op,
        part,
        times,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_rule_is_refused() {
        for line in [
            "",
            "delay sync raft",
            "delay=x sync raft",
            "broken=1 sync raft",
            "short=0 write raft",
            "broken fly raft",
            "broken sync",
            "broken sync raft x",
            "broken sync raft 1 1",
        ] {
            assert!(line.parse::<Rule>().is_err(), "{line:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for effect in [
            Effect::Delay(Duration::from_millis(1500)),
            Effect::Broken,
            Effect::Full,
            Effect::Short(7),
            Effect::Cut(0),
        ] {
            for (op, _) in OPS {
                for rule in [
                    Rule::new(effect, op, "raft/log-"),
                    Rule::new(effect, op, "node.pb").times(3),
                ] {
                    assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
                }
            }
        }
    }
}
