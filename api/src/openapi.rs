//! `GET /waxseal/v1/openapi.json`: what is served, made of the table of routes.

use axum::{extract::State, response::Response};
use bytes::Bytes;
use http::{Method, header::CONTENT_TYPE};
use serde_json::{Map, Value, json};

use crate::{
    cluster::Cluster,
    respond::APPLICATION_JSON,
    server::Shared,
    system::VERSION,
    table::{Operation, Routes, doc},
    version::ApiVersion,
};

/// Paths of our own begin with it; their errors are problem documents (RFC 9457).
const OURS: &str = "/waxseal/";

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new().get(
        "/waxseal/v1/openapi.json",
        doc("This document"),
        document::<C>,
    )
}

async fn document<C: Cluster>(State(api): State<Shared<C>>) -> Response {
    let mut response = Response::new(api.openapi.clone().into());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, APPLICATION_JSON);
    response
}

/// The document (OpenAPI 3.1), rendered.
pub(crate) fn render(operations: &[Operation]) -> Bytes {
    let mut paths = Map::new();
    for operation in operations {
        let path = operation.path.replace("{*", "{");
        let methods = paths.entry(path).or_insert_with(|| json!({}));
        methods[operation.method.as_str().to_lowercase()] = describe(operation);
    }
    let error = |media_type: &str, field: &str| {
        json!({
            "description": "Why it was not done",
            "content": {media_type: {"schema": {
                "type": "object",
                "properties": {field: {"type": "string"}},
                "required": [field],
            }}},
        })
    };
    let document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Waxseal",
            "version": VERSION,
            "description": "The swarm part of the Docker Engine API, and what is Waxseal's own.",
        },
        "servers": [
            {"url": format!("/v{}", ApiVersion::MAX)},
            {"url": "/"},
        ],
        "paths": paths,
        "components": {"responses": {
            "Error": error("application/json", "message"),
            "Problem": error("application/problem+json", "detail"),
        }},
    });
    document.to_string().into()
}

fn describe(operation: &Operation) -> Value {
    let doc = &operation.doc;
    let names = operation.path.split('/').filter_map(|segment| {
        let name = segment.strip_prefix('{')?.strip_suffix('}')?;
        Some(name.trim_start_matches('*'))
    });
    let in_path = names.map(
        |name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}),
    );
    let in_query = doc
        .query
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}));
    let parameters: Vec<_> = in_path.chain(in_query).collect();
    let mut success = json!({"description": doc.summary});
    if let Some(media_type) = doc.media_type.filter(|_| operation.method != Method::HEAD) {
        success["content"] = json!({media_type: {}});
    }
    let error = match operation.path.starts_with(OURS) {
        true => "#/components/responses/Problem",
        false => "#/components/responses/Error",
    };
    let mut described = json!({
        "summary": doc.summary,
        "responses": {
            doc.success.as_str(): success,
            "default": {"$ref": error},
        },
    });
    if !parameters.is_empty() {
        described["parameters"] = parameters.into();
    }
    if let Some(schema) = &operation.takes.body {
        described["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    described
}
