//! A task's own view of the file system: the host's, with the task's files and mounts in it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::mount::{MountAttrFlags, MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::cover;
use crate::error::MountError;
use crate::files::TaskFile;
use crate::mirror::{self, Mirror};
use crate::sys::{self, TmpfsOptions};
use crate::vault::{Vault, VaultFile};

/// What an operator may want to know about how a view was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Directories that a tmpfs with the host's entries took the place of.
    pub mirrored: Vec<PathBuf>,
    /// The kernel gave no `noswap` for the files (before 6.4, or in a user namespace), so their
    /// pages must be locked.
    pub needs_locking: bool,
    /// They could not be locked, and why; they could reach swap.
    pub lock_failure: Option<String>,
}

/// A directory or file of the host shown at another place too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindMount {
    /// What is shown: absolute, on the host.
    pub source: PathBuf,
    /// Where: absolute.
    pub target: PathBuf,
    /// Nothing can be written through it.
    pub read_only: bool,
    /// With `read_only`: nor through what is mounted below it.
    pub read_only_below: bool,
    /// What is mounted below the source is shown too.
    pub recursive: bool,
}

/// An empty tmpfs for the task's own use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmpfsMount {
    /// Where: absolute.
    pub target: PathBuf,
    /// Bytes it may hold; 0 is the kernel's default, half of the memory.
    pub bytes: u64,
    /// Permission bits of its root; 0 means 1777.
    pub mode: u32,
}

/// A place, looked up in the present view.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// It is there; canonical.
    Existing(PathBuf),
    /// `base` is there (canonical, a directory), the rest (never empty) is not.
    Missing { base: PathBuf, rest: Vec<OsString> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    File,
    Directory,
}

/// The mount namespace of this process, made its own by [`View::enter`].
#[derive(Debug)]
pub struct View {
    mirrors: Vec<Mirror>,
    notes: Notes,
    /// What [`View::cover`] hid, as given and as found.
    covered: Vec<PathBuf>,
}

impl View {
    /// Gives this process a mount namespace of its own, from which and to which no mount
    /// propagates.
    ///
    /// # Errors
    /// When the kernel refuses, as it does without root outside a user namespace.
    pub fn enter() -> Result<Self, MountError> {
        let root = Path::new("/");
        // SAFETY: a mount namespace changes what paths mean and nothing in this process's memory;
        // descriptors stay as they are.
        unsafe { unshare_unsafe(UnshareFlags::NEWNS) }
            .map_err(|error| MountError::step("make a mount namespace over", root, error))?;
        mount_change(
            root,
            MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
        )
        .map_err(|error| MountError::step("make private", root, error))?;
        Ok(Self {
            mirrors: Vec::new(),
            notes: Notes::default(),
            covered: Vec::new(),
        })
    }

