//! What a secret or config may be: its name, its size, its labels, what of it
//! may change.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::template::TEMPLATE_DRIVER;

/// Longest name, in bytes (swarmkit's rule).
pub const MAX_NAME_BYTES: usize = 64;
/// Largest payload of a secret, in bytes: swarmkit's limit of 500 KiB is exclusive.
pub const MAX_SECRET_BYTES: usize = 500 * 1024 - 1;
/// Largest payload of a config, in bytes: swarmkit's limit of 1000 KiB is exclusive.
pub const MAX_CONFIG_BYTES: usize = 1000 * 1024 - 1;
/// Largest sum of all label keys and values, in bytes: with a full config it
/// still fits into one command of 1.5 MiB.
pub const MAX_LABELS_BYTES: usize = 128 * 1024;

/// Which of the two kinds of object a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A payload that is shown to tasks only.
    Secret,
    /// A payload that the API shows again.
    Config,
}

impl Kind {
    /// The word for it in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Secret => "secret",
            Kind::Config => "config",
        }
    }

    /// Largest payload, in bytes.
    pub fn max_bytes(self) -> usize {
        match self {
            Kind::Secret => MAX_SECRET_BYTES,
            Kind::Config => MAX_CONFIG_BYTES,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a secret or config is refused; the texts are the Docker Engine's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The name is empty.
    #[error("name must be provided")]
    NoName,
    /// The name is too long or has a character that is not allowed.
    #[error(
        "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end character must be [a-zA-Z0-9]"
    )]
    BadName,
    /// The payload is empty or too large.
    #[error("{kind} data must be larger than 0 and less than {} bytes", kind.max_bytes() + 1)]
    BadSize {
        /// What it was to be.
        kind: Kind,
    },
    /// The labels together are too large.
    #[error(
        "labels have {bytes} bytes, at most {MAX_LABELS_BYTES} are allowed; use fewer or shorter labels"
    )]
    LabelsTooLarge {
        /// Bytes of all keys and values.
        bytes: usize,
    },
    /// A driver without a name.
    #[error("secret driver must have a name")]
    UnnamedDriver,
    /// The payload is to come from a plugin.
    #[error(
        "secret driver {name} is not available, drivers are not offered; create the secret with its data"
    )]
    DriverNotOffered {
        /// The driver asked for.
        name: String,
    },
    /// The payload is a template of a kind that no node expands.
    #[error(
        "{kind} template driver {name} is not available; use {TEMPLATE_DRIVER}, or store the {kind} expanded"
    )]
    TemplatingNotOffered {
        /// What it was to be.
        kind: Kind,
        /// The template driver asked for.
        name: String,
    },
    /// An update changes something other than labels.
    #[error("only updates to Labels are allowed")]
    OnlyLabels,
}

/// Checks a name: 1 to 64 bytes of `[a-zA-Z0-9-_.]`, the first and last alphanumeric.
///
/// # Errors
/// [`ObjectError::NoName`] and [`ObjectError::BadName`].
pub fn check_name(name: &str) -> Result<(), ObjectError> {
    let bytes = name.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(ObjectError::NoName);
    };
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let allowed = bytes.len() <= MAX_NAME_BYTES
        && first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(inner);
    if allowed {
        Ok(())
    } else {
        Err(ObjectError::BadName)
    }
}

/// Checks the size of a payload: 1 to 511,999 bytes for a secret, to 1,023,999 for a config.
///
/// # Errors
/// [`ObjectError::BadSize`].
pub fn check_payload(kind: Kind, bytes: usize) -> Result<(), ObjectError> {
    if (1..=kind.max_bytes()).contains(&bytes) {
        Ok(())
    } else {
        Err(ObjectError::BadSize { kind })
    }
}

