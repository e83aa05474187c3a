//! Routes about the daemon itself: ping, version, info.

use axum::{body::Body, extract::State, response::Response};
use http::{HeaderValue, header};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    cluster::{Cluster, LocalNode, LocalState},
    error::ApiError,
    info,
    json::common::Time,
    respond,
    server::Shared,
    table::{Routes, doc},
    version::ApiVersion,
};

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/_ping",
            doc("Whether the daemon answers").media_type("text/plain; charset=utf-8"),
            ping::<C>,
        )
        .head(
            "/_ping",
            doc("Whether the daemon answers").empty(),
            head_ping::<C>,
        )
        .get(
            "/version",
            doc("Versions of the daemon and of the API").answers("SystemVersion"),
            version::<C>,
        )
        .get(
            "/info",
            doc("The daemon, and where its node stands").answers("SystemInfo"),
            info::info::<C>,
        )
}

async fn ping<C: Cluster>(State(api): State<Shared<C>>) -> Response {
    pong(&api.cluster.local(), "OK")
}

/// `HEAD` says a length of 0, not that of the body that `GET` has.
async fn head_ping<C: Cluster>(State(api): State<Shared<C>>) -> Response {
    let mut response = pong(&api.cluster.local(), "");
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

fn pong(local: &LocalNode, body: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-store, must-revalidate"),
    );
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert("swarm", HeaderValue::from_static(swarm_header(local)));
    response
}

/// What clients hide commands by.
fn swarm_header(local: &LocalNode) -> &'static str {
    match local.state {
        LocalState::Inactive => "inactive",
        LocalState::Pending => "pending",
        LocalState::Locked => "locked",
        LocalState::Error => "error",
        LocalState::Active if local.control_available => "active/manager",
        LocalState::Active => "active/worker",
    }
}

/// This program's version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where the build does not say it.
const UNKNOWN: &str = "unknown";

/// The commit that it was built from, if the build says.
const COMMIT: &str = match option_env!("WAXSEAL_COMMIT") {
    Some(commit) => commit,
    None => UNKNOWN,
};

/// The compiler, where clients look for that of an engine written in Go.
const COMPILER: &str = env!("WAXSEAL_COMPILER");

/// The time of what it was built from (RFC 3339), if the build says; builds with one are
/// the same (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn build_time(epoch: Option<&str>) -> String {
    let seconds = epoch.and_then(|epoch| epoch.parse().ok());
    match seconds.map(OffsetDateTime::from_unix_timestamp) {
        Some(Ok(time)) => Time::from(time).to_string(),
        _ => UNKNOWN.to_owned(),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct VersionAnswer<'a> {
    platform: Platform,
    components: [Component<'a>; 1],
    version: &'a str,
    api_version: String,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    git_commit: &'a str,
    go_version: &'a str,
    os: &'a str,
    arch: &'a str,
    kernel_version: &'a str,
    build_time: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Platform {
    name: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Component<'a> {
    name: &'a str,
    version: &'a str,
    details: Details<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Details<'a> {
    api_version: String,
    arch: &'a str,
    build_time: &'a str,
    experimental: &'a str,
    git_commit: &'a str,
    go_version: &'a str,
    kernel_version: &'a str,
    #[serde(rename = "MinAPIVersion")]
    min_api_version: String,
    os: &'a str,
}

async fn version<C: Cluster>(State(api): State<Shared<C>>) -> Result<Response, ApiError> {
    let daemon = api.cluster.daemon();
    let arch = go_arch(&daemon.architecture);
    let kernel_version = &daemon.kernel_version;
    let build_time = &build_time(option_env!("SOURCE_DATE_EPOCH"));
    respond::ok(&VersionAnswer {
        platform: Platform { name: "Waxseal" },
        components: [Component {
            // Clients look for a component of this name.
            name: "Engine",
            version: VERSION,
            details: Details {
                api_version: ApiVersion::MAX.to_string(),
                arch,
                build_time,
                experimental: "false",
                git_commit: COMMIT,
                go_version: COMPILER,
                kernel_version,
                min_api_version: ApiVersion::MIN.to_string(),
                os: "linux",
            },
        }],
        version: VERSION,
        api_version: ApiVersion::MAX.to_string(),
        min_api_version: ApiVersion::MIN.to_string(),
        git_commit: COMMIT,
        go_version: COMPILER,
        os: "linux",
        arch,
        kernel_version,
        build_time,
    })
}

/// Go's name of a machine, as clients of the Engine API expect it.
fn go_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i386" => "386",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_has_the_time_that_it_was_given() {
        assert_eq!(build_time(Some("1795149566")), "2026-11-20T04:39:26Z");
        for none in [None, Some(""), Some("today"), Some("99999999999999999")] {
            assert_eq!(build_time(none), "unknown");
        }
        assert!(COMPILER.starts_with("rustc 1."), "{COMPILER}");
    }
}
