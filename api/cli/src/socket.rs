//! Addresses of the Engine API: unix sockets, and TCP with mutual TLS.

use std::{fmt, path::PathBuf};

use crate::failure::Failure;

/// Where a daemon serves and clients look unless told otherwise.
pub(crate) const DEFAULT: &str = "/run/waxseal/waxseal.sock";
/// Longest path that fits into a socket address, without the closing zero (`sockaddr_un`).
const MAX_PATH_BYTES: usize = 107;

/// Port of the API with mutual TLS, as on a Docker Engine.
const TLS_PORT: u16 = 2376;

/// An address of the Engine API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Socket {
    /// The path of a unix socket.
    Unix(PathBuf),
    /// Mutual TLS.
    Tcp(TcpAddress),
}

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TcpAddress {
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Socket {
    pub(crate) fn at(path: impl Into<PathBuf>) -> Socket {
        Socket::Unix(path.into())
    }

    /// Whether this is where everybody looks by default.
    pub(crate) fn is_default(&self) -> bool {
        *self == Socket::at(DEFAULT)
    }

    /// Reads `unix:///path` or `tcp://host:port`; `source` is where the text stands.
    pub(crate) fn parse(text: &str, source: &str) -> Result<Socket, Failure> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(
                Failure::usage(format!("{source}: {text} is no address of a socket"))
                    .hint(format!("write it as unix://{DEFAULT}")),
            );
        };
        match scheme {
            "unix" if !rest.starts_with('/') => Err(Failure::usage(format!(
                "{source}: the path of {text} is not absolute"
            ))
            .hint(format!("write it with three slashes, as unix://{DEFAULT}"))),
            "unix" if rest.len() > MAX_PATH_BYTES => Err(Failure::usage(format!(
                "{source}: a socket's path has at most {MAX_PATH_BYTES} bytes, this one {}",
                rest.len()
            ))
            .hint("choose a shorter path")),
            "unix" => Ok(Socket::at(rest)),
            "tcp" => tcp_address(rest).map(Socket::Tcp).ok_or_else(|| {
                Failure::usage(format!("{source}: {text} names no host and port"))
                    .hint(format!("write it as tcp://10.0.0.1:{TLS_PORT}"))
            }),
            "http" | "https" => Err(Failure::usage(format!(
                "{source}: addresses with {scheme}:// are not offered"
            ))
            .hint("write it as tcp://HOST:PORT; the API over TCP needs mutual TLS")),
            "fd" => Err(Failure::usage(format!(
                "{source}: sockets of systemd (fd://) are not offered"
            ))
            .hint(format!("let the daemon make its own: -H unix://{DEFAULT}"))),
            _ => Err(Failure::usage(format!(
                "{source}: addresses with {scheme}:// are not offered"
            ))
            .hint(format!("use a unix socket, as unix://{DEFAULT}"))),
        }
    }
}

/// `host`, `host:port` or `[v6]:port`; without a port it is 2376.
fn tcp_address(text: &str) -> Option<TcpAddress> {
    let text = text.strip_suffix('/').unwrap_or(text);
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("")),
            )
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port).filter(|port| !port.is_empty())),
            None => (text, Some("")),
        },
    };
    let port = match port? {
        "" => TLS_PORT,
        port => port.parse().ok()?,
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    (!host.is_empty() && host.chars().all(is_plain)).then(|| TcpAddress {
        host: host.to_owned(),
        port,
    })
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Socket::Unix(path) => write!(f, "unix://{}", path.display()),
            Socket::Tcp(address) => write!(f, "tcp://{address}"),
        }
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
    fn refuses_what_is_no_address_and_says_what_to_write() {
        for text in [
            "/run/x.sock",
            "unix://relative",
            "fd://",
            "npipe:////./x",
            "https://a",
            "tcp://",
            "tcp://:2376",
            "tcp://a:x",
            "tcp://a:70000",
            "tcp://a/b",
            "tcp://[x]:1",
            "tcp://::1",
        ] {
            let failure = Socket::parse(text, "-H").unwrap_err();
            assert!(failure.hint.is_some(), "{text}");
        }
        let long = format!("unix:///{}", "x".repeat(MAX_PATH_BYTES));
        assert!(Socket::parse(&long, "-H").is_err());
    }

    #[test]
    fn reads_addresses() {
        for (text, shown) in [
            ("unix:///tmp/a.sock", "unix:///tmp/a.sock"),
            ("tcp://10.0.0.1:2375", "tcp://10.0.0.1:2375"),
            ("tcp://host.example", "tcp://host.example:2376"),
            ("tcp://[::1]:7", "tcp://[::1]:7"),
            ("tcp://[::1]", "tcp://[::1]:2376"),
        ] {
            assert_eq!(Socket::parse(text, "-H").unwrap().to_string(), shown);
        }
    }
}
