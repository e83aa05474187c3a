//! `/waxseal/v1/ca`: the root's rotation in the operator's hands.
//!
//! Who is done and who is not and why is planned on this manager's state, by the plan that the
//! leader follows; nothing is asked of nodes.

use axum::{extract::State, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};
use waxseal_ca::{
    BundleDigest, Role, TrustBundle,
    rotation::{self, Contact, Kind, Member, Plan, Progress, Wait},
};
use waxseal_cluster::{
    Refusal, RotationOptions, abort_rotation, closing_time, date_time,
    objects::{Actor, Cluster as ClusterObject, Laggards, PastIssuer, RootCa, RootRotation},
    plan::rotation_view,
    signer_urls, signing_issuer, signing_root, timestamp, version_of,
};

use crate::{
    cluster::{Cluster, ClusterError},
    error::{ApiError, Code},
    extract::{Caller, Json},
    json::{common::Time, swarm::Concealed},
    respond,
    server::Shared,
    status::Problem,
    swarm::{
        ca::{Asked, change_root},
        cluster_object,
    },
    table::{Routes, doc},
};

/// Where the rest is given up if the operator names no time.
const USUAL_DEADLINE_SECS: u64 = 10 * 60;
/// The longest deadline: a year.
const LONGEST_DEADLINE_SECS: u64 = 365 * 24 * 60 * 60;
/// Tries against other changes of the cluster object.
const TRIES: usize = 4;

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/waxseal/v1/ca",
            doc("How the root stands").answers("Root"),
            status::<C>,
        )
        .post(
            "/waxseal/v1/ca/rotate",
            doc("Rotate the root").success(StatusCode::ACCEPTED).empty(),
            rotate::<C>,
        )
        .post(
            "/waxseal/v1/ca/abort",
            doc("Abort a rotation")
                .success(StatusCode::ACCEPTED)
                .empty(),
            abort::<C>,
        )
}

/// How the root stands.
#[derive(Serialize)]
struct Status {
    rotating: bool,
    /// Who signs: `root`, `intermediate`, or an `external CA`.
    signer: &'static str,
    /// Why that external CA signs nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    signer_trouble: Option<Trouble>,
    /// SHA-256 of the trusted root's PEM.
    root_digest: String,
    /// The same of the root to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_expires_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Time>,
    laggards: &'static str,
    /// Most nodes that renew at the same time; nothing: what the leader can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pace: Option<u32>,
    compromised: bool,
    nodes_total: usize,
    nodes_done: usize,
    /// What keeps it from its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_end: Option<Time>,
    past_roots: Vec<PastRoot>,
    /// Former issuers below the root whose certificates count still.
    open_issuers: Vec<OpenIssuer>,
    nodes: Vec<Node>,
}

#[derive(Serialize)]
struct OpenIssuer {
    /// SHA-256 of its PEM.
    digest: String,
    /// Whether it was to be the root, and its rotation came to nothing.
    was_target: bool,
    compromised: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired_at: Option<Time>,
    /// When they count no more, whoever has not renewed; nothing: once all have.
    #[serde(skip_serializing_if = "Option::is_none")]
    closes_at: Option<Time>,
    /// Ids of the nodes without which they would count no more.
    kept_open_by: Vec<String>,
}

#[derive(Serialize)]
struct Trouble {
    since: Time,
    error: String,
}

#[derive(Serialize)]
struct PastRoot {
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired_at: Option<Time>,
    compromised: bool,
    /// Whether who knows only that root is shown the way to the present one.
    way_kept: bool,
}

#[derive(Serialize)]
struct Node {
    id: String,
    hostname: String,
    role: &'static str,
    kind: &'static str,
    /// Whether it can be asked: `here`, `away`, `never seen`.
    contact: &'static str,
    progress: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Time>,
}

