//! The cluster itself.

use serde_json::json;
use waxseal_autolock::UnlockKey;
use waxseal_ca::RootAuthority;
use waxseal_cluster::objects::{Actor, NoteSigner, SignerTrouble, command::Op};

use super::super::{FakeCluster, fake::plain_init, replay::Client};
use crate::cluster::{Cluster, InitRequest, LocalState};

#[tokio::test]
async fn init_is_checked_before_anything_is_made() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let listen = "0.0.0.0:2377";
    let cases = [
        (
            json!({}),
            400,
            "invalid ListenAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen, "Spec": {"Name": "x"}}),
            400,
            "swarm spec must be named \"default\"",
        ),
        (
            json!({"ListenAddr": listen, "Availability": "bogus"}),
            500,
            "invalid Availability: \"bogus\"",
        ),
        (
            json!({"ListenAddr": listen, "DataPathPort": 80}),
            500,
            "Datapath port number is not in valid range (1024-49151) : 80",
        ),
        (
            json!({"ListenAddr": listen, "DefaultAddrPool": ["foo"], "SubnetSize": 24}),
            500,
            "invalid base pool foo: invalid CIDR address: foo",
        ),
        (
            json!({"ListenAddr": listen, "Spec": {"CAConfig": {"NodeCertExpiry": 600_000_000_000_i64}}}),
            500,
            "error updating cluster settings: rpc error: code = InvalidArgument desc = minimum certificate expiry time is: 1h0m0s",
        ),
    ];
    for (body, status, text) in cases {
        let answer = client.post("/swarm/init", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.message().as_str()),
            (status, text)
        );
        assert_eq!(cluster.local().state, LocalState::Inactive);
    }
    for (ca, text) in [
        (
            json!({"ExternalCAs": [{"Protocol": "cfssl", "URL": "https://127.0.0.1:9"}]}),
            "no external CA can have the key of a root that is yet to be made",
        ),
        (
            json!({"ExternalCAs": [{"Protocol": "cfssl", "URL": "http://a", "CACert": "x"}]}),
            "invalid HTTP scheme",
        ),
        (
            json!({"ExternalCAs": [{"Protocol": "acme", "URL": "https://a", "CACert": "x"}]}),
            "invalid protocol: \"acme\"",
        ),
        (
            json!({"SigningCACert": "x"}),
            "the first manager's certificate has to be signed here",
        ),
    ] {
        let body = json!({"ListenAddr": listen, "Spec": {"CAConfig": ca}});
        let answer = client.post("/swarm/init", &body).await;
        assert_eq!(answer.status, 400);
        assert!(answer.message().contains(text), "{}", answer.message());
        assert_eq!(cluster.local().state, LocalState::Inactive);
    }
}

#[tokio::test]
async fn init_lays_settings_over_the_defaults() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let body = json!({
        "ListenAddr": "0.0.0.0:2377",
        "AutoLockManagers": true,
        "Spec": {"Labels": {"a": "b"}, "Dispatcher": {"HeartbeatPeriod": 7_000_000_000_i64}, "Raft": {"KeepOldSnapshots": 2}},
    });
    let node = client.post("/swarm/init", &body).await;
    assert_eq!(node.json(), json!(cluster.local().node_id));
    let spec = client.get("/swarm").await.json()["Spec"].clone();
    assert_eq!(
        spec,
        json!({
            "Name": "default", "Labels": {"a": "b"},
            "Orchestration": {"TaskHistoryRetentionLimit": 5},
            "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 2, "LogEntriesForSlowFollowers": 500, "ElectionTick": 10, "HeartbeatTick": 1},
            "Dispatcher": {"HeartbeatPeriod": 7_000_000_000_i64},
            "CAConfig": {"NodeCertExpiry": 7_776_000_000_000_000_i64},
            "TaskDefaults": {}, "EncryptionConfig": {"AutoLockManagers": true},
        })
    );
    let key = client.get("/swarm/unlockkey").await.json()["UnlockKey"].clone();
    assert_eq!(key.as_str().unwrap().len(), "SWMKEY-1-".len() + 43);
}

