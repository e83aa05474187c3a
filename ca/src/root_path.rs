//! The way from a root that a node holds to the present one.
//!
//! Each root rotation leaves a certificate of the new root signed by the one before it. A node
//! that missed rotations gets these certificates from anybody, without trusting them, and walks
//! from the root it believes to the one its cluster has now. Nothing but signatures leads from
//! one root to the next: who served them does not matter.

use rustls::pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::chain::{ChainError, IssuerInfo, IssuerRules, chain_from_pem};
use crate::root::{ROOT_SIGNATURES, TrustBundle, TrustError, may_sign_certificates};
use crate::skew::stamp;

/// Most steps of a path: as many former roots as a cluster keeps.
pub const MAX_PATH_STEPS: usize = 16;
/// Largest certificate of a step, in bytes of DER; those of our roots have about 400.
const MAX_STEP_BYTES: usize = 4 * 1024;

/// Why a path does not lead to the root at its end. `step` counts from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RootPathError {
    /// Too many steps, or too large ones.
    #[error("the way to the cluster's present root has more than 16 steps, or too large ones")]
    TooLong,
    /// The root at its end.
    #[error("the root that the managers have now cannot be used: {0}")]
    Present(#[source] TrustError),
    /// Several roots at its end.
    #[error("the managers have several roots now, and the way leads to one only")]
    SeveralRoots,
    /// A step is no certificate.
    #[error("step {step} of the way to the cluster's present root is malformed")]
    Malformed {
        /// Which.
        step: usize,
    },
    /// A step is not signed by the root before it.
    #[error(
        "step {step} of the way to the cluster's present root is not signed by the root before it"
    )]
    NotSigned {
        /// Which.
        step: usize,
    },
    /// A step is not a CA certificate that can stand for a root.
    #[error("step {step} of the way to the cluster's present root is not a root's certificate")]
    NotARoot {
        /// Which.
        step: usize,
    },
    /// A step is out of its validity.
    #[error(
        "step {step} of the way to the cluster's present root is not valid at {}", stamp(*now)
    )]
    NotValid {
        /// Which.
        step: usize,
        /// The time it was judged at.
        now: OffsetDateTime,
    },
    /// It leads over a key that counts no more, or never did.
    #[error("step {step} leads to a root that is none of the cluster's: {source}")]
    Issuer {
        /// Which.
        step: usize,
        /// Why.
        source: ChainError,
    },
    /// It ends at another root than the one that the managers have.
    #[error("the way does not end at the root that the managers have now")]
    Elsewhere,
}

/// Walks from the roots that are `held` over `steps` to the `present` root, and answers it.
///
/// Each step is a certificate in DER: subject and key of a root, signed by the root before it
/// with an algorithm that roots may use, a CA, valid at `now`. The first is signed by one of the
/// roots that are held and valid at `now`; the last bears subject and key of the one root in
/// `present`, which is checked as every trust bundle is. Without a step, `present` must be what
/// is held.
///
/// By the `rules` of issuers below what is held, the first step must count; whoever that is
/// vouches for the next. None leads to a key that they refuse.
///
/// # Errors
/// See [`RootPathError`].
pub fn follow_root_path(
    held: &TrustBundle,
    steps: &[Vec<u8>],
    present: &[u8],
    rules: &IssuerRules,
    now: OffsetDateTime,
) -> Result<TrustBundle, RootPathError> {
    // 1. Bounds, before anything is parsed or any signature checked.
    if steps.len() > MAX_PATH_STEPS || steps.iter().any(|step| step.len() > MAX_STEP_BYTES) {
        return Err(RootPathError::TooLong);
    }
    let present = TrustBundle::from_pem(present, now).map_err(RootPathError::Present)?;
    if steps.is_empty() {
        return match present.digest() == held.digest() {
            true => Ok(present),
            false => Err(RootPathError::Elsewhere),
        };
    }
    if present.only_root().is_none() {
        return Err(RootPathError::SeveralRoots);
    }
    // 2. Step by step, each from the root before it alone.
    let mut from: Vec<IssuerInfo> = held.valid_issuers(now).cloned().collect();
    let mut rules = rules.clone();
    for (step, der) in (1..).zip(steps) {
        let taken = take_step(&from, der, step, now)?;
        let counts = rules.check(&taken);
        counts.map_err(|source| RootPathError::Issuer { step, source })?;
        rules.only = None;
        from = vec![taken];
    }
    // 3. The end is the root that was shown, whose key signed itself.
    match from.first() == Some(present.issuer_info()) {
        true => Ok(present),
        false => Err(RootPathError::Elsewhere),
    }
}