async fn status<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let now = api.cluster.now();
    let status = api.read(move |state| status_of(state, now)).await?;
    let status = status.ok_or_else(|| ApiError::from(ClusterError::Preparing))?;
    Ok(respond::ok(&status)?)
}

fn status_of(state: &waxseal_cluster::State, now: OffsetDateTime) -> Option<Status> {
    let cluster = state.cluster()?;
    let root = cluster.root_ca.as_ref()?;
    let target = signing_issuer(cluster, now)?;
    let view = rotation_view(state, cluster, &target, usize::MAX, now);
    let plan = rotation::plan(&view);
    let names: Vec<(String, String)> = state
        .nodes()
        .map(|node| {
            let status = node.certificate.as_ref().and_then(|c| c.status.as_ref());
            let error = status.map_or_else(String::new, |status| status.err.clone());
            (waxseal_cluster::hostname(node).to_owned(), error)
        })
        .collect();
    let nodes = view.members.iter().zip(&plan.progress).zip(names).map(
        |((member, progress), (hostname, error))| {
            let stands = Stands {
                rotating: view.rotation.is_some(),
                progress: *progress,
                error: &error,
                now,
            };
            node_of(member, &stands, hostname)
        },
    );
    let nodes = nodes.collect();
    let done = plan
        .progress
        .iter()
        .filter(|progress| **progress == Progress::Done)
        .count();
    Some(summary(cluster, root, &plan, done, nodes, now))
}

fn summary(
    cluster: &ClusterObject,
    root: &RootCa,
    plan: &Plan,
    done: usize,
    nodes: Vec<Node>,
    now: OffsetDateTime,
) -> Status {
    let rotation = root.root_rotation.as_ref();
    let time = |at: Option<&_>| at.and_then(date_time);
    let started_at = time(rotation.and_then(|r| r.started_at.as_ref()));
    let digest = |pem: &[u8]| BundleDigest::of(pem).to_string();
    let past_roots = cluster.past_roots.iter().map(|past| PastRoot {
        digest: digest(&past.ca_cert),
        retired_at: time(past.retired_at.as_ref()).map(|at| Time(Some(at))),
        compromised: past.compromised,
        way_kept: !past.cross_signed.is_empty(),
    });
    let trouble = cluster.signer_trouble.as_ref().map(|trouble| Trouble {
        since: Time::of(trouble.since.as_ref()),
        error: trouble.error.clone(),
    });
    Status {
        rotating: rotation.is_some(),
        signer: signer(cluster, root),
        signer_trouble: trouble,
        root_digest: digest(&root.ca_cert),
        target_digest: rotation.map(|rotation| digest(&rotation.ca_cert)),
        root_expires_at: TrustBundle::from_pem(&root.ca_cert, now)
            .ok()
            .map(|root| Time(Some(root.not_after()))),
        started_at: started_at.map(|at| Time(Some(at))),
        deadline: time(rotation.and_then(|r| r.deadline.as_ref())).map(|at| Time(Some(at))),
        laggards: match rotation.map(RootRotation::laggards).unwrap_or_default() {
            Laggards::Wait => "wait",
            Laggards::Quarantine => "quarantine",
            Laggards::Evict => "evict",
        },
        pace: rotation.map(|r| r.pace).filter(|pace| *pace > 0),
        compromised: rotation.is_some_and(|rotation| rotation.compromised),
        nodes_total: nodes.len(),
        nodes_done: done,
        waits_for: plan.wait.map(wait_text),
        estimated_end: started_at
            .filter(|_| matches!(plan.wait, Some(Wait::Members { .. })))
            .and_then(|start| estimate(start, now, done, nodes.len()))
            .map(|at| Time(Some(at))),
        past_roots: past_roots.collect(),
        open_issuers: cluster
            .past_issuers
            .iter()
            .filter(|past| !past.closed)
            .map(|past| open_issuer(past, &nodes))
            .collect(),
        nodes,
    }
}

