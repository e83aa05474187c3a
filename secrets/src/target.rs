//! Where in a task's file system a secret or config appears, and whose it is there.

use crate::object::Kind;

/// Longest target path, in bytes (Linux `PATH_MAX` without the closing zero).
const MAX_PATH_BYTES: usize = 4095;
/// Longest path component, in bytes (Linux `NAME_MAX`).
const MAX_COMPONENT_BYTES: usize = 255;
/// The directory of secrets with a relative target.
const SECRETS_DIRECTORY: &str = "/run/secrets";
/// Permission bits: reading, writing, executing for user, group and others.
const PERMISSION_BITS: u32 = 0o777;

/// A file in a task: its absolute path, owner and permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileTarget {
    path: String,
    uid: u32,
    gid: u32,
    mode: u32,
}

/// Why a file target is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// The name is empty, too long, has `..`, an empty last part or a zero byte.
    #[error("malformed file {kind} reference, invalid target file name provided")]
    BadName {
        /// What is referred to.
        kind: Kind,
    },
    /// The owner is not a decimal number.
    #[error(
        "malformed file {kind} reference, {field} '{value}' is not a decimal number; names of users and groups are not resolved"
    )]
    BadOwner {
        /// What is referred to.
        kind: Kind,
        /// `uid` or `gid`.
        field: &'static str,
        /// What was given, cut at 64 characters.
        value: String,
    },
    /// The mode has more than permission bits.
    #[error(
        "malformed file {kind} reference, mode {mode:#o} has more than permission bits; use a mode from 0 to 0777"
    )]
    BadMode {
        /// What is referred to.
        kind: Kind,
        /// What was given.
        mode: u32,
    },
}

impl FileTarget {
    /// Parses a target as it stands in a reference.
    ///
    /// A relative `name` lands under `/run/secrets` (secrets) or `/` (configs).
    /// `uid` and `gid` are decimal; there are no defaults, clients set `0` and
    /// mode 0444.
    ///
    /// # Errors
    /// [`TargetError`], by the part that is wrong.
    pub fn parse(
        kind: Kind,
        name: &str,
        uid: &str,
        gid: &str,
        mode: u32,
    ) -> Result<FileTarget, TargetError> {
        let path = resolve(kind, name).ok_or(TargetError::BadName { kind })?;
        let uid = parse_owner(kind, "uid", uid)?;
        let gid = parse_owner(kind, "gid", gid)?;
        if mode & !PERMISSION_BITS != 0 {
            return Err(TargetError::BadMode { kind, mode });
        }
        Ok(FileTarget {
            path,
            uid,
            gid,
            mode,
        })
    }

    /// The absolute path in the task, without `.`, `..` and empty parts.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The owning user's id.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The owning group's id.
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Permission bits, at most 0777.
    pub fn mode(&self) -> u32 {
        self.mode
    }
}

/// The absolute path of a target name, or nothing if it names no file.
fn resolve(kind: Kind, name: &str) -> Option<String> {
    let names_a_file = name.rsplit('/').next().is_some_and(|last| !last.is_empty());
    if !names_a_file || name.len() > MAX_PATH_BYTES || name.contains('\0') {
        return None;
    }
    let mut path = match kind {
        Kind::Secret if !name.starts_with('/') => String::from(SECRETS_DIRECTORY),
        _ => String::new(),
    };
    let mut last = "";
    for part in name.split('/') {
        last = part;
        match part {
            "" | "." => continue,
            ".." => return None,
            _ if part.len() > MAX_COMPONENT_BYTES => return None,
            _ => {
                path.push('/');
                path.push_str(part);
            }
        }
    }
    (last != "." && path.len() <= MAX_PATH_BYTES).then_some(path)
}

fn parse_owner(kind: Kind, field: &'static str, value: &str) -> Result<u32, TargetError> {
    let decimal = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    // The highest number is what chown(2) takes for "leave as it is".
    let parsed = value.parse::<u32>().ok().filter(|id| *id != u32::MAX);
    match parsed {
        Some(id) if decimal => Ok(id),
        _ => Err(TargetError::BadOwner {
            kind,
            field,
            value: value.chars().take(64).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(kind: Kind, name: &str) -> Result<String, TargetError> {
        FileTarget::parse(kind, name, "0", "0", 0o444).map(|target| target.path)
    }

    #[test]
    fn names_that_are_no_file() {
        let long = "a/".repeat(2100) + "a";
        let long_part = "a".repeat(256);
        let refused = [
            "",
            "/",
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "/run/../etc/shadow",
            "a/",
            "a/.",
            "a\0b",
            long.as_str(),
            long_part.as_str(),
        ];
        for name in refused {
            for kind in [Kind::Secret, Kind::Config] {
                assert_eq!(
                    path(kind, name),
                    Err(TargetError::BadName { kind }),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn owners_that_are_no_number() {
        for value in [
            "",
            "root",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "4294967295",
            "4294967296",
            "١",
        ] {
            let refused = FileTarget::parse(Kind::Secret, "a", value, "0", 0o444);
            let expected = TargetError::BadOwner {
                kind: Kind::Secret,
                field: "uid",
                value: value.into(),
            };
            assert_eq!(refused, Err(expected), "{value:?}");
        }
        let refused = FileTarget::parse(Kind::Config, "a", "0", "wheel", 0o444).unwrap_err();
        assert!(refused.to_string().contains("gid 'wheel'"), "{refused}");
    }

    #[test]
    fn modes_with_more_than_permissions() {
        for mode in [0o1000, 0o4755, 0o100_644, 1 << 31] {
            let refused = FileTarget::parse(Kind::Secret, "a", "0", "0", mode);
            let kind = Kind::Secret;
            assert_eq!(refused, Err(TargetError::BadMode { kind, mode }));
        }
    }

    #[test]
    fn relative_names_land_by_kind() {
        let of = |kind, name| path(kind, name).unwrap();
        assert_eq!(of(Kind::Secret, "db"), "/run/secrets/db");
        assert_eq!(of(Kind::Config, "db"), "/db");
        assert_eq!(of(Kind::Secret, "/etc//x/./db"), "/etc/x/db");
        assert_eq!(of(Kind::Config, "etc/app.toml"), "/etc/app.toml");
        let whole = FileTarget::parse(Kind::Secret, "db", "7", "4294967294", 0o440).unwrap();
        assert_eq!(
            (whole.uid(), whole.gid(), whole.mode()),
            (7, 4_294_967_294, 0o440)
        );
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_path_stays_in_place(name in ".{0,80}") {
            for kind in [Kind::Secret, Kind::Config] {
                let Ok(path) = path(kind, &name) else { continue };
                let parts: Vec<_> = path.split('/').skip(1).collect();
                prop_assert!(path.starts_with('/') && !parts.is_empty());
                prop_assert!(parts.iter().all(|part| !["", ".", ".."].contains(part)));
                if kind == Kind::Secret && !name.starts_with('/') {
                    prop_assert!(path.starts_with("/run/secrets/"));
                }
                prop_assert_eq!(super::resolve(kind, &path), Some(path.clone()));
            }
        }
    }
}
