//! Plays a whole recording of a stock cluster against the API.
//!
//! `tests/data/transcripts` holds every exchange between stock CLI and Docker Engine 20.10 that was
//! recorded, one JSON object per line in the order in which they were made; polls that were answered
//! alike are there once. Beside `method`, `path`, `status`, `body` and `answer` a line has
//!
//! | key | meaning |
//! |---|---|
//! | `node` | which of the machines answered |
//! | `ours`, `why` | our status and answer where they are others on purpose, and the reason |
//! | `elsewhere` | another component answers: the scenario that compares it; not sent here |
//! | `stands` | where the node stands by then, as in `/info`, if no answer after it says so |
//! | `note` | what was done to the machines at this point |
//!
//! What a request changes is changed through the API; what the rest of a cluster does between two
//! requests is brought in by [`world`] from the next answers.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use serde::Deserialize;
use serde_json::Value;

use super::{
    FakeCluster,
    replay::{Client, Exchange},
    world,
};
use crate::cluster::{Cluster, ClusterError, LocalNode, LogLine};

/// Requests after which a node stands elsewhere.
const MOVES: [&str; 4] = [
    "/swarm/init",
    "/swarm/join",
    "/swarm/leave",
    "/swarm/unlock",
];
/// From when clusters in memory begin to after the last recording, in seconds.
const LATER: i64 = 60 * 60;
/// For an answer that is not to be a stream without an end.
const ANSWER: Duration = Duration::from_secs(5);
/// Objects that a recording may begin with.
const KINDS: [&str; 3] = ["secrets", "configs", "services"];

/// A line of a recording that is no note.
#[derive(Deserialize)]
struct Recorded {
    node: u8,
    /// Whether a note stands before it: something was done to the machines.
    #[serde(skip)]
    follows_note: bool,
    #[serde(default)]
    ours: Option<Value>,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    elsewhere: Option<String>,
    #[serde(default)]
    stands: Option<Value>,
    #[serde(flatten)]
    exchange: Exchange,
}

impl Recorded {
    /// The path without version and query.
    fn route(&self) -> &str {
        let path = self.exchange.path.split('?').next().unwrap();
        match path.strip_prefix("/v") {
            Some(rest) => rest.find('/').map_or(path, |at| &rest[at..]),
            None => path,
        }
    }

    /// By what it looks for objects: the name in the path, if nothing was found by it, and the
    /// quoted texts of filters.
    fn sought(&self) -> impl Iterator<Item = &str> {
        let missing = self.route().split('/').nth(2);
        let missing = missing.filter(|_| self.exchange.status == 404);
        let query = self.exchange.path.split_once('?').map(|(_, query)| query);
        let quoted = query.into_iter().flat_map(|query| query.split("%22"));
        missing.into_iter().chain(quoted.skip(1).step_by(2))
    }

    fn is_read(&self) -> bool {
        self.exchange.method == "GET" && self.exchange.status == 200
    }

    /// What a whole answer shows of this kind: one object, or all of a list.
    fn shown(&self, kind: &str) -> Vec<&Value> {
        let route = self.route().trim_start_matches('/');
        let Some(answer) = self.exchange.answer.as_ref().filter(|_| self.is_read()) else {
            return Vec::new();
        };
        match route.split_once('/') {
            None if route == kind => answer.as_array().into_iter().flatten().collect(),
            Some((of, id)) if of == kind && !id.contains('/') => vec![answer],
            _ => Vec::new(),
        }
    }

    /// Whether the node stands elsewhere after it.
    fn moves(&self) -> bool {
        let is_done = self.exchange.method == "POST" && self.exchange.status == 200;
        is_done && MOVES.contains(&self.route())
    }
}

/// How many exchanges were compared, and how.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// As stock.
    pub(super) alike: usize,
    /// As the recording says that ours is.
    pub(super) differing: usize,
    /// By a scenario that it names.
    pub(super) elsewhere: usize,
}

/// Ids and names are drawn so often, if one begins like what stock found nothing by.
const DRAWS: usize = 20;