/// One whose key is in foreign hands does not wait for nodes that are away.
fn open_issuer(past: &PastIssuer, nodes: &[Node]) -> OpenIssuer {
    let holds_open = |node: &&Node| {
        let waits = !past.compromised || !matches!(node.progress, AWAY | NEVER_SEEN | QUARANTINED);
        node.progress != DONE && waits
    };
    let holders = nodes.iter().filter(holds_open);
    OpenIssuer {
        digest: BundleDigest::of(&past.cert).to_string(),
        was_target: past.target,
        compromised: past.compromised,
        retired_at: past
            .retired_at
            .as_ref()
            .and_then(date_time)
            .map(|at| Time(Some(at))),
        closes_at: closing_time(past).map(|at| Time(Some(at))),
        kept_open_by: holders.map(|node| node.id.clone()).collect(),
    }
}

fn signer(cluster: &ClusterObject, root: &RootCa) -> &'static str {
    let cert = signing_root(root);
    let key = match &root.root_rotation {
        Some(rotation) => &rotation.ca_key,
        None => &root.ca_key,
    };
    let settings = cluster
        .spec
        .as_ref()
        .and_then(|spec| spec.ca_config.as_ref());
    let cas = settings.map_or(&[][..], |settings| &settings.external_cas);
    // One that has an address goes before a key that is here.
    if key.is_empty() || !signer_urls(cas, cert, &root.ca_cert).is_empty() {
        return "external CA";
    }
    match root.root_rotation.is_none() && !cluster.signing_way.is_empty() {
        true => "intermediate",
        false => "root",
    }
}

/// When the rest is done, if it goes on as it went; nothing where that cannot be told.
fn estimate(
    start: OffsetDateTime,
    now: OffsetDateTime,
    done: usize,
    all: usize,
) -> Option<OffsetDateTime> {
    let left = i32::try_from(all.checked_sub(done)?).ok()?;
    let done = i32::try_from(done).ok().filter(|done| *done > 0)?;
    let each = (now - start) / done;
    now.checked_add(each * left)
}

fn wait_text(wait: Wait) -> String {
    match wait {
        Wait::Members { count } => format!("{count} node(s) that have not renewed yet"),
        Wait::Absent { count } => format!(
            "{count} node(s) that are away; start them, remove them, or run `waxseal ca rotate \
             --running --laggards quarantine`"
        ),
        Wait::Quorum { done, needed } => format!(
            "managers: {done} have renewed and {needed} are needed for a majority; start the others"
        ),
    }
}

/// What is told of a node besides what the plan sees.
struct Stands<'a> {
    rotating: bool,
    progress: Progress,
    /// Why its certificate was not signed.
    error: &'a str,
    now: OffsetDateTime,
}

fn node_of(member: &Member<'_>, stands: &Stands<'_>, hostname: String) -> Node {
    // Before a rotation, whoever is away is one that would hold it up.
    let matters = match (stands.rotating, stands.progress, member.contact) {
        (false, Progress::Done | Progress::Queued, Contact::Away(_)) => Progress::Away,
        (false, Progress::Done | Progress::Queued, Contact::Never) => Progress::NeverSeen,
        (_, progress, _) => progress,
    };
    let since = match (matters, member.contact) {
        (Progress::Quarantined, _) => member.quarantined_at,
        (_, Contact::Away(since)) => since,
        (Progress::Asked | Progress::Silent | Progress::Renewing, _) => member.asked_at,
        _ => None,
    };
    Node {
        id: member.node_id.to_owned(),
        hostname,
        role: match member.role {
            Role::Worker => "worker",
            Role::Manager => "manager",
        },
        kind: match member.kind {
            Kind::Ours => "waxseal",
            Kind::Engine => "docker engine",
            Kind::Unknown => "unknown",
        },
        contact: match member.contact {
            Contact::Here => "here",
            Contact::Away(_) => "away",
            Contact::Never => "never seen",
        },
        progress: word(stands.progress),
        reason: reason(member, matters, stands.error, stands.now),
        since: since.map(|at| Time(Some(at))),
    }
}

