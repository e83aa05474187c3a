//! Networks: the predefined ones that tasks can be attached to.
//!
//! As in an engine they are there twice: of the local scope, as lists show them, and of the
//! swarm's, which is what the CLI asks for before it attaches a service. Overlay networks are not built yet, so there is nothing to create. An
//! engine gives a network an id apart from its name; these have their names
//! for ids, since the objects refer to them by name, and a client that sends
//! back what it looked up (the CLI does) sends the name.

use axum::{extract::State as Shares, response::Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::Cluster,
    error::ApiError,
    extract::{Id, Json, Params},
    filters::Filters,
    json::common::{Labels, Time},
    respond,
    server::Shared,
    table::{Routes, doc},
    version::ApiVersion,
};

/// Label of networks that engines have without being told.
const LABEL_PREDEFINED: &str = "com.docker.swarm.predefined";
/// Filters of the list.
const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Filters of what is to be removed.
const PRUNE_FILTERS: [&str; 3] = ["label", "label!", "until"];
/// The scope that services are attached in.
const SWARM: &str = "swarm";
/// The scope that networks are listed with.
const LOCAL: &str = "local";
/// The network of the routing mesh, which an engine makes by itself.
const INGRESS: &str = "ingress";

/// A network that is there without having been created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predefined {
    /// Its name, and its id.
    pub(crate) name: &'static str,
    /// Its driver.
    pub(crate) driver: &'static str,
}

/// The node's own network, none at all, and the engine's default network.
const PREDEFINED: [Predefined; 3] = [
    Predefined {
        name: "host",
        driver: "host",
    },
    Predefined {
        name: "none",
        driver: "null",
    },
    Predefined {
        name: "bridge",
        driver: "bridge",
    },
];

/// The network of that name or id.
pub(crate) fn find(input: &str) -> Option<Predefined> {
    PREDEFINED.into_iter().find(|network| network.name == input)
}

/// 404; for the network that an engine would have 501, which the CLI does not put in words of its
/// own.
pub(crate) fn not_offered(input: &str) -> ApiError {
    match input {
        INGRESS => ApiError::not_implemented(
            "network ingress is not offered, there is no routing mesh: attach services with --network host and publish ports with mode=host",
        ),
        _ => ApiError::not_found("network", input),
    }
}

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/networks",
            doc("List the networks that tasks can use")
                .query(&["filters"])
                .lists("Network"),
            list,
        )
        .post(
            "/networks/create",
            doc("Refused: networks cannot be made")
                .success(StatusCode::CREATED)
                .answers("IdResponse"),
            create,
        )
        .post(
            "/networks/prune",
            doc("Remove networks that nobody uses: there are none")
                .query(&["filters"])
                .answers("NetworksPruned"),
            prune,
        )
        .get(
            "/networks/{id}",
            doc("A network")
                .query(&["scope", "verbose"])
                .answers("Network"),
            inspect,
        )
        .delete(
            "/networks/{id}",
            doc("Refused: networks cannot be removed")
                .success(StatusCode::NO_CONTENT)
                .empty(),
            remove,
        )
}

/// `NetworkResource`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkJson {
    name: &'static str,
    id: &'static str,
    created: Time,
    scope: &'static str,
    driver: &'static str,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    ipam: IpamJson,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_from: ConfigFromJson,
    config_only: bool,
    containers: Option<Empty>,
    options: Option<Empty>,
    labels: Labels,
}

/// `{}`.
#[derive(Clone, Copy, Debug, Serialize)]
struct Empty {}

/// `IPAM` of a network that hands out no addresses.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct IpamJson {
    driver: &'static str,
    options: Option<()>,
    config: [(); 0],
}

/// `ConfigReference` to no network.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ConfigFromJson {
    network: &'static str,
}

fn network_json(network: Predefined, scope: &'static str, created: Time) -> NetworkJson {
    let is_local = scope == LOCAL;
    NetworkJson {
        name: network.name,
        id: network.name,
        created,
        scope,
        driver: network.driver,
        enable_ipv6: false,
        ipam: IpamJson {
            driver: if is_local { "default" } else { "" },
            ..IpamJson::default()
        },
        internal: false,
        attachable: false,
        ingress: false,
        config_from: ConfigFromJson::default(),
        config_only: false,
        containers: is_local.then_some(Empty {}),
        options: is_local.then_some(Empty {}),
        labels: match is_local {
            true => Labels::new(),
            false => labels(),
        },
    }
}