/// Plays a recording; panics with all differences that it does not state.
pub(super) async fn play(recording: &str) -> Counts {
    for draw in 1.. {
        match play_once(recording).await {
            Ok(counts) => return counts,
            Err(Different { is_chance, .. }) if is_chance && draw < DRAWS => {}
            Err(Different { text, .. }) => panic!("{text}"),
        }
    }
    unreachable!("the last draw counts");
}

/// What a recording did not state.
struct Different {
    text: String,
    /// An id or a name that was drawn begins like what stock found nothing by.
    is_chance: bool,
}

async fn play_once(recording: &str) -> Result<Counts, Different> {
    let mut lines: Vec<Recorded> = Vec::new();
    let mut follows_note = false;
    for line in recording.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line.get("note").is_some() {
            follows_note = true;
            continue;
        }
        let mut recorded: Recorded = serde_json::from_value(line).unwrap();
        recorded.follows_note = std::mem::take(&mut follows_note);
        lines.push(recorded);
    }
    let mut player = Player::before(&lines).await;
    let mut counts = Counts::default();
    let mut differences = Vec::new();
    for at in 0..lines.len() {
        let recorded = &lines[at];
        if recorded.elsewhere.is_some() {
            if recorded.moves() {
                player.stands.remove(&recorded.node);
            }
            counts.elsewhere += 1;
            continue;
        }
        match &recorded.ours {
            None => counts.alike += 1,
            Some(_) => counts.differing += 1,
        }
        let compared = AssertUnwindSafe(player.compare(&lines[at..], at + 1)).catch_unwind();
        if let Err(panic) = compared.await {
            let text = panic.downcast_ref::<String>().cloned();
            differences.push(text.unwrap_or_else(|| format!("exchange {}", at + 1)));
        }
    }
    if differences.is_empty() {
        return Ok(counts);
    }
    let mut sought = lines.iter().flat_map(Recorded::sought);
    Err(Different {
        text: differences.join("\n\n"),
        is_chance: sought.any(|text| player.client.begins_what_was_drawn(text)),
    })
}

struct Player {
    cluster: Arc<FakeCluster>,
    client: Client,
    stands: BTreeMap<u8, LocalNode>,
    /// Where a node stands that nothing is known of: in the swarm, if there is one already.
    others: LocalNode,
    /// Whether nodes become managers.
    promotes: bool,
}

impl Player {
    /// With what was there before the recording.
    async fn before(lines: &[Recorded]) -> Player {
        let is_init = |line: &Recorded| line.moves() && line.route() == "/swarm/init";
        let is_of_manager = |line: &Recorded| {
            line.node == 1 && line.is_read() && ["/swarm", "/nodes"].contains(&line.route())
                || KINDS.iter().any(|kind| !line.shown(kind).is_empty())
        };
        let first = lines
            .iter()
            .find(|line| is_init(line) || is_of_manager(line));
        let begins_inactive = first.is_none_or(is_init);
        let cluster = match begins_inactive {
            true => FakeCluster::inactive(),
            false => FakeCluster::manager().await,
        };
        cluster.advance(LATER);
        let client = Client::of(&cluster);
        if !begins_inactive {
            let shown = || lines.iter().filter(|line| line.is_read() && line.node == 1);
            let of_cluster = shown().find_map(|line| {
                let answer = line.exchange.answer.as_ref()?;
                match line.route() {
                    "/swarm" => Some(answer),
                    "/info" => answer["Swarm"].get("Cluster"),
                    _ => None,
                }
            });
            let node_id = shown().find_map(|line| match line.route() {
                "/info" => line.exchange.answer.as_ref()?["Swarm"]["NodeID"].as_str(),
                _ => None,
            });
            world::named(&cluster, node_id.unwrap_or("first"), of_cluster);
            if let Some(shown) = of_cluster {
                let version = &client.get("/swarm").await.json()["Version"]["Index"];
                let path = format!("/swarm/update?version={version}");
                let set = client.post(&path, &shown["Spec"]).await;
                assert_eq!(set.status, 200, "{}", set.text);
            }
            give_objects(&cluster, lines);
        }
        let stands = BTreeMap::from([(1, cluster.local())]);
        let mut others = cluster.local();
        others.control_available = false;
        let promotes = lines.iter().any(|line| {
            let body = line.exchange.body.as_ref();
            line.route().starts_with("/nodes/")
                && body.is_some_and(|body| body["Role"] == "manager")
        });
        Player {
            cluster,
            client,
            stands,
            others,
            promotes,
        }
    }