const DONE: &str = "done";
const AWAY: &str = "away";
const NEVER_SEEN: &str = "never seen";
const QUARANTINED: &str = "quarantined";

fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Done => DONE,
        Progress::Queued => "queued",
        Progress::Asked => "asked",
        Progress::Renewing => "renewing",
        Progress::Silent => "silent",
        Progress::Failed => "failed",
        Progress::Away => AWAY,
        Progress::NeverSeen => NEVER_SEEN,
        Progress::Quarantined => QUARANTINED,
    }
}

fn reason(member: &Member<'_>, progress: Progress, error: &str, now: OffsetDateTime) -> String {
    let id = member.node_id;
    let text = match progress {
        Progress::Done | Progress::Queued | Progress::Asked | Progress::Renewing => String::new(),
        Progress::Silent => {
            let waited = member.asked_at.map_or(Duration::ZERO, |at| now - at);
            format!(
                "asked {} s ago and does not renew; see its log",
                waited.whole_seconds()
            )
        }
        Progress::Failed => format!("its certificate was not signed: {error}"),
        Progress::Away => {
            format!("no session; start it, or remove it with `docker node rm --force {id}`")
        }
        Progress::NeverSeen => {
            "joined and never connected; its record goes a day after it was made".to_owned()
        }
        Progress::Quarantined if member.kind == Kind::Engine => {
            "missed the rotation; on it, run `docker swarm leave` and join again".to_owned()
        }
        Progress::Quarantined => "missed the rotation; it has to prove itself".to_owned(),
    };
    match member.clock_ahead {
        Some(ahead) if member.clock_is_off() => format!(
            "its clock is {} s {}; {text}",
            ahead.abs().whole_seconds(),
            if ahead.is_positive() {
                "ahead"
            } else {
                "behind"
            }
        ),
        _ => text,
    }
}

/// `POST /waxseal/v1/ca/rotate`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RotateBody {
    /// Change how the rotation that runs is to end, and begin none.
    running: bool,
    deadline_secs: Option<u64>,
    /// `wait`, `quarantine` or `evict`.
    laggards: Option<String>,
    pace: Option<u32>,
    compromised: bool,
    /// PEM, with `key`: a root of the operator's own.
    cert: String,
    key: Concealed,
}

impl RotateBody {
    fn options(&self, now: OffsetDateTime) -> Result<RotationOptions, ApiError> {
        let bad = |text: &str| ApiError::invalid_argument(text);
        let laggards = match (self.laggards.as_deref(), self.deadline_secs) {
            (Some("wait"), Some(_)) => {
                return Err(bad(
                    "a deadline ends nothing under `wait`; say --laggards quarantine or evict",
                ));
            }
            // What is in foreign hands has an end, unless somebody says that it has none.
            (None, None) if self.compromised => Laggards::Quarantine,
            (Some("wait") | None, None) => Laggards::Wait,
            (Some("quarantine"), _) | (None, Some(_)) => Laggards::Quarantine,
            (Some("evict"), _) => Laggards::Evict,
            (Some(_), _) => {
                return Err(bad("laggards are one of wait, quarantine and evict"));
            }
        };
        let deadline = match laggards {
            Laggards::Wait => None,
            _ => Some(self.deadline_secs.unwrap_or(USUAL_DEADLINE_SECS)),
        };
        if deadline.is_some_and(|secs| secs > LONGEST_DEADLINE_SECS) {
            return Err(bad("a deadline is a year away at most"));
        }
        let deadline = deadline
            .and_then(|secs| i64::try_from(secs).ok())
            .map(|secs| timestamp(now + Duration::seconds(secs)));
        Ok(RotationOptions {
            laggards,
            deadline,
            pace: self.pace.unwrap_or(0),
            compromised: self.compromised,
        })
    }
}

