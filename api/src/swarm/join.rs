//! Becoming a member: init and join.

use axum::{extract::State, response::Response};
use http::StatusCode;
use waxseal_cluster::{
    default_cluster_spec,
    objects::{Availability, CaConfig},
    validate_cluster_spec,
};

use super::address::{not_empty, remote};
use super::overlay;
use super::signer::{check_addresses, external_cas};
use crate::{
    cluster::{Cluster, ClusterError, InitRequest, JoinRequest, LocalState},
    error::ApiError,
    extract::Json,
    json::swarm::{InitBody, JoinBody, Spec},
    respond,
    server::Shared,
};

/// `POST /swarm/init`. Everything is checked before anything is made.
pub(super) async fn init<C: Cluster>(
    State(api): State<Shared<C>>,
    Json(body): Json<InitBody>,
) -> Result<Response, ApiError> {
    let is_member = api.cluster.local().state != LocalState::Inactive;
    if is_member && !body.force_new_cluster {
        return Err(ClusterError::AlreadyInSwarm.into());
    }
    let request = init_request(body)?;
    let node_id = api.cluster.init(request).await?;
    respond::ok(&node_id)
}

fn init_request(body: InitBody) -> Result<InitRequest, ApiError> {
    not_empty("ListenAddr", &body.listen_addr)?;
    if !matches!(body.spec.name.as_str(), "" | "default") {
        return Err(ApiError::bad_request(
            "swarm spec must be named \"default\"",
        ));
    }
    let signer = founding_signer(&body.spec)?;
    let default_addr_pool = overlay::check_init(&body)?;
    let availability = availability(&body.availability)?;
    let auto_lock = body.auto_lock_managers || body.spec.encryption_config.auto_lock_managers;
    let mut spec = body.spec.merged_into(default_cluster_spec());
    if let Some(encryption) = &mut spec.encryption_config {
        encryption.auto_lock_managers = auto_lock;
    }
    if let Some(settings) = &mut spec.ca_config {
        settings.external_cas = signer.external_cas;
        settings.signing_ca_cert = signer.signing_ca_cert;
        settings.signing_ca_key = signer.signing_ca_key;
    }
    validate_cluster_spec(&spec).map_err(|refusal| {
        let ApiError { message, .. } = refusal.into();
        ApiError::internal(format!("error updating cluster settings: {message}"))
    })?;
    Ok(InitRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        force_new_cluster: body.force_new_cluster,
        spec,
        auto_lock_managers: auto_lock,
        availability,
        default_addr_pool,
    })
}

/// What a new cluster signs with: a root of its own, or one that is brought with its key.
fn founding_signer(spec: &Spec) -> Result<CaConfig, ApiError> {
    let ca = &spec.ca_config;
    if ca.force_rotate != 0 {
        return Err(not_offered("rotation of the root certificate is"));
    }
    let cas = external_cas(&ca.external_cas)?;
    check_addresses(&cas)?;
    if cas.iter().any(|ca| ca.ca_cert.trim_ascii().is_empty()) {
        return Err(ApiError::invalid_argument(
            "no external CA can have the key of a root that is yet to be made; give the \
             certificate that it signs with as cacert=FILE, then rotate to it with `docker swarm \
             ca --rotate --ca-cert FILE --external-ca ...`",
        ));
    }
    let (cert, key) = (&ca.signing_ca_cert, &ca.signing_ca_key.0);
    if !cert.is_empty() && key.is_empty() {
        return Err(ApiError::invalid_argument(
            "the first manager's certificate has to be signed here; give the signing key as well, \
             or rotate to the external CA once the cluster is there",
        ));
    }
    Ok(CaConfig {
        external_cas: cas,
        signing_ca_cert: cert.clone().into_bytes(),
        signing_ca_key: key.as_bytes().to_vec(),
        ..CaConfig::default()
    })
}

/// `POST /swarm/join`.
pub(super) async fn join<C: Cluster>(
    State(api): State<Shared<C>>,
    Json(body): Json<JoinBody>,
) -> Result<Response, ApiError> {
    if api.cluster.local().state != LocalState::Inactive {
        return Err(ClusterError::AlreadyInSwarm.into());
    }
    not_empty("ListenAddr", &body.listen_addr)?;
    if body.remote_addrs.is_empty() {
        return Err(ApiError::bad_request(
            "at least 1 RemoteAddr is required to join",
        ));
    }
    let remote_addrs = body
        .remote_addrs
        .iter()
        .map(|address| remote(address))
        .collect::<Result<_, _>>()?;
    overlay::check_join(&body)?;
    let request = JoinRequest {
        listen_addr: body.listen_addr,
        advertise_addr: body.advertise_addr,
        remote_addrs,
        join_token: body.join_token.0,
        availability: availability(&body.availability)?,
    };
    api.cluster.join(request).await?;
    Ok(respond::empty(StatusCode::OK))
}

/// The availability of a new node; empty is active.
fn availability(text: &str) -> Result<Availability, ApiError> {
    match text {
        "" | "active" => Ok(Availability::Active),
        "pause" => Ok(Availability::Pause),
        "drain" => Ok(Availability::Drain),
        other => Err(ApiError::internal(format!(
            "invalid Availability: \"{other}\""
        ))),
    }
}

/// 501 for a change of the root or its signer. `what` ends with its verb.
pub(super) fn not_offered(what: &str) -> ApiError {
    ApiError::not_implemented(format!(
        "{what} not offered yet and nothing was changed; leave out the CA settings, the expiry of node certificates excepted"
    ))
}
