//! A client of a server in process.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::Request;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    server::{EngineService, Server},
    testing::compare,
};

pub(super) struct Client(EngineService);

/// Status and body; text that is not JSON is a string.
pub(super) type Answer = (u16, Value);

impl Client {
    pub(super) fn of<C: Cluster>(cluster: &Arc<C>) -> Client {
        Client(Server::new(Arc::clone(cluster)).service(Some(1000)))
    }

    pub(super) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Response {
        let mut request = Request::builder()
            .method(method)
            .uri(
                path.replace('"', "%22")
                    .replace('{', "%7B")
                    .replace('}', "%7D"),
            )
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Value::Null => Body::empty(),
            body => Body::from(body.to_string()),
        };
        self.0.answer(request.body(body).unwrap()).await
    }

    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let response = self.open(method, path, headers, body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        compare(method, path, status, &text);
        let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
        (status.as_u16(), json)
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], &Value::Null).await
    }

    pub(super) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], &Value::Null).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], body).await
    }

    /// Creates a service; answers its id.
    pub(super) async fn create(&self, spec: &Value) -> String {
        let (status, answer) = self.post("/services/create", spec).await;
        assert_eq!(status, 201, "{answer}");
        answer["ID"].as_str().unwrap().to_owned()
    }

    /// The version of a service.
    pub(super) async fn version(&self, service: &str) -> u64 {
        let (status, answer) = self.get(&format!("/services/{service}")).await;
        assert_eq!(status, 200, "{answer}");
        answer["Version"]["Index"].as_u64().unwrap()
    }
}

/// `status` with that message.
pub(super) fn error(status: u16, message: &str) -> Answer {
    (status, serde_json::json!({"message": message}))
}
