//! Who signs: external CAs, and a root of which one of them has the key (spec/pki.md §11.2).

use waxseal_ca::rotation::{NewRoot, UnsignedRoot};
use waxseal_cluster::{
    objects::{self, Cluster as ClusterObject, external_ca::Protocol},
    signer_urls,
};

use crate::{
    cluster::{Cluster, ClusterError},
    error::{ApiError, Code},
    json::swarm::ExternalCa,
    server::Shared,
};

/// External CAs that one cluster has at most: each is asked in turn, for 5 s.
const MAX_EXTERNAL_CAS: usize = 16;

/// The external CAs of a request, checked.
///
/// # Errors
/// Another protocol than cfssl, too many.
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
    if given.protocol != "cfssl" {
        return Err(ApiError::bad_request(format!(
            "invalid protocol: {:?}",
            given.protocol
        )));
    }
    Ok(objects::ExternalCa {
        protocol: Protocol::Cfssl.into(),
        url: given.url.clone(),
        options: given.options.clone(),
        ca_cert: given.ca_cert.clone().into_bytes(),
    })
}

/// Refuses what cannot be asked. A stock engine keeps it, and says that it reaches none once it is
/// needed: that comes first.
///
/// # Errors
/// No HTTPS address.
pub(super) fn check_addresses(cas: &[objects::ExternalCa]) -> Result<(), ApiError> {
    let is_https = |ca: &objects::ExternalCa| {
        let uri: Option<http::Uri> = ca.url.parse().ok();
        uri.is_some_and(|uri| uri.scheme_str() == Some("https") && uri.host().is_some())
    };
    match cas.iter().find(|ca| !is_https(ca)) {
        None => Ok(()),
        Some(ca) => Err(ApiError::invalid_argument(format_args!(
            "invalid HTTP scheme: the external CA {:?} needs an address that begins with https://",
            ca.url
        ))),
    }
}

/// Those that the settings of a cluster name.
pub(super) fn external_cas_of(cluster: &ClusterObject) -> Vec<objects::ExternalCa> {
    let settings = cluster
        .spec
        .as_ref()
        .and_then(|spec| spec.ca_config.as_ref());
    settings.map_or_else(Vec::new, |settings| settings.external_cas.clone())
}

/// The external CAs of a cluster, as it will know them.
pub(super) struct Signers<'a, C> {
    pub(super) api: &'a Shared<C>,
    pub(super) cas: Vec<objects::ExternalCa>,
    /// The trusted root in PEM.
    pub(super) current: Vec<u8>,
}

impl<C: Cluster> Signers<'_, C> {
    /// Whether one that has the key of `root` answers; `which` root that is the refusal says.
    pub(super) async fn reach(&self, root: &[u8], which: &str) -> Result<(), ApiError> {
        let urls = signer_urls(&self.cas, root, &self.current);
        let cluster = &self.api.cluster;
        let reached = !urls.is_empty() && cluster.reaches_signer(urls, root.to_vec()).await?;
        match reached {
            true => Ok(()),
            false => Err(ApiError::invalid_argument(format_args!(
                "there must be at least one valid, reachable external CA corresponding to the \
                 {which} CA certificate"
            ))),
        }
    }

    /// Has the CA of the current root sign the one to be.
    pub(super) async fn cross_sign(&self, new: UnsignedRoot) -> Result<NewRoot, ApiError> {
        let urls = signer_urls(&self.cas, &self.current, &self.current);
        let signed = self
            .api
            .cluster
            .cross_sign(urls, self.current.clone(), &new)
            .await;
        match signed {
            Ok(pem) => Ok(new.signed(pem)),
            Err(ClusterError::Internal(problem)) => Err(ApiError::rpc(
                Code::Internal,
                format_args!(
                    "unable to generate a cross-signed certificate for root rotation: {problem}"
                ),
            )),
            Err(error) => Err(error.into()),
        }
    }
}
