//! Checks of addresses that need no look at the host.

use std::net::IpAddr;

use crate::error::ApiError;

/// Managers listen here unless told otherwise.
const DEFAULT_PORT: u16 = 2377;

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

#[cfg(test)]
mod tests {
    use super::*;

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