    /// Makes the first of these exchanges.
    async fn compare(&mut self, lines: &[Recorded], number: usize) {
        let recorded = &lines[0];
        self.bring_in(lines);
        let mut exchange = recorded.exchange.clone();
        if let Some(ours) = &recorded.ours {
            assert!(recorded.why.is_some(), "a difference has a reason");
            exchange.status = ours["status"].as_u64().unwrap().try_into().unwrap();
            exchange.answer = ours.get("answer").cloned();
        }
        let place = format!("exchange {number} of node {}", recorded.node);
        let answered = self.client.exchange(&place, exchange);
        let answered = tokio::time::timeout(ANSWER, answered).await;
        answered.unwrap_or_else(|_| panic!("{place} has no end"));
        self.cluster.accept();
        if recorded.moves() {
            self.stands.insert(recorded.node, self.cluster.local());
        }
    }

    /// Brings in what happened until the first of these exchanges.
    fn bring_in(&mut self, lines: &[Recorded]) {
        let recorded = &lines[0];
        self.stand(recorded.node, lines);
        let Some(answer) = &recorded.exchange.answer else {
            return;
        };
        let shown = recorded
            .ours
            .as_ref()
            .map_or(answer, |ours| &ours["answer"]);
        let message = shown["message"].as_str().unwrap_or_default();
        if message.contains("The swarm does not have a leader") {
            self.cluster.refuse(|| ClusterError::NoLeader);
        }
        if !recorded.is_read() {
            return;
        }
        let mut answer = answer.clone();
        self.client.translate(&mut answer);
        let route = recorded.route();
        let is_filtered = recorded.exchange.path.contains("filters=");
        match route.split('/').nth(1).unwrap_or_default() {
            "info" => self.bring_info(&answer["Swarm"]),
            "nodes" => {
                let is_whole = answer.is_array() && !is_filtered;
                world::nodes(&self.cluster, &answer, is_whole, self.promotes);
            }
            _ if route.ends_with("/logs") => self.cluster.set_log(log_lines(&answer, recorded)),
            "tasks" => world::tasks(&self.cluster, &answer),
            "services" => world::progress(&self.cluster, &answer),
            "swarm" => world::rotation(&self.cluster, &answer["RootRotationInProgress"]),
            _ => {}
        }
    }

    /// The answering node is the one of the exchange, and stands where it says that it does.
    fn stand(&mut self, node: u8, lines: &[Recorded]) {
        // Until something was done to the machines.
        let after = lines[1..].iter().take_while(|line| !line.follows_note);
        let mut next = lines[..1]
            .iter()
            .chain(after)
            .filter(|line| line.node == node && line.ours.is_none());
        let told = next.find(|line| {
            let is_told = line.route() == "/info" && line.is_read();
            is_told || line.moves() || line.elsewhere.is_some()
        });
        if let Some(swarm) = &lines[0].stands {
            self.stands.insert(node, world::local(swarm));
        } else if let Some(told) =
            told.filter(|line| line.elsewhere.is_none() && line.route() == "/info")
        {
            let mut swarm = told.exchange.answer.as_ref().unwrap()["Swarm"].clone();
            self.client.translate(&mut swarm);
            self.stands.insert(node, world::local(&swarm));
        }
        let stands = self.stands.get(&node).unwrap_or(&self.others).clone();
        self.cluster.set_local(|local| *local = stands);
    }

