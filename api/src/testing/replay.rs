//! Replays exchanges recorded between a stock CLI and a Docker Engine 20.10.
//!
//! Ids and versions differ from run to run: those seen in answers are mapped to
//! ours, and recorded ones in later requests are replaced by them. In recorded
//! answers `…` stands for any text, `$any` for anything, `{"$contains":…}` for a
//! text where ours is another on purpose; other differences fail.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FakeCluster, described};
use crate::server::{EngineService, Server};

/// Fields whose value is of one run only. That they are there is compared.
const VARYING: &[&str] = &[
    "ID",
    "NodeID",
    "Index",
    "CreatedAt",
    "UpdatedAt",
    // Of a service's tasks, which are not all on record.
    "RunningTasks",
    "DesiredTasks",
    "CompletedTasks",
];
/// A prefix of an id in a request has at least so many characters.
const ID_PREFIX: usize = 4;

/// One exchange.
#[derive(Clone, Deserialize)]
pub(crate) struct Exchange {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) status: u16,
    pub(super) body: Option<Value>,
    pub(super) answer: Option<Value>,
}

/// A client of a server in process.
pub(crate) struct Client {
    pub(crate) service: EngineService,
    ids: HashMap<String, String>,
    /// Names that ours were given and stock's were not.
    names: HashSet<String>,
    versions: HashMap<u64, u64>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
    pub(super) bytes: bytes::Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    pub(crate) fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }
}

impl Client {
    pub(crate) fn of(cluster: &Arc<FakeCluster>) -> Client {
        Client::over(Server::new(Arc::clone(cluster)).service(Some(1000)))
    }

    pub(crate) fn over(service: EngineService) -> Client {
        Client {
            service,
            ids: HashMap::new(),
            names: HashSet::new(),
            versions: HashMap::new(),
        }
    }

