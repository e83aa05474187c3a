//! Secrets and configs.

use serde_json::json;

use super::super::{FakeCluster, replay::Client};

#[tokio::test]
async fn limits_of_secrets_and_configs() {
    let client = Client::of(&FakeCluster::manager().await);
    for (kind, limit) in [("secret", 512_000), ("config", 1_024_000)] {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let create = async |name: &str, bytes: usize| {
            let body = json!({"Name": name, "Data": STANDARD.encode(vec![1; bytes])});
            client.post(&format!("/{kind}s/create"), &body).await
        };
        assert_eq!(create("most", limit - 1).await.status, 201);
        let refused = create("more", limit).await;
        assert_eq!(refused.status, 400);
        assert_eq!(
            refused.message(),
            format!(
                "rpc error: code = InvalidArgument desc = {kind} data must be larger than 0 and less than {limit} bytes"
            )
        );
    }
}

#[tokio::test]
async fn secrets_are_never_shown() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let body = json!({"Name": "s", "Data": "bWFya2Vy"});
    let created = client.post("/secrets/create", &body).await;
    let answers = [
        created.text.clone(),
        client.get("/secrets").await.text,
        client.get("/secrets/s").await.text,
        client.post("/secrets/create", &body).await.text,
        client.get("/info").await.text,
        client.get("/events?since=0&until=1795149341").await.text,
    ];
    assert!(
        answers
            .iter()
            .all(|text| !text.contains("marker") && !text.contains("bWFya2Vy"))
    );
    let id = created.json()["ID"].as_str().unwrap().to_owned();
    let stored = cluster.look(|state| state.secret_payload(&id));
    assert_eq!(&**stored.unwrap(), b"marker");
}

#[tokio::test]
async fn the_caller_is_on_record() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    client
        .post("/secrets/create", &json!({"Name": "s", "Data": "eA=="}))
        .await;
    let who = cluster.actors().pop().unwrap().who;
    assert_eq!(
        who,
        Some(waxseal_cluster::objects::actor::Who::SocketUid(1000))
    );
}