    /// What has been noted so far.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Makes everything read-only but `/dev` with what is mounted in it. Call it before the other
    /// methods: what they add is not touched.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_read_only(&mut self) -> Result<(), MountError> {
        let (root, dev) = (Path::new("/"), Path::new("/dev"));
        let devices = sys::clone_tree(CWD, dev, true)
            .map_err(|error| MountError::step("copy the mounts of", dev, error))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, root, flags, Mode::empty())
            .map_err(|error| MountError::step("open", root, error))?;
        sys::restrict(top.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)
            .map_err(|error| MountError::step("make read-only", root, error))?;
        sys::attach_at(devices.as_fd(), dev).map_err(|error| MountError::step("mount", dev, error))
    }

    /// Mounts a `/proc` that shows this process's pid namespace.
    ///
    /// # Errors
    /// [`MountError::ProcRefused`] where the kernel forbids it, as in containers that cover parts
    /// of `/proc`.
    pub fn mount_proc(&mut self) -> Result<(), MountError> {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", "/proc", "proc", flags, None).map_err(|error| MountError::ProcRefused {
            source: error.into(),
        })
    }

    /// Hides the daemon's own files and sockets. A directory is covered by an empty one that is
    /// read-only. Of anything else, and of what is not there, the directory is mirrored: it must
    /// stay hidden when a later daemon makes it anew, which takes a cover off the file itself.
    /// Call it before `bind`, which then refuses sources in what is hidden.
    ///
    /// It holds for the paths given, not for the same disk mounted elsewhere, and as long as the
    /// host keeps those directories: removing one takes its cover off.
    ///
    /// # Errors
    /// When a path is not one to be mounted on, or the kernel refuses.
    pub fn cover(&mut self, paths: &[PathBuf]) -> Result<(), MountError> {
        let (mut directories, mut others) = (Vec::new(), Vec::new());
        for path in paths {
            let place = resolve(path)?;
            self.covered.extend([path.clone(), full_path(&place)]);
            match place {
                Place::Existing(path) if path.is_dir() => directories.push(path),
                place => others.push(place),
            }
        }
        for place in others {
            let inside = full_path(&place);
            if directories.iter().any(|above| inside.starts_with(above)) {
                continue;
            }
            match place {
                Place::Missing { base, .. } => self.mirrored(&base).map(drop)?,
                Place::Existing(path) => {
                    self.mirrored(path.parent().unwrap_or(Path::new("/")))?;
                    cover::file(&path)?;
                }
            }
        }
        // From the top down, so that nothing is looked for below a cover.
        directories.sort_unstable();
        directories.dedup_by(|next, above| next.starts_with(above));
        directories
            .iter()
            .try_for_each(|path| cover::directory(path))
    }

    /// Makes the control groups read-only: the hierarchy is the host's, and who writes to it moves
    /// processes out of their limits or kills other tasks.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn protect_cgroups(&mut self) -> Result<(), MountError> {
        cover::cgroups()
    }

    /// Shows parts of the host at other places. Sources are looked up before anything is mounted.
    ///
    /// # Errors
    /// When a source is missing or covered, or a target cannot be one; see [`MountError`].
    pub fn bind(&mut self, mounts: &[BindMount]) -> Result<(), MountError> {
        let trees = mounts
            .iter()
            .map(|mount| bind_source(mount, &self.covered))
            .collect::<Result<Vec<_>, _>>()?;
        for (mount, (tree, shape)) in mounts.iter().zip(&trees) {
            self.place(&mount.target, tree.as_fd(), *shape)?;
        }
        Ok(())
    }

    /// Mounts empty tmpfs file systems.
    ///
    /// # Errors
    /// When a target cannot be one; see [`MountError`].
    pub fn tmpfs(&mut self, mounts: &[TmpfsMount]) -> Result<(), MountError> {
        for mount in mounts {
            let options = TmpfsOptions {
                bytes: mount.bytes,
                inodes: None,
                mode: if mount.mode == 0 {
                    0o1777
                } else {
                    mount.mode & 0o7777
                },
                owner: None,
                noswap: false,
                flags: sys::inert(),
            };
            let (tree, _) = sys::new_tmpfs(&options)
                .map_err(|error| MountError::step("make a tmpfs for", &mount.target, error))?;
            self.place(&mount.target, tree.as_fd(), Shape::Directory)?;
        }
        Ok(())
    }

    /// Puts the task's files to their places: `None` if there are none.
    ///
    /// A file whose place exists is mounted over it; in a directory that exists, the directory is
    /// mirrored; directories that do not exist are the read-only tmpfs's own.
    ///
    /// # Errors
    /// See [`MountError`]; nothing that was mounted is taken back, the process must end.
    pub fn files(&mut self, files: &[TaskFile]) -> Result<Option<Vault>, MountError> {
        if files.is_empty() {
            return Ok(None);
        }
        let places = files
            .iter()
            .map(|file| resolve(&file.path))
            .collect::<Result<Vec<_>, _>>()?;
        let parts = layout(&places);
        check_distinct(files, &places, &parts)?;
        let contents: Vec<_> = files.iter().zip(&parts.names).map(vault_file).collect();
        let vault = Vault::build(&contents)?;
        drop(contents);
        self.notes.needs_locking = !vault.noswap();
        self.notes.lock_failure = vault.lock_failure().map(ToString::to_string);

        let step = |doing, error| MountError::step(doing, "the files' tmpfs", error);
        sys::attach_at(vault.mount(), Path::new("/")).map_err(|error| step("attach", error))?;
        let mut mounts = Vec::new();
        for (name, place, shape) in parts.mounts {
            let tree = vault
                .part(&name)
                .map_err(|error| step("copy a part of", error))?;
            mounts.push((place, tree, shape));
        }
        sys::detach(vault.mount()).map_err(|error| step("detach", error))?;
        for (place, tree, shape) in mounts {
            self.attach(&place, tree.as_fd(), shape)?;
        }
        Ok(Some(vault))
    }

    fn place(
        &mut self,
        target: &Path,
        tree: BorrowedFd<'_>,
        shape: Shape,
    ) -> Result<(), MountError> {
        let place = resolve(target)?;
        self.attach(&place, tree, shape)
    }

    fn attach(
        &mut self,
        place: &Place,
        tree: BorrowedFd<'_>,
        shape: Shape,
    ) -> Result<(), MountError> {
        let (base, rest) = match place {
            Place::Existing(path) => {
                check_shape(path, shape)?;
                return sys::attach_at(tree, path)
                    .map_err(|error| MountError::step("mount", path, error));
            }
            Place::Missing { base, rest } => (base, rest),
        };
        let Some((last, above)) = rest.split_last() else {
            return Err(MountError::step(
                "mount",
                base,
                io::Error::from(io::ErrorKind::NotFound),
            ));
        };
        let mut path = base.clone();
        let mut dir = self.own_directory(base)?;
        for name in above {
            path.push(name);
            dir = enter_directory(dir.as_fd(), Path::new(name))
                .map_err(|error| MountError::step("make", &path, error))?;
        }
        path.push(last);
        let last = Path::new(last);
        match shape {
            Shape::File => mirror::make_file(dir.as_fd(), last),
            Shape::Directory => mirror::make_directory(dir.as_fd(), last),
        }
        .map_err(|error| MountError::step("make", &path, error))?;
        sys::attach(tree, dir.as_fd(), last).map_err(|error| MountError::step("mount", path, error))
    }

    /// The directory as one that entries can be made in: a mirror's own, or a new mirror of it,
    /// which is noted.
    fn own_directory(&mut self, path: &Path) -> Result<OwnedFd, MountError> {
        let (root, mirror) = self.mirrored(path)?;
        if !self.notes.mirrored.contains(&mirror) {
            self.notes.mirrored.push(mirror);
        }
        Ok(root)
    }

    /// The directory in a mirror, and where that mirror is.
    fn mirrored(&mut self, path: &Path) -> Result<(OwnedFd, PathBuf), MountError> {
        let opened = open_path(path).map_err(|error| MountError::step("open", path, error))?;
        let meta = fstat(&opened).map_err(|error| MountError::step("stat", path, error))?;
        let known = |mirror: &&Mirror| mirror.device == meta.st_dev;
        if let Some(mirror) = self.mirrors.iter().find(known) {
            return Ok((opened, mirror.path.clone()));
        }
        let mirror = Mirror::build(path)?;
        let root = mirror
            .root
            .try_clone()
            .map_err(|error| MountError::step("open", path, error))?;
        let at = mirror.path.clone();
        self.mirrors.push(mirror);
        Ok((root, at))
    }
}

