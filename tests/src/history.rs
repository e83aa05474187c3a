//! Whether what clients saw of a cluster can have happened: nothing acknowledged is lost, no read is
//! older than what was known before it began, no two writes follow the same version.
//!
//! Two kinds of objects are looked at. Names are created once and stay: a set. Registers are objects
//! with a value that is replaced by whoever names the version that is there: their versions order
//! them, so that no search for an order is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// When a call began and ended, since the run began. What was not answered ended when the client
/// gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Before the request was sent.
    pub begin: Duration,
    /// After the answer had come.
    pub end: Duration,
}

/// What became of a write, as its client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Acknowledged.
    Done,
    /// Refused for good: it never takes effect.
    Refused,
    /// No answer, or one that does not tell. It may take effect, or have done so.
    Unknown,
}

/// One call and its answer. Reads without an answer are left out.
#[derive(Debug, Clone)]
pub enum Event {
    /// A name was to be created.
    Create {
        /// Which; asked for once in a run.
        name: String,
        /// What became of it.
        fate: Fate,
        /// When.
        span: Span,
    },
    /// All names were listed.
    List {
        /// Those that were there.
        names: BTreeSet<String>,
        /// When.
        span: Span,
    },
    /// A register was to be replaced.
    Write {
        /// Which.
        key: String,
        /// The version that was to be there.
        expected: u64,
        /// The new value; written once in a run.
        value: u64,
        /// What became of it.
        fate: Fate,
        /// When.
        span: Span,
    },
    /// A register was read.
    Read {
        /// Which.
        key: String,
        /// Its version.
        version: u64,
        /// Its value; 0 before the first write.
        value: u64,
        /// When.
        span: Span,
    },
}

/// Something that cannot have happened in a cluster that keeps its word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// A name that was acknowledged, or listed, before a list began that does not have it.
    Lost {
        /// Which.
        name: String,
    },
    /// A name was listed that nobody had asked for, or whose creation was refused.
    Phantom {
        /// Which.
        name: String,
    },
    /// A read shows an older version than was known when it began.
    Stale {
        /// Which register.
        key: String,
        /// What was read.
        version: u64,
        /// What had been read or replaced before.
        known: u64,
    },
    /// One version of a register has two values.
    TwoValues {
        /// Which register.
        key: String,
        /// Which version.
        version: u64,
    },
    /// Two writes were acknowledged that replace the same version.
    LostUpdate {
        /// Which register.
        key: String,
        /// Which version.
        expected: u64,
    },
    /// A value was read that nobody had asked for, or whose write was refused.
    Unwritten {
        /// Which register.
        key: String,
        /// Which value.
        value: u64,
    },
    /// Between the version that an acknowledged write replaced and the one it made, there was another
    /// value.
    Overtaken {
        /// Which register.
        key: String,
        /// The write's value.
        value: u64,
    },
}

/// All that cannot have happened, sorted, each once.
#[must_use]
pub fn violations(events: &[Event]) -> Vec<Violation> {
    let mut found = BTreeSet::new();
    check_names(events, &mut found);
    let keys: BTreeSet<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::Write { key, .. } | Event::Read { key, .. } => Some(key.as_str()),
            _ => None,
        })
        .collect();
    for key in keys {
        Register::of(events, key).check(&mut found);
    }
    found.into_iter().collect()
}

fn check_names(events: &[Event], found: &mut BTreeSet<Violation>) {
    // When a name could first be there, and when it was first known to be.
    let mut asked: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut known: BTreeMap<&str, Duration> = BTreeMap::new();
    let mut note = |name, at: Duration| {
        let first = known.entry(name).or_insert(at);
        *first = at.min(*first);
    };
    let mut lists = Vec::new();
    for event in events {
        match event {
            Event::Create { name, fate, span } => {
                if *fate != Fate::Refused {
                    asked.insert(name, span.begin);
                }
                if *fate == Fate::Done {
                    note(name, span.end);
                }
            }
            Event::List { names, span } => {
                names.iter().for_each(|name| note(name, span.end));
                lists.push((names, *span));
            }
            Event::Write { .. } | Event::Read { .. } => {}
        }
    }
    for (names, span) in lists {
        let phantoms = names.iter().filter(|name| {
            asked
                .get(name.as_str())
                .is_none_or(|begin| *begin > span.end)
        });
        found.extend(phantoms.map(|name| Violation::Phantom { name: name.clone() }));
        let lost = known
            .iter()
            .filter(|(name, since)| **since < span.begin && !names.contains(**name));
        found.extend(lost.map(|(name, _)| Violation::Lost {
            name: (*name).to_owned(),
        }));
    }
}

