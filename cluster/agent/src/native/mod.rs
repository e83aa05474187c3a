//! The native executor: tasks with the image name `host` run as plain processes of this machine.
//!
//! Every task has its own shim, a second process of this binary that is not the daemon's: it holds
//! the task's namespaces, its exit code and its logs, so that the task outlives the daemon. This
//! module owns both sides: [`NativeExecutor`] in the daemon (tokio) and [`shim_main`] in the shim
//! (one thread, no runtime). What a task is and when it must run is the agent's business.
//!
//! | Where | What |
//! |---|---|
//! | `<exec-root>/tasks/ID/control` | the shim's socket; who may speak: the shim's own uid |
//! | `<exec-root>/tasks/ID/meta.json` | pids and start times, written when the task runs |
//! | `<exec-root>/tasks/ID/exit.json` | how it ended, written once |
//! | `<data-root>/tasks/ID/log`, `log.1` | its output, two files of at most 8 MiB |

mod cgroup;
mod check;
mod control;
mod error;
mod executor;
mod frame;
mod image;
mod logs;
mod records;
mod running;
mod shim;
mod signal;
mod types;
mod ulimit;
mod users;

pub use check::check_spec;
pub use error::LaunchError;
pub use executor::NativeExecutor;
pub use image::is_native_image;
pub use logs::{LogOptions, LogRecord, LogStream, Streams};
pub use running::RunningTask;
pub use shim::shim_main;
pub use types::{
    Adopted, Exit, HostReport, NativeConfig, Network, OrphanPolicy, TaskLaunch, UnknownPolicy,
    UserPolicy,
};
pub use ulimit::raise_open_files;
pub use waxseal_mount::{FileKind, PathError, TaskFile};