    pub(crate) async fn open(&self, method: &str, path: &str, body: Body) -> Response {
        let request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(path)
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        self.service.answer(request).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Answer {
        let response = self.open(method, path, body.into()).await;
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let answer = Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8_lossy(&bytes).into_owned(),
            bytes,
        };
        described::compare(method, path, answer.status, &answer.text);
        answer
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    /// Makes one exchange and compares the answer.
    pub(super) async fn exchange(&mut self, number: &str, exchange: Exchange) {
        let is_current = exchange.status == StatusCode::OK;
        let path = self.our_path(&exchange.path, is_current).await;
        let body = match exchange.body {
            Some(Value::String(text)) => text,
            Some(mut body) => {
                expand(&mut body);
                self.translate(&mut body);
                body.to_string()
            }
            None => String::new(),
        };
        let place = format!("{number}: {} {path}", exchange.method);
        let answer = self.send(&exchange.method, &path, body).await;
        assert_eq!(
            answer.status.as_u16(),
            exchange.status,
            "{place}: {}",
            answer.text
        );
        match exchange.answer {
            // The transport sends no content.
            _ if exchange.method == "HEAD" => {}
            None => assert_eq!(answer.text, "", "{place}"),
            Some(stock) if stock.get("$hex").is_some() => {
                assert_eq!(*answer.bytes, *frames(&stock), "{place}: {}", answer.text);
            }
            Some(Value::String(text)) if answer.text.starts_with('"') => {
                let ours: String = serde_json::from_str(&answer.text).unwrap();
                self.ids.insert(text, ours);
            }
            Some(Value::String(text)) => assert_eq!(answer.text, text, "{place}"),
            Some(stock) => self.compare(&place, "", &stock, &answer.json()),
        }
    }

    /// The recorded path with our ids and versions. A version that was never shown is the
    /// cluster's, if it was current.
    async fn our_path(&self, path: &str, is_current: bool) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<_> = path
            .split('/')
            .map(|segment| self.our_id(segment))
            .collect();
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            pairs.push(match pair.strip_prefix("version=") {
                Some(version) => {
                    let ours = version.parse().ok().and_then(|v| self.versions.get(&v));
                    let of_cluster =
                        is_current && ours.is_none() && path.ends_with("/swarm/update");
                    let ours = match of_cluster {
                        true => self.get("/swarm").await.json()["Version"]["Index"].to_string(),
                        false => ours.map_or(version.to_owned(), u64::to_string),
                    };
                    format!("version={ours}")
                }
                // Of the quoted texts of filters, ids and prefixes of ids.
                None => {
                    let texts = pair.split("%22").map(|text| self.our_id(text));
                    texts.collect::<Vec<_>>().join("%22")
                }
            });
        }
        match pairs.is_empty() {
            true => segments.join("/"),
            false => format!("{}?{}", segments.join("/"), pairs.join("&")),
        }
    }

    /// Our id, or as much of it, for a recorded id or a prefix of one.
    fn our_id<'a>(&'a self, text: &'a str) -> &'a str {
        let mut ids = self.ids.iter();
        let known = ids.find(|(stock, _)| text.len() >= ID_PREFIX && stock.starts_with(text));
        known.map_or(text, |(_, ours)| &ours[..text.len()])
    }

    /// A text with our ids in it.
    fn our_text(&self, text: &str) -> String {
        match text.contains(' ') {
            true => self
                .ids
                .iter()
                .fold(text.to_owned(), |text, (stock, ours)| {
                    text.replace(stock.as_str(), ours)
                }),
            false => self.our_id(text).to_owned(),
        }
    }

    /// Whether an object of ours that was learnt of has an id, or a name that stock's has not,
    /// that begins so.
    pub(super) fn begins_what_was_drawn(&self, text: &str) -> bool {
        let mut drawn = self.ids.values().chain(&self.names);
        drawn.any(|drawn| drawn.starts_with(text))
    }

    /// An id's prefix serves as the name of a secret in one place.
    pub(super) fn translate(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.our_id(text).to_owned(),
            Value::Object(object) => object.values_mut().for_each(|value| self.translate(value)),
            Value::Array(values) => values.iter_mut().for_each(|value| self.translate(value)),
            _ => {}
        }
    }

    /// Ours must have all that stock has, and nothing else.
    fn compare(&mut self, place: &str, at: &str, stock: &Value, ours: &Value) {
        match (stock, ours) {
            (Value::Object(stock), _) if stock.contains_key("$contains") => {
                let part = stock["$contains"].as_str().unwrap();
                let text = ours.as_str().unwrap_or("");
                assert!(text.contains(part), "{place}{at}: {text}");
            }
            (Value::Object(stock), Value::Object(ours)) => {
                self.learn(stock, ours);
                for (key, value) in stock {
                    let at = format!("{at}.{key}");
                    let found = ours.get(key);
                    let found = found.unwrap_or_else(|| panic!("{place}{at} is missing"));
                    if VARYING.contains(&key.as_str()) {
                        assert_eq!(kind(value), kind(found), "{place}{at}");
                    } else if let ("UnlockKey", Some(stock), Some(ours)) =
                        (key.as_str(), value.as_str(), found.as_str())
                    {
                        assert_eq!(stock.len(), ours.len(), "{place}{at}");
                        self.ids.insert(stock.to_owned(), ours.to_owned());
                    } else {
                        self.compare(place, &at, value, found);
                    }
                }
                // A whole `/info` or `/version` is not recorded; of objects we have no more.
                let whole = stock.contains_key("Spec") || stock.contains_key("message");
                for key in ours.keys().filter(|_| whole) {
                    assert!(stock.contains_key(key), "{place}{at}.{key} is not in stock");
                }
            }
            (Value::Array(stock), Value::Array(ours)) => {
                assert_eq!(stock.len(), ours.len(), "{place}{at}: {ours:?}");
                let sorted = |list: &[Value]| {
                    let mut list = list.to_vec();
                    list.sort_by_key(|item| {
                        let id = item["ID"].as_str().unwrap_or_default();
                        self.our_id(id).to_owned()
                    });
                    list
                };
                let (stock, ours) = (sorted(stock), sorted(ours));
                for (stock, ours) in stock.iter().zip(&ours) {
                    self.compare(place, &format!("{at}[]"), stock, ours);
                }
            }
            (Value::String(stock), _) if stock == "$any" => {}
            (Value::String(stock), Value::String(_)) if stock == "…" => {}
            (Value::String(stock), Value::String(ours)) => {
                assert_eq!(self.our_text(stock), *ours, "{place}{at}");
            }
            _ => assert_eq!(stock, ours, "{place}{at}"),
        }
    }

    /// Notes which of our ids and versions stand for which recorded ones.
    fn learn(
        &mut self,
        stock: &serde_json::Map<String, Value>,
        ours: &serde_json::Map<String, Value>,
    ) {
        if let (Some(Value::String(stock)), Some(Value::String(ours))) =
            (stock.get("ID"), ours.get("ID"))
        {
            self.ids.insert(stock.clone(), ours.clone());
        }
        let name = |object: &serde_json::Map<String, Value>| {
            Some(object.get("Spec")?.get("Name")?.as_str()?.to_owned())
        };
        if let Some(ours) = name(ours).filter(|ours| name(stock).is_none_or(|name| name != *ours)) {
            self.names.insert(ours);
        }
        let index = |object: &serde_json::Map<String, Value>| {
            object.get("Version").and_then(|v| v["Index"].as_u64())
        };
        if let (Some(stock), Some(ours)) = (index(stock), index(ours)) {
            self.versions.insert(stock, ours);
        }
    }
}

/// The bytes of an answer that is no text, recorded as hexadecimal digits.
pub(super) fn frames(answer: &Value) -> Vec<u8> {
    let digits = answer["$hex"].as_str().unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// `{"$zeros":n}` stands for n zero bytes in base64.
fn expand(value: &mut Value) {
    if let Some(zeros) = value.get("$zeros").and_then(Value::as_u64) {
        *value = json!(STANDARD.encode(vec![0; usize::try_from(zeros).unwrap()]));
    } else if let Value::Object(object) = value {
        object.values_mut().for_each(expand);
    }
}
