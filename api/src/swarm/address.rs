//! Checks of addresses and pools that need no look at the host.

use std::net::IpAddr;

use http::StatusCode;

use crate::error::ApiError;

/// Managers listen here unless told otherwise.
const DEFAULT_PORT: u16 = 2377;
/// Ports that a data path may have (the Docker Engine's bounds).
const DATA_PATH_PORTS: std::ops::RangeInclusive<u32> = 1024..=49151;
/// Largest subnet size of IPv4.
const MAX_SUBNET_SIZE: u32 = 32;

/// Refuses an empty address.
pub(super) fn not_empty(what: &str, address: &str) -> Result<(), ApiError> {
    if address.is_empty() {
        return Err(ApiError::bad_request(format!(
            "invalid {what} \"\": invalid empty address"
        )));
    }
    Ok(())
}

/// The address of a manager, with the default port if it has none.
pub(crate) fn remote(address: &str) -> Result<String, ApiError> {
    not_empty("remoteAddr", address)?;
    let address = address.strip_prefix("tcp://").unwrap_or(address);
    let bare_v6 = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    Ok(if bare_v6 {
        format!("[{address}]:{DEFAULT_PORT}")
    } else if address.starts_with('[') && address.ends_with(']') || !address.contains(':') {
        format!("{address}:{DEFAULT_PORT}")
    } else {
        address.to_owned()
    })
}

/// Refuses a data path port out of range; 0 is the default.
pub(super) fn check_data_path_port(port: u32) -> Result<(), ApiError> {
    if port == 0 || DATA_PATH_PORTS.contains(&port) {
        return Ok(());
    }
    Err(internal(format!(
        "Datapath port number is not in valid range (1024-49151) : {port}"
    )))
}

/// Refuses pools that are no networks, or smaller than the subnets asked for.
pub(super) fn check_pools(pools: &[String], subnet_size: u32) -> Result<(), ApiError> {
    if pools.is_empty() {
        return Ok(());
    }
    if subnet_size > MAX_SUBNET_SIZE {
        return Err(internal(format!(
            "subnet size is out of range: {subnet_size}"
        )));
    }
    for pool in pools {
        let bits = prefix_bits(pool).ok_or_else(|| {
            internal(format!(
                "invalid base pool {pool}: invalid CIDR address: {pool}"
            ))
        })?;
        if subnet_size < bits {
            return Err(internal(format!(
                "invalid CIDR: \"{pool}\". Subnet size is too small for pool: {subnet_size}"
            )));
        }
    }
    Ok(())
}

/// The prefix length of `address/bits`.
fn prefix_bits(cidr: &str) -> Option<u32> {
    let (address, bits) = cidr.split_once('/')?;
    let most = match address.parse::<IpAddr>().ok()? {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    bits.parse().ok().filter(|bits| *bits <= most)
}

fn internal(text: String) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_pools_as_the_engine_does() {
        let pool = |pool: &str, size| check_pools(&[pool.to_owned()], size).unwrap_err().message;
        assert_eq!(
            pool("foo", 24),
            "invalid base pool foo: invalid CIDR address: foo"
        );
        assert_eq!(
            pool("10.0.0.0/8", 4),
            "invalid CIDR: \"10.0.0.0/8\". Subnet size is too small for pool: 4"
        );
        assert_eq!(pool("10.0.0.0/8", 33), "subnet size is out of range: 33");
        assert!(pool("10.0.0.0/33", 24).starts_with("invalid base pool"));
    }

    #[test]
    fn refuses_data_path_ports_out_of_range() {
        assert!(check_data_path_port(80).is_err());
        assert!(check_data_path_port(49152).is_err());
        assert!(check_data_path_port(0).is_ok());
        assert!(check_data_path_port(4789).is_ok());
    }

    #[test]
    fn fills_in_the_port() {
        assert!(remote("").is_err());
        assert_eq!(remote("host").unwrap(), "host:2377");
        assert_eq!(remote("10.0.0.1:4000").unwrap(), "10.0.0.1:4000");
        assert_eq!(remote("::1").unwrap(), "[::1]:2377");
        assert_eq!(remote("[::1]").unwrap(), "[::1]:2377");
        assert_eq!(remote("[::1]:7").unwrap(), "[::1]:7");
    }
}