#[tokio::test]
async fn join_requests_are_checked() {
    let client = Client::of(&FakeCluster::inactive());
    let listen = "0.0.0.0:2377";
    let cases = [
        (
            json!({}),
            400,
            "invalid ListenAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen}),
            400,
            "at least 1 RemoteAddr is required to join",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": [""]}),
            400,
            "invalid remoteAddr \"\": invalid empty address",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": ["h"], "Availability": "x"}),
            500,
            "invalid Availability: \"x\"",
        ),
        (
            json!({"ListenAddr": listen, "RemoteAddrs": ["h", "[::1]"]}),
            503,
            "h:2377 [::1]:2377 cannot be reached",
        ),
    ];
    for (body, status, text) in cases {
        let answer = client.post("/swarm/join", &body).await;
        assert_eq!(
            (answer.status.as_u16(), answer.message().as_str()),
            (status, text)
        );
    }
}

#[tokio::test]
async fn tokens_and_unlock_key_rotate() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let update = async |query: &str, auto_lock: bool| {
        let swarm = client.get("/swarm").await.json();
        let mut spec = swarm["Spec"].clone();
        spec["EncryptionConfig"]["AutoLockManagers"] = json!(auto_lock);
        let path = format!("/swarm/update?version={}{query}", swarm["Version"]["Index"]);
        assert_eq!(client.post(&path, &spec).await.status, 200);
        let after = client.get("/swarm").await.json();
        let key = client.get("/swarm/unlockkey").await.json()["UnlockKey"].clone();
        (
            after["JoinTokens"].clone(),
            key.as_str().unwrap().to_owned(),
        )
    };
    let (before, none) = update("", false).await;
    assert_eq!(none, "");
    let (worker, _) = update("&rotateWorkerToken=true", false).await;
    assert_ne!(worker["Worker"], before["Worker"]);
    assert_eq!(worker["Manager"], before["Manager"]);
    let (both, _) = update("&rotateManagerToken=1", false).await;
    assert_eq!(both["Worker"], worker["Worker"]);
    assert_ne!(both["Manager"], worker["Manager"]);
    let parts = |token: &serde_json::Value| {
        let parts: Vec<_> = token
            .as_str()
            .unwrap()
            .split('-')
            .map(str::to_owned)
            .collect();
        (parts[2].clone(), parts[3].clone())
    };
    assert_eq!(
        parts(&both["Worker"]).0,
        parts(&before["Worker"]).0,
        "the digest stays"
    );
    assert_eq!(parts(&both["Worker"]).1.len(), 25);

    let (_, none) = update("&rotateManagerUnlockKey=true", false).await;
    assert_eq!(none, "", "rotation without autolock does nothing");
    let (_, key) = update("", true).await;
    assert!(key.starts_with("SWMKEY-1-"));
    assert_eq!(update("", true).await.1, key);
    let (_, rotated) = update("&rotateManagerUnlockKey=true", true).await;
    assert_ne!(rotated, key);
    assert_eq!(update("", false).await.1, "");
}

#[tokio::test]
async fn bad_changes_of_the_root_are_refused_and_change_nothing() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let swarm = client.get("/swarm").await;
    let before = swarm.json();
    let invalid = |text: &str| format!("rpc error: code = InvalidArgument desc = {text}");
    let cases = [
        (
            json!({"SigningCACert": "x", "SigningCAKey": "y"}),
            400,
            invalid(
                "invalid root certificates: {\"code\":1003,\"message\":\"Failed to parse certificate\"}",
            ),
        ),
        (
            json!({"SigningCAKey": "y"}),
            400,
            invalid("if a signing CA key is provided, the signing CA cert must also be provided"),
        ),
    ];
    for (ca, status, text) in cases {
        let mut spec = before["Spec"].clone();
        spec["CAConfig"] = ca;
        let path = format!(
            "/swarm/update?version={}&rotateWorkerToken=true",
            before["Version"]["Index"]
        );
        let answer = client.post(&path, &spec).await;
        assert_eq!(answer.status, status);
        assert!(answer.message().starts_with(&text), "{}", answer.message());
        assert_eq!(client.get("/swarm").await.text, swarm.text);
    }
}

