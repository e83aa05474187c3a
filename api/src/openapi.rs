//! `GET /waxseal/v1/openapi.json`: what is served, made of the table of routes.
//!
//! What is answered stands in `answers.json`; each answer in a test is compared with it. A text there
//! is a type (`any` for all, `?` at its end for `null` as well) or `@` and the name of another; a
//! list has one item for all; of objects, `{"*": …}` has any keys and `{"?": …}` may be `null`.

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
    trace::nullable,
    version::ApiVersion,
};

/// Paths of our own begin with it; their errors are problem documents (RFC 9457).
const OURS: &str = "/waxseal/";

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new().get(
        "/waxseal/v1/openapi.json",
        doc("This document").answers("Document"),
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
    let mut schemas = Map::new();
    for schema in operations.iter().filter_map(|of| of.takes.body.as_ref()) {
        schemas.insert(title(schema).to_owned(), schema.clone());
    }
    schemas.extend(answers());
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
        "components": {
            "responses": {
                "Error": error("application/json", "message"),
                "Problem": error("application/problem+json", "detail"),
            },
            "schemas": schemas,
        },
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
    let headers = operation.takes.headers.iter();
    let in_headers =
        headers.map(|name| json!({"name": name, "in": "header", "schema": {"type": "string"}}));
    let parameters: Vec<_> = in_path.chain(in_query).chain(in_headers).collect();
    let mut success = json!({"description": doc.summary});
    if let Some(media_type) = doc.media_type.filter(|_| operation.method != Method::HEAD) {
        let mut content = json!({});
        if let Some(name) = doc.answer {
            let schema = expand(&json!(format!("@{name}")));
            content["schema"] = match doc.is_list {
                true => json!({"type": "array", "items": schema}),
                false => schema,
            };
        }
        success["content"] = json!({media_type: content});
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
        let schema = expand(&json!(format!("@{}", title(schema))));
        described["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    described
}

/// The name of what a body holds.
fn title(schema: &Value) -> &str {
    schema["title"].as_str().unwrap_or_default()
}

/// The schemas of what is answered, by name.
fn answers() -> Map<String, Value> {
    let answers: Map<_, _> = serde_json::from_str(include_str!("answers.json"))
        .expect("a file of this crate, which each test reads");
    let expanded = answers.iter();
    expanded
        .map(|(name, short)| (name.clone(), expand(short)))
        .collect()
}

/// The schema that a short form stands for.
fn expand(short: &Value) -> Value {
    match short {
        Value::String(text) => match (text.strip_suffix('?'), text.strip_prefix('@')) {
            (Some(rest), _) => nullable(expand(&json!(rest))),
            (None, Some(name)) => json!({"$ref": format!("#/components/schemas/{name}")}),
            (None, None) if text == "any" => Value::Bool(true),
            (None, None) => json!({"type": text}),
        },
        Value::Array(items) => json!({"type": "array", "items": items.first().map(expand)}),
        Value::Object(fields) => match (fields.get("*"), fields.get("?")) {
            (Some(all), _) => json!({"type": "object", "additionalProperties": expand(all)}),
            (None, Some(one)) => nullable(expand(one)),
            (None, None) => {
                let fields = fields
                    .iter()
                    .map(|(name, field)| (name.clone(), expand(field)));
                json!({"type": "object", "properties": fields.collect::<Map<_, _>>()})
            }
        },
        other => other.clone(),
    }
}
