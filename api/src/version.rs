//! The version prefix of request paths.

use std::fmt;

/// A version of the Engine API, as in the path prefix `/v1.44`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    /// First number.
    pub(crate) major: u32,
    /// Second number.
    pub(crate) minor: u32,
}

impl ApiVersion {
    /// The newest version served; what a path without prefix means.
    pub(crate) const MAX: ApiVersion = ApiVersion::new(44);
    /// The oldest version served.
    pub(crate) const MIN: ApiVersion = ApiVersion::new(24);

    /// Version 1.`minor`.
    pub(crate) const fn new(minor: u32) -> ApiVersion {
        ApiVersion { major: 1, minor }
    }

    /// Whether the manners of 28.x apply (body and filter checks, log content
    /// types) rather than those of 20.10: from 1.42 on.
    pub(crate) fn is_modern(self) -> bool {
        self >= ApiVersion::new(42)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What a path starts with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Prefix<'a> {
    /// No version prefix.
    None,
    /// A version that is served, and the path after it.
    Served(ApiVersion, &'a str),
    /// A version above [`ApiVersion::MAX`], as written.
    TooNew(&'a str),
    /// A version below [`ApiVersion::MIN`], as written.
    TooOld(&'a str),
}

/// Reads the version prefix of `path`: `/v`, digits and dots, `/`.
pub(crate) fn prefix(path: &str) -> Prefix<'_> {
    let Some(tail) = path.strip_prefix("/v") else {
        return Prefix::None;
    };
    let Some(end) = tail.find('/') else {
        return Prefix::None;
    };
    let (text, rest) = tail.split_at(end);
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Prefix::None;
    }
    let mut numbers = text.split('.').map(number);
    let version = ApiVersion {
        major: numbers.next().unwrap_or(0),
        minor: numbers.next().unwrap_or(0),
    };
    if version > ApiVersion::MAX {
        Prefix::TooNew(text)
    } else if version < ApiVersion::MIN {
        Prefix::TooOld(text)
    } else {
        Prefix::Served(version, rest)
    }
}

/// A run of digits, the largest number if it does not fit; empty is 0.
fn number(digits: &str) -> u32 {
    if digits.is_empty() {
        0
    } else {
        digits.parse().unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_version_is_a_path() {
        for path in [
            "/info",
            "/v",
            "/v1.41",
            "/v1.41x/info",
            "/volumes",
            "/v/info",
        ] {
            assert_eq!(prefix(path), Prefix::None, "{path}");
        }
    }

    #[test]
    fn versions_have_bounds() {
        assert_eq!(prefix("/v9.99/info"), Prefix::TooNew("9.99"));
        assert_eq!(prefix("/v1.45/info"), Prefix::TooNew("1.45"));
        assert_eq!(prefix("/v99999999999/info"), Prefix::TooNew("99999999999"));
        assert_eq!(prefix("/v1.23/info"), Prefix::TooOld("1.23"));
        assert_eq!(prefix("/v1/info"), Prefix::TooOld("1"));
        assert_eq!(prefix("/v./info"), Prefix::TooOld("."));
        assert_eq!(
            prefix("/v1.24/info"),
            Prefix::Served(ApiVersion::MIN, "/info")
        );
        assert_eq!(
            prefix("/v1.44/a/b"),
            Prefix::Served(ApiVersion::MAX, "/a/b")
        );
    }
}
