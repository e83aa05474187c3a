//! Certificates on record and join tokens with limits.

use std::sync::Arc;

use serde_json::{Value, json};
use waxseal_cluster::objects::{
    Actor, Certificate, IssuanceState, IssuanceStatus, RequestCertificate, StoreCertificate,
    command::Op,
};

use super::super::{FakeCluster, replay::Client};
use crate::cluster::Cluster;

const CERTIFICATES: &str = "/waxseal/v1/certificates";
const TOKENS: &str = "/waxseal/v1/join-tokens";

/// A worker with two certificates on record, the newest first; their serials.
async fn with_certificates(cluster: &Arc<FakeCluster>) -> [String; 2] {
    let id = cluster.add_worker("w", true);
    for number in [1u8, 2] {
        let certificate = |state: IssuanceState| Certificate {
            csr: vec![number],
            serial: vec![number; 20],
            certificate: vec![number],
            not_after: Some(waxseal_cluster::timestamp(
                cluster.now() + time::Duration::DAY,
            )),
            status: Some(IssuanceStatus {
                state: state.into(),
                err: String::new(),
            }),
            ..Certificate::default()
        };
        let requested = Op::RequestCertificate(RequestCertificate {
            node_id: id.clone(),
            certificate: Some(certificate(IssuanceState::Pending)),
        });
        cluster.propose(Actor::default(), requested).await.unwrap();
        let stored = Op::StoreCertificate(StoreCertificate {
            node_id: id.clone(),
            certificate: Some(certificate(IssuanceState::Issued)),
        });
        cluster.propose(Actor::default(), stored).await.unwrap();
    }
    [2, 1].map(|number: u8| format!("{number:02x}").repeat(20))
}

fn serials(list: &Value) -> Vec<String> {
    let certificates = list["certificates"].as_array().unwrap();
    let serial = |one: &Value| one["serial"].as_str().unwrap().to_owned();
    certificates.iter().map(serial).collect()
}

#[tokio::test]
async fn what_cannot_be_meant_is_not_revoked_or_shown() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    with_certificates(&cluster).await;
    for (body, status) in [
        (json!({}), 400),
        (json!({"serials": ["02"], "node": "w"}), 400),
        (json!({"serials": ["0"]}), 400),
        (json!({"serials": ["ff"]}), 404),
        (json!({"serials": [""]}), 404),
        (json!({"serials": ["../../x"]}), 404),
        (json!({"node": "nobody"}), 404),
        (json!({"colour": "red"}), 400),
    ] {
        let answer = client.post(&format!("{CERTIFICATES}/revoke"), &body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
    }
    for (path, status) in [
        ("?limit=0", 400),
        ("?limit=10001", 400),
        ("?limit=x", 400),
        ("?filters=%7B%22colour%22%3A%5B%22red%22%5D%7D", 400),
        ("/ff", 404),
        ("/0", 400),
    ] {
        let answer = client.get(&format!("{CERTIFICATES}{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text);
    }
    let list = client.get(&format!("{CERTIFICATES}?limit=10")).await.json();
    let valid = |one: &Value| one["standing"] != "revoked";
    assert!(list["certificates"].as_array().unwrap().iter().all(valid));
}

#[tokio::test]
async fn certificates_are_found_and_revoked_by_the_start_of_their_serial_or_their_node() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let [newest, former] = with_certificates(&cluster).await;
    let of_worker = "?filters=%7B%22node%22%3A%5B%22w%22%5D%7D";
    let list = client
        .get(&format!("{CERTIFICATES}{of_worker}"))
        .await
        .json();
    assert_eq!(serials(&list), [newest.clone(), former.clone()]);
    let one = client
        .get(&format!("{CERTIFICATES}{of_worker}&limit=1"))
        .await
        .json();
    assert_eq!((serials(&one).len(), &one["total"]), (1, &json!(2)));
    // As `openssl` writes it.
    let shown = client.get(&format!("{CERTIFICATES}/01:01:01")).await.json();
    assert_eq!(shown["serial"], former.as_str());
    assert_eq!(shown["hostname"], "w");

    let revoke = async |body: Value| {
        let answer = client.post(&format!("{CERTIFICATES}/revoke"), &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    };
    let done = revoke(json!({"serials": ["0101"], "reason": "lost"})).await;
    assert_eq!(done, json!({"revoked": [former], "cut_off": []}));
    let shown = client.get(&format!("{CERTIFICATES}/01")).await.json();
    assert_eq!(
        (&shown["standing"], &shown["revoked"]["reason"]),
        (&json!("revoked"), &json!("lost"))
    );
    let done = revoke(json!({"node": "w"})).await;
    assert!(done["revoked"].as_array().unwrap().contains(&json!(newest)));
    assert_eq!(done["cut_off"].as_array().unwrap().len(), 1, "{done}");
}

#[tokio::test]
async fn a_limited_token_is_shown_once_and_revoked() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    for body in [
        json!({"role": "boss", "ttl_secs": 60, "uses": 1}),
        json!({"role": "worker", "ttl_secs": 0, "uses": 1}),
        json!({"role": "worker", "ttl_secs": -5, "uses": 1}),
        json!({"role": "worker", "ttl_secs": i64::MAX, "uses": 1}),
        json!({"role": "worker", "ttl_secs": 60, "uses": 0}),
        json!({"role": "worker", "ttl_secs": 60, "uses": 1, "cidrs": ["10.0.0.0/33"]}),
        json!({"role": "worker", "ttl_secs": 60, "uses": 1, "colour": "red"}),
    ] {
        let answer = client.post(TOKENS, &body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text);
    }
    assert_eq!(client.get(TOKENS).await.json(), json!([]));

    let body = json!({
        "role": "worker", "ttl_secs": 60, "uses": 2, "cidrs": ["10.0.0.0/8"],
        "labels": {"for": "rack 7"},
    });
    let answer = client.post(TOKENS, &body).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let created = answer.json();
    let token = created["token"].as_str().unwrap();
    assert!(token.starts_with("SWMTKN-1-"), "{token}");
    let listed = client.get(TOKENS).await;
    let secret = token.rsplit('-').next().unwrap();
    assert!(!listed.text.contains(secret), "the secret is shown again");
    let listed = listed.json()[0].clone();
    assert_eq!(
        (&listed["id"], &listed["standing"], &listed["uses"]),
        (&created["id"], &json!("open"), &json!(2))
    );
    assert_eq!(listed["labels"], json!({"for": "rack 7"}));

    let id = created["id"].as_str().unwrap();
    let path = |id: &str| format!("{TOKENS}/{id}");
    assert_eq!(client.send("DELETE", &path("zzz"), "").await.status, 404);
    let gone = client.send("DELETE", &path(&id[..8]), "").await;
    assert_eq!(gone.status, 204, "{}", gone.text);
    assert_eq!(client.get(TOKENS).await.json()[0]["standing"], "revoked");
}
