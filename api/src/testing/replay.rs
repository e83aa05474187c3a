//! Replays exchanges recorded between a stock CLI and a Docker Engine 20.10.
//!
//! Ids and versions differ from run to run: those seen in answers are mapped to
//! ours, and recorded ones in later requests are replaced by them. In recorded
//! answers `…` stands for any text, `$any` for anything, `{"$contains":…}` for a
//! text where ours is another on purpose; other differences fail.

use std::{collections::HashMap, sync::Arc};

use axum::{body::Body, response::Response};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::{Value, json};

use super::FakeCluster;
use crate::server::{EngineService, Server};

/// Fields whose value is of one run only. That they are there is compared.
const VARYING: &[&str] = &["ID", "NodeID", "Index", "CreatedAt", "UpdatedAt"];
/// A prefix of an id in a request has at least so many characters.
const ID_PREFIX: usize = 5;

/// One exchange.
#[derive(Deserialize)]
pub(crate) struct Exchange {
    method: String,
    path: String,
    status: u16,
    body: Option<Value>,
    answer: Option<Value>,
}

/// A client of a server in process.
pub(crate) struct Client {
    pub(crate) service: EngineService,
    ids: HashMap<String, String>,
    versions: HashMap<u64, u64>,
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
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
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, body.to_string()).await
    }

    /// Replays all exchanges of a file and compares the answers.
    pub(crate) async fn replay(&mut self, recorded: &str) {
        for (number, line) in (1..).zip(recorded.lines()) {
            let exchange: Exchange = serde_json::from_str(line).unwrap();
            self.exchange(number, exchange).await;
        }
    }

    async fn exchange(&mut self, number: usize, exchange: Exchange) {
        let path = self.our_path(&exchange.path).await;
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
            None => assert_eq!(answer.text, "", "{place}"),
            Some(Value::String(text)) if answer.text.starts_with('"') => {
                let ours: String = serde_json::from_str(&answer.text).unwrap();
                self.ids.insert(text, ours);
            }
            Some(Value::String(text)) => assert_eq!(answer.text, text, "{place}"),
            Some(stock) => self.compare(&place, "", &stock, &answer.json()),
        }
    }

    /// The recorded path with our ids and versions.
    async fn our_path(&self, path: &str) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let segments: Vec<_> = path
            .split('/')
            .map(|segment| self.our_id(segment))
            .collect();
        let mut pairs = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            pairs.push(match pair.strip_prefix("version=") {
                Some("{cluster}") => {
                    let version = &self.get("/swarm").await.json()["Version"]["Index"];
                    format!("version={version}")
                }
                Some(version) => {
                    let ours = version.parse().ok().and_then(|v| self.versions.get(&v));
                    format!(
                        "version={}",
                        ours.map_or(version.to_owned(), u64::to_string)
                    )
                }
                None => self
                    .ids
                    .iter()
                    .fold(pair.to_owned(), |pair, (stock, ours)| {
                        pair.replace(stock.as_str(), ours)
                    }),
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

    /// An id's prefix serves as the name of a secret in one place.
    fn translate(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.our_id(text).to_owned(),
            Value::Object(object) => object.values_mut().for_each(|value| self.translate(value)),
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
                    list.sort_by_key(|item| item["Spec"]["Name"].to_string());
                    list
                };
                for (stock, ours) in sorted(stock).iter().zip(&sorted(ours)) {
                    self.compare(place, &format!("{at}[]"), stock, ours);
                }
            }
            (Value::String(stock), _) if stock == "$any" => {}
            (Value::String(stock), Value::String(_)) if stock == "…" => {}
            (Value::String(stock), Value::String(ours)) => {
                assert_eq!(self.our_id(stock), ours, "{place}{at}");
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
        let index = |object: &serde_json::Map<String, Value>| {
            object.get("Version").and_then(|v| v["Index"].as_u64())
        };
        if let (Some(stock), Some(ours)) = (index(stock), index(ours)) {
            self.versions.insert(stock, ours);
        }
    }
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
