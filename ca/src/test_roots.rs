//! Roots, chains and credentials for this crate's own tests.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use time::OffsetDateTime;

use crate::{
    CertificateExpiry, Csr, IssuedCertificate, NodeCredentials, NodeKey, NodeProfile, Role,
    RootAuthority, Serial, TrustBundle,
};

pub(crate) const NOW: OffsetDateTime = time::macros::datetime!(2026-11-20 07:00 UTC);
pub(crate) const CLUSTER: &str = "h5u0bd3u0zc71zvm8yzk2xxxx";

pub(crate) fn profile(node_id: &str, role: Role) -> NodeProfile {
    NodeProfile {
        cluster_id: CLUSTER.to_owned(),
        node_id: node_id.to_owned(),
        role,
        expiry: CertificateExpiry::DEFAULT,
    }
}

pub(crate) fn csr(key: &NodeKey) -> Csr {
    Csr::parse(key.csr_pem().unwrap().as_bytes()).unwrap()
}

pub(crate) fn serial(number: u8) -> Serial {
    Serial::from_bytes(&[7, number]).unwrap()
}

/// A leaf with its key.
pub(crate) fn leaf(
    root: &RootAuthority,
    profile: &NodeProfile,
    now: OffsetDateTime,
) -> (IssuedCertificate, NodeKey) {
    let key = NodeKey::generate().unwrap();
    let issued = root.issue(profile, &csr(&key), serial(1), now).unwrap();
    (issued, key)
}

pub(crate) fn credentials(
    root: &RootAuthority,
    profile: &NodeProfile,
    now: OffsetDateTime,
) -> Arc<NodeCredentials> {
    let (issued, key) = leaf(root, profile, now);
    NodeCredentials::new(issued.pem.as_bytes(), key, root.trust(), now).unwrap()
}

pub(crate) fn bundle(root: &RootAuthority) -> Arc<TrustBundle> {
    Arc::new(root.trust().clone())
}

/// Parameters of a root that another program made.
pub(crate) fn foreign_params(life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = NOW - time::Duration::HOUR;
    params.not_after = NOW + life;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// A root that another program made, as authority.
pub(crate) fn foreign_root(life: Duration) -> RootAuthority {
    let key = KeyPair::generate().unwrap();
    let cert = foreign_params(life).self_signed(&key).unwrap();
    RootAuthority::from_pem(cert.pem().as_bytes(), key.serialize_pem().as_bytes(), NOW).unwrap()
}

/// The certificate of `new` signed by `old`, as in a root rotation.
pub(crate) fn cross_sign(new: &RootAuthority, old: &RootAuthority) -> String {
    old.cross_sign(new.trust(), NOW).unwrap()
}
