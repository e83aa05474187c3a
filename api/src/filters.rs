//! The `filters` query value.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::Value;

use crate::{error::ApiError, version::ApiVersion};

/// Filters by key. Values of one key are OR-ed (labels AND-ed), keys AND-ed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

/// Go's name of the shape that filters are first read as.
const GO_SHAPE: &str = "map[string]map[string]bool";

impl Filters {
    /// Reads `{"name":{"a":true}}` or `{"name":["a"]}`; empty is no filter.
    ///
    /// # Errors
    /// In the manner of 28.x from 1.42 on, of 20.10 below: 400 or 500 if it
    /// cannot be read, 400 for a key that is not in `accepted`.
    pub(crate) fn parse(
        text: &str,
        accepted: &[&str],
        version: ApiVersion,
    ) -> Result<Filters, ApiError> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let filters = read(text).map_err(|why| {
            if version.is_modern() {
                ApiError::bad_request("invalid filter")
            } else {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, why)
            }
        })?;
        match filters
            .0
            .keys()
            .find(|key| !accepted.contains(&key.as_str()))
        {
            Some(key) if version.is_modern() => {
                Err(ApiError::bad_request(format!("invalid filter '{key}'")))
            }
            Some(key) => Err(ApiError::bad_request(format!("Invalid filter '{key}'"))),
            None => Ok(filters),
        }
    }

    /// Whether nothing is filtered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values of a key; empty if the key is not there.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether `key` is absent or `test` holds for one of its values.
    pub(crate) fn any(&self, key: &str, test: impl Fn(&str) -> bool) -> bool {
        match self.0.get(key) {
            None => true,
            Some(values) => values.is_empty() || values.iter().any(|value| test(value)),
        }
    }

    /// Whether `actual` starts with one of the key's values, or the key is absent.
    pub(crate) fn prefix(&self, key: &str, actual: &str) -> bool {
        self.any(key, |value| actual.starts_with(value))
    }

    /// As [`Filters::prefix`], without regard to case.
    pub(crate) fn prefix_any_case(&self, key: &str, actual: &str) -> bool {
        self.any(key, |value| {
            actual
                .as_bytes()
                .get(..value.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(value.as_bytes()))
        })
    }

    /// Whether `actual` is one of the key's words, in any case; empty ones ask for nothing.
    pub(crate) fn word(&self, key: &str, actual: &str) -> bool {
        let words = || self.values(key).iter().filter(|word| !word.is_empty());
        words().next().is_none() || words().any(|word| word.eq_ignore_ascii_case(actual))
    }

    /// As [`Filters::labels`], where an empty value asks for the label alone: so do the stores of a
    /// cluster, unlike events and networks.
    pub(crate) fn stored_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).iter().all(|wanted| {
            let (name, value) = wanted.split_once('=').unwrap_or((wanted, ""));
            labels
                .get(name)
                .is_some_and(|actual| value.is_empty() || value == actual)
        })
    }

    /// Whether `labels` has all that the key's values (`k` or `k=v`) ask for.
    pub(crate) fn labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.values(key).iter().all(|wanted| {
            let (name, value) = match wanted.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (wanted.as_str(), None),
            };
            labels
                .get(name)
                .is_some_and(|actual| value.is_none_or(|value| value == actual))
        })
    }
}

/// Either shape; the text of the error is what 20.10 answers.
fn read(text: &str) -> Result<Filters, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        if error.is_eof() {
            return "unexpected end of JSON input".to_owned();
        }
        match text.chars().nth(error.column().saturating_sub(1)) {
            Some(c) => format!("invalid character '{c}' looking for beginning of value"),
            None => "unexpected end of JSON input".to_owned(),
        }
    })?;
    let object = match value {
        Value::Object(object) => object,
        Value::Null => return Ok(Filters::default()),
        other => return Err(wrong_kind(&other)),
    };
    let mut filters = BTreeMap::new();
    for (key, values) in object {
        let values = match values {
            Value::Object(set) => set
                .into_iter()
                .map(|(value, flag)| match flag {
                    Value::Bool(_) | Value::Null => Ok(value),
                    other => Err(wrong_kind(&other)),
                })
                .collect::<Result<Vec<_>, _>>()?,
            Value::Array(list) => list
                .into_iter()
                .map(|value| match value {
                    Value::String(value) => Ok(value),
                    other => Err(wrong_kind(&other)),
                })
                .collect::<Result<Vec<_>, _>>()?,
            Value::Null => Vec::new(),
            other => return Err(wrong_kind(&other)),
        };
        filters.insert(key, values);
    }
    Ok(Filters(filters))
}

