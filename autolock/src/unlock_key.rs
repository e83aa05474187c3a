//! The key that the operator keeps.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use secrecy::{ExposeSecret, SecretBox};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Bytes of an unlock key.
pub const UNLOCK_KEY_LEN: usize = 32;

/// What the text of an unlock key starts with; as swarmkit writes it.
pub const UNLOCK_KEY_PREFIX: &str = "SWMKEY-1-";

/// Characters that follow the prefix: 32 bytes in base64 without padding.
const ENCODED_LEN: usize = 43;

/// The operator's unlock key: 256 random bits, one for all managers of a cluster.
///
/// No `Clone`; `Debug` shows no content; equality takes constant time.
pub struct UnlockKey(SecretBox<[u8; UNLOCK_KEY_LEN]>);

/// A text that is not an unlock key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseUnlockKeyError {
    /// It does not start with `SWMKEY-1-`.
    #[error("the unlock key does not start with {UNLOCK_KEY_PREFIX}; copy the whole key")]
    Prefix,
    /// The rest is not 43 characters long.
    #[error(
        "the unlock key has {found} characters after {UNLOCK_KEY_PREFIX}, not {ENCODED_LEN}; \
         copy the whole key"
    )]
    Length {
        /// Characters after the prefix.
        found: usize,
    },
    /// The rest is not standard base64 without padding.
    #[error("the unlock key has a character that no key has; check it for typing errors")]
    Encoding,
    /// Raw bytes of another length than 32.
    #[error("the stored unlock key has {found} bytes, not {UNLOCK_KEY_LEN}")]
    ByteLength {
        /// Bytes given.
        found: usize,
    },
}

impl UnlockKey {
    /// A new key, filled in place by the caller's random source.
    ///
    /// # Errors
    /// What `fill` returns; no key exists then.
    pub fn generate<E>(
        fill: impl FnOnce(&mut [u8; UNLOCK_KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut filled = Ok(());
        let key = SecretBox::init_with_mut(|bytes: &mut [u8; UNLOCK_KEY_LEN]| {
            filled = fill(bytes);
        });
        filled.map(|()| Self(key))
    }

    /// The key from the bytes that the cluster's state holds.
    ///
    /// # Errors
    /// [`ParseUnlockKeyError::ByteLength`].
    pub fn from_slice(bytes: &[u8]) -> Result<Self, ParseUnlockKeyError> {
        if bytes.len() != UNLOCK_KEY_LEN {
            return Err(ParseUnlockKeyError::ByteLength { found: bytes.len() });
        }
        Ok(Self(SecretBox::init_with_mut(
            |key: &mut [u8; UNLOCK_KEY_LEN]| {
                key.copy_from_slice(bytes);
            },
        )))
    }

    /// Reads `SWMKEY-1-` and 43 characters of base64. Swarmkit takes any length; a key of another
    /// length than 32 bytes is a typing error here.
    ///
    /// # Errors
    /// Which part is wrong; never the text itself.
    pub fn parse(text: &str) -> Result<Self, ParseUnlockKeyError> {
        let encoded = text
            .strip_prefix(UNLOCK_KEY_PREFIX)
            .ok_or(ParseUnlockKeyError::Prefix)?;
        let found = encoded.chars().count();
        if found != ENCODED_LEN {
            return Err(ParseUnlockKeyError::Length { found });
        }
        // The decoder wants room for whole groups of three.
        let mut bytes = Zeroizing::new([0; UNLOCK_KEY_LEN + 3]);
        match STANDARD_NO_PAD.decode_slice(encoded, &mut bytes[..]) {
            Ok(UNLOCK_KEY_LEN) => Self::from_slice(&bytes[..UNLOCK_KEY_LEN]),
            _ => Err(ParseUnlockKeyError::Encoding),
        }
    }

    /// The text form. It leaves the process only to the operator who asked for it.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(UNLOCK_KEY_PREFIX.len() + ENCODED_LEN));
        text.push_str(UNLOCK_KEY_PREFIX);
        STANDARD_NO_PAD.encode_string(self.expose_bytes(), &mut text);
        text
    }

    /// The bytes, for the cluster's state and for an mTLS stream, nowhere else.
    pub fn expose_bytes(&self) -> &[u8; UNLOCK_KEY_LEN] {
        self.0.expose_secret()
    }

    /// A second holder of the same key. Not `Clone`, so that every copy is seen in review.
    pub fn duplicate(&self) -> Self {
        Self(SecretBox::init_with_mut(
            |key: &mut [u8; UNLOCK_KEY_LEN]| {
                key.copy_from_slice(self.expose_bytes());
            },
        ))
    }
}

impl PartialEq for UnlockKey {
    fn eq(&self, other: &Self) -> bool {
        self.expose_bytes().ct_eq(other.expose_bytes()).into()
    }
}

impl Eq for UnlockKey {}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of moby's swagger file.
    const EXAMPLE: &str = "SWMKEY-1-7c37Cc8654o6p38HnroywCi19pllOnGtbdZEgtKxZu8";