fn labels() -> Labels {
    Labels::from([(LABEL_PREDEFINED.to_owned(), "true".to_owned())])
}

/// When the cluster was made, as its networks were; `None` where that cannot be known.
async fn created<C: Cluster>(api: &Shared<C>) -> Option<Time> {
    let created = api.cluster.read(|state| {
        let meta = state.cluster().and_then(|cluster| cluster.meta.as_ref());
        Time::of(meta.and_then(|meta| meta.created_at.as_ref()))
    });
    created.await.ok()
}

async fn list<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    params: Params,
) -> Result<Response, ApiError> {
    let filters = params.filters(&FILTERS)?;
    check_filters(&filters, version)?;
    // They are the node's own, in a swarm or not.
    let created = created(&api).await.unwrap_or_default();
    let networks = PREDEFINED
        .into_iter()
        .filter(|network| is_listed(*network, &filters))
        .map(|network| network_json(network, LOCAL, created));
    respond::list(networks)
}

fn check_filters(filters: &Filters, version: ApiVersion) -> Result<(), ApiError> {
    let mut dangling = filters.values("dangling").iter();
    if let Some(other) =
        dangling.find(|value| !["true", "1", "false", "0"].contains(&value.as_str()))
    {
        return Err(ApiError::bad_request(match version.is_modern() {
            true => format!("invalid filter 'dangling={other}'"),
            false => "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")".to_owned(),
        }));
    }
    let types = filters.values("type");
    let Some(unknown) = types
        .iter()
        .find(|value| !["builtin", "custom"].contains(&value.as_str()))
    else {
        return Ok(());
    };
    Err(if version.is_modern() {
        ApiError::bad_request(format!("invalid filter 'type={unknown}'"))
    } else {
        ApiError::internal(format!("invalid filter: 'type'='{unknown}'"))
    })
}

fn is_listed(network: Predefined, filters: &Filters) -> bool {
    filters.any("name", |part| network.name.contains(part))
        && filters.any("id", |part| network.name.contains(part))
        && filters.any("driver", |driver| driver == network.driver)
        && filters.any("scope", |scope| scope == LOCAL)
        && filters.any("type", |kind| kind == "builtin")
        // What was not created is never left over.
        && filters.any("dangling", |dangling| ["false", "0"].contains(&dangling))
        && filters.labels("label", &Labels::new())
}

async fn inspect<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    Id(id): Id,
    params: Params,
) -> Result<Response, ApiError> {
    // It asks for the services of an overlay network.
    params.flag("verbose")?;
    let created = created(&api).await;
    // In both scopes, of which the local one comes first.
    let scope = match params.text("scope") {
        "" | LOCAL => Some(LOCAL),
        SWARM => created.is_some().then_some(SWARM),
        _ => None,
    };
    let created = created.unwrap_or_default();
    match scope.zip(find(&id)) {
        Some((scope, network)) => respond::ok(&network_json(network, scope, created)),
        None if params.text("scope") == LOCAL => Err(ApiError::not_found("network", &id)),
        None => Err(not_offered(&id)),
    }
}

/// What is read of a network that is asked for: enough to refuse it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename = "CreateRequest", rename_all = "PascalCase")]
struct CreateJson {
    name: String,
    driver: String,
}

async fn create(Json(request): Json<CreateJson>) -> Result<Response, ApiError> {
    if request.name.is_empty() {
        return Err(ApiError::bad_request("invalid name: "));
    }
    if find(&request.name).is_some() {
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("network with name {} already exists", request.name),
        ));
    }
    let driver = match request.driver.as_str() {
        "" => "overlay",
        driver => driver,
    };
    Err(ApiError::not_implemented(format!(
        "networks of driver {driver} are not offered, so network {} was not created: attach services to the node's network with --network host (in a stack file: networks: {{default: {{external: true, name: host}}}}) and publish ports with mode=host",
        request.name
    )))
}