#[tokio::test]
async fn a_forced_rotation_shows_the_new_issuer_and_the_old_trust() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let swarm = async || client.get("/swarm").await.json();
    let update = async |change: &dyn Fn(&mut serde_json::Value)| {
        let before = swarm().await;
        let mut spec = before["Spec"].clone();
        change(&mut spec["CAConfig"]);
        let path = format!("/swarm/update?version={}", before["Version"]["Index"]);
        client.post(&path, &spec).await.status.as_u16()
    };
    let before = swarm().await;
    assert_eq!(update(&|ca| ca["ForceRotate"] = json!(1)).await, 200);
    let during = swarm().await;
    assert_eq!(during["RootRotationInProgress"], true);
    assert_eq!(during["Spec"]["CAConfig"]["ForceRotate"], 1);
    let of = |swarm: &serde_json::Value, field: &str| swarm["TLSInfo"][field].clone();
    for kept in ["TrustRoot", "CertIssuerSubject"] {
        assert_eq!(of(&during, kept), of(&before, kept), "{kept}");
    }
    let key = "CertIssuerPublicKey";
    assert_ne!(of(&during, key), of(&before, key));
    assert_eq!(during["JoinTokens"], before["JoinTokens"]);
    // The same settings once more change nothing …
    assert_eq!(update(&|_| {}).await, 200);
    assert_eq!(of(&swarm().await, key), of(&during, key));
    // … another counter begins anew …
    assert_eq!(update(&|ca| ca["ForceRotate"] = json!(2)).await, 200);
    let second = swarm().await;
    assert_ne!(of(&second, key), of(&during, key));
    // … and the present root with its key ends it.
    let (cert, signing_key) = cluster.look(|state| {
        let root = state.cluster().unwrap().root_ca.clone().unwrap();
        let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
        (text(root.ca_cert), text(root.ca_key))
    });
    let back = move |ca: &mut serde_json::Value| {
        ca["SigningCACert"] = json!(cert);
        ca["SigningCAKey"] = json!(signing_key);
    };
    assert_eq!(update(&back).await, 200);
    let after = swarm().await;
    assert_eq!(after["RootRotationInProgress"], false);
    assert_eq!(of(&after, key), of(&before, key));
    let kept = cluster.look(|state| state.cluster().unwrap().spec.clone().unwrap());
    let ca = kept.ca_config.unwrap();
    assert!(ca.signing_ca_key.is_empty() && ca.signing_ca_cert.is_empty());
}

#[tokio::test]
async fn unlock_by_state() {
    let cluster = FakeCluster::inactive();
    let client = Client::of(&cluster);
    let unlock = async |key: &str| {
        let answer = client
            .post("/swarm/unlock", &json!({"UnlockKey": key}))
            .await;
        (answer.status.as_u16(), answer.message())
    };
    assert_eq!(unlock("x").await.0, 503);
    let init = InitRequest {
        auto_lock_managers: true,
        ..plain_init()
    };
    cluster.init(init).await.unwrap();
    assert_eq!(unlock("x").await, (409, "swarm is not locked".to_owned()));
    cluster.set_local(|local| local.state = LocalState::Locked);
    assert_eq!(unlock("x").await, (400, "invalid key string".to_owned()));
    assert_eq!(
        unlock("SWMKEY-1-x").await,
        (
            401,
            "swarm could not be unlocked: invalid key provided".to_owned()
        )
    );
    let info = client.get("/info").await.json();
    assert_eq!(info["Swarm"]["LocalNodeState"], "locked");
    assert_eq!(info["Swarm"]["NodeID"], "");
    assert!(
        info["Swarm"]["Error"]
            .as_str()
            .unwrap()
            .contains("needs to be unlocked")
    );
    let key = cluster.look(|state| {
        let record = state.cluster().unwrap().unlock_key.clone().unwrap();
        UnlockKey::from_slice(&record.key).unwrap().to_text()
    });
    assert_eq!(unlock(&key).await, (200, String::new()));
}

