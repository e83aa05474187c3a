//! Addresses of the Engine API: unix sockets, and nothing else.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use crate::failure::Failure;

/// Where a daemon serves and clients look unless told otherwise.
pub(crate) const DEFAULT: &str = "/run/waxseal/waxseal.sock";
/// Longest path that fits into a socket address, without the closing zero (`sockaddr_un`).
const MAX_PATH_BYTES: usize = 107;

/// The path of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket(PathBuf);

impl Socket {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Socket {
        Socket(path.into())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether this is where everybody looks by default.
    pub(crate) fn is_default(&self) -> bool {
        self.0 == Path::new(DEFAULT)
    }

    /// Reads `unix:///path`; `source` is where the text stands.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Socket, Failure> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(
                Failure::usage(format!("{source}: {text} is no address of a socket"))
                    .hint(format!("write it as unix://{DEFAULT}")),
            );
        };
        match scheme {
            "unix" if !rest.starts_with('/') => {
                Err(Failure::usage(format!("{source}: the path of {text} is not absolute"))
                    .hint(format!("write it with three slashes, as unix://{DEFAULT}")))
            }
            "unix" if rest.len() > MAX_PATH_BYTES => Err(Failure::usage(format!(
                "{source}: a socket's path has at most {MAX_PATH_BYTES} bytes, this one {}",
                rest.len()
            ))
            .hint("choose a shorter path")),
            "unix" => Ok(Socket(PathBuf::from(rest))),
            "tcp" | "http" | "https" => Err(Failure::usage(format!(
                "{source}: the API over {scheme} is not offered: it needs mutual TLS for clients, which is not built yet"
            ))
            .hint("use a unix socket, and reach it from elsewhere with `ssh -L LOCAL.sock:/run/waxseal/waxseal.sock HOST`")),
            _ => Err(Failure::usage(format!("{source}: addresses with {scheme}:// are not offered"))
                .hint(format!("use a unix socket, as unix://{DEFAULT}"))),
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// The socket that a client speaks to: `-H`, else the environment, else the default.
pub(crate) fn for_client(hosts: Vec<String>) -> Result<Socket, Failure> {
    let from_environment = |name: &'static str| {
        std::env::var(name)
            .ok()
            .filter(|text| !text.is_empty())
            .map(|text| (text, name))
    };
    match hosts.as_slice() {
        [] => match from_environment("WAXSEAL_HOST").or_else(|| from_environment("DOCKER_HOST")) {
            Some((text, name)) => Socket::parse(&text, name),
            None => Ok(Socket::at(DEFAULT)),
        },
        [one] => Socket::parse(one, "-H"),
        _ => Err(Failure::usage("-H is given more than once")
            .hint("only `waxseal daemon` serves several sockets; a client speaks to one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_unix_socket_and_says_what_to_write() {
        for text in [
            "tcp://0.0.0.0:2375",
            "/run/x.sock",
            "unix://relative",
            "fd://",
            "npipe:////./x",
        ] {
            let failure = Socket::parse(text, "-H").unwrap_err();
            assert!(failure.hint.is_some(), "{text}");
        }
        assert!(
            Socket::parse("tcp://0.0.0.0:2376", "-H")
                .unwrap_err()
                .message
                .contains("mutual TLS")
        );
        let long = format!("unix:///{}", "x".repeat(MAX_PATH_BYTES));
        assert!(Socket::parse(&long, "-H").is_err());
    }

    #[test]
    fn reads_a_path() {
        let socket = Socket::parse("unix:///tmp/a.sock", "-H").unwrap();
        assert_eq!(socket.path(), Path::new("/tmp/a.sock"));
        assert_eq!(socket.to_string(), "unix:///tmp/a.sock");
    }
}
