//! Answers beside what the document says of them.

use std::sync::LazyLock;

use http::StatusCode;
use serde_json::Value;

use super::FakeCluster;
use crate::{
    openapi,
    server::routes,
    table::Operation,
    version::{Prefix, prefix},
};

static OPERATIONS: LazyLock<Vec<Operation>> =
    LazyLock::new(|| routes::<FakeCluster>().into_parts().1);
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let rendered = openapi::render(&OPERATIONS);
    serde_json::from_slice(&rendered).unwrap()
});

/// Panics at a field of an answer in JSON that the document lacks, or that is of another kind.
pub(crate) fn compare(method: &str, path: &str, status: StatusCode, text: &str) {
    let path = path.split('?').next().unwrap();
    let path = match prefix(path) {
        Prefix::Served(_, rest) => rest,
        _ => path,
    };
    let mut operations = OPERATIONS.iter();
    let operation = operations.find(|of| of.method == method && is_of(of.path, path));
    let Some(operation) = operation.filter(|of| of.doc.success == status) else {
        return;
    };
    let path = operation.path.replace("{*", "{");
    let responses = &DOCUMENT["paths"][path][method.to_lowercase()]["responses"];
    let content = &responses[operation.doc.success.as_str()]["content"];
    let Some(schema) = content["application/json"].get("schema") else {
        return;
    };
    // Streams have an object in each line.
    for value in serde_json::Deserializer::from_str(text).into_iter::<Value>() {
        if let Some(fault) = fault(schema, &value.unwrap()) {
            panic!(
                "{method} {}: {fault} (api/src/answers.json)",
                operation.path
            );
        }
    }
}

/// Whether a path is of this form.
fn is_of(form: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    for part in form.split('/') {
        let Some(segment) = segments.next() else {
            return false;
        };
        if part.starts_with("{*") {
            return true;
        }
        let is_given = part.starts_with('{') && !segment.is_empty();
        if part != segment && !is_given {
            return false;
        }
    }
    segments.next().is_none()
}

/// Where a value is not as a schema says, and why.
pub(super) fn fault(schema: &Value, value: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = DOCUMENT.pointer(reference.trim_start_matches('#'));
        return fault(target.expect(reference), value);
    }
    if let Some(either) = schema["anyOf"].as_array() {
        let mut faults = either.iter().map(|one| fault(one, value));
        let first = faults.next().flatten();
        return first.filter(|_| faults.all(|fault| fault.is_some()));
    }
    let kinds = match &schema["type"] {
        Value::Null => return None,
        Value::Array(kinds) => kinds.iter().collect(),
        kind => vec![kind],
    };
    let kind = kind(value);
    let is_kind = |wanted: &&Value| **wanted == kind || **wanted == "number" && kind == "integer";
    if !kinds.iter().any(is_kind) {
        return Some(format!(" is of type {kind}"));
    }
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let known = schema["properties"].get(name);
            let fault = match known.or(schema.get("additionalProperties")) {
                Some(schema) => fault(schema, field)?,
                None => " is not described".to_owned(),
            };
            Some(format!(".{name}{fault}"))
        }),
        Value::Array(items) => {
            let mut faults = items
                .iter()
                .filter_map(|item| fault(&schema["items"], item));
            faults.next().map(|fault| format!("[]{fault}"))
        }
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