/// Checks labels: [`MAX_LABELS_BYTES`] in all. Everything else is allowed, as
/// with the Docker Engine.
///
/// # Errors
/// [`ObjectError::LabelsTooLarge`].
pub fn check_labels<'a>(
    labels: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), ObjectError> {
    let mut bytes = 0usize;
    for (key, value) in labels {
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if bytes > MAX_LABELS_BYTES {
        return Err(ObjectError::LabelsTooLarge { bytes });
    }
    Ok(())
}

/// Checks that the payload comes with the object, not from a plugin, and that nodes
/// expand it if it is a template. Each argument is the driver's name, if one is asked
/// for. The template itself is for [`Template::parse`](crate::Template::parse) to judge.
///
/// # Errors
/// [`ObjectError::UnnamedDriver`], [`ObjectError::DriverNotOffered`],
/// [`ObjectError::TemplatingNotOffered`].
pub fn check_driver(
    kind: Kind,
    driver: Option<&str>,
    templating: Option<&str>,
) -> Result<(), ObjectError> {
    match driver {
        Some("") => return Err(ObjectError::UnnamedDriver),
        Some(name) => return Err(ObjectError::DriverNotOffered { name: name.into() }),
        None => {}
    }
    match templating {
        // Clients send an empty driver object for "none".
        None | Some("" | TEMPLATE_DRIVER) => Ok(()),
        Some(name) => Err(ObjectError::TemplatingNotOffered {
            kind,
            name: name.into(),
        }),
    }
}

/// Checks an update: the name must be the same, letter case included, and the
/// data absent (empty) or equal. Payloads are compared in constant time, and
/// the stored one is opened only if there is something to compare.
///
/// # Errors
/// [`ObjectError::OnlyLabels`].
pub fn check_update<P: AsRef<[u8]>>(
    stored_name: &str,
    name: &str,
    data: &[u8],
    stored_data: impl FnOnce() -> P,
) -> Result<(), ObjectError> {
    if stored_name != name {
        return Err(ObjectError::OnlyLabels);
    }
    if data.is_empty() || bool::from(stored_data().as_ref().ct_eq(data)) {
        Ok(())
    } else {
        Err(ObjectError::OnlyLabels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_refused() {
        assert_eq!(check_name(""), Err(ObjectError::NoName));
        let too_long = "a".repeat(65);
        let refused = [
            "-a",
            "a-",
            ".a",
            "a.",
            "_a",
            "a_",
            "a b",
            "a/b",
            "ä",
            "a\0b",
            "a\n",
            "-",
            " ",
            too_long.as_str(),
        ];
        for name in refused {
            assert_eq!(check_name(name), Err(ObjectError::BadName), "{name:?}");
        }
    }

    #[test]
    fn names_that_are_allowed() {
        let longest = "a".repeat(64);
        for name in ["a", "A1", "a-b_c.d", "9", "a..b", longest.as_str()] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
    }

    #[test]
    fn sizes_at_their_limits() {
        for (kind, largest) in [(Kind::Secret, 511_999), (Kind::Config, 1_023_999)] {
            assert_eq!(check_payload(kind, 0), Err(ObjectError::BadSize { kind }));
            assert_eq!(check_payload(kind, 1), Ok(()));
            assert_eq!(check_payload(kind, largest), Ok(()));
            assert_eq!(
                check_payload(kind, largest + 1),
                Err(ObjectError::BadSize { kind })
            );
        }
    }

    #[test]
    fn texts_are_those_of_the_engine() {
        let text = |kind| ObjectError::BadSize { kind }.to_string();
        assert_eq!(
            text(Kind::Secret),
            "secret data must be larger than 0 and less than 512000 bytes"
        );
        assert_eq!(
            text(Kind::Config),
            "config data must be larger than 0 and less than 1024000 bytes"
        );
        assert_eq!(
            ObjectError::BadName.to_string(),
            "invalid name, only 64 [a-zA-Z0-9-_.] characters allowed, and the start and end \
             character must be [a-zA-Z0-9]"
        );
    }

    #[test]
    fn labels_are_bounded_in_all() {
        let half = "v".repeat(MAX_LABELS_BYTES / 2);
        let labels = [("", half.as_str()), ("", half.as_str())];
        assert_eq!(check_labels(labels), Ok(()));
        let refused = check_labels(labels.into_iter().chain([("k", "")]));
        let bytes = MAX_LABELS_BYTES + 1;
        assert_eq!(refused, Err(ObjectError::LabelsTooLarge { bytes }));
    }

    #[test]
    fn other_drivers_are_refused_by_name() {
        let refused = check_driver(Kind::Secret, Some(""), None);
        assert_eq!(refused, Err(ObjectError::UnnamedDriver));
        let refused = check_driver(Kind::Secret, Some("vault"), Some("golang")).unwrap_err();
        assert!(refused.to_string().contains("driver vault"), "{refused}");
        let refused = check_driver(Kind::Config, None, Some("jinja")).unwrap_err();
        assert!(refused.to_string().contains("driver jinja"), "{refused}");
        assert_eq!(check_driver(Kind::Config, None, Some("golang")), Ok(()));
        assert_eq!(check_driver(Kind::Config, None, Some("")), Ok(()));
    }

    #[test]
    fn only_labels_may_change() {
        let update = |name, data: &[u8]| check_update("Db", name, data, || b"stored");
        assert_eq!(update("db", b""), Err(ObjectError::OnlyLabels));
        assert_eq!(update("", b""), Err(ObjectError::OnlyLabels));
        assert_eq!(update("Db", b"store"), Err(ObjectError::OnlyLabels));
        assert_eq!(update("Db", b"stores"), Err(ObjectError::OnlyLabels));
        assert_eq!(update("Db", b"stored"), Ok(()));
        assert_eq!(update("Db", b""), Ok(()));
    }

    #[test]
    fn the_payload_is_opened_only_to_be_compared() {
        let refused = check_update("a", "b", b"x", || -> Vec<u8> { panic!("opened") });
        assert_eq!(refused, Err(ObjectError::OnlyLabels));
        let kept = check_update("a", "a", b"", || -> Vec<u8> { panic!("opened") });
        assert_eq!(kept, Ok(()));
    }
}
