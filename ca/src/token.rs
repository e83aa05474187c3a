//! Join tokens: `SWMTKN-1-<digest>-<secret>` (spec/pki.md §4).
//!
//! | Part | Meaning |
//! |---|---|
//! | `SWMTKN-1` | kind and version |
//! | digest, 50 characters | SHA-256 of the trust bundle's PEM, in base 36 |
//! | secret, 25 characters | 16 random bytes, in base 36 |
//!
//! Base 36 is `0-9a-z`, lower case, most significant first, padded with `0`.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use crate::digest::BundleDigest;
use crate::limited::SecretDigest;
use crate::role::Role;

/// Random bytes in a token's secret.
pub const TOKEN_SECRET_BYTES: usize = 16;

const PREFIX: &str = "SWMTKN";
const VERSION: &str = "1";
const DIGEST_CHARS: usize = 50;
const SECRET_CHARS: usize = 25;
/// Characters of a whole token.
const TOKEN_CHARS: usize = PREFIX.len() + 1 + VERSION.len() + 1 + DIGEST_CHARS + 1 + SECRET_CHARS;

/// A join token. Its secret is not in `Debug`, and its text is wiped on drop.
pub struct JoinToken {
    text: Zeroizing<String>,
    digest: BundleDigest,
    /// What is compared, so that the time it takes says nothing of the secret.
    fingerprint: [u8; 32],
}

/// The tokens of a cluster, one per role.
#[derive(Debug)]
pub struct JoinTokens {
    worker: JoinToken,
    manager: JoinToken,
}

/// Why a token is refused; different mistakes with different remedies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// Not a token at all, or one that was cut or changed in copying.
    #[error(
        "invalid join token: {problem}; copy the whole token that `docker swarm join-token \
         worker` prints on a manager"
    )]
    Shape {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A well-formed token for another root.
    #[error(
        "the join token is for another cluster or for a root certificate that was replaced; get \
         the current one with `docker swarm join-token worker` on a manager of this cluster"
    )]
    WrongDigest,
    /// A token for this root with a secret that is not current.
    #[error(
        "a valid join token is necessary to join this cluster, and this one was rotated or \
         mistyped; get the current one with `docker swarm join-token worker` on a manager"
    )]
    WrongSecret,
    /// The bundle that a manager sent is not the one that the token is for.
    #[error(
        "remote CA does not match fingerprint, expected: {}, found: {}; check the manager's \
         address, and get a current token with `docker swarm join-token worker` there",
        expected.hex(), found.hex()
    )]
    BundleMismatch {
        /// What the token says.
        expected: BundleDigest,
        /// What the manager sent.
        found: BundleDigest,
    },
}

impl JoinToken {
    /// A token for a cluster with this trust bundle, from 16 random bytes that stay secret.
    pub fn generate(digest: BundleDigest, secret: &[u8; TOKEN_SECRET_BYTES]) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(TOKEN_CHARS));
        for part in [PREFIX, "-", VERSION, "-"] {
            text.push_str(part);
        }
        push_base36::<32, DIGEST_CHARS>(*digest.as_bytes(), &mut text);
        text.push('-');
        push_base36::<TOKEN_SECRET_BYTES, SECRET_CHARS>(*secret, &mut text);
        let fingerprint = Sha256::digest(text.as_bytes()).into();
        Self {
            text,
            digest,
            fingerprint,
        }
    }

    /// Reads a token, strictly: exact lengths, lower-case base 36, numbers that fit.
    ///
    /// # Errors
    /// [`TokenError::Shape`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let shape = |problem| TokenError::Shape { problem };
        // A bound first: what comes from outside is split only if it can be a token.
        if text.len() > 2 * TOKEN_CHARS {
            return Err(shape("it is too long"));
        }
        let mut parts = text.split('-');
        if parts.next() != Some(PREFIX) {
            return Err(shape("it does not begin with SWMTKN-1-"));
        }
        match parts.next() {
            Some(VERSION) => {}
            Some("2") => return Err(shape("version 2 is for FIPS clusters and not supported")),
            _ => return Err(shape("it does not begin with SWMTKN-1-")),
        }
        let (Some(digest), Some(secret), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(shape("it does not have four parts joined by dashes"));
        };
        if digest.len() != DIGEST_CHARS || secret.len() != SECRET_CHARS {
            return Err(shape("its last two parts do not have 50 and 25 characters"));
        }
        let digest = read_base36::<32>(digest).map_err(shape)?;
        let mut value = read_base36::<TOKEN_SECRET_BYTES>(secret).map_err(shape)?;
        value.zeroize();
        Ok(Self {
            text: Zeroizing::new(text.to_owned()),
            digest: BundleDigest::from_bytes(digest),
            fingerprint: Sha256::digest(text.as_bytes()).into(),
        })
    }

    /// The text that an operator pastes; it holds the secret.
    pub fn expose_text(&self) -> &str {
        &self.text
    }

    /// The digest that the fetched trust bundle must have.
    pub fn digest(&self) -> BundleDigest {
        self.digest
    }

    /// Checks a fetched trust bundle, exact bytes, against this token.
    ///
    /// # Errors
    /// [`TokenError::BundleMismatch`] when the manager is of another cluster, or its root was
    /// replaced since the token was printed.
    pub fn check_bundle(&self, pem: &[u8]) -> Result<(), TokenError> {
        let found = BundleDigest::of(pem);
        if found == self.digest {
            Ok(())
        } else {
            Err(TokenError::BundleMismatch {
                expected: self.digest,
                found,
            })
        }
    }

    /// What is kept of the secret if this is a token with limits.
    pub(crate) fn secret_digest(&self) -> SecretDigest {
        let secret = self.text.rsplit('-').next().unwrap_or_default();
        // Was read when the token was parsed, or written when it was made.
        let mut secret = read_base36::<TOKEN_SECRET_BYTES>(secret).unwrap_or_default();
        let digest = SecretDigest::of(&secret);
        secret.zeroize();
        digest
    }

    fn same(&self, fingerprint: &[u8; 32]) -> Choice {
        self.fingerprint.ct_eq(fingerprint)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken(for {}, [REDACTED])", self.digest)
    }
}