/// Refuses what is covered, and what would show it without the covers.
fn check_uncovered(mount: &BindMount, covered: &[PathBuf]) -> Result<(), MountError> {
    let found = match mount.source.canonicalize() {
        Ok(found) => found,
        // Below a cover nothing is found; what leads there is.
        Err(_) => resolve(&mount.source).map_or_else(|_| PathBuf::new(), |at| full_path(&at)),
    };
    let bad = |source: &Path| {
        covered.iter().any(|hidden| {
            source.starts_with(hidden) || (!mount.recursive && hidden.starts_with(source))
        })
    };
    if bad(&mount.source) || (found.is_absolute() && bad(&found)) {
        return Err(MountError::Covered {
            path: mount.source.clone(),
        });
    }
    Ok(())
}

fn bind_source(mount: &BindMount, covered: &[PathBuf]) -> Result<(OwnedFd, Shape), MountError> {
    check_uncovered(mount, covered)?;
    let path = &mount.source;
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => MountError::SourceMissing { path: path.clone() },
        _ => MountError::step("bind", path, error),
    };
    let source = path.canonicalize().map_err(failed)?;
    let is_directory = source.metadata().map_err(failed)?.is_dir();
    let tree = sys::clone_tree(CWD, &source, mount.recursive).map_err(failed)?;
    if mount.read_only {
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY;
        sys::restrict(tree.as_fd(), flags, mount.read_only_below).map_err(failed)?;
    }
    Ok((
        tree,
        if is_directory {
            Shape::Directory
        } else {
            Shape::File
        },
    ))
}

