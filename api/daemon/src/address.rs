//! Which addresses a node listens on and is reached at.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The port between hosts if none is given.
pub(crate) const DEFAULT_PORT: u16 = 2377;

/// Why an address cannot be used, in the words clients know (spec/engine-api.md §5.2).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum AddressError {
    /// Nothing to listen on.
    #[error("invalid ListenAddr \"\": invalid empty address")]
    EmptyListen,
    /// Neither an address nor an interface.
    #[error(
        "listen address must be an IP address or network interface (with optional port number)"
    )]
    Listen,
    /// Neither an address others could reach nor an interface.
    #[error(
        "advertise address must be a non-zero IP address or network interface (with optional port number)"
    )]
    Advertise,
    /// One interface has several.
    #[error(
        "could not choose an IP address to advertise since this system has multiple addresses on interface {interface} ({first} and {second})"
    )]
    SeveralOnInterface {
        /// The interface.
        interface: String,
        /// One address.
        first: IpAddr,
        /// Another.
        second: IpAddr,
    },
    /// Several interfaces have one.
    #[error(
        "could not choose an IP address to advertise since this system has multiple addresses on different interfaces ({first} on {first_interface} and {second} on {second_interface})"
    )]
    SeveralInterfaces {
        /// One address.
        first: IpAddr,
        /// Its interface.
        first_interface: String,
        /// Another.
        second: IpAddr,
        /// Its interface.
        second_interface: String,
    },
    /// The system has none.
    #[error("could not find the system's IP address")]
    None,
}

/// A local address and its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalAddress {
    /// `eth0`, …
    pub(crate) interface: String,
    /// The address.
    pub(crate) address: IpAddr,
}

/// The addresses of this host's interfaces.
///
/// # Errors
/// If the system does not tell.
pub(crate) fn local_addresses() -> std::io::Result<Vec<LocalAddress>> {
    let interfaces = if_addrs::get_if_addrs()?;
    Ok(interfaces
        .into_iter()
        .map(|interface| LocalAddress {
            address: interface.ip(),
            interface: interface.name,
        })
        .collect())
}

/// Where to listen: `ADDRESS[:PORT]` or `INTERFACE[:PORT]`.
///
/// # Errors
/// [`AddressError::EmptyListen`], [`AddressError::Listen`] or an ambiguous interface.
pub(crate) fn resolve_listen(
    text: &str,
    local: &[LocalAddress],
) -> Result<SocketAddr, AddressError> {
    if text.is_empty() {
        return Err(AddressError::EmptyListen);
    }
    let (host, port) = split(text, DEFAULT_PORT).ok_or(AddressError::Listen)?;
    let address = match host.parse() {
        Ok(address) => address,
        Err(_) => of_interface(host, local)?.ok_or(AddressError::Listen)?,
    };
    Ok(SocketAddr::new(address, port))
}

/// Where others reach this node: as asked, else the listen address if it is one
/// address, else `default` (the daemon's flag), else the system's only address.
///
/// # Errors
/// [`AddressError::Advertise`] and the reasons why none could be chosen.
pub(crate) fn resolve_advertise(
    text: &str,
    default: Option<&str>,
    listen: SocketAddr,
    local: &[LocalAddress],
) -> Result<SocketAddr, AddressError> {
    let text = if text.is_empty() {
        default.unwrap_or_default()
    } else {
        text
    };
    if text.is_empty() {
        if !listen.ip().is_unspecified() {
            return Ok(listen);
        }
        return Ok(SocketAddr::new(system_address(local)?, listen.port()));
    }
    let (host, port) = split(text, listen.port()).ok_or(AddressError::Advertise)?;
    let address = match host.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => of_interface(host, local)?.ok_or(AddressError::Advertise)?,
    };
    if address.is_unspecified() {
        return Err(AddressError::Advertise);
    }
    Ok(SocketAddr::new(address, port))
}

/// `host:2377` for a remote without a port.
pub(crate) fn with_default_port(remote: &str) -> String {
    if remote.parse::<SocketAddr>().is_ok() {
        return remote.to_owned();
    }
    if let Ok(address) = remote.trim_matches(['[', ']']).parse::<IpAddr>() {
        return SocketAddr::new(address, DEFAULT_PORT).to_string();
    }
    match remote.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => remote.to_owned(),
        _ => format!("{remote}:{DEFAULT_PORT}"),
    }
}

/// Host and port of `HOST[:PORT]`, where an IPv6 address with a port is in brackets.
fn split(text: &str, default_port: u16) -> Option<(&str, u16)> {
    if text.parse::<IpAddr>().is_ok() {
        return Some((text, default_port));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            Some(port) => port.parse().ok()?,
            None if rest.is_empty() => default_port,
            None => return None,
        };
        return Some((host, port));
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, port.parse().ok()?)),
        None => Some((text, default_port)),
    }
}

