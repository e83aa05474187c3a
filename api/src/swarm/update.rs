//! Changing the cluster: settings, tokens, unlock key.

use axum::{extract::State, response::Response};
use http::StatusCode;
use waxseal_autolock::UnlockKey;
use waxseal_ca::{BundleDigest, JoinToken, token::TOKEN_SECRET_BYTES};
use waxseal_cluster::{
    Refusal, RotationOptions,
    objects::{Cluster as ClusterObject, JoinTokens, UnlockKeyRecord},
    validate_cluster_spec, version_of,
};
use zeroize::Zeroizing;

use super::{
    ca::{Asked, change_root},
    cluster_object,
    signer::{check_addresses, external_cas, external_cas_of},
};
use crate::{
    cluster::Cluster,
    error::ApiError,
    extract::{Caller, Json, Params},
    json::swarm::Spec,
    respond,
    server::Shared,
};

/// What to replace besides the settings.
#[derive(Clone, Copy, Debug)]
struct Rotate {
    worker_token: bool,
    manager_token: bool,
    unlock_key: bool,
}

impl Rotate {
    fn of(params: &Params) -> Result<Rotate, ApiError> {
        let flag = |name: &str| {
            params.strict(name).map_err(|value| {
                ApiError::bad_request(format!("invalid value for {name}: {value}"))
            })
        };
        Ok(Rotate {
            worker_token: flag("rotateWorkerToken")?,
            manager_token: flag("rotateManagerToken")?,
            unlock_key: flag("rotateManagerUnlockKey")?,
        })
    }
}

/// `POST /swarm/update`: the body is the whole of the settings.
pub(super) async fn update<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
    Caller(actor): Caller,
    Json(mut spec): Json<Spec>,
) -> Result<Response, ApiError> {
    // 1. What is wrong with the request by itself.
    let expected_version = params.version("swarm")?;
    let rotate = Rotate::of(&params)?;
    // 2. Where this node stands, and the object as it is.
    let old = cluster_object(&api).await?;
    // 3. What is wrong with the settings.
    if spec.name.is_empty() {
        "default".clone_into(&mut spec.name);
    }
    if spec.name != "default" {
        return Err(ApiError::bad_request(
            "swarm spec must be named \"default\"",
        ));
    }
    let cert = std::mem::take(&mut spec.ca_config.signing_ca_cert);
    let key = std::mem::take(&mut spec.ca_config.signing_ca_key);
    let forced = spec.ca_config.force_rotate;
    let cas = external_cas(&spec.ca_config.external_cas)?;
    let mut spec = spec.replacing();
    if let Some(settings) = &mut spec.ca_config {
        settings.external_cas = cas;
    }
    validate_cluster_spec(&spec)?;
    // 4. The object that replaces exactly the one that was read.
    if version_of(old.meta.as_ref()) != expected_version {
        return Err(Refusal::Stale.into());
    }
    let mut new = ClusterObject::clone(&old);
    let auto_lock = spec
        .encryption_config
        .as_ref()
        .is_some_and(|encryption| encryption.auto_lock_managers);
    new.spec = Some(spec);
    // The key is stored once, with the root, and never with the settings.
    let asked = Asked {
        cert_pem: cert.as_bytes(),
        key_pem: key.0.as_bytes(),
        forced,
    };
    change_root(&api, &mut new, &asked, RotationOptions::default()).await?;
    let cas = external_cas_of(&new);
    check_addresses(&cas)?;
    if cas != external_cas_of(&old) {
        // Others are asked now.
        new.signer_trouble = None;
    }
    rotate_tokens(&mut new, rotate)?;
    change_unlock_key(&mut new, auto_lock, rotate.unlock_key)?;
    api.cluster
        .update_cluster(actor, new, expected_version)
        .await?;
    Ok(respond::empty(StatusCode::OK))
}

/// Replaces the secret part of tokens; the digest stays.
fn rotate_tokens(cluster: &mut ClusterObject, rotate: Rotate) -> Result<(), ApiError> {
    let Some(root) = &mut cluster.root_ca else {
        return Ok(());
    };
    let digest = BundleDigest::of(&root.ca_cert);
    let tokens = root.join_tokens.get_or_insert_with(JoinTokens::default);
    if rotate.worker_token {
        tokens.worker = new_token(digest)?;
    }
    if rotate.manager_token {
        tokens.manager = new_token(digest)?;
    }
    Ok(())
}

fn new_token(digest: BundleDigest) -> Result<String, ApiError> {
    let mut secret = Zeroizing::new([0; TOKEN_SECRET_BYTES]);
    getrandom::fill(&mut *secret).map_err(no_random_bytes)?;
    Ok(JoinToken::generate(digest, &secret)
        .expose_text()
        .to_owned())
}

/// Brings the unlock key in line with the settings. Autolock on keeps a key
/// that is there unless it is to be rotated; off drops it. The epoch rises
/// with every change, so that no node takes an old key for the newest.
fn change_unlock_key(
    cluster: &mut ClusterObject,
    auto_lock: bool,
    rotate: bool,
) -> Result<(), ApiError> {
    let (epoch, has_key) = cluster
        .unlock_key
        .as_ref()
        .map_or((0, false), |record| (record.epoch, !record.key.is_empty()));
    let key = match (auto_lock, has_key) {
        (true, true) if !rotate => return Ok(()),
        (true, _) => UnlockKey::generate(|bytes| getrandom::fill(bytes))
            .map_err(no_random_bytes)?
            .expose_bytes()
            .to_vec(),
        (false, true) => Vec::new(),
        (false, false) => return Ok(()),
    };
    cluster.unlock_key = Some(UnlockKeyRecord {
        key,
        epoch: epoch + 1,
    });
    Ok(())
}

fn no_random_bytes(error: getrandom::Error) -> ApiError {
    ApiError::internal(format!("no random bytes from the system: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unlock_key_follows_the_settings() {
        let mut cluster = ClusterObject::default();
        let record = |cluster: &ClusterObject| cluster.unlock_key.clone().unwrap();

        // Rotation without autolock does nothing.
        change_unlock_key(&mut cluster, false, true).unwrap();
        assert!(cluster.unlock_key.is_none());

        change_unlock_key(&mut cluster, true, false).unwrap();
        let first = record(&cluster);
        assert_eq!((first.key.len(), first.epoch), (32, 1));

        change_unlock_key(&mut cluster, true, false).unwrap();
        assert!(record(&cluster) == first, "on again keeps the key");

        change_unlock_key(&mut cluster, true, true).unwrap();
        let rotated = record(&cluster);
        assert!(rotated.key != first.key);
        assert_eq!(rotated.epoch, 2);

        change_unlock_key(&mut cluster, false, true).unwrap();
        let off = record(&cluster);
        assert!(off.key.is_empty());
        assert_eq!(off.epoch, 3);

        change_unlock_key(&mut cluster, true, false).unwrap();
        let again = record(&cluster);
        assert!(again.key != rotated.key && again.key.len() == 32);
        assert_eq!(again.epoch, 4);
    }
}