/// Begins a rotation, or changes the end of the one that runs. Answers 202.
async fn rotate<C: Cluster>(
    State(api): State<Shared<C>>,
    Caller(actor): Caller,
    Json(body): Json<RotateBody>,
) -> Result<Response, Problem> {
    let options = body.options(api.cluster.now())?;
    let edit = match body.running {
        true => Edit::End(options),
        false => Edit::Rotate {
            cert: body.cert,
            key: body.key,
            options,
        },
    };
    change(&api, actor, &edit).await?;
    Ok(respond::empty(StatusCode::ACCEPTED))
}

/// A change of the cluster object.
enum Edit {
    Rotate {
        cert: String,
        key: Concealed,
        options: RotationOptions,
    },
    End(RotationOptions),
    Abort,
}

async fn make<C: Cluster>(
    api: &Shared<C>,
    cluster: &mut ClusterObject,
    edit: &Edit,
) -> Result<(), ApiError> {
    match edit {
        Edit::Rotate { cert, key, options } => {
            let root = cluster.root_ca.as_ref();
            let forced = root.map_or(0, |root| root.last_forced_rotation);
            let given = !cert.is_empty() || !key.0.is_empty();
            let asked = Asked {
                cert_pem: cert.as_bytes(),
                key_pem: key.0.as_bytes(),
                forced: if given {
                    forced
                } else {
                    forced.wrapping_add(1)
                },
            };
            change_root(api, cluster, &asked, *options).await?;
            // What `docker swarm update` sends back must not ask for another one.
            if let Some(spec) = &mut cluster.spec {
                spec.ca_config.get_or_insert_default().force_rotate = asked.forced;
            }
            Ok(())
        }
        Edit::End(options) => change_end(cluster, *options),
        Edit::Abort => {
            running(cluster)?;
            abort_rotation(cluster, timestamp(api.cluster.now()));
            Ok(())
        }
    }
}

fn change_end(cluster: &mut ClusterObject, options: RotationOptions) -> Result<(), ApiError> {
    let rotation = running(cluster)?;
    rotation.deadline = options.deadline;
    rotation.laggards = options.laggards.into();
    rotation.pace = options.pace;
    rotation.compromised |= options.compromised;
    Ok(())
}

fn running(cluster: &mut ClusterObject) -> Result<&mut RootRotation, ApiError> {
    let root = cluster.root_ca.as_mut();
    root.and_then(|root| root.root_rotation.as_mut())
        .ok_or_else(|| {
            ApiError::rpc(
                Code::FailedPrecondition,
                "no rotation of the root runs; see `waxseal ca status`",
            )
        })
}

/// Ends a rotation with the root as it was. Answers 202.
async fn abort<C: Cluster>(
    State(api): State<Shared<C>>,
    Caller(actor): Caller,
) -> Result<Response, Problem> {
    change(&api, actor, &Edit::Abort).await?;
    Ok(respond::empty(StatusCode::ACCEPTED))
}