    fn bring_info(&self, swarm: &Value) {
        let number = |key: &str| usize::try_from(swarm[key].as_u64()?).ok();
        if let (Some(nodes), Some(managers)) = (number("Nodes"), number("Managers")) {
            let own = swarm["NodeID"].as_str().unwrap();
            world::count_nodes(&self.cluster, nodes, managers, own);
        }
        world::rotation(&self.cluster, &swarm["Cluster"]["RootRotationInProgress"]);
    }
}

/// Objects that are shown, and that no request of the recording made.
fn give_objects(cluster: &FakeCluster, lines: &[Recorded]) {
    let made = |kind: &str, id: &Value| {
        let route = format!("/{kind}/create");
        lines.iter().any(|line| {
            let answer = line.exchange.answer.as_ref();
            line.route() == route && answer.is_some_and(|answer| answer["ID"] == *id)
        })
    };
    for kind in KINDS {
        let mut given = Vec::new();
        for shown in lines.iter().flat_map(|line| line.shown(kind)) {
            if !given.contains(&&shown["ID"]) && !made(kind, &shown["ID"]) {
                given.push(&shown["ID"]);
                world::given(cluster, kind, shown);
            }
        }
    }
    for (kind, list, id, name) in [
        ("secrets", "Secrets", "SecretID", "SecretName"),
        ("configs", "Configs", "ConfigID", "ConfigName"),
    ] {
        let mut used = Vec::new();
        for line in lines {
            let bodies = [&line.exchange.body, &line.exchange.answer];
            bodies
                .into_iter()
                .flatten()
                .for_each(|body| references(body, list, &mut used));
        }
        let mut given = Vec::new();
        for used in used.into_iter().filter(|used| !made(kind, &used[id])) {
            let is_there = cluster.look(|state| match kind {
                "secrets" => state.secrets().any(|one| used[id] == one.id),
                _ => state.configs().any(|one| used[id] == one.id),
            });
            let is_named = |value: &Value| value.as_str().is_some_and(|text| text.len() == 25);
            if is_named(&used[id]) && !is_there && !given.contains(&&used[id]) {
                given.push(&used[id]);
                let object = serde_json::json!({
                    "ID": used[id], "Version": {"Index": 1}, "Spec": {"Name": used[name]},
                });
                world::given(cluster, kind, &object);
            }
        }
    }
}

/// All entries of lists of that name, wherever they stand.
fn references<'a>(value: &'a Value, list: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value.as_array().filter(|_| key == list) {
                    Some(entries) => found.extend(entries),
                    None => references(value, list, found),
                }
            }
        }
        Value::Array(values) => values
            .iter()
            .for_each(|value| references(value, list, found)),
        _ => {}
    }
}

/// The lines that stock sent in frames.
fn log_lines(answer: &Value, recorded: &Recorded) -> Vec<LogLine> {
    let bytes = super::replay::frames(answer);
    let has = |flag: &str| recorded.exchange.path.contains(flag);
    let mut lines = Vec::new();
    let mut rest = &bytes[..];
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (line, after) = after.split_at(length);
        rest = after;
        let mut text = std::str::from_utf8(line).unwrap();
        let mut word = || {
            let (word, after) = text.split_once(' ').unwrap();
            text = after;
            word
        };
        let format = &time::format_description::well_known::Rfc3339;
        let time = has("timestamps=1").then(|| time::OffsetDateTime::parse(word(), format));
        let details = if has("details=1") { word() } else { "" };
        let detail = |key: &str| {
            let mut pairs = details.split(',').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(of, _)| of.ends_with(key))
                .map_or("", |pair| pair.1)
                .to_owned()
        };
        lines.push(LogLine {
            node_id: detail("node.id"),
            service_id: detail("service.id"),
            task_id: detail("task.id"),
            time: time.map_or(time::OffsetDateTime::UNIX_EPOCH, Result::unwrap),
            stderr: head[0] == 2,
            data: bytes::Bytes::copy_from_slice(text.as_bytes()),
        });
    }
    lines
}
