//! The files a task is given, as they were asked for.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use zeroize::Zeroizing;

/// The longest path a file may be asked for at, in bytes (`PATH_MAX` without its NUL).
pub const MAX_PATH_BYTES: usize = 4095;

/// What a file holds; decides where a relative name lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A secret: `NAME` means `/run/secrets/NAME`.
    Secret,
    /// A config: `NAME` means `/NAME`.
    Config,
}

/// Why a name cannot be a file's place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing was given.
    #[error("a file target needs a name")]
    Empty,
    /// Longer than the kernel takes.
    #[error("the file target is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
    /// It has a NUL byte in it.
    #[error("the file target has a NUL byte in it")]
    Nul,
    /// It goes upwards.
    #[error("the file target `{path}` has `..` in it; name the file's place directly")]
    Upwards {
        /// The path as given.
        path: String,
    },
    /// It names a directory.
    #[error("the file target `{path}` names a directory")]
    Directory {
        /// The path as given.
        path: String,
    },
}

impl FileKind {
    /// Where a file with this target name lands: absolute, without `.` and doubled slashes.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn path_of(self, name: &str) -> Result<PathBuf, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        if name.contains('\0') {
            return Err(PathError::Nul);
        }
        if name.ends_with('/') || name.ends_with("/.") || name == "." {
            return Err(PathError::Directory {
                path: name.to_owned(),
            });
        }
        let base = match self {
            Self::Secret => "/run/secrets",
            Self::Config => "/",
        };
        let mut path = PathBuf::from("/");
        for component in Path::new(base).join(name).components() {
            match component {
                Component::Normal(part) => path.push(part),
                Component::ParentDir => {
                    return Err(PathError::Upwards {
                        path: name.to_owned(),
                    });
                }
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if path.as_os_str().len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        Ok(path)
    }
}

/// One file a task is given.
pub struct TaskFile {
    /// Secret or config.
    pub kind: FileKind,
    /// Where the task sees it: absolute, as [`FileKind::path_of`] makes it.
    pub path: PathBuf,
    /// Its owner, in the task's own numbering.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permission bits (the lowest 9 count; set-uid, set-gid and sticky are dropped).
    pub mode: u32,
    /// Its contents; wiped on drop.
    pub data: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for TaskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskFile")
            .field("kind", &self.kind)
            .field("path", &self.path)
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("mode", &format_args!("{:#o}", self.mode))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_outside_are_refused() {
        let long = "x".repeat(MAX_PATH_BYTES + 1);
        assert_eq!(FileKind::Secret.path_of(""), Err(PathError::Empty));
        assert_eq!(FileKind::Secret.path_of("a\0b"), Err(PathError::Nul));
        assert_eq!(FileKind::Secret.path_of(&long), Err(PathError::TooLong));
        for name in ["..", "../x", "a/../b", "/etc/../shadow"] {
            assert!(matches!(
                FileKind::Config.path_of(name),
                Err(PathError::Upwards { .. })
            ));
        }
        for name in ["/", ".", "a/", "/etc/.", "//"] {
            assert!(matches!(
                FileKind::Config.path_of(name),
                Err(PathError::Directory { .. })
            ));
        }
    }

    #[test]
    fn names_land_where_the_engine_puts_them() {
        let places = [
            (FileKind::Secret, "db", "/run/secrets/db"),
            (FileKind::Secret, "tls/key", "/run/secrets/tls/key"),
            (FileKind::Secret, "/etc/app/key", "/etc/app/key"),
            (FileKind::Config, "nginx.conf", "/nginx.conf"),
            (FileKind::Config, "/etc//./nginx.conf", "/etc/nginx.conf"),
        ];
        for (kind, name, path) in places {
            assert_eq!(kind.path_of(name), Ok(PathBuf::from(path)));
        }
    }

    #[test]
    fn debug_shows_no_contents() {
        let file = TaskFile {
            kind: FileKind::Secret,
            path: "/run/secrets/a".into(),
            uid: 0,
            gid: 0,
            mode: 0o400,
            data: Zeroizing::new(b"marker".to_vec()),
        };
        let shown = format!("{file:?}");
        assert!(
            !shown.contains("marker") && !shown.contains("109"),
            "{shown}"
        );
    }
}