    #[test]
    fn refuses_what_is_not_a_key() {
        let err = |text: &str| UnlockKey::parse(text).unwrap_err();
        assert_eq!(err(""), ParseUnlockKeyError::Prefix);
        assert_eq!(err("SWMTKN-1-abc"), ParseUnlockKeyError::Prefix);
        assert_eq!(err(&EXAMPLE.to_lowercase()), ParseUnlockKeyError::Prefix);
        assert_eq!(err("SWMKEY-1-"), ParseUnlockKeyError::Length { found: 0 });
        assert_eq!(
            err("SWMKEY-1-YWJj"),
            ParseUnlockKeyError::Length { found: 4 }
        );
        assert_eq!(
            err(&format!("{EXAMPLE}=")),
            ParseUnlockKeyError::Length { found: 44 }
        );
        assert_eq!(
            err(&format!("{EXAMPLE}\n")),
            ParseUnlockKeyError::Length { found: 44 }
        );
        let typo = EXAMPLE.replace("7c37", "7c3_");
        assert_eq!(err(&typo), ParseUnlockKeyError::Encoding);
        // 43 characters whose last two bits are not zero: another spelling of the same bytes.
        let sloppy = format!("{}9", &EXAMPLE[..EXAMPLE.len() - 1]);
        assert_eq!(err(&sloppy), ParseUnlockKeyError::Encoding);
        let wide = format!("SWMKEY-1-{}", "é".repeat(43));
        assert_eq!(err(&wide), ParseUnlockKeyError::Encoding);
        for text in [typo.as_str(), sloppy.as_str()] {
            assert!(!format!("{:?} {}", err(text), err(text)).contains("Cc8654"));
        }
        assert_eq!(
            UnlockKey::from_slice(&[0; 31]).unwrap_err(),
            ParseUnlockKeyError::ByteLength { found: 31 }
        );
    }

    #[test]
    fn a_random_source_that_fails_gives_no_key() {
        assert_eq!(
            UnlockKey::generate(|_| Err("no entropy")).unwrap_err(),
            "no entropy"
        );
    }

    #[test]
    fn text_and_bytes_agree() {
        let key = UnlockKey::parse(EXAMPLE).unwrap();
        assert_eq!(&*key.to_text(), EXAMPLE);
        assert_eq!(key.expose_bytes()[..4], [0xed, 0xcd, 0xfb, 0x09]);
        assert_eq!(key, key.duplicate());
        assert_eq!(key, UnlockKey::from_slice(key.expose_bytes()).unwrap());
        let other = UnlockKey::generate(|b| {
            b.fill(7);
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_ne!(key, other);
        assert_eq!(format!("{key:?}"), "UnlockKey([REDACTED])");
    }
}
