//! Who signs: external CAs, and a root of which one of them has the key (spec/pki.md §11.2).

use waxseal_ca::{RootAuthority, TrustBundle, rotation::NewRoot};
use waxseal_cluster::{
    ROTATION_LEVEL, RotationOptions,
    objects::{self, Cluster as ClusterObject, external_ca::Protocol},
    signer_urls, start_rotation, timestamp,
};

use super::ca::too_old;
use crate::{cluster::Cluster, error::ApiError, json::swarm::ExternalCa, server::Shared};

/// A root that ends sooner is not taken.
const LEAST_LIFE: time::Duration = time::Duration::days(365);
/// External CAs that one cluster has at most: each is asked in turn, for 5 s.
const MAX_EXTERNAL_CAS: usize = 16;

/// The external CAs of a request, checked.
///
/// # Errors
/// Another protocol than cfssl, no HTTPS address, too many.
pub(super) fn external_cas(given: &[ExternalCa]) -> Result<Vec<objects::ExternalCa>, ApiError> {
    if given.len() > MAX_EXTERNAL_CAS {
        return Err(ApiError::invalid_argument(format!(
            "{} external CAs are given, and a cluster has {MAX_EXTERNAL_CAS} at most",
            given.len()
        )));
    }
    given.iter().map(external_ca).collect()
}

fn external_ca(given: &ExternalCa) -> Result<objects::ExternalCa, ApiError> {
    if !given.protocol.is_empty() && given.protocol != "cfssl" {
        return Err(ApiError::bad_request(format!(
            "invalid protocol: {:?}",
            given.protocol
        )));
    }
    let uri: Option<http::Uri> = given.url.parse().ok();
    let is_https = uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some());
    if !is_https {
        return Err(ApiError::invalid_argument(format!(
            "invalid HTTP scheme: the external CA {:?} needs an address that begins with https://",
            given.url
        )));
    }
    Ok(objects::ExternalCa {
        protocol: Protocol::Cfssl.into(),
        url: given.url.clone(),
        options: given.options.clone(),
        ca_cert: given.ca_cert.clone().into_bytes(),
    })
}

/// Brings the root in line with the settings that `cluster` has by now: `want` is the root that
/// is asked for without its key, or empty.
///
/// # Errors
/// The engine's texts; the object is of no use then.
pub(super) async fn change_signer<C: Cluster>(
    api: &Shared<C>,
    cluster: &mut ClusterObject,
    want: &str,
) -> Result<(), ApiError> {
    let now = api.cluster.now();
    let settings = cluster
        .spec
        .as_ref()
        .and_then(|spec| spec.ca_config.clone());
    let settings = settings.unwrap_or_default();
    let Some(root) = &cluster.root_ca else {
        return Ok(());
    };
    let current = root.ca_cert.as_slice();
    let reach = async |root: &[u8], which: &str| -> Result<(), ApiError> {
        let urls = signer_urls(&settings.external_cas, root, current);
        let reached = !urls.is_empty() && api.cluster.reaches_signer(urls, root.to_vec()).await?;
        match reached {
            true => Ok(()),
            false => Err(ApiError::invalid_argument(format!(
                "there must be at least one valid, reachable external CA corresponding to the \
                 {which} CA certificate"
            ))),
        }
    };
    // 1. Who has no key here must be able to ask for certificates, now and until it has one.
    if root.ca_key.is_empty() {
        reach(current, "current").await?;
    }
    if want.is_empty() {
        match &root.root_rotation {
            Some(rotation) if rotation.ca_key.is_empty() => {
                reach(&rotation.ca_cert, "next").await?;
            }
            _ => {}
        }
        return Ok(());
    }
    // 2. The root that is asked for, and that somebody signs with it.
    let wanted = wanted_root(want, now)?;
    reach(wanted.pem(), "desired").await?;
    let forced = settings.force_rotate;
    // 3. The current one: a rotation ends, and the key goes to whoever signs elsewhere.
    let is_current = want.trim().as_bytes() == current.trim_ascii();
    let cross_signed = match is_current {
        true => None,
        false => Some(cross_signed(cluster, &wanted, now)?),
    };
    let root = cluster.root_ca.get_or_insert_default();
    root.last_forced_rotation = forced;
    let Some(cross_signed) = cross_signed else {
        root.root_rotation = None;
        root.ca_key = Vec::new();
        return Ok(());
    };
    // 4. The one that is being rotated to goes on; another begins.
    let is_same = |pem: &[u8]| pem.trim_ascii() == wanted.pem().trim_ascii();
    match &mut root.root_rotation {
        Some(rotation) if is_same(&rotation.ca_cert) => rotation.ca_key = Vec::new(),
        _ => {
            let new = NewRoot {
                cert_pem: want.to_owned(),
                key_pem: String::new().into(),
                cross_signed_pem: cross_signed,
            };
            start_rotation(root, &new, RotationOptions::default(), timestamp(now));
        }
    }
    match cluster.feature_level < ROTATION_LEVEL {
        true => Err(too_old(api, cluster.feature_level).await),
        false => Ok(()),
    }
}

/// The one root in `want`, good for a year at least.
fn wanted_root(want: &str, now: time::OffsetDateTime) -> Result<TrustBundle, ApiError> {
    let wanted = TrustBundle::from_pem(want.as_bytes(), now)
        .map_err(|error| ApiError::invalid_argument(error.to_string()))?;
    if wanted.count() > 1 {
        return Err(ApiError::invalid_argument(
            "the desired CA certificate cannot contain multiple certificates",
        ));
    }
    if wanted.not_after() - now < LEAST_LIFE {
        return Err(ApiError::invalid_argument(
            "CA certificate expires too soon",
        ));
    }
    Ok(wanted)
}

/// The root to be, signed by the present one.
fn cross_signed(
    cluster: &ClusterObject,
    wanted: &TrustBundle,
    now: time::OffsetDateTime,
) -> Result<String, ApiError> {
    let root = cluster.root_ca.clone().unwrap_or_default();
    if root.ca_key.is_empty() {
        return Err(ApiError::invalid_argument(
            "rotating from one external CA to a different external CA is not supported",
        ));
    }
    check_has_no_way(cluster)?;
    let authority = RootAuthority::from_pem(&root.ca_cert, &root.ca_key, now)
        .map_err(|error| ApiError::internal(error.to_string()))?;
    authority
        .cross_sign(wanted, now)
        .map_err(|error| ApiError::invalid_argument(error.to_string()))
}

/// An operator's intermediate leads to its root alone, and its root's key is not here to sign
/// another.
pub(super) fn check_has_no_way(cluster: &ClusterObject) -> Result<(), ApiError> {
    match cluster.signing_way.is_empty() {
        true => Ok(()),
        false => Err(ApiError::not_implemented(
            "rotation away from an intermediate below an offline root is not offered: what it \
             signs leads to that root alone; make a new cluster for the new root",
        )),
    }
}