/// The fake reaches no external CA; a root of its own key signs on, and nothing is lost.
#[tokio::test]
async fn external_cas_are_kept_and_who_has_no_key_needs_one_that_answers() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let root = cluster.look(|state| {
        let root = state.cluster().unwrap().root_ca.clone().unwrap();
        String::from_utf8(root.ca_cert).unwrap()
    });
    let update = async |change: serde_json::Value| {
        let before = client.get("/swarm").await.json();
        let mut spec = before["Spec"].clone();
        spec["CAConfig"] = change;
        let path = format!("/swarm/update?version={}", before["Version"]["Index"]);
        client.post(&path, &spec).await
    };
    // 1. Addresses for the current root are settings like others while its key is here.
    let cas = json!([{"Protocol": "cfssl", "URL": "https://127.0.0.1:9/sign"}]);
    assert_eq!(update(json!({"ExternalCAs": cas})).await.status, 200);
    let shown = client.get("/swarm").await.json();
    let shown = &shown["Spec"]["CAConfig"]["ExternalCAs"][0];
    assert_eq!(shown["URL"], "https://127.0.0.1:9/sign");
    // 2. Its key is given away only to one that answers, and so is a new root taken.
    let other = RootAuthority::generate(cluster.now()).unwrap();
    for (want, cas) in [
        (root.as_str(), cas.clone()),
        (
            other.cert_pem(),
            json!([{"Protocol": "cfssl", "URL": "https://a", "CACert": other.cert_pem()}]),
        ),
        (
            other.cert_pem(),
            json!([{"Protocol": "cfssl", "URL": "http://a", "CACert": other.cert_pem()}]),
        ),
        (other.cert_pem(), cas.clone()),
    ] {
        let answer = update(json!({"SigningCACert": want, "ExternalCAs": cas})).await;
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.message(),
            "rpc error: code = InvalidArgument desc = there must be at least one valid, reachable \
             external CA corresponding to the desired CA certificate"
        );
    }
    for (cas, text) in [
        (
            json!([{"URL": "https://10.77.0.9:1"}]),
            "invalid protocol: \"\"",
        ),
        (
            json!([{"Protocol": "bogus", "URL": "x"}]),
            "invalid protocol: \"bogus\"",
        ),
        (
            json!([{"Protocol": "cfssl", "URL": "http://a"}]),
            "invalid HTTP scheme",
        ),
        (json!([{"Protocol": "cfssl"}]), "invalid HTTP scheme"),
    ] {
        let answer = update(json!({"ExternalCAs": cas})).await;
        assert_eq!(answer.status, 400);
        assert!(answer.message().contains(text), "{}", answer.message());
    }
    let key = cluster.look(|state| {
        let root = state.cluster().unwrap().root_ca.clone().unwrap();
        (root.ca_key.is_empty(), root.root_rotation.is_some())
    });
    assert_eq!(key, (false, false));
}

/// Changes the CA's settings; status and text of the answer.
async fn change_ca(client: &Client, change: serde_json::Value) -> (u16, String) {
    let before = client.get("/swarm").await.json();
    let mut spec = before["Spec"].clone();
    for (key, value) in change.as_object().unwrap() {
        spec["CAConfig"][key] = value.clone();
    }
    let path = format!("/swarm/update?version={}", before["Version"]["Index"]);
    let answer = client.post(&path, &spec).await;
    (answer.status.as_u16(), answer.text)
}