impl JoinTokens {
    /// Fresh tokens for both roles. The secrets must differ, as two calls to a random source do.
    pub fn generate(
        digest: BundleDigest,
        worker_secret: &[u8; TOKEN_SECRET_BYTES],
        manager_secret: &[u8; TOKEN_SECRET_BYTES],
    ) -> Self {
        Self {
            worker: JoinToken::generate(digest, worker_secret),
            manager: JoinToken::generate(digest, manager_secret),
        }
    }

    /// The tokens of the cluster object.
    ///
    /// # Errors
    /// [`TokenError::Shape`] when a text is no token.
    pub fn parse(worker: &str, manager: &str) -> Result<Self, TokenError> {
        Ok(Self {
            worker: JoinToken::parse(worker)?,
            manager: JoinToken::parse(manager)?,
        })
    }

    /// The token for a role.
    pub fn token(&self, role: Role) -> &JoinToken {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }

    /// Replaces the token for a role; the old one is worthless at once.
    pub fn rotate(&mut self, role: Role, digest: BundleDigest, secret: &[u8; TOKEN_SECRET_BYTES]) {
        let token = JoinToken::generate(digest, secret);
        match role {
            Role::Worker => self.worker = token,
            Role::Manager => self.manager = token,
        }
    }

    /// The role that a presented token admits to.
    ///
    /// The whole token counts. Digests of equal length are compared, always with both tokens, in
    /// constant time; which part is wrong is looked at only after that.
    ///
    /// # Errors
    /// [`TokenError`] for a wrong shape, digest or secret.
    pub fn role_of(&self, presented: &str) -> Result<Role, TokenError> {
        let presented = JoinToken::parse(presented)?;
        let manager = self.manager.same(&presented.fingerprint);
        let worker = self.worker.same(&presented.fingerprint);
        if bool::from(worker) {
            // Were both the same, the lesser role would win.
            Ok(Role::Worker)
        } else if bool::from(manager) {
            Ok(Role::Manager)
        } else if presented.digest == self.worker.digest || presented.digest == self.manager.digest
        {
            Err(TokenError::WrongSecret)
        } else {
            Err(TokenError::WrongDigest)
        }
    }
}

/// Appends a big-endian number in base 36, padded to `CHARS`, which must be enough for it.
fn push_base36<const BYTES: usize, const CHARS: usize>(mut number: [u8; BYTES], text: &mut String) {
    let mut digits = Zeroizing::new([0u8; CHARS]);
    for digit in digits.iter_mut().rev() {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = remainder << 8 | u32::from(*byte);
            *byte = (value / 36) as u8; // the quotient of a digit below 36 · 256
            remainder = value % 36;
        }
        *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[remainder as usize];
    }
    number.zeroize();
    for digit in digits.iter() {
        text.push(char::from(*digit));
    }
}

