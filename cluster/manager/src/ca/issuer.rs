//! What the CA needs of the cluster object, parsed once per version of it.

use std::time::Duration;

use time::OffsetDateTime;
use waxseal_ca::{CertificateExpiry, JoinTokens, RootAuthority};
use waxseal_cluster::{
    objects::{Cluster, JoinTokens as TokenTexts},
    version_of,
};

/// The bounds of a certificate's life, as [`CertificateExpiry`] has them.
const SHORTEST: Duration = Duration::from_secs(60 * 60);
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The cluster object as the CA reads it.
pub(crate) struct Issuer {
    pub(crate) cluster_id: String,
    /// Version of the cluster object that it was read from.
    pub(crate) version: u64,
    pub(crate) authority: RootAuthority,
    pub(crate) tokens: JoinTokens,
    pub(crate) expiry: CertificateExpiry,
}

/// Why certificates cannot be issued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuerError {
    /// No cluster object yet.
    #[error("the cluster has no root CA yet")]
    NoRoot,
    /// The root cannot sign.
    #[error("the root CA cannot sign")]
    Authority(#[from] waxseal_ca::RootAuthorityError),
    /// The tokens do not parse.
    #[error("the join tokens in the cluster's state cannot be read")]
    Tokens(#[from] waxseal_ca::TokenError),
}

impl Issuer {
    /// Reads the cluster object. `expiry` in place of the configured one is for
    /// tests that need certificates of minutes.
    pub(crate) fn of(
        cluster: &Cluster,
        expiry: Option<CertificateExpiry>,
        now: OffsetDateTime,
    ) -> Result<Issuer, IssuerError> {
        let root = cluster.root_ca.as_ref().ok_or(IssuerError::NoRoot)?;
        let TokenTexts { worker, manager } =
            root.join_tokens.as_ref().ok_or(IssuerError::NoRoot)?;
        let configured = cluster
            .spec
            .as_ref()
            .and_then(|spec| spec.ca_config.as_ref()?.node_cert_expiry)
            .and_then(|expiry| Duration::try_from(expiry).ok())
            .filter(|expiry| !expiry.is_zero());
        let expiry = match (expiry, configured) {
            (Some(expiry), _) => expiry,
            (None, Some(configured)) => nearest(configured),
            (None, None) => CertificateExpiry::DEFAULT,
        };
        Ok(Issuer {
            cluster_id: cluster.id.clone(),
            version: version_of(cluster.meta.as_ref()),
            authority: RootAuthority::from_pem(&root.ca_cert, &root.ca_key, now)?,
            tokens: JoinTokens::parse(worker, manager)?,
            expiry,
        })
    }
}

/// The life that is configured, or the nearest that is allowed: a cluster whose
/// state has another, from before it was checked, must go on.
fn nearest(configured: Duration) -> CertificateExpiry {
    CertificateExpiry::new(configured.clamp(SHORTEST, LONGEST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_configured_life_becomes_one_that_is_allowed() {
        let hours = |count: u64| Duration::from_secs(count * 60 * 60);
        assert_eq!(nearest(hours(48)).duration(), hours(48));
        assert_eq!(nearest(Duration::from_nanos(1)).duration(), SHORTEST);
        assert_eq!(nearest(hours(900_000)).duration(), LONGEST);
        assert_eq!(nearest(Duration::MAX).duration(), LONGEST);
        assert_eq!(hours(876_000), LONGEST);
    }
}
