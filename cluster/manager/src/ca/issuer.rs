//! What the CA needs of the cluster object, parsed once per version of it.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use waxseal_ca::{
    CertificateExpiry, IssuedCertificate, IssuerInfo, JoinTokens, LiveTls, NodeIdentity,
    PublicKeyDigest, RootAuthority, chain::MAX_CHAIN_CERTIFICATES,
};
use waxseal_cluster::{
    ROTATION_LEVEL, date_time,
    objects::{Cluster, JoinTokens as TokenTexts, PastRoot, RootCa, RootRotation},
    signer_urls, version_of,
};

use super::external::{ExternalConfigError, ExternalSigner};

/// The bounds of a certificate's life, as [`CertificateExpiry`] has them.
const SHORTEST: Duration = Duration::from_secs(60 * 60);
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// For so long after a rotation leaves still come with the way to the root before: who was
/// away when the trust changed, by a day at most, believes managers that renewed since.
const OLD_TRUST: Duration = Duration::from_secs(24 * 60 * 60);

/// To so many: with a leaf and a rotation's cross-signed root they fill a chain.
const OLD_ROOTS: usize = MAX_CHAIN_CERTIFICATES - 2;

/// The cluster object as the CA reads it.
pub(crate) struct Issuer {
    pub(crate) cluster_id: String,
    /// Version of the cluster object that it was read from.
    pub(crate) version: u64,
    pub(crate) signer: Signer,
    /// Names the key that signs.
    pub(crate) key: PublicKeyDigest,
    /// Whether all managers know where a certificate names it.
    names_issuer: bool,
    pub(crate) tokens: JoinTokens,
    pub(crate) expiry: CertificateExpiry,
    /// What is appended to each leaf, in order.
    intermediates: Vec<Intermediate>,
}

/// Who signs.
pub(crate) enum Signer {
    /// This manager, with the key in the state.
    Local(Box<RootAuthority>),
    /// A CA elsewhere that has the key. It goes before a key in the state.
    External(Box<ExternalSigner>),
}

impl Signer {
    /// Subject and key of who signs.
    pub(crate) fn issuer_info(&self) -> &IssuerInfo {
        match self {
            Signer::Local(authority) => authority.issuer_info(),
            Signer::External(signer) => signer.issuer_info(),
        }
    }
}

/// A cross-signed root that goes with leaves.
struct Intermediate {
    pem: String,
    /// Absent: as long as it stands in the cluster object.
    until: Option<OffsetDateTime>,
}