/// What was done to one register.
struct Register<'a> {
    key: &'a str,
    writes: Vec<(u64, u64, Fate, Span)>,
    reads: Vec<(u64, u64, Span)>,
}

impl<'a> Register<'a> {
    fn of(events: &[Event], key: &'a str) -> Register<'a> {
        let mut register = Register {
            key,
            writes: Vec::new(),
            reads: Vec::new(),
        };
        for event in events {
            match event {
                Event::Write {
                    key: written,
                    expected,
                    value,
                    fate,
                    span,
                } if written == key => register.writes.push((*expected, *value, *fate, *span)),
                Event::Read {
                    key: read,
                    version,
                    value,
                    span,
                } if read == key => register.reads.push((*version, *value, *span)),
                _ => {}
            }
        }
        register
    }

    fn check(&self, found: &mut BTreeSet<Violation>) {
        let key = || self.key.to_owned();
        // 1. What is read was asked for before.
        for (_, value, span) in &self.reads {
            let asked = self.writes.iter().any(|(_, written, fate, asked)| {
                written == value && *fate != Fate::Refused && asked.begin <= span.end
            });
            if *value != 0 && !asked {
                let value = *value;
                found.insert(Violation::Unwritten { key: key(), value });
            }
        }
        // 2. A version is one value.
        let mut values: BTreeMap<u64, u64> = BTreeMap::new();
        for (version, value, _) in &self.reads {
            if values
                .insert(*version, *value)
                .is_some_and(|other| other != *value)
            {
                let version = *version;
                found.insert(Violation::TwoValues {
                    key: key(),
                    version,
                });
            }
        }
        // 3. A version is replaced once, and by what replaced it.
        let mut replaced = BTreeSet::new();
        for (expected, value, fate, _) in &self.writes {
            if *fate != Fate::Done {
                continue;
            }
            if !replaced.insert(*expected) {
                let expected = *expected;
                found.insert(Violation::LostUpdate {
                    key: key(),
                    expected,
                });
            }
            let former = values.get(expected);
            let mut since = values.range(expected + 1..).map(|(_, value)| value);
            // The version may rise for other reasons, with the value that it had.
            let overtaken = since
                .by_ref()
                .take_while(|seen| *seen != value)
                .any(|seen| former.is_some_and(|former| former != seen));
            let is_seen = values.values().any(|seen| seen == value);
            if overtaken && is_seen {
                let value = *value;
                found.insert(Violation::Overtaken { key: key(), value });
            }
        }
        self.check_order(found);
    }

    /// Nobody reads what was over when the read began.
    fn check_order(&self, found: &mut BTreeSet<Violation>) {
        let reads = self
            .reads
            .iter()
            .map(|(version, _, span)| (span.end, *version));
        let done = self
            .writes
            .iter()
            .filter(|(_, _, fate, _)| *fate == Fate::Done);
        // What it made has a version above the one it replaced.
        let writes = done.map(|(expected, _, _, span)| (span.end, expected + 1));
        let mut known: Vec<(Duration, u64)> = reads.chain(writes).collect();
        known.sort_unstable();
        let mut newest = 0;
        for entry in &mut known {
            newest = newest.max(entry.1);
            entry.1 = newest;
        }
        for (version, _, span) in &self.reads {
            let before = known.partition_point(|(end, _)| *end < span.begin);
            let newest = before.checked_sub(1).map_or(0, |last| known[last].1);
            if *version < newest {
                found.insert(Violation::Stale {
                    key: self.key.to_owned(),
                    version: *version,
                    known: newest,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(begin: u64, end: u64) -> Span {
        Span {
            begin: Duration::from_millis(begin),
            end: Duration::from_millis(end),
        }
    }

    fn create(name: &str, fate: Fate, begin: u64, end: u64) -> Event {
        Event::Create {
            name: name.to_owned(),
            fate,
            span: span(begin, end),
        }
    }

    fn list(names: &[&str], begin: u64, end: u64) -> Event {
        Event::List {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            span: span(begin, end),
        }
    }

    fn write(expected: u64, value: u64, fate: Fate, begin: u64, end: u64) -> Event {
        Event::Write {
            key: "r".to_owned(),
            expected,
            value,
            fate,
            span: span(begin, end),
        }
    }

    fn read(version: u64, value: u64, begin: u64, end: u64) -> Event {
        Event::Read {
            key: "r".to_owned(),
            version,
            value,
            span: span(begin, end),
        }
    }

    fn only(events: &[Event], expected: Violation) {
        assert_eq!(violations(events), [expected]);
    }

    #[test]
    fn an_acknowledged_name_that_is_not_listed_is_lost() {
        let lost = Violation::Lost {
            name: "a".to_owned(),
        };
        only(
            &[create("a", Fate::Done, 0, 10), list(&[], 11, 12)],
            lost.clone(),
        );
        // Seen once, it stays, whatever its client was told.
        let events = [
            create("a", Fate::Unknown, 0, 10),
            list(&["a"], 5, 6),
            list(&[], 7, 8),
        ];
        only(&events, lost);
    }

    #[test]
    fn a_name_that_nobody_asked_for_is_a_phantom() {
        let phantom = Violation::Phantom {
            name: "a".to_owned(),
        };
        only(&[list(&["a"], 0, 1)], phantom.clone());
        only(
            &[create("a", Fate::Refused, 0, 1), list(&["a"], 2, 3)],
            phantom.clone(),
        );
        only(
            &[list(&["a"], 0, 1), create("a", Fate::Unknown, 2, 3)],
            phantom,
        );
    }

    #[test]
    fn a_read_that_is_older_than_what_was_known_is_stale() {
        let stale = |version, known| Violation::Stale {
            key: "r".to_owned(),
            version,
            known,
        };
        only(&[read(5, 0, 0, 1), read(4, 0, 2, 3)], stale(4, 5));
        let events = [
            read(5, 0, 0, 1),
            write(5, 1, Fate::Done, 2, 3),
            read(5, 0, 4, 5),
        ];
        only(&events, stale(5, 6));
    }

    #[test]
    fn two_values_of_one_version_are_a_split() {
        let events = [
            write(5, 1, Fate::Unknown, 0, 9),
            write(5, 2, Fate::Unknown, 0, 9),
            read(6, 1, 1, 5),
            read(6, 2, 1, 5),
        ];
        only(
            &events,
            Violation::TwoValues {
                key: "r".to_owned(),
                version: 6,
            },
        );
    }

    #[test]
    fn two_writes_of_one_version_lose_an_update() {
        let events = [write(5, 1, Fate::Done, 0, 9), write(5, 2, Fate::Done, 0, 9)];
        only(
            &events,
            Violation::LostUpdate {
                key: "r".to_owned(),
                expected: 5,
            },
        );
    }

    #[test]
    fn values_come_from_writes() {
        let unwritten = |value| Violation::Unwritten {
            key: "r".to_owned(),
            value,
        };
        only(&[read(6, 3, 0, 1)], unwritten(3));
        only(
            &[write(5, 3, Fate::Refused, 0, 1), read(6, 3, 2, 3)],
            unwritten(3),
        );
        only(
            &[read(6, 3, 0, 1), write(5, 3, Fate::Unknown, 2, 3)],
            unwritten(3),
        );
    }

    #[test]
    fn nothing_comes_between_a_write_and_what_it_replaced() {
        let events = [
            read(5, 0, 0, 1),
            write(5, 1, Fate::Unknown, 2, 20),
            read(6, 1, 3, 4),
            write(5, 2, Fate::Done, 2, 20),
            read(7, 2, 5, 6),
        ];
        only(
            &events,
            Violation::Overtaken {
                key: "r".to_owned(),
                value: 2,
            },
        );
    }

    #[test]
    fn what_a_cluster_may_do() {
        let events = [
            // In flight, it is there or it is not.
            create("a", Fate::Done, 0, 10),
            list(&[], 5, 9),
            list(&["a"], 5, 9),
            list(&["a"], 11, 12),
            // Nobody knows.
            create("b", Fate::Unknown, 0, 10),
            list(&["a"], 13, 14),
            list(&["a", "b"], 15, 16),
            // Versions rise for other reasons too.
            read(5, 0, 0, 1),
            read(6, 0, 1, 2),
            write(6, 1, Fate::Done, 3, 6),
            write(6, 2, Fate::Refused, 3, 6),
            write(6, 3, Fate::Unknown, 3, 6),
            read(6, 0, 4, 5),
            read(9, 1, 4, 5),
            read(11, 1, 7, 8),
            write(11, 4, Fate::Unknown, 9, 10),
            read(11, 1, 11, 12),
            read(14, 4, 11, 12),
        ];
        assert_eq!(violations(&events), []);
    }
}
