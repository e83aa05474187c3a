//! How a service refers to secrets and configs.

use std::collections::BTreeMap;

use crate::{
    object::Kind,
    target::{FileTarget, TargetError},
};

/// A reference as it stands in a service, in borrowed parts.
#[derive(Clone, Copy, Debug)]
pub struct Reference<'a> {
    /// The object's id.
    pub id: &'a str,
    /// The object's name; both must fit.
    pub name: &'a str,
    /// Where it goes; absent in a malformed reference.
    pub target: Option<Target<'a>>,
}

/// What a reference does with the object.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// It becomes a file.
    File {
        /// Absolute path, or relative to where its kind goes.
        name: &'a str,
        /// Decimal user id.
        uid: &'a str,
        /// Decimal group id.
        gid: &'a str,
        /// Permission bits.
        mode: u32,
    },
    /// The runtime takes it (credential specs); configs only.
    Runtime,
}

/// Why references are refused; the texts are the Docker Engine's where it has one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// Id or name is missing.
    #[error("malformed {kind} reference")]
    Malformed {
        /// What is referred to.
        kind: Kind,
    },
    /// The reference says not what to do with the object.
    #[error("malformed {kind} reference, no target provided")]
    NoTarget {
        /// What is referred to.
        kind: Kind,
    },
    /// The file target is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Two references want the same file.
    #[error("{kind} references '{first}' and '{second}' have a conflicting target: '{target}'")]
    Conflict {
        /// What is referred to.
        kind: Kind,
        /// Name of the object that came first.
        first: String,
        /// Name of the object that came second.
        second: String,
        /// The second one's target, as given.
        target: String,
    },
}

/// Checks all references of one kind in a service and gives their file targets
/// in the same order; a runtime target gives none.
///
/// Targets are compared as absolute paths (`x` and `/run/secrets/x` are one
/// secret file), and a file may not lie under another file.
///
/// # Errors
/// [`ReferenceError`] of the first reference that is wrong.
pub fn check_references<'a>(
    kind: Kind,
    references: impl IntoIterator<Item = Reference<'a>>,
) -> Result<Vec<Option<FileTarget>>, ReferenceError> {
    let mut by_path: BTreeMap<String, &'a str> = BTreeMap::new();
    let mut targets = Vec::new();
    for reference in references {
        if reference.id.is_empty() || reference.name.is_empty() {
            return Err(ReferenceError::Malformed { kind });
        }
        let (given, target) = match (reference.target, kind) {
            (None, _) | (Some(Target::Runtime), Kind::Secret) => {
                return Err(ReferenceError::NoTarget { kind });
            }
            (Some(Target::Runtime), Kind::Config) => {
                targets.push(None);
                continue;
            }
            (
                Some(Target::File {
                    name,
                    uid,
                    gid,
                    mode,
                }),
                _,
            ) => (name, FileTarget::parse(kind, name, uid, gid, mode)?),
        };
        if let Some(first) = conflicting(&by_path, target.path()) {
            return Err(ReferenceError::Conflict {
                kind,
                first: first.into(),
                second: reference.name.into(),
                target: given.into(),
            });
        }
        by_path.insert(target.path().into(), reference.name);
        targets.push(Some(target));
    }
    Ok(targets)
}

/// Who already has this path, a directory above it, or a file below it.
fn conflicting<'a>(taken: &BTreeMap<String, &'a str>, path: &str) -> Option<&'a str> {
    let above = path
        .char_indices()
        .filter(|(at, c)| *c == '/' && *at > 0)
        .find_map(|(at, _)| taken.get(&path[..at]));
    let below = || {
        let directory = format!("{path}/");
        taken
            .range(directory.clone()..)
            .next()
            .filter(|(other, _)| other.starts_with(&directory))
            .map(|(_, name)| name)
    };
    taken.get(path).or(above).or_else(below).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> Option<Target<'_>> {
        Some(Target::File {
            name,
            uid: "0",
            gid: "0",
            mode: 0o444,
        })
    }

    fn check(kind: Kind, references: &[(&str, &str, Option<Target<'_>>)]) -> Result<usize, String> {
        let references = references.iter().map(|(id, name, target)| Reference {
            id,
            name,
            target: *target,
        });
        check_references(kind, references)
            .map(|targets| targets.len())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn malformed_references() {
        for (id, name) in [("", "a"), ("1", ""), ("", "")] {
            let refused = check(Kind::Secret, &[(id, name, file("a"))]);
            assert_eq!(refused.unwrap_err(), "malformed secret reference");
        }
        assert_eq!(
            check(Kind::Config, &[("1", "a", None)]).unwrap_err(),
            "malformed config reference, no target provided"
        );
        assert_eq!(
            check(Kind::Secret, &[("1", "a", Some(Target::Runtime))]).unwrap_err(),
            "malformed secret reference, no target provided"
        );
        assert_eq!(
            check(Kind::Secret, &[("1", "a", file(""))]).unwrap_err(),
            "malformed file secret reference, invalid target file name provided"
        );
    }

    #[test]
    fn one_target_for_two() {
        assert_eq!(
            check(
                Kind::Secret,
                &[("1", "a", file("x")), ("2", "b", file("x"))]
            )
            .unwrap_err(),
            "secret references 'a' and 'b' have a conflicting target: 'x'"
        );
        let same = [
            ("x", "/run/secrets/x"),
            ("/run/secrets/x", "x"),
            ("x", "./x"),
            ("x", "x/y"),
            ("x/y/z", "x"),
            ("/run", "x"),
        ];
        for (first, second) in same {
            let refused = check(
                Kind::Secret,
                &[("1", "a", file(first)), ("2", "b", file(second))],
            );
            assert_eq!(
                refused.unwrap_err(),
                format!("secret references 'a' and 'b' have a conflicting target: '{second}'")
            );
        }
    }

    #[test]
    fn different_targets_of_one_object() {
        let references = [
            ("1", "a", file("x")),
            ("1", "a", file("xy")),
            ("1", "a", file("/x")),
            ("1", "a", file("y/x")),
            ("1", "a", file("y/z")),
        ];
        assert_eq!(check(Kind::Secret, &references), Ok(5));
    }

    #[test]
    fn a_runtime_target_is_no_file() {
        let runtime = Some(Target::Runtime);
        let references = [
            ("1", "a", runtime),
            ("1", "a", file("a")),
            ("2", "b", runtime),
        ];
        assert_eq!(check(Kind::Config, &references), Ok(3));
    }
}