/// Changes the cluster object as it is at that moment.
async fn change<C: Cluster>(api: &Shared<C>, actor: Actor, edit: &Edit) -> Result<(), ApiError> {
    for _ in 0..TRIES {
        let old = cluster_object(api).await?;
        let mut new = ClusterObject::clone(&old);
        make(api, &mut new, edit).await?;
        let version = version_of(old.meta.as_ref());
        match api
            .cluster
            .update_cluster(actor.clone(), new, version)
            .await
        {
            Err(ClusterError::Refused(Refusal::Stale)) => {}
            other => return Ok(other?),
        }
    }
    Err(Refusal::Stale.into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Client, FakeCluster};

    #[tokio::test]
    async fn options_that_contradict_each_other_are_refused() {
        let cluster = FakeCluster::manager().await;
        let client = Client::of(&cluster);
        for body in [
            json!({"laggards": "wait", "deadline_secs": 5}),
            json!({"laggards": "shoot"}),
            json!({"deadline_secs": u64::MAX}),
            json!({"running": true}),
            json!({"cert": "x", "key": "y"}),
            json!({"colour": "red"}),
        ] {
            let answer = client.post("/waxseal/v1/ca/rotate", &body).await;
            assert_eq!(answer.status, 400, "{body}");
        }
        let answer = client.post("/waxseal/v1/ca/abort", &json!({})).await;
        assert_eq!(answer.status, 400);
    }

    #[tokio::test]
    async fn a_rotation_is_shown_changed_and_aborted() {
        let cluster = FakeCluster::manager().await;
        let client = Client::of(&cluster);
        cluster.add_worker("w", true);
        let status = async || -> Value { client.get("/waxseal/v1/ca").await.json() };
        let before = status().await;
        assert_eq!(before["rotating"], false);
        assert_eq!(
            (&before["signer"], &before["signer_trouble"]),
            (&json!("root"), &Value::Null)
        );

        let rotate = async |body: Value| {
            let answer = client.post("/waxseal/v1/ca/rotate", &body).await;
            assert_eq!(answer.status, 202, "{}", answer.text);
        };
        rotate(json!({"pace": 5})).await;
        let during = status().await;
        assert_eq!(
            (&during["rotating"], &during["pace"]),
            (&json!(true), &json!(5))
        );
        assert_eq!(during["root_digest"], before["root_digest"]);
        assert_ne!(during["target_digest"], before["root_digest"]);
        assert_eq!(during["laggards"], "wait");
        assert_eq!(during["nodes"].as_array().unwrap().len(), 2);
        // The settings that clients send back do not begin another one.
        let swarm = client.get("/swarm").await.json();
        assert_eq!(swarm["Spec"]["CAConfig"]["ForceRotate"], 1);

        rotate(json!({"running": true, "deadline_secs": 60})).await;
        let changed = status().await;
        assert_eq!(changed["laggards"], "quarantine");
        assert_eq!(changed["target_digest"], during["target_digest"]);

        let answer = client.post("/waxseal/v1/ca/abort", &json!({})).await;
        assert_eq!(answer.status, 202);
        assert_eq!(status().await["rotating"], false);
    }

    #[tokio::test]
    async fn an_external_ca_in_trouble_is_shown() {
        let cluster = FakeCluster::manager().await;
        let client = Client::of(&cluster);
        let mut new = cluster.look(|state| ClusterObject::clone(state.cluster().unwrap()));
        let version = version_of(new.meta.as_ref());
        new.root_ca.as_mut().unwrap().ca_key.clear();
        cluster
            .update_cluster(Actor::default(), new, version)
            .await
            .unwrap();
        let trouble = waxseal_cluster::objects::SignerTrouble {
            since: Some(timestamp(cluster.now())),
            error: "no answer within 5 s".to_owned(),
        };
        let op = waxseal_cluster::objects::NoteSigner {
            trouble: Some(trouble),
        };
        let op = waxseal_cluster::objects::command::Op::NoteSigner(op);
        cluster.propose(Actor::default(), op).await.unwrap();
        let status: Value = client.get("/waxseal/v1/ca").await.json();
        assert_eq!(status["signer"], "external CA");
        assert_eq!(status["signer_trouble"]["error"], "no answer within 5 s");
        assert!(status["signer_trouble"]["since"].is_string());
    }

    #[test]
    fn the_end_is_estimated_from_how_it_went() {
        let start = OffsetDateTime::UNIX_EPOCH;
        let now = start + Duration::seconds(10);
        assert_eq!(estimate(start, now, 0, 9), None);
        assert_eq!(
            estimate(start, now, 50, 100),
            Some(start + Duration::seconds(20))
        );
        assert_eq!(estimate(start, now, 9, 9), Some(now));
    }
}
