//! What the CA needs of the cluster object, parsed once per version of it.

use std::time::Duration;

use time::OffsetDateTime;
use waxseal_ca::{CertificateExpiry, JoinTokens, RootAuthority};
use waxseal_cluster::objects::{Cluster, JoinTokens as TokenTexts};

/// The cluster object as the CA reads it.
pub(crate) struct Issuer {
    pub(crate) cluster_id: String,
    pub(crate) root_pem: Vec<u8>,
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
    /// The configured life of certificates is none.
    #[error("the configured certificate expiry cannot be used")]
    Expiry(#[from] waxseal_ca::ExpiryError),
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
            (None, Some(configured)) => CertificateExpiry::new(configured)?,
            (None, None) => CertificateExpiry::DEFAULT,
        };
        Ok(Issuer {
            cluster_id: cluster.id.clone(),
            root_pem: root.ca_cert.clone(),
            authority: RootAuthority::from_pem(&root.ca_cert, &root.ca_key, now)?,
            tokens: JoinTokens::parse(worker, manager)?,
            expiry,
        })
    }
}