fn wrong_kind(value: &Value) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    format!("json: cannot unmarshal {kind} into Go value of type {GO_SHAPE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: ApiVersion = ApiVersion::new(41);

    fn refusal(text: &str, version: ApiVersion) -> (u16, String) {
        let error = Filters::parse(text, &["name"], version).unwrap_err();
        (error.status.as_u16(), error.message)
    }

    #[test]
    fn refuses_in_the_manner_of_the_version() {
        let old = |text: &str| refusal(text, OLD);
        let new = |text: &str| refusal(text, ApiVersion::MAX);
        assert_eq!(
            old("[]"),
            (
                500,
                "json: cannot unmarshal array into Go value of type map[string]map[string]bool"
                    .to_owned()
            )
        );
        assert_eq!(
            old("x"),
            (
                500,
                "invalid character 'x' looking for beginning of value".to_owned()
            )
        );
        assert_eq!(old("{").0, 500);
        assert_eq!(old(r#"{"name":5}"#).0, 500);
        assert_eq!(old(r#"{"x":[]}"#), (400, "Invalid filter 'x'".to_owned()));
        assert_eq!(new(r#"{"x":[]}"#), (400, "invalid filter 'x'".to_owned()));
        assert_eq!(new("x"), (400, "invalid filter".to_owned()));
    }

    #[test]
    fn both_shapes_say_the_same() {
        let set = Filters::parse(r#"{"name":{"a":true,"b":true}}"#, &["name"], OLD).unwrap();
        let list = Filters::parse(r#"{"name":["a","b"]}"#, &["name"], OLD).unwrap();
        assert_eq!(set, list);
        for none in ["", "{}", "null"] {
            assert!(Filters::parse(none, &[], OLD).unwrap().is_empty());
        }
    }

    #[test]
    fn empty_values_ask_for_nothing_more() {
        let filters = |text| Filters::parse(text, &["role", "label"], OLD).unwrap();
        assert!(filters(r#"{"role":[""]}"#).word("role", "worker"));
        let manager = filters(r#"{"role":["","Manager"]}"#);
        assert!(manager.word("role", "manager") && !manager.word("role", "worker"));
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let alone = filters(r#"{"label":["a="]}"#);
        assert!(alone.stored_labels("label", &labels) && !alone.labels("label", &labels));
        for other in [
            r#"{"label":[""]}"#,
            r#"{"label":["a=2"]}"#,
            r#"{"label":["=1"]}"#,
        ] {
            assert!(!filters(other).stored_labels("label", &labels), "{other}");
        }
    }

    #[test]
    fn values_are_alternatives_but_labels_add_up() {
        let filters = Filters::parse(
            r#"{"name":["a","Bc"],"label":["k","l=1"]}"#,
            &["name", "label"],
            OLD,
        )
        .unwrap();
        assert!(filters.prefix("name", "abc") && !filters.prefix("name", "bcd"));
        assert!(filters.prefix_any_case("name", "bcd") && !filters.prefix_any_case("name", "b"));
        assert!(!filters.prefix_any_case("name", "bé"));
        let labels = |pairs: &[(&str, &str)]| {
            let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
            filters.labels("label", &pairs.iter().map(owned).collect())
        };
        assert!(labels(&[("k", "x"), ("l", "1")]));
        assert!(!labels(&[("k", "x"), ("l", "2")]));
        assert!(!labels(&[("l", "1")]));
    }
}