/// Reads a number in lower-case base 36 that fits `BYTES` bytes.
fn read_base36<const BYTES: usize>(text: &str) -> Result<[u8; BYTES], &'static str> {
    let mut number = [0u8; BYTES];
    for character in text.bytes() {
        let digit = match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'z' => character - b'a' + 10,
            _ => return Err("it has characters other than digits and lower-case letters"),
        };
        let mut carry = u32::from(digit);
        for byte in number.iter_mut().rev() {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry != 0 {
            return Err("one of its parts is too large a number");
        }
    }
    Ok(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the engine's own API description (spec/pki.md §4).
    const KNOWN: &str =
        "SWMTKN-1-3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl-7p73s1dx5in4tatdymyhg9hu2";

    fn bundle(content: &str) -> BundleDigest {
        BundleDigest::of(content.as_bytes())
    }

    fn tokens() -> JoinTokens {
        JoinTokens::generate(bundle("root"), &[1; 16], &[2; 16])
    }

    #[test]
    fn refuses_every_wrong_shape() {
        let (prefix, secret) = KNOWN.rsplit_once('-').unwrap();
        let largest = "z".repeat(SECRET_CHARS);
        for text in [
            String::new(),
            "SWMTKN".to_owned(),
            KNOWN[1..].to_owned(),
            KNOWN[..KNOWN.len() - 1].to_owned(),
            format!("{KNOWN}0"),
            format!("{KNOWN}-0"),
            format!("{KNOWN}\n"),
            format!(" {KNOWN}"),
            prefix.to_owned(),
            KNOWN.replace("SWMTKN-1", "SWMTKN-2"),
            KNOWN.replace("SWMTKN-1", "SWMTKN-2-1"),
            KNOWN.replace("SWMTKN-1", "SWMTKN-3"),
            KNOWN.replace("SWMTKN-1", "swmtkn-1"),
            KNOWN.to_uppercase(),
            format!("{prefix}-{}", secret.to_uppercase()),
            KNOWN.replacen('3', "ä", 1),
            KNOWN.replacen('3', "_", 1),
            format!("{prefix}-{largest}"),
            format!("SWMTKN-1-{}-{secret}", "z".repeat(DIGEST_CHARS)),
            "-".repeat(10_000),
        ] {
            let error = JoinToken::parse(&text).unwrap_err();
            assert!(matches!(error, TokenError::Shape { .. }), "{text}: {error}");
            let error = tokens().role_of(&text).unwrap_err();
            assert!(matches!(error, TokenError::Shape { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn tells_a_wrong_digest_from_a_wrong_secret() {
        let other_cluster = JoinToken::generate(bundle("other"), &[1; 16]);
        let old_secret = JoinToken::generate(bundle("root"), &[3; 16]);
        let role_of = |token: &JoinToken| tokens().role_of(token.expose_text());
        assert_eq!(role_of(&other_cluster), Err(TokenError::WrongDigest));
        assert_eq!(role_of(&old_secret), Err(TokenError::WrongSecret));
    }

    #[test]
    fn a_rotated_token_is_worthless_at_once() {
        let mut tokens = tokens();
        let old = tokens.token(Role::Worker).expose_text().to_owned();
        assert_eq!(tokens.role_of(&old), Ok(Role::Worker));
        tokens.rotate(Role::Worker, bundle("root"), &[9; 16]);
        assert_eq!(tokens.role_of(&old), Err(TokenError::WrongSecret));
        let manager = tokens.token(Role::Manager).expose_text().to_owned();
        assert_eq!(tokens.role_of(&manager), Ok(Role::Manager));
        let new = tokens.token(Role::Worker).expose_text().to_owned();
        assert_eq!(tokens.role_of(&new), Ok(Role::Worker));
    }

    #[test]
    fn a_bundle_of_another_root_is_refused_to_the_byte() {
        let token = JoinToken::generate(bundle("root\n"), &[1; 16]);
        assert_eq!(token.check_bundle(b"root\n"), Ok(()));
        let error = token.check_bundle(b"root").unwrap_err();
        assert!(
            matches!(error, TokenError::BundleMismatch { .. }),
            "{error}"
        );
    }

    #[test]
    fn the_secret_is_in_no_debug_text_and_no_error() {
        let tokens = tokens();
        let secret = tokens
            .token(Role::Worker)
            .expose_text()
            .rsplit('-')
            .next()
            .unwrap()
            .to_owned();
        assert!(!format!("{tokens:?}").contains(&secret));
        let cut = &tokens.token(Role::Worker).expose_text()[5..];
        let error = tokens.role_of(cut).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(&secret[..8]));
    }

    #[test]
    fn reads_and_writes_the_known_form() {
        let token = JoinToken::parse(KNOWN).unwrap();
        let secret = read_base36::<16>(KNOWN.rsplit('-').next().unwrap()).unwrap();
        assert_eq!(
            JoinToken::generate(token.digest(), &secret).expose_text(),
            KNOWN
        );
        let zero = JoinToken::generate(BundleDigest::from_bytes([0; 32]), &[0; 16]);
        assert_eq!(
            zero.expose_text(),
            format!("SWMTKN-1-{}-{}", "0".repeat(50), "0".repeat(25))
        );
    }

    proptest! {
        #[test]
        fn a_token_survives_its_text(digest: [u8; 32], secret: [u8; 16]) {
            let token = JoinToken::generate(BundleDigest::from_bytes(digest), &secret);
            prop_assert_eq!(token.expose_text().len(), TOKEN_CHARS);
            let again = JoinToken::parse(token.expose_text()).unwrap();
            prop_assert_eq!(again.digest(), BundleDigest::from_bytes(digest));
            prop_assert_eq!(again.fingerprint, token.fingerprint);
        }

        #[test]
        fn random_text_does_not_panic(text in ".{0,200}") {
            prop_assert!(JoinToken::parse(&text).is_err());
        }

        #[test]
        fn one_changed_character_is_refused(at in 9usize..85, other in "[0-9a-z]") {
            let tokens = tokens();
            let mut text = tokens.token(Role::Worker).expose_text().to_owned();
            prop_assume!(!["-", &other].contains(&&text[at..=at]));
            text.replace_range(at..=at, &other);
            prop_assert!(tokens.role_of(&text).is_err());
        }
    }
}
