//! `/waxseal/v1/certificates`: every certificate on record, and their revocation.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use waxseal_cluster::{
    Lookup, Record, Standing, State as ClusterState, hostname,
    objects::{CertificateOrigin, NodeRole, RevokeCertificates, command::Op},
};

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json, Params},
    filters::Filters,
    json::common::Time,
    respond,
    server::Shared,
    status::Problem,
    table::{Routes, doc},
};

const KIND: &str = "certificate";
const FILTERS: &[&str] = &["node", "role", "standing", "origin", "token", "serial"];
/// Certificates in one answer, unless fewer or more are asked for.
const USUAL_SHOWN: usize = 1000;
/// Certificates in one answer at most: about 5 MB of JSON.
const MAX_SHOWN: usize = 10_000;

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/waxseal/v1/certificates",
            doc("List certificates")
                .query(&["filters", "limit"])
                .answers("Certificates"),
            list::<C>,
        )
        .post(
            "/waxseal/v1/certificates/revoke",
            doc("Revoke certificates").answers("Revocation"),
            revoke::<C>,
        )
        .get(
            "/waxseal/v1/certificates/{id}",
            doc("A certificate").answers("Certificate"),
            inspect::<C>,
        )
}

/// A certificate as it is shown; times that are not known are left out.
#[derive(Serialize)]
struct Certificate {
    serial: String,
    node_id: String,
    /// Empty once the node was removed.
    hostname: String,
    role: &'static str,
    /// `valid`, `revoked`, `superseded`, `expired`, `requested`.
    standing: &'static str,
    /// Who asked: `join`, `renewal`, `operator`, `rotation`, `return`, `founding`, `unknown`.
    origin: &'static str,
    address: Option<String>,
    /// `worker`, `manager`, or the id of a limited token.
    token: Option<String>,
    /// SHA-256 of the issuer's SubjectPublicKeyInfo, in hexadecimal.
    issuer: Option<String>,
    /// SHA-256 of the certificate's own.
    public_key: String,
    requested_at: Option<Time>,
    not_before: Option<Time>,
    not_after: Option<Time>,
    used_at: Option<Time>,
    superseded_at: Option<Time>,
    revoked: Option<Revoked>,
}

#[derive(Serialize)]
struct Revoked {
    at: Option<Time>,
    by: String,
    reason: String,
}

#[derive(Serialize)]
struct List {
    certificates: Vec<Certificate>,
    /// How many match; the newest are shown.
    total: usize,
}

/// Newest first. `?limit=` bounds the answer.
async fn list<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, Problem> {
    let filters = params.filters(FILTERS)?;
    let limit = match params.text("limit") {
        "" => USUAL_SHOWN,
        text => text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_SHOWN).contains(limit))
            .ok_or_else(|| ApiError::bad_request(format!("limit is 1 to {MAX_SHOWN}")))?,
    };
    let now = api.cluster.now().unix_timestamp();
    let list = api
        .read(move |state| {
            let mut matching: Vec<_> = state
                .certificates()
                .filter(|record| passes(&filters, state, record, now))
                .collect();
            let total = matching.len();
            // Of one second, the one that took the other's place.
            matching.sort_by_key(|record| {
                let is_superseded = record.superseded_at != 0;
                (std::cmp::Reverse(record.requested_at), is_superseded)
            });
            matching.truncate(limit);
            let shown = |record| Certificate::of(state, record, now);
            let certificates = matching.into_iter().map(|record| shown(record)).collect();
            List {
                certificates,
                total,
            }
        })
        .await?;
    Ok(respond::ok(&list)?)
}

async fn inspect<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(serial): Id,
) -> Result<Response, Problem> {
    let now = api.cluster.now().unix_timestamp();
    let wanted = serial.clone();
    let lookup = api
        .read(move |state| match find(state, &wanted) {
            Lookup::Found(record) => Lookup::Found(Arc::new(Certificate::of(state, &record, now))),
            Lookup::NotFound => Lookup::NotFound,
            Lookup::Ambiguous(count) => Lookup::Ambiguous(count),
        })
        .await?;
    Ok(respond::ok(&*found(lookup, KIND, &serial)?)?)
}

/// `POST /waxseal/v1/certificates/revoke`: serials (or starts of them), or a node.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RevokeBody {
    serials: Vec<String>,
    node: String,
    reason: String,
    force: bool,
}

#[derive(Serialize)]
struct Revocation {
    revoked: Vec<String>,
    /// Nodes that have no certificate that counts any more.
    cut_off: Vec<String>,
}

