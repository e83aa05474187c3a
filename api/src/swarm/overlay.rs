//! What init and join say of overlay networks, which are not offered.
//!
//! The stock CLI always sends such settings; those that ask for nothing but what an engine does by
//! itself are let through, since there is nothing that they could steer. What no engine accepts is
//! refused in its words.

use std::{net::IpAddr, ops::RangeInclusive};

use crate::{
    error::ApiError,
    json::swarm::{InitBody, JoinBody},
};

/// Networks are from here if the request does not speak of pools at all (the
/// Docker Engine's default); the CLI sends an empty list, which stays one.
const DEFAULT_POOL: &str = "10.0.0.0/8";
/// Subnets from the pool unless told otherwise (the Docker Engine's default).
const DEFAULT_SUBNET_SIZE: u32 = 24;
/// Largest subnet size of IPv4.
const MAX_SUBNET_SIZE: u32 = 32;
/// The port of VXLAN unless told otherwise (the Docker Engine's default).
const DEFAULT_DATA_PATH_PORT: u32 = 4789;
/// Ports that a data path may have (the Docker Engine's bounds).
const DATA_PATH_PORTS: RangeInclusive<u32> = 1024..=49151;

/// The pools to show of the new cluster.
///
/// # Errors
/// 500 in the engine's words for pools and ports that it refuses; 501 naming what would
/// steer overlay networks.
pub(super) fn check_init(body: &InitBody) -> Result<Vec<String>, ApiError> {
    let pools = match &body.default_addr_pool {
        Some(pools) => pools.clone(),
        None => vec![DEFAULT_POOL.to_owned()],
    };
    let subnet_size = match body.subnet_size {
        0 => DEFAULT_SUBNET_SIZE,
        size => size,
    };
    let port = body.data_path_port;
    check_pools(&pools, subnet_size)?;
    check_data_path_port(port)?;
    refuse(&[
        (!body.data_path_addr.is_empty(), DATA_PATH_ADDR),
        (
            ![0, DEFAULT_DATA_PATH_PORT].contains(&port),
            "--data-path-port (DataPathPort)",
        ),
        (
            pools.iter().any(|pool| pool != DEFAULT_POOL),
            "--default-addr-pool (DefaultAddrPool)",
        ),
        (
            subnet_size != DEFAULT_SUBNET_SIZE,
            "--default-addr-pool-mask-length (SubnetSize)",
        ),
    ])?;
    Ok(pools)
}

/// As [`check_init`], of a node that joins.
///
/// # Errors
/// 501 for an address of the data path.
pub(super) fn check_join(body: &JoinBody) -> Result<(), ApiError> {
    refuse(&[(!body.data_path_addr.is_empty(), DATA_PATH_ADDR)])
}

const DATA_PATH_ADDR: &str = "--data-path-addr (DataPathAddr)";

fn refuse(settings: &[(bool, &str)]) -> Result<(), ApiError> {
    let asked = settings.iter().filter(|(is_asked, _)| *is_asked);
    let names: Vec<&str> = asked.map(|(_, name)| *name).collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(ApiError::not_implemented(format!(
        "overlay networks are not offered, so there is nothing to set by {}: leave this out; services use the node's own network with --network host",
        names.join(", ")
    )))
}

/// Refuses a data path port out of range; 0 is the default.
fn check_data_path_port(port: u32) -> Result<(), ApiError> {
    if port == 0 || DATA_PATH_PORTS.contains(&port) {
        return Ok(());
    }
    Err(ApiError::internal(format!(
        "Datapath port number is not in valid range (1024-49151) : {port}"
    )))
}

/// Refuses pools that are no networks, or smaller than the subnets asked for.
fn check_pools(pools: &[String], subnet_size: u32) -> Result<(), ApiError> {
    if pools.is_empty() {
        return Ok(());
    }
    if subnet_size > MAX_SUBNET_SIZE {
        return Err(ApiError::internal(format!(
            "subnet size is out of range: {subnet_size}"
        )));
    }
    for pool in pools {
        let bits = prefix_bits(pool).ok_or_else(|| {
            ApiError::internal(format!(
                "invalid base pool {pool}: invalid CIDR address: {pool}"
            ))
        })?;
        if subnet_size < bits {
            return Err(ApiError::internal(format!(
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

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use serde_json::{Value, json};

    use super::*;

    fn init(body: Value) -> Result<Vec<String>, ApiError> {
        check_init(&serde_json::from_value(body).unwrap())
    }

    #[test]
    fn refuses_pools_and_ports_as_the_engine_does() {
        let pool = |pool: &str, size: u32| {
            let error = init(json!({"DefaultAddrPool": [pool], "SubnetSize": size})).unwrap_err();
            assert_eq!(error.status, StatusCode::INTERNAL_SERVER_ERROR);
            error.message
        };
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
        for port in [80, 1023, 49152] {
            let error = init(json!({"DataPathPort": port})).unwrap_err();
            assert!(error.message.starts_with("Datapath port number"), "{port}");
        }
    }

    #[test]
    fn refuses_by_name_what_would_steer_overlays() {
        let refused = |body: Value, names: &[&str]| {
            let error = init(body).unwrap_err();
            assert_eq!(error.status, StatusCode::NOT_IMPLEMENTED);
            let said = format!("nothing to set by {}: leave", names.join(", "));
            assert!(error.message.contains(&said), "{}", error.message);
        };
        refused(json!({"DataPathAddr": "10.0.0.1"}), &[DATA_PATH_ADDR]);
        refused(
            json!({"DataPathPort": 7777}),
            &["--data-path-port (DataPathPort)"],
        );
        refused(
            json!({"DefaultAddrPool": [DEFAULT_POOL, "10.20.0.0/16"]}),
            &["--default-addr-pool (DefaultAddrPool)"],
        );
        refused(
            json!({"DefaultAddrPool": ["10.20.0.0/16"], "SubnetSize": 26, "DataPathAddr": "eth0"}),
            &[
                DATA_PATH_ADDR,
                "--default-addr-pool (DefaultAddrPool)",
                "--default-addr-pool-mask-length (SubnetSize)",
            ],
        );
        let join = serde_json::from_value(json!({"DataPathAddr": "eth0"})).unwrap();
        let error = check_join(&join).unwrap_err();
        assert!(error.message.contains(DATA_PATH_ADDR), "{}", error.message);
        assert!(check_join(&JoinBody::default()).is_ok());
    }

    /// What the CLI sends without such flags, what libraries send, and the defaults by name.
    #[test]
    fn lets_the_defaults_through() {
        let cases: [(Value, &[&str]); 4] = [
            (
                json!({"DataPathAddr": "", "DataPathPort": 0, "DefaultAddrPool": [], "SubnetSize": 24}),
                &[],
            ),
            (
                json!({"DataPathPort": 0, "DefaultAddrPool": null, "SubnetSize": 0}),
                &[DEFAULT_POOL],
            ),
            (json!({}), &[DEFAULT_POOL]),
            (
                json!({"DataPathPort": 4789, "DefaultAddrPool": [DEFAULT_POOL], "SubnetSize": 24}),
                &[DEFAULT_POOL],
            ),
        ];
        for (body, pools) in cases {
            assert_eq!(init(body).unwrap(), pools);
        }
    }
}