/// `NetworksPruneReport`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PruneJson {
    networks_deleted: Option<()>,
}

/// Predefined networks are never removed, and there are no others.
async fn prune(params: Params) -> Result<Response, ApiError> {
    params.filters(&PRUNE_FILTERS)?;
    respond::ok(&PruneJson {
        networks_deleted: None,
    })
}

async fn remove(Id(id): Id) -> Result<Response, ApiError> {
    Err(match find(&id) {
        Some(network) => ApiError::new(
            StatusCode::FORBIDDEN,
            format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            ),
        ),
        None => ApiError::not_found("network", &id),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(filters: &str, version: ApiVersion) -> Result<Vec<&'static str>, ApiError> {
        let filters = Filters::parse(filters, &FILTERS, version)?;
        check_filters(&filters, version)?;
        Ok(PREDEFINED
            .into_iter()
            .filter(|network| is_listed(*network, &filters))
            .map(|network| network.name)
            .collect())
    }

    #[test]
    fn refuses_filters_as_the_engine_does() {
        let old = ApiVersion::new(41);
        let error = |filters, version| listed(filters, version).unwrap_err();
        assert_eq!(
            error(r#"{"type":["x"]}"#, old),
            ApiError::internal("invalid filter: 'type'='x'")
        );
        assert_eq!(
            error(r#"{"type":["x"]}"#, ApiVersion::MAX),
            ApiError::bad_request("invalid filter 'type=x'")
        );
        assert_eq!(
            error(r#"{"dangling":[""]}"#, old),
            ApiError::bad_request(
                "invalid value for filter 'dangling', must be \"true\" (or \"1\"), or \"false\" (or \"0\")"
            )
        );
        assert_eq!(
            error(r#"{"bogus":["x"]}"#, old),
            ApiError::bad_request("Invalid filter 'bogus'")
        );
    }

    #[test]
    fn lists_by_filters() {
        let all = vec!["host", "none", "bridge"];
        let cases: [(&str, &[&str]); 11] = [
            ("", &all),
            (r#"{"name":["ho"]}"#, &["host"]),
            (r#"{"name":{"host":true,"none":true}}"#, &["host", "none"]),
            (r#"{"driver":["null"]}"#, &["none"]),
            (r#"{"scope":["swarm"]}"#, &[]),
            (r#"{"scope":["local"]}"#, &all),
            (r#"{"type":["builtin"]}"#, &all),
            (r#"{"type":["custom"]}"#, &[]),
            (r#"{"dangling":["true"]}"#, &[]),
            (r#"{"label":["com.docker.stack.namespace=st"]}"#, &[]),
            (r#"{"label":["com.docker.swarm.predefined"]}"#, &[]),
        ];
        for (filters, expected) in cases {
            assert_eq!(
                listed(filters, ApiVersion::MAX).unwrap(),
                expected,
                "{filters}"
            );
        }
    }

    /// Recorded: `GET /networks/host?scope=swarm` and without a scope, but for the id.
    #[test]
    fn looks_as_in_the_engine() {
        let host = find("host").unwrap();
        let shown = |scope| serde_json::to_string(&network_json(host, scope, Time::default()));
        assert_eq!(
            shown(LOCAL).unwrap(),
            r#"{"Name":"host","Id":"host","Created":"0001-01-01T00:00:00Z","Scope":"local","Driver":"host","EnableIPv6":false,"IPAM":{"Driver":"default","Options":null,"Config":[]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":{},"Options":{},"Labels":{}}"#
        );
        assert_eq!(
            shown(SWARM).unwrap(),
            r#"{"Name":"host","Id":"host","Created":"0001-01-01T00:00:00Z","Scope":"swarm","Driver":"host","EnableIPv6":false,"IPAM":{"Driver":"","Options":null,"Config":[]},"Internal":false,"Attachable":false,"Ingress":false,"ConfigFrom":{"Network":""},"ConfigOnly":false,"Containers":null,"Options":null,"Labels":{"com.docker.swarm.predefined":"true"}}"#
        );
        assert_eq!(find("hos"), None);
        assert_eq!(find(""), None);
    }
}
