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
    /// Two references of one kind want the same file.
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
    /// A secret and a config want the same file.
    #[error(
        "{first_kind} reference '{first}' and {kind} reference '{second}' have a conflicting target: '{target}'"
    )]
    ConflictOfKinds {
        /// What came first.
        first_kind: Kind,
        /// Name of the object that came first.
        first: String,
        /// What came second.
        kind: Kind,
        /// Name of the object that came second.
        second: String,
        /// The second one's target, as given.
        target: String,
    },
}

/// The files that the references of one service make, secrets and configs together.
///
/// Targets are compared as absolute paths (`x` and `/run/secrets/x` are one
/// secret file), and a file may not lie under another file.
#[derive(Clone, Debug, Default)]
pub struct TargetFiles {
    by_path: BTreeMap<String, (Kind, String)>,
}

impl TargetFiles {
    /// Checks all references of one kind against each other and those before, and
    /// gives their file targets in the same order; a runtime target gives none.
    ///
    /// # Errors
    /// [`ReferenceError`] of the first reference that is wrong.
    pub fn add<'a>(
        &mut self,
        kind: Kind,
        references: impl IntoIterator<Item = Reference<'a>>,
    ) -> Result<Vec<Option<FileTarget>>, ReferenceError> {
        references
            .into_iter()
            .map(|reference| self.add_one(kind, reference))
            .collect()
    }

    fn add_one(
        &mut self,
        kind: Kind,
        reference: Reference<'_>,
    ) -> Result<Option<FileTarget>, ReferenceError> {
        if reference.id.is_empty() || reference.name.is_empty() {
            return Err(ReferenceError::Malformed { kind });
        }
        let (given, target) = match (reference.target, kind) {
            (None, _) | (Some(Target::Runtime), Kind::Secret) => {
                return Err(ReferenceError::NoTarget { kind });
            }
            (Some(Target::Runtime), Kind::Config) => return Ok(None),
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
        let second = || (reference.name.to_owned(), given.to_owned());
        match conflicting(&self.by_path, target.path()) {
            None => {}
            Some((first_kind, first)) if *first_kind == kind => {
                let (second, target) = second();
                return Err(ReferenceError::Conflict {
                    kind,
                    first: first.clone(),
                    second,
                    target,
                });
            }
            Some((first_kind, first)) => {
                let (second, target) = second();
                return Err(ReferenceError::ConflictOfKinds {
                    first_kind: *first_kind,
                    first: first.clone(),
                    kind,
                    second,
                    target,
                });
            }
        }
        let taken = (kind, reference.name.to_owned());
        self.by_path.insert(target.path().into(), taken);
        Ok(Some(target))
    }
}

/// Who already has this path, a directory above it, or a file below it.
fn conflicting<'m, T>(taken: &'m BTreeMap<String, T>, path: &str) -> Option<&'m T> {
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
            .map(|(_, who)| who)
    };
    taken.get(path).or(above).or_else(below)
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
        TargetFiles::default()
            .add(kind, references)
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
    fn one_target_for_a_secret_and_a_config() {
        let reference = |target| Reference {
            id: "1",
            name: "a",
            target: file(target),
        };
        for (secret, config, conflict) in [
            ("x", "/run/secrets/x", true),
            ("x", "run/./secrets//x", true),
            ("/etc/x", "etc/x", true),
            ("/etc/x", "/etc/x/y", true),
            ("x", "/run/secrets", true),
            ("x", "x", false),
            ("/x", "/run/secrets/x", false),
        ] {
            let mut files = TargetFiles::default();
            files.add(Kind::Secret, [reference(secret)]).unwrap();
            let added = files.add(Kind::Config, [reference(config)]);
            let text = added.map(drop).map_err(|error| error.to_string());
            let expected = format!(
                "secret reference 'a' and config reference 'a' have a conflicting target: '{config}'"
            );
            let expected = if conflict { Err(expected) } else { Ok(()) };
            assert_eq!(text, expected, "{secret} and {config}");
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