fn vault_file<'a>((file, name): (&'a TaskFile, &PathBuf)) -> VaultFile<'a> {
    VaultFile {
        name: name.clone(),
        target: &file.path,
        uid: file.uid,
        gid: file.gid,
        mode: file.mode,
        data: &file.data,
    }
}

/// Looks up a place without making anything.
fn resolve(path: &Path) -> Result<Place, MountError> {
    let mut base = PathBuf::from("/");
    let mut names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let mut rest = Vec::new();
    for name in names.by_ref() {
        let next = base.join(name);
        match next.canonicalize() {
            Ok(found) => base = found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if next.symlink_metadata().is_ok() {
                    return Err(MountError::Dangling {
                        path: path.to_owned(),
                        at: next,
                    });
                }
                rest.push(name.to_owned());
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(MountError::NotADirectory {
                    path: path.to_owned(),
                    at: base,
                });
            }
            Err(error) => return Err(MountError::step("look up", next, error)),
        }
    }
    rest.extend(names.map(ToOwned::to_owned));
    if base.starts_with("/proc") || base.starts_with("/sys") {
        return Err(MountError::Reserved {
            path: path.to_owned(),
        });
    }
    if rest.is_empty() {
        return Ok(Place::Existing(base));
    }
    if !base.is_dir() {
        return Err(MountError::NotADirectory {
            path: path.to_owned(),
            at: base,
        });
    }
    Ok(Place::Missing { base, rest })
}

/// Where each file sits in the vault, and which parts of the vault are mounted where.
#[derive(Debug, PartialEq, Eq)]
struct Layout {
    /// By file.
    names: Vec<PathBuf>,
    mounts: Vec<(PathBuf, Place, Shape)>,
}

/// A file whose directory exists is mounted by itself; a directory that does not exist is mounted
/// with all files below it.
fn layout(places: &[Place]) -> Layout {
    let mut names = Vec::with_capacity(places.len());
    let mut mounts = Vec::new();
    let mut tops: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (index, place) in places.iter().enumerate() {
        match place {
            Place::Missing { base, rest } if rest.len() > 1 => {
                let next = format!("d{}", tops.len());
                let top = tops.entry(base.join(&rest[0])).or_insert_with(|| {
                    let place = Place::Missing {
                        base: base.clone(),
                        rest: rest[..1].to_vec(),
                    };
                    mounts.push((PathBuf::from(&next), place, Shape::Directory));
                    PathBuf::from(next)
                });
                names.push(
                    rest[1..]
                        .iter()
                        .fold(top.clone(), |name, part| name.join(part)),
                );
            }
            place => {
                let name = PathBuf::from(format!("f{index}"));
                mounts.push((name.clone(), place.clone(), Shape::File));
                names.push(name);
            }
        }
    }
    Layout { names, mounts }
}