/// Subject and key of a root that one of `from` vouches for.
fn take_step(
    from: &[IssuerInfo],
    der: &[u8],
    step: usize,
    now: OffsetDateTime,
) -> Result<IssuerInfo, RootPathError> {
    let Ok(([], certificate)) = X509Certificate::from_der(der) else {
        return Err(RootPathError::Malformed { step });
    };
    if !from.iter().any(|root| is_signed_by(&certificate, root)) {
        return Err(RootPathError::NotSigned { step });
    }
    if !may_sign_certificates(&certificate) || has_unknown_demands(&certificate) {
        return Err(RootPathError::NotARoot { step });
    }
    let validity = certificate.validity();
    if now < validity.not_before.to_datetime() || now > validity.not_after.to_datetime() {
        return Err(RootPathError::NotValid { step, now });
    }
    Ok(IssuerInfo {
        subject_der: certificate.subject().as_raw().to_vec(),
        public_key_der: certificate.public_key().raw.to_vec(),
    })
}

/// Whether a certificate names this issuer and bears its signature, made as roots may sign.
pub(crate) fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &IssuerInfo) -> bool {
    let is_named = certificate.issuer().as_raw() == issuer.subject_der;
    if !is_named || !ROOT_SIGNATURES.contains(&certificate.signature_algorithm.algorithm) {
        return false;
    }
    match SubjectPublicKeyInfo::from_der(&issuer.public_key_der) {
        Ok(([], key)) => certificate.verify_signature(Some(&key)).is_ok(),
        _ => false,
    }
}

/// Critical extensions beyond those that say what a CA may do.
fn has_unknown_demands(certificate: &X509Certificate<'_>) -> bool {
    certificate.extensions().iter().any(|extension| {
        let known = matches!(
            extension.parsed_extension(),
            ParsedExtension::BasicConstraints(_)
                | ParsedExtension::KeyUsage(_)
                | ParsedExtension::NameConstraints(_)
        );
        extension.critical && !known
    })
}

/// A root that was replaced, as the cluster's record has it.
#[derive(Debug, Clone, Copy)]
pub struct FormerRoot<'a> {
    /// It in PEM, exactly as nodes hold it.
    pub root_pem: &'a [u8],
    /// The root that followed it, signed by it, in PEM; empty once that was dropped.
    pub next_cross_signed_pem: &'a [u8],
}

/// Why the cluster knows no way from a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoRootPath {
    /// It never was this cluster's, or so long ago that it is on record no more.
    #[error(
        "this cluster has no record of the root that the node trusts; run `docker swarm leave \
         --force` on the node, then join it with a token of this cluster"
    )]
    UnknownRoot,
    /// What would lead on from it was dropped.
    #[error(
        "the cluster's root was replaced too long ago, or as compromised, and nothing leads from \
         the root that the node trusts to the present one; run `docker swarm leave --force` on \
         the node, then join it with a token"
    )]
    Dropped,
}

