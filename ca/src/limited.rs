//! Join tokens with limits: their secret is kept as a digest only.
//!
//! The text is that of any join token, so that Docker Engines can use it. What limits it, and
//! whether it still admits, is the cluster's to decide.

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::digest::BundleDigest;
use crate::token::{JoinToken, TOKEN_SECRET_BYTES};

/// SHA-256 of a token's secret bytes: what is kept of a limited token.
///
/// A plain hash is enough, without salt or stretching: the secret is 128 random bits, which
/// nobody guesses through the fastest hash, and no two tokens share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// Of a secret.
    pub(crate) fn of(secret: &[u8; TOKEN_SECRET_BYTES]) -> SecretDigest {
        SecretDigest(Sha256::digest(secret).into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn same(&self, kept: &[u8]) -> Choice {
        // Unequal at once for another length, which is no secret.
        self.0[..].ct_eq(kept)
    }
}

/// A new token for joiners that see the trust bundle with this digest, and what is kept of it.
/// `secret` are random bytes.
pub fn generate_limited(
    digest: BundleDigest,
    secret: &[u8; TOKEN_SECRET_BYTES],
) -> (JoinToken, SecretDigest) {
    (
        JoinToken::generate(digest, secret),
        SecretDigest::of(secret),
    )
}

/// The candidate whose kept digest is that of the presented token's secret.
///
/// All candidates are compared, each in constant time.
pub fn find_limited<'a, T>(
    presented: &JoinToken,
    candidates: impl Iterator<Item = (T, &'a [u8])>,
) -> Option<T> {
    let digest = presented.secret_digest();
    let mut found = None;
    for (candidate, kept) in candidates {
        if bool::from(digest.same(kept)) {
            found = Some(candidate);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: u8) -> (JoinToken, SecretDigest) {
        generate_limited(BundleDigest::of(b"root"), &[secret; TOKEN_SECRET_BYTES])
    }

    #[test]
    fn only_the_secret_of_a_candidate_finds_it() {
        let kept: Vec<_> = (1..=3).map(|secret| token(secret).1).collect();
        let candidates = || {
            let all = kept.iter().enumerate();
            all.map(|(place, digest)| (place, &digest.as_bytes()[..]))
        };
        assert_eq!(find_limited(&token(9).0, candidates()), None);
        for (place, secret) in (1..=3).enumerate() {
            assert_eq!(find_limited(&token(secret).0, candidates()), Some(place));
        }
        let cut = [(0, &kept[0].as_bytes()[..31]), (1, &[][..])];
        assert_eq!(find_limited(&token(1).0, cut.into_iter()), None);
    }

    #[test]
    fn the_digest_survives_the_text_and_shows_nothing_of_the_secret() {
        let (token, digest) = token(7);
        let again = JoinToken::parse(token.expose_text()).unwrap();
        assert_eq!(again.secret_digest(), digest);
        let secret = token.expose_text().rsplit('-').next().unwrap();
        assert!(!format!("{digest:?}").contains(secret));
    }
}