/// No two mounts at one place, no two files under one name in the vault.
fn check_distinct(files: &[TaskFile], places: &[Place], parts: &Layout) -> Result<(), MountError> {
    let mut targets = std::collections::BTreeSet::new();
    let duplicate = |path: &Path| MountError::Duplicate {
        path: path.to_owned(),
    };
    for (file, place) in files.iter().zip(places) {
        if !targets.insert(full_path(place)) {
            return Err(duplicate(&file.path));
        }
    }
    let mut mounted = std::collections::BTreeSet::new();
    for (_, place, _) in &parts.mounts {
        let path = full_path(place);
        if !mounted.insert(path.clone()) {
            return Err(duplicate(&path));
        }
    }
    Ok(())
}

fn full_path(place: &Place) -> PathBuf {
    match place {
        Place::Existing(path) => path.clone(),
        Place::Missing { base, rest } => {
            rest.iter().fold(base.clone(), |path, name| path.join(name))
        }
    }
}

fn check_shape(path: &Path, wanted: Shape) -> Result<(), MountError> {
    let name = |shape| {
        if shape == Shape::Directory {
            "directory"
        } else {
            "file"
        }
    };
    let found = if path.is_dir() {
        Shape::Directory
    } else {
        Shape::File
    };
    if found == wanted {
        return Ok(());
    }
    Err(MountError::WrongType {
        path: path.to_owned(),
        found: name(found),
        wanted: name(wanted),
    })
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(
        CWD,
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// The directory `name` in one of our own directories, made if it is not there.
fn enter_directory(dir: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    match mirror::make_directory(dir, name) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(base: &str, rest: &[&str]) -> Place {
        Place::Missing {
            base: base.into(),
            rest: rest.iter().map(OsString::from).collect(),
        }
    }

    #[test]
    fn the_kernels_file_systems_are_refused() {
        for path in ["/proc/sys/x", "/proc/version", "/sys/new"] {
            assert!(
                matches!(resolve(Path::new(path)), Err(MountError::Reserved { .. })),
                "{path}"
            );
        }
    }

    #[test]
    fn files_and_dangling_links_are_no_directories() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        std::os::unix::fs::symlink("nowhere", root.join("link")).unwrap();
        let at = |name: &str| resolve(&root.join(name));
        assert!(matches!(
            at("file/x"),
            Err(MountError::NotADirectory { .. })
        ));
        assert!(matches!(at("link/x"), Err(MountError::Dangling { .. })));
        assert!(matches!(at("link"), Err(MountError::Dangling { .. })));
    }

    #[test]
    fn places_are_found_through_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink("real", root.join("link")).unwrap();
        std::fs::write(root.join("real/file"), "").unwrap();
        let at = |name: &str| resolve(&root.join(name)).unwrap();
        assert_eq!(at("link/file"), Place::Existing(root.join("real/file")));
        let real = root.join("real");
        assert_eq!(at("link/a/b"), missing(real.to_str().unwrap(), &["a", "b"]));
    }

    #[test]
    fn a_directory_taken_twice_is_found() {
        let places = [missing("/run", &["a"]), missing("/run", &["a", "b"])];
        let files: Vec<_> = places
            .iter()
            .map(|place| TaskFile {
                kind: crate::FileKind::Secret,
                path: full_path(place),
                uid: 0,
                gid: 0,
                mode: 0,
                data: Default::default(),
            })
            .collect();
        let parts = layout(&places);
        let refused = check_distinct(&files, &places, &parts);
        assert!(
            matches!(refused, Err(MountError::Duplicate { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn new_directories_are_mounted_whole() {
        let places = [
            missing("/run", &["secrets", "a"]),
            missing("/run", &["secrets", "deep", "b"]),
            missing("/etc", &["c"]),
            Place::Existing("/etc/hosts".into()),
        ];
        let parts = layout(&places);
        let names: Vec<_> = ["d0/a", "d0/deep/b", "f2", "f3"]
            .map(PathBuf::from)
            .to_vec();
        assert_eq!(parts.names, names);
        assert_eq!(
            parts.mounts,
            [
                ("d0".into(), missing("/run", &["secrets"]), Shape::Directory),
                ("f2".into(), places[2].clone(), Shape::File),
                ("f3".into(), places[3].clone(), Shape::File),
            ]
        );
    }
}
