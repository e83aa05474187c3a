//! Where events come together: the last ones are kept, readers get new ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;
use waxseal_cluster::{ChangeRecord, events::Event};

use super::Wanted;
use crate::{
    cluster::Cluster,
    reader::{self, Inlet, NotTaken, Waiting},
};

/// Events kept for `since` (the Docker Engine's number).
const RECENT: usize = 256;
/// The last line of a reader that let too much pile up, in the form of errors in an engine's streams.
const TOO_SLOW: &[u8] = b"{\"errorDetail\":{\"message\":\"events came faster than they were read; ask again with since\"},\"error\":\"events came faster than they were read; ask again with since\"}\n";
/// Pause before following a cluster anew whose changes ended.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);

/// The last events and the readers of new ones.
#[derive(Default)]
pub(crate) struct Hub {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    recent: VecDeque<Event>,
    readers: Vec<Reader>,
}

struct Reader {
    wanted: Arc<Wanted>,
    lines: Inlet,
}

impl Hub {
    /// Turns changes into events, for as long as it is polled.
    pub(crate) async fn follow<C: Cluster>(&self, cluster: &C) {
        loop {
            let mut changes = cluster.changes();
            loop {
                match changes.recv().await {
                    Ok(record) => self.publish(&record),
                    Err(RecvError::Lagged(records)) => {
                        warn!(
                            records,
                            "events were lost: changes came faster than they were read"
                        );
                    }
                    Err(RecvError::Closed) => break,
                }
            }
            tokio::time::sleep(FOLLOW_AGAIN).await;
        }
    }

    /// Forgets the events kept: they are of a cluster that this node has left.
    pub(crate) fn forget(&self) {
        self.lock().recent.clear();
    }

    /// How many readers there are.
    pub(crate) fn listeners(&self) -> usize {
        let mut inner = self.lock();
        inner.readers.retain(|reader| !reader.lines.is_closed());
        inner.readers.len()
    }

    /// The events kept that a reader wants.
    pub(super) fn recent(&self, wanted: &Wanted) -> Vec<Bytes> {
        self.lock().recent(wanted)
    }

    /// The events kept and all new ones, as lines, with none between them lost. They end
    /// when they are read too slowly.
    pub(super) fn subscribe(&self, wanted: Arc<Wanted>) -> (Vec<Bytes>, Waiting) {
        let mut inner = self.lock();
        inner.readers.retain(|reader| !reader.lines.is_closed());
        let past = inner.recent(&wanted);
        let (lines, live) = reader::queue();
        inner.readers.push(Reader { wanted, lines });
        (past, live)
    }

    fn publish(&self, record: &ChangeRecord) {
        let events = record
            .changes
            .iter()
            .filter_map(|change| Event::of_change(change, record.time));
        let mut inner = self.lock();
        for event in events {
            inner.publish(event);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing here leaves the queues half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn recent(&self, wanted: &Wanted) -> Vec<Bytes> {
        if !wanted.past() {
            return Vec::new();
        }
        self.recent
            .iter()
            .filter(|event| wanted.in_time(event) && wanted.passes(event))
            .map(line)
            .collect()
    }

    fn publish(&mut self, event: Event) {
        let mut rendered: Option<Bytes> = None;
        self.readers.retain(|reader| {
            if !reader.wanted.passes(&event) {
                return !reader.lines.is_closed();
            }
            let line = rendered.get_or_insert_with(|| line(&event)).clone();
            let taken = reader.lines.try_put(line);
            if taken == Err(NotTaken::Full) {
                reader.lines.put_last(Bytes::from_static(TOO_SLOW));
            }
            taken.is_ok()
        });
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(event);
    }
}

/// The event as the Engine API shows it, with a newline.
fn line(event: &Event) -> Bytes {
    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(rename = "Type")]
        kind: &'a str,
        #[serde(rename = "Action")]
        action: &'a str,
        #[serde(rename = "Actor")]
        actor: Actor<'a>,
        scope: &'a str,
        time: i64,
        #[serde(rename = "timeNano")]
        time_nano: i64,
    }
    #[derive(Serialize)]
    struct Actor<'a> {
        #[serde(rename = "ID")]
        id: &'a str,
        #[serde(rename = "Attributes")]
        attributes: &'a std::collections::BTreeMap<String, String>,
    }
    let time = event.time;
    let shown = Line {
        kind: event.kind,
        action: event.action.as_str(),
        actor: Actor {
            id: &event.id,
            attributes: &event.attributes,
        },
        scope: "swarm",
        time: time.unix_timestamp(),
        time_nano: i64::try_from(time.unix_timestamp_nanos()).unwrap_or(i64::MAX),
    };
    let mut text = serde_json::to_vec(&shown).unwrap_or_default();
    text.push(b'\n');
    text.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::StreamExt;
    use time::OffsetDateTime;
    use waxseal_cluster::{
        Change,
        objects::{Annotations, Secret, SecretSpec},
    };

    use super::*;
    use crate::{filters::Filters, reader::READER_BYTES};

    fn created(name: &str, second: i64) -> ChangeRecord {
        let secret = Secret {
            id: "id".to_owned(),
            spec: Some(SecretSpec {
                annotations: Some(Annotations {
                    name: name.to_owned(),
                    ..Annotations::default()
                }),
                ..SecretSpec::default()
            }),
            ..Secret::default()
        };
        ChangeRecord {
            time: OffsetDateTime::from_unix_timestamp(second).unwrap(),
            changes: vec![Change::Secret {
                old: None,
                new: Some(Arc::new(secret)),
            }],
        }
    }

    fn all(since: Option<i64>) -> Wanted {
        Wanted {
            since: since.map(|since| OffsetDateTime::from_unix_timestamp(since).unwrap()),
            until: None,
            filters: Filters::default(),
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_cut_off_and_others_are_not() {
        let hub = Hub::default();
        let (_, slow) = hub.subscribe(Arc::new(all(None)));
        let (_, mut quick) = hub.subscribe(Arc::new(all(None)));
        let record = created(&"n".repeat(1000), 1);
        for _ in 0..2000 {
            hub.publish(&record);
            assert!(quick.next().await.is_some());
        }
        assert_eq!(hub.listeners(), 1);
        // What was taken in before the limit still comes, then why it ends.
        let mut lines: Vec<_> = slow.collect().await;
        assert_eq!(lines.pop().as_deref(), Some(TOO_SLOW));
        let why: serde_json::Value = serde_json::from_slice(TOO_SLOW).unwrap();
        assert_eq!(why["error"], why["errorDetail"]["message"]);
        let bytes: usize = lines.iter().map(Bytes::len).sum();
        assert!(bytes <= READER_BYTES && bytes > READER_BYTES - 2000);
    }

    #[test]
    fn the_last_events_are_kept() {
        let hub = Hub::default();
        for second in 0..300 {
            hub.publish(&created("n", second));
        }
        assert_eq!(hub.recent(&all(Some(0))).len(), RECENT);
        assert_eq!(hub.recent(&all(Some(299))).len(), 1);
        assert_eq!(hub.recent(&all(None)).len(), 0, "only with since or until");
        hub.forget();
        assert_eq!(hub.recent(&all(Some(0))).len(), 0);
    }
}