fn root_of(cluster: &FakeCluster) -> waxseal_cluster::objects::RootCa {
    cluster.look(|state| state.cluster().unwrap().root_ca.clone().unwrap())
}

#[tokio::test]
async fn a_root_whose_key_is_elsewhere_rotates_with_the_signature_of_who_has_it() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let cas = json!([{"Protocol": "cfssl", "URL": "https://127.0.0.1:9/sign"}]);
    let before = root_of(&cluster);
    let current = String::from_utf8(before.ca_cert.clone()).unwrap();
    // 1. The key goes to one that answers. What another one did is nobody's trouble then.
    let trouble = NoteSigner {
        trouble: Some(SignerTrouble::default()),
    };
    let noted = cluster.propose(Actor::default(), Op::NoteSigner(trouble));
    noted.await.unwrap();
    let is_in_trouble = async || !client.get("/swarm").await.json()["SignerTrouble"].is_null();
    assert!(is_in_trouble().await);
    cluster.set_signer(false);
    let given = json!({"SigningCACert": current, "ExternalCAs": cas});
    assert_eq!(change_ca(&client, given).await.0, 200);
    assert!(root_of(&cluster).ca_key.is_empty());
    assert!(!is_in_trouble().await);
    // 2. To a root whose key is elsewhere, too, nobody can rotate …
    let other = RootAuthority::generate(cluster.now()).unwrap();
    let second = json!({"Protocol": "cfssl", "URL": "https://a", "CACert": other.cert_pem()});
    let both = json!([cas[0], second]);
    let asked = json!({"SigningCACert": other.cert_pem(), "ExternalCAs": both});
    let (status, text) = change_ca(&client, asked).await;
    assert_eq!(status, 400);
    assert!(
        text.contains("a different external CA is not supported"),
        "{text}"
    );
    // 3. … to a new one here if it signs.
    let (status, text) = change_ca(&client, json!({"ForceRotate": 1})).await;
    assert_eq!(status, 500);
    let refusal = "unable to generate a cross-signed certificate for root rotation: the CA is";
    assert!(text.contains(refusal), "{text}");
    assert!(root_of(&cluster).root_rotation.is_none());
    cluster.set_signer(true);
    assert_eq!(change_ca(&client, json!({"ForceRotate": 1})).await.0, 200);
    let rotation = root_of(&cluster).root_rotation.unwrap();
    assert!(rotation.cross_signed_ca_cert.starts_with(b"cross-signed"));
    assert!(!rotation.ca_key.is_empty());
    // 4. With the present root's own key it is over, and nobody is asked.
    let key = String::from_utf8(before.ca_key.clone()).unwrap();
    let back = json!({"SigningCACert": current, "SigningCAKey": key, "ForceRotate": 1});
    assert_eq!(change_ca(&client, back).await.0, 200);
    let after = root_of(&cluster);
    assert_eq!((after.ca_key, after.root_rotation), (before.ca_key, None));
}

#[tokio::test]
async fn managers_that_do_not_know_rotations_are_named() {
    let cluster = FakeCluster::manager_of_level(2).await;
    let client = Client::of(&cluster);
    let before = root_of(&cluster);
    let (status, text) = change_ca(&client, json!({"ForceRotate": 1})).await;
    assert_eq!(status, 400);
    let refusal = "are at feature level 2 and a rotation of the root needs 3; update waxseal on ";
    assert!(text.contains(refusal), "{text}");
    let answer = client.post("/waxseal/v1/ca/rotate", &json!({})).await;
    assert_eq!(answer.status, 400);
    assert!(answer.text.contains(refusal), "{}", answer.text);
    assert!(root_of(&cluster) == before);
    // Settings besides are changed as ever.
    let (status, text) = change_ca(&client, json!({"NodeCertExpiry": 7_200_000_000_000_i64})).await;
    assert_eq!(status, 200, "{text}");
}