/// The one address of an interface, IPv4 before IPv6; `None` if there is no such interface.
fn of_interface(interface: &str, local: &[LocalAddress]) -> Result<Option<IpAddr>, AddressError> {
    let of_kind = |v4: bool| {
        local
            .iter()
            .filter(move |entry| entry.interface == interface && entry.address.is_ipv4() == v4)
            .map(|entry| entry.address)
    };
    let mut candidates = of_kind(true).peekable();
    if candidates.peek().is_some() {
        return only(interface, candidates);
    }
    only(
        interface,
        of_kind(false).filter(|address| !is_link_local(address)),
    )
}

fn only(
    interface: &str,
    mut candidates: impl Iterator<Item = IpAddr>,
) -> Result<Option<IpAddr>, AddressError> {
    match (candidates.next(), candidates.next()) {
        (Some(first), Some(second)) => Err(AddressError::SeveralOnInterface {
            interface: interface.to_owned(),
            first,
            second,
        }),
        (only, _) => Ok(only),
    }
}

/// The system's only address that is not loopback, IPv4 before IPv6.
fn system_address(local: &[LocalAddress]) -> Result<IpAddr, AddressError> {
    for v4 in [true, false] {
        let mut candidates = local.iter().filter(|entry| {
            entry.address.is_ipv4() == v4
                && !entry.address.is_loopback()
                && !is_link_local(&entry.address)
        });
        match (candidates.next(), candidates.next()) {
            (None, _) => {}
            (Some(only), None) => return Ok(only.address),
            (Some(first), Some(second)) if first.interface == second.interface => {
                return Err(AddressError::SeveralOnInterface {
                    interface: first.interface.clone(),
                    first: first.address,
                    second: second.address,
                });
            }
            (Some(first), Some(second)) => {
                return Err(AddressError::SeveralInterfaces {
                    first: first.address,
                    first_interface: first.interface.clone(),
                    second: second.address,
                    second_interface: second.interface.clone(),
                });
            }
        }
    }
    Err(AddressError::None)
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => Ipv4Addr::is_link_local(address),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(entries: &[(&str, &str)]) -> Vec<LocalAddress> {
        let entry = |(interface, address): &(&str, &str)| LocalAddress {
            interface: (*interface).to_owned(),
            address: address.parse().unwrap(),
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn what_is_neither_address_nor_interface_is_refused() {
        let local = local(&[("lo", "127.0.0.1")]);
        assert_eq!(resolve_listen("", &local), Err(AddressError::EmptyListen));
        for text in ["nonsense", "eth9:1", "1.2.3.4:99999", "[::1", "lo:x"] {
            assert_eq!(
                resolve_listen(text, &local),
                Err(AddressError::Listen),
                "{text}"
            );
        }
        let listen = "0.0.0.0:2377".parse().unwrap();
        for text in ["0.0.0.0", "nonsense", "[::]:2377"] {
            let refused = resolve_advertise(text, None, listen, &local);
            assert_eq!(refused, Err(AddressError::Advertise), "{text}");
        }
    }

    #[test]
    fn several_addresses_are_not_chosen_from() {
        let listen = "0.0.0.0:2377".parse().unwrap();
        let two = local(&[("eth0", "10.0.0.1"), ("eth1", "10.1.0.1")]);
        assert_eq!(
            resolve_advertise("", None, listen, &two)
                .unwrap_err()
                .to_string(),
            "could not choose an IP address to advertise since this system has multiple addresses \
             on different interfaces (10.0.0.1 on eth0 and 10.1.0.1 on eth1)"
        );
        let one = local(&[("eth0", "10.0.0.1"), ("eth0", "10.0.0.2")]);
        assert!(resolve_advertise("eth0", None, listen, &one).is_err());
        let none = local(&[("lo", "127.0.0.1")]);
        assert_eq!(
            resolve_advertise("", None, listen, &none),
            Err(AddressError::None)
        );
    }

    #[test]
    fn interfaces_and_ports_are_taken_apart() {
        let local = local(&[("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "10.0.0.1")]);
        let listen = |text| resolve_listen(text, &local).unwrap().to_string();
        assert_eq!(listen("lo:7000"), "127.0.0.1:7000");
        assert_eq!(listen("0.0.0.0:2377"), "0.0.0.0:2377");
        assert_eq!(listen("127.0.0.1"), "127.0.0.1:2377");
        assert_eq!(listen("[::1]:9"), "[::1]:9");
        assert_eq!(listen("::1"), "[::1]:2377");
        let any = "0.0.0.0:4000".parse().unwrap();
        let advertise = |text, default| {
            resolve_advertise(text, default, any, &local)
                .unwrap()
                .to_string()
        };
        assert_eq!(advertise("", None), "10.0.0.1:4000");
        assert_eq!(advertise("", Some("lo")), "127.0.0.1:4000");
        assert_eq!(advertise("10.9.9.9:1", None), "10.9.9.9:1");
        assert_eq!(with_default_port("10.0.0.1"), "10.0.0.1:2377");
        assert_eq!(with_default_port("10.0.0.1:1"), "10.0.0.1:1");
        assert_eq!(with_default_port("::1"), "[::1]:2377");
        assert_eq!(with_default_port("manager"), "manager:2377");
        assert_eq!(with_default_port("manager:5"), "manager:5");
    }
}
