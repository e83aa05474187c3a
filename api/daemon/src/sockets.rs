//! The sockets of the Engine API.

use std::{
    io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::Gid;
use tokio::net::{TcpListener, UnixListener, UnixStream};

/// Owner and group may call; whoever may is root on this cluster.
const MODE: u32 = 0o660;
/// The group that dockerd gives its own socket to: scripts and people that are in it go on.
const DEFAULT_GROUP: &str = "docker";

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The path cannot be used.
    #[error("cannot listen on {}; choose another path with -H or check its directory", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody answers there.
    #[error("{} is served by another process; stop it or choose another path with -H", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A TCP address.
    #[error("cannot listen on tcp://{address}; choose another address with -H")]
    Tcp {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No such group.
    #[error("there is no group {group}; create it or choose another with --group")]
    Group {
        /// What was asked for.
        group: String,
    },
}

/// Listens on a path; what a dead process left there is replaced. Without a `group` it is
/// that of dockerd's socket, or the daemon's own where there is none.
///
/// # Errors
/// [`SocketError`].
pub(crate) async fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, SocketError> {
    let io = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        std::fs::create_dir_all(dir).map_err(io)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {
            if UnixStream::connect(path).await.is_ok() {
                return Err(SocketError::InUse {
                    path: path.to_owned(),
                });
            }
            std::fs::remove_file(path).map_err(io)?;
        }
        Ok(_) => return Err(io(io::ErrorKind::AlreadyExists.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    // Nobody but us may connect before owner and mode are as they should be.
    let former = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    rustix::process::umask(former);
    let listener = listener.map_err(io)?;
    match group {
        Some(group) => {
            let gid = group_id(group)?;
            give(path, gid).map_err(io)?;
        }
        None => give_by_default(path),
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE)).map_err(io)?;
    Ok(listener)
}

fn give(path: &Path, gid: u32) -> io::Result<()> {
    Ok(rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?)
}

/// A host without the group, or a daemon that may not give, keeps the socket to itself.
fn give_by_default(path: &Path) {
    let given = group_id(DEFAULT_GROUP)
        .map_err(|error| error.to_string())
        .and_then(|gid| give(path, gid).map_err(|error| error.to_string()));
    if let Err(reason) = given {
        tracing::info!(socket = %path.display(), reason, "only the daemon's own group may open it");
    }
}

/// Listens on a TCP address, `host:port`.
///
/// # Errors
/// [`SocketError::Tcp`].
pub(crate) async fn listen_tcp(address: &str) -> Result<TcpListener, SocketError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| SocketError::Tcp {
            address: address.to_owned(),
            source,
        })
}

/// The id of a group, given as a number or a name of `/etc/group`.
fn group_id(group: &str) -> Result<u32, SocketError> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    std::fs::read_to_string("/etc/group")
        .unwrap_or_default()
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group))
                .then(|| fields.nth(1)?.parse().ok())
                .flatten()
        })
        .ok_or_else(|| SocketError::Group {
            group: group.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn group_of(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().gid()
    }

    #[tokio::test]
    async fn a_served_path_and_a_file_are_refused_and_a_stale_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/waxseal.sock");
        let served = listen(&path, None).await.unwrap();
        assert!(matches!(
            listen(&path, None).await,
            Err(SocketError::InUse { .. })
        ));
        drop(served);
        listen(&path, None).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let own = rustix::process::getegid().as_raw();
        let is_root = rustix::process::geteuid().is_root();
        let expected = group_id(DEFAULT_GROUP).ok().filter(|_| is_root);
        assert_eq!(group_of(&path), expected.unwrap_or(own));
        let chosen = path.with_extension("3");
        listen(&chosen, Some(&own.to_string())).await.unwrap();
        assert_eq!(group_of(&chosen), own);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(
            listen(&file, None).await,
            Err(SocketError::Io { .. })
        ));
        let unknown = listen(&path.with_extension("2"), Some("no such group")).await;
        assert!(matches!(unknown, Err(SocketError::Group { .. })));
    }
}
