//! The document and what is served are the same.

use axum::body::Body;
use serde_json::{Value, json};

use super::super::{FakeCluster, described::fault, replay::Client};
use crate::{openapi, server::routes, table::Operation};

fn operations() -> Vec<Operation> {
    routes::<FakeCluster>().into_parts().1
}

#[tokio::test]
async fn every_route_is_in_the_document_with_what_it_takes() {
    let client = Client::of(&FakeCluster::inactive());
    let answer = client.get("/waxseal/v1/openapi.json").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "application/json");
    let document = answer.json();
    assert_eq!(document["openapi"], "3.1.0");
    let paths = document["paths"].as_object().unwrap();
    let described: usize = paths
        .values()
        .map(|path| path.as_object().unwrap().len())
        .sum();
    assert_eq!(described, operations().len());
    let of = |path: &str, method: &str| document["paths"][path][method].clone();
    let body = |operation: &Value| {
        let content = &operation["requestBody"]["content"]["application/json"];
        let reference = content["schema"]["$ref"].as_str().unwrap();
        document.pointer(&reference[1..]).unwrap().clone()
    };
    let create = body(&of("/secrets/create", "post"));
    assert_eq!(create["title"], "SecretSpec");
    for field in ["Name", "Labels", "Data"] {
        assert!(
            create["properties"].get(field).is_some(),
            "{field}: {create}"
        );
    }
    let service = body(&of("/services/create", "post"));
    let container = &service["properties"]["TaskTemplate"]["properties"]["ContainerSpec"];
    assert_eq!(container["properties"]["Image"], json!({"type": "string"}));
    let update = of("/nodes/{id}/update", "post");
    assert_eq!(
        update["parameters"],
        json!([
            {"name": "id", "in": "path", "required": true, "schema": {"type": "string"}},
            {"name": "version", "in": "query", "schema": {"type": "string"}},
        ])
    );
    let create = of("/services/create", "post");
    assert_eq!(
        create["parameters"],
        json!([{"name": "x-registry-auth", "in": "header", "schema": {"type": "string"}}])
    );
    assert!(document["paths"].get("/distribution/{image}").is_some());
}

#[test]
fn parameters_are_named_where_they_are_read() {
    for operation in operations() {
        let Operation {
            method,
            path,
            doc,
            takes,
        } = operation;
        assert_eq!(takes.query, !doc.query.is_empty(), "{method} {path}");
        assert!(takes.body.is_none() || method == "POST", "{method} {path}");
        if let Some(schema) = takes.body {
            let fields = schema["properties"].as_object();
            assert!(
                fields.is_some_and(|fields| !fields.is_empty()),
                "{method} {path}"
            );
        }
    }
}

#[test]
fn what_is_answered_in_json_is_described() {
    for Operation {
        method, path, doc, ..
    } in operations()
    {
        let is_json = doc.media_type == Some("application/json");
        assert_eq!(is_json, doc.answer.is_some(), "{method} {path}");
    }
    // No two bodies have one name, and nothing refers to what is not there.
    let rendered = openapi::render(&operations());
    let document: Value = serde_json::from_slice(&rendered).unwrap();
    let schemas = &document["components"]["schemas"];
    for operation in operations() {
        if let Some(body) = operation.takes.body {
            let title = body["title"].as_str().unwrap();
            assert_eq!(schemas[title], body, "{}", operation.path);
        }
    }
    references(&document, &mut |reference| {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    });
}

fn references(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get("$ref") {
                found(reference);
            }
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn a_field_that_is_not_described_is_found() {
    let schema = |text: &str| json!({"$ref": format!("#/components/schemas/{text}")});
    let fault = |name: &str, value: Value| fault(&schema(name), &value);
    let said = fault("Secret", json!({"ID": "a", "Spec": {"Nonesuch": 1}}));
    assert_eq!(said.unwrap(), ".Spec.Nonesuch is not described");
    let said = fault("Managers", json!({"managers": [{"voter": "yes"}]}));
    assert_eq!(said.unwrap(), ".managers[].voter is of type string");
    assert_eq!(fault("Managers", json!({"leader": null, "lag": 1})), None);
}

/// With an object that is not there, and with the least that can be sent.
#[tokio::test]
async fn every_route_answers_as_documented() {
    for cluster in [FakeCluster::inactive(), FakeCluster::manager().await] {
        let client = Client::of(&cluster);
        for operation in operations() {
            let path = operation
                .path
                .replace("{id}", "nosuch")
                .replace("{*image}", "bb:1/json");
            let path = match operation.doc.query.contains(&"until") {
                true => format!("{path}?until=1"),
                false => path,
            };
            let place = format!("{} {path}", operation.method);
            let body = match operation.takes.body {
                Some(_) => Body::from("{}"),
                None => Body::empty(),
            };
            let answer = client.send(operation.method.as_str(), &path, body).await;
            let media_type = answer
                .headers
                .get("content-type")
                .map(|of| of.to_str().unwrap());
            if answer.status.is_success() {
                assert_eq!(answer.status, operation.doc.success, "{place}");
                let is_head = operation.method == "HEAD";
                assert!(is_head || media_type == operation.doc.media_type, "{place}");
                continue;
            }
            let (of_errors, field) = match path.starts_with("/waxseal/") {
                true => ("application/problem+json", "detail"),
                false => ("application/json", "message"),
            };
            assert_eq!(media_type, Some(of_errors), "{place}: {}", answer.text);
            let text = answer.json()[field].as_str().unwrap_or_default().to_owned();
            assert!(
                !text.is_empty() && text != "page not found",
                "{place}: {}",
                answer.text
            );
        }
    }
}