async fn revoke<C: Cluster>(
    State(api): State<Shared<C>>,
    Caller(actor): Caller,
    Json(body): Json<RevokeBody>,
) -> Result<Response, Problem> {
    let RevokeBody {
        serials,
        node,
        reason,
        force,
    } = body;
    // 1. What is meant.
    let mut op = RevokeCertificates {
        reason,
        force,
        ..RevokeCertificates::default()
    };
    if serials.is_empty() == node.is_empty() {
        return Err(ApiError::bad_request("give either serials or a node").into());
    }
    for serial in serials {
        let wanted = serial.clone();
        let lookup = api.read(move |state| find(state, &wanted)).await?;
        op.serials.push(match lookup {
            // A certificate of before records were kept is found by its whole serial.
            Lookup::NotFound => whole_serial(&serial)?,
            lookup => found(lookup, KIND, &serial)?.serial.to_vec(),
        });
    }
    if !node.is_empty() {
        let wanted = node.clone();
        let lookup = api.read(move |state| state.find_node(&wanted)).await?;
        op.node_id.clone_from(&found(lookup, "node", &node)?.id);
    }
    // 2. Done, on record.
    api.propose(actor, Op::RevokeCertificates(op.clone()))
        .await?;
    // 3. What it comes to.
    let now = api.cluster.now().unix_timestamp();
    let answer = api.read(move |state| revocation(state, &op, now)).await?;
    Ok(respond::ok(&answer)?)
}

fn revocation(state: &ClusterState, op: &RevokeCertificates, now: i64) -> Revocation {
    let mut records: Vec<&Arc<Record>> = op
        .serials
        .iter()
        .filter_map(|serial| state.certificate(serial))
        .collect();
    if op.serials.is_empty() {
        records.extend(state.certificates_of(&op.node_id));
    }
    records.retain(|record| record.standing(now) == Standing::Revoked);
    let mut cut_off: Vec<String> = records
        .iter()
        .map(|record| record.node_id.to_string())
        .filter(|node_id| {
            let mut left = state.certificates_of(node_id);
            state.node(node_id).is_some()
                && !left.any(|record| record.standing(now) == Standing::Valid)
        })
        .collect();
    cut_off.dedup();
    Revocation {
        revoked: records.iter().map(|record| hex(&record.serial)).collect(),
        cut_off,
    }
}

impl Certificate {
    fn of(state: &ClusterState, record: &Record, now: i64) -> Certificate {
        let node = state.node(&record.node_id);
        Certificate {
            serial: hex(&record.serial),
            node_id: record.node_id.to_string(),
            hostname: node.map_or(String::new(), |node| hostname(node).to_owned()),
            role: role(record.role),
            standing: record.standing(now).as_str(),
            origin: origin(record.origin),
            address: record.address.map(|address| address.to_string()),
            token: record.token.as_deref().map(str::to_owned),
            issuer: record.issuer.as_deref().map(hex),
            public_key: hex(&record.public_key),
            requested_at: time(record.requested_at),
            not_before: time(record.not_before),
            not_after: time(record.not_after),
            used_at: time(record.used_at),
            superseded_at: time(record.superseded_at),
            revoked: record.revoked.as_ref().map(|revoked| Revoked {
                at: time(revoked.at),
                by: revoked.by.clone(),
                reason: revoked.reason.clone(),
            }),
        }
    }
}

fn passes(filters: &Filters, state: &ClusterState, record: &Record, now: i64) -> bool {
    let is_of_node = |wanted: &str| {
        record.node_id.starts_with(wanted)
            || state
                .node(&record.node_id)
                .is_some_and(|node| hostname(node) == wanted)
    };
    filters.any("node", is_of_node)
        && filters.any("role", |wanted| role(record.role) == wanted)
        && filters.any("standing", |wanted| record.standing(now).as_str() == wanted)
        && filters.any("origin", |wanted| origin(record.origin) == wanted)
        && filters.any("token", |wanted| {
            let token = record.token.as_deref();
            token.is_some_and(|token| token.starts_with(wanted))
        })
        && filters.prefix_any_case("serial", &hex(&record.serial))
}

/// A record by its serial, or a start of it that no other has.
fn find(state: &ClusterState, text: &str) -> Lookup<Record> {
    let wanted = plain(text);
    if wanted.is_empty() {
        return Lookup::NotFound;
    }
    let mut matching = state
        .certificates()
        .filter(|record| hex(&record.serial).starts_with(&wanted));
    match (matching.next(), matching.count()) {
        (None, _) => Lookup::NotFound,
        (Some(record), 0) => Lookup::Found(Arc::clone(record)),
        (Some(_), more) => Lookup::Ambiguous(1 + more),
    }
}

/// As `openssl` writes serials, and others: upper case, with colons.
fn plain(text: &str) -> String {
    text.replace(':', "").to_ascii_lowercase()
}

fn whole_serial(text: &str) -> Result<Vec<u8>, ApiError> {
    let digits = plain(text);
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(digits, 16).ok()
    };
    let is_whole = digits.len() == 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_whole
        .then(|| digits.as_bytes().chunks(2).filter_map(byte).collect())
        .ok_or_else(|| ApiError::not_found(KIND, text))
}

fn role(role: NodeRole) -> &'static str {
    match role {
        NodeRole::Worker => "worker",
        NodeRole::Manager => "manager",
    }
}

fn origin(origin: CertificateOrigin) -> &'static str {
    match origin {
        CertificateOrigin::Unknown => "unknown",
        CertificateOrigin::Founding => "founding",
        CertificateOrigin::Join => "join",
        CertificateOrigin::Renewal => "renewal",
        CertificateOrigin::Operator => "operator",
        CertificateOrigin::Rotation => "rotation",
        CertificateOrigin::Return => "return",
    }
}

fn time(seconds: i64) -> Option<Time> {
    if seconds == 0 {
        return None;
    }
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .map(Time::from)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}
