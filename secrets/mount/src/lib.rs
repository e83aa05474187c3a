//! What a task sees of the file system, and how a process that holds secrets is hardened.
//!
//! Linux only. This crate owns the system calls that a task's start needs: namespaces, the tmpfs
//! with a task's files, mirrored directories, forking a process of one thread, capabilities,
//! signals, locked pages. It decides nothing about tasks. `unsafe` is allowed here and nowhere
//! else.
//!
//! The order of use, in a process of one thread: [`fork`] (with a pid namespace), in the child
//! [`View::enter`], then the view's own methods, each of which changes what this process and its
//! descendants see and nothing on the host.

mod caps;
mod cover;
mod error;
mod files;
pub mod harden;
mod mirror;
mod namespaces;
mod pages;
mod process;
pub mod signals;
mod sys;
mod vault;
mod view;

pub use caps::{CapError, CapSet};
pub use error::MountError;
pub use files::{FileKind, MAX_PATH_BYTES, PathError, TaskFile};
pub use mirror::{MAX_MIRROR_ENTRIES, MIRROR_BYTES};
pub use namespaces::{UserNamespace, isolate, set_hostname};
pub use pages::{LockedPages, lock_memory};
pub use process::{Forked, child_status, children, fork, is_alive, start_time};
pub use vault::{MAX_FILES, MAX_VAULT_BYTES, Vault};
pub use view::{BindMount, Notes, TmpfsMount, View};