/// A leaf with what goes with it.
pub(crate) struct IssuedChain {
    /// Leaf first.
    pub(crate) pem: String,
    /// What the leaf says.
    pub(crate) identity: NodeIdentity,
    /// Its serial, if that is not the recorded one.
    pub(crate) foreign_serial: Vec<u8>,
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
    /// The external CA cannot be asked.
    #[error("the external CA cannot be asked")]
    External(#[from] ExternalConfigError),
    /// The tokens do not parse.
    #[error("the join tokens in the cluster's state cannot be read")]
    Tokens(#[from] waxseal_ca::TokenError),
}

impl Issuer {
    /// Reads the cluster object. `expiry` in place of the configured one is for
    /// tests that need certificates of minutes.
    pub(crate) fn of(
        cluster: &Cluster,
        tls: &Arc<LiveTls>,
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
        let signer = signer(cluster, root, tls, now)?;
        Ok(Issuer {
            cluster_id: cluster.id.clone(),
            version: version_of(cluster.meta.as_ref()),
            key: PublicKeyDigest::of_spki(&signer.issuer_info().public_key_der),
            signer,
            names_issuer: cluster.feature_level >= ROTATION_LEVEL,
            tokens: JoinTokens::parse(worker, manager)?,
            expiry,
            intermediates: intermediates(root, &cluster.past_roots),
        })
    }

    /// What a certificate on record says of who signed it.
    pub(crate) fn on_record(&self) -> Vec<u8> {
        match self.names_issuer {
            true => self.key.as_bytes().to_vec(),
            false => Vec::new(),
        }
    }

    /// A signed leaf with what leads from it to older roots.
    pub(crate) fn chain(
        &self,
        issued: IssuedCertificate,
        foreign_serial: Vec<u8>,
        now: OffsetDateTime,
    ) -> IssuedChain {
        let mut pem = issued.pem;
        if let Signer::Local(authority) = &self.signer {
            pem.push_str(authority.way_pem());
        }
        let wanted = |intermediate: &&Intermediate| intermediate.until.is_none_or(|at| now < at);
        for intermediate in self.intermediates.iter().filter(wanted) {
            pem.push_str(&intermediate.pem);
        }
        IssuedChain {
            pem,
            identity: issued.identity,
            foreign_serial,
        }
    }
}

/// Who signs: the external CA that has addresses for the wanted root, else the key in the state;
/// with neither, an external CA without an address, so that the cluster goes on and says so.
/// Its servers are verified against the trusted root, and while that rotates also the one to be.
fn signer(
    cluster: &Cluster,
    root: &RootCa,
    tls: &Arc<LiveTls>,
    now: OffsetDateTime,
) -> Result<Signer, IssuerError> {
    // While the root rotates, the one to be signs already, and nobody trusts it yet.
    let (cert, key) = match &root.root_rotation {
        Some(rotation) => (&rotation.ca_cert, &rotation.ca_key),
        None => (&root.ca_cert, &root.ca_key),
    };
    let settings = cluster
        .spec
        .as_ref()
        .and_then(|spec| spec.ca_config.as_ref());
    let cas = settings.map_or(&[][..], |settings| &settings.external_cas);
    let urls = signer_urls(cas, cert, &root.ca_cert);
    if urls.is_empty() && !key.is_empty() {
        // Only the present root can have a way to it.
        let way: &[u8] = match &root.root_rotation {
            Some(_) => &[],
            None => &cluster.signing_way,
        };
        let authority = match way {
            [] => RootAuthority::from_pem(cert, key, now)?,
            way => RootAuthority::intermediate_from_pem(&[way, cert].concat(), key, now)?,
        };
        return Ok(Signer::Local(Box::new(authority)));
    }
    let mut trusted = vec![root.ca_cert.as_slice()];
    if root.root_rotation.is_some() {
        trusted.push(cert);
    }
    let signer = ExternalSigner::new(urls, cert, &trusted, tls, now)?;
    Ok(Signer::External(Box::new(signer)))
}

/// The way from the root that signs to the one that is trusted, and to those before that.
fn intermediates(root: &RootCa, past: &[PastRoot]) -> Vec<Intermediate> {
    let text = |pem: &[u8]| String::from_utf8_lossy(pem).into_owned();
    let of_rotation = |rotation: &RootRotation| Intermediate {
        pem: text(&rotation.cross_signed_ca_cert),
        until: None,
    };
    let of_past = |past: &PastRoot| {
        let retired_at = past.retired_at.as_ref().and_then(date_time)?;
        let is_way = !past.cross_signed.is_empty() && !past.compromised;
        is_way.then(|| Intermediate {
            pem: text(&past.cross_signed),
            until: Some(retired_at + OLD_TRUST),
        })
    };
    let rotation = root.root_rotation.as_ref().map(of_rotation);
    let past = past.iter().rev().map_while(of_past).take(OLD_ROOTS);
    rotation.into_iter().chain(past).collect()
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
    fn leaves_lead_to_the_trusted_root_and_for_a_day_to_the_one_before() {
        let past = |retired_at: i64, compromised| PastRoot {
            cross_signed: b"B by A".to_vec(),
            retired_at: Some(prost_types::Timestamp {
                seconds: retired_at,
                nanos: 0,
            }),
            compromised,
            ..PastRoot::default()
        };
        let rotating = RootCa {
            root_rotation: Some(RootRotation {
                cross_signed_ca_cert: b"C by B".to_vec(),
                ..RootRotation::default()
            }),
            ..RootCa::default()
        };
        let shown = |root: &RootCa, past: &[PastRoot]| -> Vec<(String, Option<i64>)> {
            intermediates(root, past)
                .into_iter()
                .map(|one| (one.pem, one.until.map(OffsetDateTime::unix_timestamp)))
                .collect()
        };
        let a_day_after = |at: i64| ("B by A".to_owned(), Some(at + 86_400));
        let rotated = || ("C by B".to_owned(), None);
        let still = RootCa::default;
        assert_eq!(shown(&still(), &[]), []);
        assert_eq!(shown(&rotating, &[]), [rotated()]);
        let two = [past(3, false), past(7, false)];
        assert_eq!(shown(&still(), &two), [a_day_after(7), a_day_after(3)]);
        let three = [past(1, false), past(3, false), past(7, false)];
        let all = shown(&rotating, &three);
        assert_eq!(all, [rotated(), a_day_after(7), a_day_after(3)]);
        // A gap in the way ends it.
        let gone = [past(3, false), past(5, true), past(7, false)];
        assert_eq!(shown(&still(), &gone), [a_day_after(7)]);
        let dropped = PastRoot {
            cross_signed: Vec::new(),
            ..past(7, false)
        };
        assert_eq!(shown(&still(), &[past(3, false), dropped]), []);
    }

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
