//! `/waxseal/v1/join-tokens`: join tokens with limits, beside the two of the cluster.

use std::{collections::BTreeMap, sync::Arc};

use axum::{extract::State, response::Response};
use http::StatusCode;
use prost_types::Timestamp;
use serde::{Deserialize, Serialize};
use waxseal_ca::{BundleDigest, generate_limited, token::TOKEN_SECRET_BYTES};
use waxseal_cluster::{
    Lookup, State as ClusterState, new_id,
    objects::{CreateJoinToken, LimitedToken, NodeRole, RevokeJoinToken, command::Op},
    timestamp,
};
use zeroize::Zeroizing;

use crate::{
    cluster::Cluster,
    error::{ApiError, found},
    extract::{Caller, Id, Json},
    json::common::{Meta, Time},
    respond,
    server::Shared,
    status::Problem,
    table::{Routes, doc},
};

const KIND: &str = "join token";

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/waxseal/v1/join-tokens",
            doc("List join tokens").lists("JoinToken"),
            list::<C>,
        )
        .post(
            "/waxseal/v1/join-tokens",
            doc("Make a join token")
                .success(StatusCode::CREATED)
                .answers("NewJoinToken"),
            create::<C>,
        )
        .delete(
            "/waxseal/v1/join-tokens/{id}",
            doc("Revoke a join token")
                .success(StatusCode::NO_CONTENT)
                .empty(),
            revoke::<C>,
        )
}

/// A token as it is shown: never its secret, which is not kept.
#[derive(Serialize)]
struct Token {
    id: String,
    role: &'static str,
    /// `open`, `reserved`, `spent`, `expired`, `revoked`, or `replaced root`.
    standing: &'static str,
    created_at: Time,
    created_by: String,
    expires_at: Time,
    uses: u32,
    spent: u32,
    /// Uses of joins that are under way.
    reserved: Vec<Reservation>,
    cidrs: Vec<String>,
    labels: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Reservation {
    node_id: String,
    address: String,
    reserved_at: Time,
}

async fn list<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, Problem> {
    let now = api.cluster.now().unix_timestamp();
    let tokens = api
        .read(move |state| {
            let shown = |token: &Arc<LimitedToken>| Token::of(state, token, now);
            let mut tokens: Vec<Token> = state.join_tokens().map(shown).collect();
            tokens.sort_by_key(|token| token.created_at.0);
            tokens
        })
        .await?;
    Ok(respond::ok(&tokens)?)
}

/// `POST /waxseal/v1/join-tokens`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CreateBody {
    role: String,
    ttl_secs: i64,
    uses: u32,
    cidrs: Vec<String>,
    labels: BTreeMap<String, String>,
}

/// The only answer that ever has the token.
#[derive(Serialize)]
struct Created<'a> {
    id: &'a str,
    token: &'a str,
    expires_at: Time,
}

async fn create<C: Cluster>(
    State(api): State<Shared<C>>,
    Caller(actor): Caller,
    Json(body): Json<CreateBody>,
) -> Result<Response, Problem> {
    let role = match body.role.as_str() {
        "worker" => NodeRole::Worker,
        "manager" => NodeRole::Manager,
        other => {
            return Err(ApiError::bad_request(format!(
                "the role of a join token is worker or manager, not {other:?}"
            ))
            .into());
        }
    };
    // 1. For the root that joiners see now.
    let root = api
        .read(|state| {
            let root = state.cluster()?.root_ca.as_ref()?;
            Some((BundleDigest::of(&root.ca_cert), root.ca_cert_hash.clone()))
        })
        .await?;
    let (digest, root_hash) = root.ok_or_else(|| ApiError::internal("the cluster has no root"))?;
    // 2. The secret, of which a digest is kept.
    let mut secret = Zeroizing::new([0; TOKEN_SECRET_BYTES]);
    let mut random = [0; 17];
    getrandom::fill(&mut *secret)
        .and_then(|()| getrandom::fill(&mut random))
        .map_err(|error| ApiError::internal(format!("no random bytes from the system: {error}")))?;
    let (token, secret_digest) = generate_limited(digest, &secret);
    let now = timestamp(api.cluster.now());
    let expires_at = Timestamp {
        seconds: now.seconds.saturating_add(body.ttl_secs),
        nanos: now.nanos,
    };
    let kept = LimitedToken {
        id: new_id(random),
        role: role.into(),
        secret_digest: secret_digest.as_bytes().to_vec(),
        root_hash,
        expires_at: Some(expires_at),
        uses: body.uses,
        cidrs: body.cidrs,
        labels: body.labels,
        ..LimitedToken::default()
    };
    let id = kept.id.clone();
    // 3. On record before anybody has it.
    let op = Op::CreateJoinToken(CreateJoinToken { token: Some(kept) });
    api.propose(actor, op).await?;
    let created = Created {
        id: &id,
        token: token.expose_text(),
        expires_at: Time::of(Some(&expires_at)),
    };
    Ok(respond::json(StatusCode::CREATED, &created)?)
}

async fn revoke<C: Cluster>(
    State(api): State<Shared<C>>,
    Id(id): Id,
    Caller(actor): Caller,
) -> Result<Response, Problem> {
    let wanted = id.clone();
    let lookup = api.read(move |state| find(state, &wanted)).await?;
    let token = found(lookup, KIND, &id)?;
    let op = Op::RevokeJoinToken(RevokeJoinToken {
        token_id: token.id.clone(),
    });
    api.propose(actor, op).await?;
    Ok(respond::empty(StatusCode::NO_CONTENT))
}

/// A token by its id, or a start of it that no other has.
fn find(state: &ClusterState, text: &str) -> Lookup<LimitedToken> {
    let starts = |token: &&Arc<LimitedToken>| !text.is_empty() && token.id.starts_with(text);
    let mut matching = state.join_tokens().filter(starts);
    match (matching.next(), matching.count()) {
        (None, _) => Lookup::NotFound,
        (Some(token), 0) => Lookup::Found(Arc::clone(token)),
        (Some(_), more) => Lookup::Ambiguous(1 + more),
    }
}

impl Token {
    fn of(state: &ClusterState, token: &LimitedToken, now: i64) -> Token {
        let root = state.cluster().and_then(|cluster| cluster.root_ca.as_ref());
        let is_current = root.is_some_and(|root| root.ca_cert_hash == token.root_hash);
        let reserved = token.reservations.iter().map(|one| Reservation {
            node_id: one.node_id.clone(),
            address: one.address.clone(),
            reserved_at: Time::of(one.reserved_at.as_ref()),
        });
        Token {
            id: token.id.clone(),
            role: match token.role() {
                NodeRole::Worker => "worker",
                NodeRole::Manager => "manager",
            },
            standing: match token.standing(now) {
                standing if is_current || !standing.is_live() => standing.as_str(),
                _ => "replaced root",
            },
            created_at: Meta::of(token.meta.as_ref()).created_at,
            created_by: token.created_by.clone(),
            expires_at: Time::of(token.expires_at.as_ref()),
            uses: token.uses,
            spent: token.spent,
            reserved: reserved.collect(),
            cidrs: token.cidrs.clone(),
            labels: token.labels.clone(),
        }
    }
}