/// The steps in DER from the root whose PEM has this digest to the present one. `former` are the
/// roots before `present`, in the order in which they were replaced.
///
/// # Errors
/// See [`NoRootPath`].
pub fn root_path(
    held: &[u8],
    former: &[FormerRoot<'_>],
    present: &[u8],
) -> Result<Vec<Vec<u8>>, NoRootPath> {
    let digest = |pem: &[u8]| *crate::BundleDigest::of(pem).as_bytes();
    if digest(present) == held {
        return Ok(Vec::new());
    }
    // A root can have been the cluster's more than once: the latest time counts.
    let start = former
        .iter()
        .rposition(|root| digest(root.root_pem) == held)
        .ok_or(NoRootPath::UnknownRoot)?;
    let mut steps = Vec::new();
    for root in former.get(start..).unwrap_or_default() {
        let step = only_certificate(root.next_cross_signed_pem).map_err(|_| NoRootPath::Dropped)?;
        steps.push(step);
    }
    Ok(steps)
}

fn only_certificate(pem: &[u8]) -> Result<Vec<u8>, ChainError> {
    let chain: Vec<CertificateDer<'_>> = chain_from_pem(pem)?;
    // The first: what follows it, if anything, leads to older roots.
    let first = chain.first().map(|certificate| certificate.to_vec());
    first.ok_or(ChainError::Limit(crate::chain::ChainLimitError::Empty))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::RootAuthority;
    use crate::test_roots::{NOW, cross_sign, foreign_root, leaf, profile};

    fn root() -> RootAuthority {
        RootAuthority::generate(NOW).unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        only_certificate(pem.as_bytes()).unwrap()
    }

    /// From the first root to the last, each signing the next.
    fn steps(roots: &[&RootAuthority]) -> Vec<Vec<u8>> {
        let pairs = roots.windows(2);
        pairs
            .map(|pair| der(&cross_sign(pair[1], pair[0])))
            .collect()
    }

    fn walk(
        held: &RootAuthority,
        steps: &[Vec<u8>],
        present: &RootAuthority,
    ) -> Result<TrustBundle, RootPathError> {
        let rules = IssuerRules::default();
        follow_root_path(held.trust(), steps, present.trust().pem(), &rules, NOW)
    }

    #[test]
    fn another_root_without_a_step_is_refused() {
        let (held, other) = (root(), root());
        assert_eq!(
            walk(&held, &[], &other).unwrap_err(),
            RootPathError::Elsewhere
        );
        assert!(walk(&held, &[], &held).is_ok());
    }

    #[test]
    fn a_step_that_is_not_signed_by_the_root_before_it_is_refused() {
        let (held, second, third, thief) = (root(), root(), root(), root());
        let forged = steps(&[&thief, &second]);
        assert_eq!(
            walk(&held, &forged, &second).unwrap_err(),
            RootPathError::NotSigned { step: 1 }
        );
        // One left out, and two in the wrong order.
        let mut whole = steps(&[&held, &second, &third]);
        assert_eq!(
            walk(&held, &whole[1..], &third).unwrap_err(),
            RootPathError::NotSigned { step: 1 }
        );
        whole.swap(0, 1);
        assert_eq!(
            walk(&held, &whole, &third).unwrap_err(),
            RootPathError::NotSigned { step: 1 }
        );
        // Signed by the root before the one before it: each step starts where the last ended.
        let past = vec![
            der(&cross_sign(&second, &held)),
            der(&cross_sign(&third, &held)),
        ];
        assert_eq!(
            walk(&held, &past, &third).unwrap_err(),
            RootPathError::NotSigned { step: 2 }
        );
    }

    #[test]
    fn the_way_ends_at_the_root_that_is_shown_or_nowhere() {
        let (held, second, thief) = (root(), root(), root());
        let way = steps(&[&held, &second]);
        assert_eq!(
            walk(&held, &way, &thief).unwrap_err(),
            RootPathError::Elsewhere
        );
        let both = [second.trust().pem(), thief.trust().pem()].concat();
        assert_eq!(
            follow_root_path(held.trust(), &way, &both, &IssuerRules::default(), NOW).unwrap_err(),
            RootPathError::SeveralRoots
        );
    }

    #[test]
    fn a_way_over_a_root_that_was_given_up_or_is_anothers_is_refused() {
        let (held, ours, next, thief) = (root(), root(), root(), root());
        let key = |root: &RootAuthority| {
            crate::PublicKeyDigest::of_spki(&root.issuer_info().public_key_der)
        };
        let walk = |roots: &[&RootAuthority], rules: &IssuerRules| {
            let end = roots[roots.len() - 1].trust().pem();
            let walked = follow_root_path(held.trust(), &steps(roots), end, rules, NOW);
            walked.map(|found| found.pem() == end)
        };
        let refused = |step, source| Err(RootPathError::Issuer { step, source });
        let given_up = IssuerRules {
            only: None,
            refused: vec![key(&thief)],
        };
        let former = ChainError::FormerIssuer;
        assert_eq!(
            walk(&[&held, &thief], &given_up),
            refused(1, former.clone())
        );
        assert_eq!(walk(&[&held, &ours, &thief], &given_up), refused(2, former));
        assert_eq!(walk(&[&held, &ours], &given_up), Ok(true));
        let pinned = IssuerRules {
            only: Some(vec![key(&held), key(&ours)]),
            refused: Vec::new(),
        };
        let foreign = ChainError::ForeignIssuer;
        assert_eq!(walk(&[&held, &thief], &pinned), refused(1, foreign));
        // Whom the cluster's own next root vouches for is the one after it.
        assert_eq!(walk(&[&held, &ours, &next], &pinned), Ok(true));
    }

    #[test]
    fn a_nodes_certificate_is_no_step() {
        let held = root();
        let (issued, key) = leaf(&held, &profile("n1", crate::Role::Manager), NOW);
        drop(key);
        assert_eq!(
            walk(&held, &[issued.der.to_vec()], &held).unwrap_err(),
            RootPathError::NotARoot { step: 1 }
        );
    }

    #[test]
    fn what_has_expired_leads_nowhere() {
        // A cross-signed certificate lives as long as the root that it is of, 20 years.
        let (held, present) = (root(), root());
        let second = RootAuthority::generate(NOW - time::Duration::days(100)).unwrap();
        let way = steps(&[&held, &second, &present]);
        let late = NOW + time::Duration::days(7250);
        let rules = IssuerRules::default();
        assert_eq!(
            follow_root_path(held.trust(), &way, present.trust().pem(), &rules, late).unwrap_err(),
            RootPathError::NotValid { step: 1, now: late }
        );
        // Neither does a root that is held and has ended.
        let short = foreign_root(Duration::from_secs(3600));
        let way = steps(&[&short, &second]);
        let late = NOW + time::Duration::hours(2);
        assert_eq!(
            follow_root_path(short.trust(), &way, second.trust().pem(), &rules, late).unwrap_err(),
            RootPathError::NotSigned { step: 1 }
        );
    }

    #[test]
    fn long_and_malformed_ways_are_refused() {
        let held = root();
        let many = vec![vec![0]; MAX_PATH_STEPS + 1];
        assert_eq!(
            walk(&held, &many, &held).unwrap_err(),
            RootPathError::TooLong
        );
        let large = vec![vec![0; MAX_STEP_BYTES + 1]];
        assert_eq!(
            walk(&held, &large, &held).unwrap_err(),
            RootPathError::TooLong
        );
        let malformed = walk(&held, &[vec![0x30, 0x80]], &held);
        assert_eq!(malformed.unwrap_err(), RootPathError::Malformed { step: 1 });
        let mut trailing = steps(&[&held, &root()]);
        trailing[0].push(0);
        let malformed = walk(&held, &trailing, &held);
        assert_eq!(malformed.unwrap_err(), RootPathError::Malformed { step: 1 });
    }

    #[test]
    fn a_way_over_several_rotations_leads_to_the_present_root() {
        let roots: Vec<_> = (0..4).map(|_| root()).collect();
        let [first, second, third, fourth] = &roots[..] else {
            unreachable!()
        };
        let way = steps(&[first, second, third, fourth]);
        let found = walk(first, &way, fourth).unwrap();
        assert_eq!(found.pem(), fourth.trust().pem());
    }

    #[test]
    fn a_cluster_tells_the_way_from_the_roots_it_had() {
        let (first, second, present) = (root(), root(), root());
        let crosses = [cross_sign(&second, &first), cross_sign(&present, &second)];
        let mut former = [
            FormerRoot {
                root_pem: first.trust().pem(),
                next_cross_signed_pem: crosses[0].as_bytes(),
            },
            FormerRoot {
                root_pem: second.trust().pem(),
                next_cross_signed_pem: crosses[1].as_bytes(),
            },
        ];
        let now = present.trust().pem();
        let from = |held: &RootAuthority, former: &[FormerRoot<'_>]| {
            root_path(held.trust().digest().as_bytes(), former, now)
        };
        assert_eq!(from(&root(), &former), Err(NoRootPath::UnknownRoot));
        assert_eq!(
            root_path(b"short", &former, now),
            Err(NoRootPath::UnknownRoot)
        );
        assert_eq!(from(&present, &former), Ok(Vec::new()));
        for held in [&first, &second] {
            let way = from(held, &former).unwrap();
            assert!(walk(held, &way, &present).is_ok());
        }
        // What was dropped leads on from no root before it either.
        former[1].next_cross_signed_pem = b"";
        assert_eq!(from(&first, &former), Err(NoRootPath::Dropped));
        assert_eq!(from(&second, &former), Err(NoRootPath::Dropped));
    }
}
