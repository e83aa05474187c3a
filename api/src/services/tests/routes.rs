//! Services, networks and image lookups through the routes.

use serde_json::{Value, json};

use super::client::{Answer, Client, error};
use crate::testing::FakeCluster;

fn service(name: &str) -> Value {
    json!({
        "Name": name, "Labels": {"l": "1"},
        "TaskTemplate": {"ContainerSpec": {"Image": "bb:1"}},
    })
}

fn names(answer: &Answer) -> Vec<&str> {
    let services = answer.1.as_array().unwrap();
    let mut names: Vec<_> = services
        .iter()
        .map(|service| service["Spec"]["Name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    names
}

async fn manager() -> Client {
    Client::of(&FakeCluster::manager().await)
}

#[tokio::test]
async fn a_node_in_no_swarm_has_no_services() {
    let client = Client::of(&FakeCluster::inactive());
    let text = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
    for path in [
        "/services",
        "/services/x",
        "/services/x/logs?stdout=1",
        "/tasks",
        "/tasks/x",
    ] {
        assert_eq!(client.get(path).await, error(503, text), "{path}");
    }
    let body = service("web");
    for path in ["/services/create", "/services/x/update?version=1"] {
        assert_eq!(client.post(path, &body).await, error(503, text), "{path}");
    }
    let removed = client.delete("/services/x").await;
    assert_eq!(removed, error(503, text));
}

#[tokio::test]
async fn a_node_in_no_swarm_has_networks_of_its_own() {
    let client = Client::of(&FakeCluster::inactive());
    let (status, listed) = client.get("/networks").await;
    assert_eq!((status, listed.as_array().unwrap().len()), (200, 3));
    assert_eq!(listed[0]["Created"], "0001-01-01T00:00:00Z");
    assert_eq!(client.get("/networks/host").await.0, 200);
    let missing = |name: &str| error(404, &format!("network {name} not found"));
    let of_swarm = client.get("/networks/host?scope=swarm").await;
    assert_eq!(of_swarm, missing("host"));
    assert_eq!(client.get("/networks/x").await, missing("x"));
    assert_eq!(client.delete("/networks/x").await, missing("x"));
    assert_eq!(client.delete("/networks/host").await.0, 403);
    let body = json!({"Name": "x", "Driver": "overlay"});
    assert_eq!(client.post("/networks/create", &body).await.0, 501);
    assert_eq!(client.post("/networks/prune", &Value::Null).await.0, 200);
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let client = manager().await;
    let text = "service nosuch not found";
    assert_eq!(client.get("/services/nosuch").await, error(404, text));
    assert_eq!(client.delete("/services/nosuch").await, error(404, text));
    assert_eq!(
        client.get("/services/nosuch/logs?stdout=1").await,
        error(404, text)
    );
    let path = "/services/nosuch/update?version=1";
    assert_eq!(client.post(path, &service("web")).await, error(404, text));
    client.create(&service("cc")).await;
    assert_eq!(
        client.get("/services/CC").await,
        error(404, "service CC not found")
    );
}

#[tokio::test]
async fn queries_are_refused_in_the_engines_words() {
    let client = manager().await;
    client.create(&service("web")).await;
    assert_eq!(
        client.get("/services/web?insertDefaults=foo").await,
        error(
            400,
            "invalid value for insertDefaults: foo: strconv.ParseBool: parsing \"foo\": invalid syntax"
        )
    );
    assert_eq!(
        client.get("/services?status=foo").await,
        error(
            400,
            "invalid value for status: foo: strconv.ParseBool: parsing \"foo\": invalid syntax"
        )
    );
    assert_eq!(
        client
            .get("/v1.41/services?filters={\"bogus\":[\"1\"]}")
            .await,
        error(400, "Invalid filter 'bogus'")
    );
    assert_eq!(
        client.get("/services?filters={\"bogus\":[\"1\"]}").await,
        error(400, "invalid filter 'bogus'")
    );
    assert_eq!(
        client.get("/v1.41/services?filters=xx").await,
        error(400, "invalid character 'x' looking for beginning of value")
    );
}

#[tokio::test]
async fn creation_is_refused_in_the_engines_words() {
    let client = manager().await;
    client.create(&service("cc")).await;
    let create = |spec: Value| {
        let client = &client;
        async move { client.post("/v1.41/services/create", &spec).await }
    };
    assert_eq!(
        create(service("CC")).await,
        error(
            409,
            "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service CC already exists"
        )
    );
    assert_eq!(
        create(service("bad name")).await,
        error(
            400,
            "rpc error: code = InvalidArgument desc = name must be valid as a DNS name component"
        )
    );
    assert_eq!(
        create(json!({})).await,
        error(400, "mismatched Runtime and *Spec fields")
    );
    let mut with_secret = service("s");
    with_secret["TaskTemplate"]["ContainerSpec"]["Secrets"] = json!([
        {"SecretID": "zzz", "SecretName": "nope", "File": {"Name": "x", "UID": "0", "GID": "0", "Mode": 292}}
    ]);
    assert_eq!(
        create(with_secret).await,
        error(
            400,
            "rpc error: code = InvalidArgument desc = secret not found: nope"
        )
    );
}

#[tokio::test]
async fn updates_are_refused_in_the_engines_words() {
    let client = manager().await;
    let id = client.create(&service("web")).await;
    let version = client.version("web").await;
    let update = |query: &str, spec: Value| {
        let path = format!("/services/web/update?{query}");
        let client = &client;
        async move { client.post(&path, &spec).await }
    };
    let at = |more: &str| format!("version={version}{more}");
    for raw in ["abc", ""] {
        let text = format!(
            "invalid service version '{raw}': strconv.ParseUint: parsing \"{raw}\": invalid syntax"
        );
        assert_eq!(
            update(&format!("version={raw}"), service("web")).await,
            error(400, &text)
        );
    }
    assert_eq!(
        update(&format!("version={}", version + 1), service("web")).await,
        error(
            500,
            "rpc error: code = Unknown desc = update out of sequence"
        )
    );
    assert_eq!(
        update(&at(""), service("renamed")).await,
        error(
            501,
            "rpc error: code = Unimplemented desc = renaming services is not supported"
        )
    );
    let mut global = service("web");
    global["Mode"] = json!({"Global": {}});
    assert_eq!(
        update(&at(""), global).await,
        error(
            501,
            "rpc error: code = Unimplemented desc = service mode change is not allowed"
        )
    );
    assert_eq!(
        update(&at("&rollback=bogus"), service("web")).await,
        error(500, "unrecognized rollback option bogus")
    );
    assert_eq!(
        update(&at("&rollback=previous"), json!({})).await,
        error(
            400,
            &format!(
                "rpc error: code = FailedPrecondition desc = service {id} does not have a previous spec"
            )
        )
    );
    assert_eq!(
        update(&at("&registryAuthFrom=bogus"), service("web")).await,
        error(500, "unsupported registryAuthFrom value")
    );
    assert_eq!(
        update(&at("&registryAuthFrom=previous-spec"), service("web")).await,
        error(500, "service does not have a previous spec")
    );
    assert_eq!(
        client.version("web").await,
        version,
        "a refused update changed the service"
    );
}

#[tokio::test]
async fn a_service_lives() {
    let client = manager().await;
    // 1. Created, with the answer of either time.
    let (status, created) = client.post("/v1.41/services/create", &service("web")).await;
    let id = created["ID"].as_str().unwrap().to_owned();
    assert_eq!((status, created), (201, json!({"ID": id})));
    let created = client.post("/services/create", &service("db")).await.1;
    assert_eq!(created["Warnings"], Value::Null);
    assert!(created.as_object().unwrap().contains_key("Warnings"));
    // 2. Read by id, name and prefix.
    let (status, read) = client.get(&format!("/services/{id}")).await;
    assert_eq!((status, &read["Spec"]["Name"]), (200, &json!("web")));
    assert_eq!(read["Spec"]["Mode"], json!({"Replicated": {"Replicas": 1}}));
    assert_eq!(read["Endpoint"], json!({"Spec": {}}));
    assert_eq!(client.get("/services/web").await.1, read);
    assert_eq!(
        client.get(&format!("/services/{}", &id[..20])).await.1,
        read
    );
    let filled = client.get("/services/web?insertDefaults=true").await.1;
    assert_eq!(filled["Spec"]["UpdateConfig"]["Parallelism"], 1);
    // 3. Updated and rolled back.
    let mut spec = read["Spec"].clone();
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = json!("bb:2");
    let version = read["Version"]["Index"].as_u64().unwrap();
    let path = format!("/services/web/update?registryAuthFrom=spec&version={version}");
    assert_eq!(
        client.post(&path, &spec).await,
        (200, json!({"Warnings": null}))
    );
    let updated = client.get("/services/web").await.1;
    assert_eq!(
        updated["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"],
        "bb:2"
    );
    assert_eq!(updated["PreviousSpec"], read["Spec"]);
    let path = format!(
        "/services/web/update?rollback=previous&version={}",
        updated["Version"]["Index"]
    );
    assert_eq!(
        client.post(&path, &spec).await,
        (200, json!({"Warnings": null}))
    );
    let back = client.get("/services/web").await.1;
    assert_eq!(back["Spec"], read["Spec"]);
    assert_eq!(back["UpdateStatus"]["State"], "rollback_started");
    assert_eq!(
        back["UpdateStatus"]["Message"],
        "manually requested rollback"
    );
    // 4. Removed.
    assert_eq!(client.delete("/services/web").await, (200, json!("")));
    assert_eq!(client.get("/services/web").await.0, 404);
}

#[tokio::test]
async fn services_are_listed_by_filters() {
    let client = manager().await;
    let mut global = service("agent");
    global["Mode"] = json!({"Global": {}});
    global["Labels"] = json!({"l": "2", "k": ""});
    for spec in [service("web"), service("webhook"), global] {
        client.create(&spec).await;
    }
    let id = client.get("/services/web").await.1["ID"]
        .as_str()
        .unwrap()
        .to_owned();
    let cases = [
        (String::new(), vec!["agent", "web", "webhook"]),
        (
            r#"{"name":{"web":true}}"#.to_owned(),
            vec!["web", "webhook"],
        ),
        (r#"{"name":["WEB"]}"#.to_owned(), vec![]),
        (format!(r#"{{"id":["{}"]}}"#, &id[..20]), vec!["web"]),
        (r#"{"label":["l=1"]}"#.to_owned(), vec!["web", "webhook"]),
        (r#"{"label":["l","k"]}"#.to_owned(), vec!["agent"]),
        (r#"{"mode":["global","bogus"]}"#.to_owned(), vec!["agent"]),
        (r#"{"runtime":["plugin"]}"#.to_owned(), vec![]),
        (
            r#"{"runtime":["container"],"name":["a"]}"#.to_owned(),
            vec!["agent"],
        ),
    ];
    for (filters, expected) in cases {
        let answer = client.get(&format!("/services?filters={filters}")).await;
        assert_eq!(names(&answer), expected, "{filters}");
    }
    let plain = client.get("/services").await.1;
    assert_eq!(plain[0].get("ServiceStatus"), None);
    let status = client
        .get("/services?status=true&filters={\"name\":[\"webh\"]}")
        .await
        .1;
    assert_eq!(
        status[0]["ServiceStatus"],
        json!({"RunningTasks": 0, "DesiredTasks": 1, "CompletedTasks": 0})
    );
}

#[tokio::test]
async fn a_service_without_name_is_given_one() {
    let client = manager().await;
    let mut spec = service("x");
    spec.as_object_mut().unwrap().remove("Name");
    let id = client.create(&spec).await;
    let read = client.get(&format!("/services/{id}")).await.1;
    let name = read["Spec"]["Name"].as_str().unwrap();
    assert!(name.contains('_'), "{name}");
}

#[tokio::test]
async fn credentials_of_a_registry_are_kept_and_not_shown() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let stored = || {
        cluster.look(|state| {
            let service = state.services().next().unwrap();
            let task = service.spec.as_ref().unwrap().task.as_ref().unwrap();
            let auth = state.registry_auth(task);
            auth.map(|auth| auth.to_string())
        })
    };
    let update = async |query: &str, headers: &[(&str, &str)]| {
        let version = client.version("web").await;
        let path = format!("/services/web/update?version={version}{query}");
        let answer = client.send("POST", &path, headers, &service("web")).await;
        assert_eq!(answer.0, 200, "{}", answer.1);
    };
    let headers = [("X-Registry-Auth", "marker1")];
    let answer = client
        .send("POST", "/services/create", &headers, &service("web"))
        .await;
    assert_eq!(answer.0, 201);
    assert_eq!(stored().as_deref(), Some("marker1"));
    update("&registryAuthFrom=spec", &[]).await;
    assert_eq!(stored().as_deref(), Some("marker1"));
    update("", &[("X-Registry-Auth", "marker2")]).await;
    assert_eq!(stored().as_deref(), Some("marker2"));
    update("&registryAuthFrom=previous-spec", &[]).await;
    assert_eq!(stored().as_deref(), Some("marker1"));
    for path in [
        "/services",
        "/services/web",
        "/services/web?insertDefaults=1",
    ] {
        let answer = client.get(path).await.1.to_string();
        assert!(!answer.contains("marker"), "{answer}");
    }
}

#[tokio::test]
async fn a_service_that_no_node_can_run_is_taken_with_a_warning() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let create = async |name: &str, image: &str, constraints: Value| {
        let mut spec = service(name);
        spec["TaskTemplate"]["ContainerSpec"] = json!({"Image": image, "Args": ["true"]});
        spec["TaskTemplate"]["Placement"] = json!({"Constraints": constraints});
        let (status, answer) = client.post("/v1.41/services/create", &spec).await;
        assert_eq!(status, 201, "{answer}");
        answer["Warnings"].as_array().cloned().unwrap_or_default()
    };
    let warnings = create("a", "host", json!([])).await;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0]
            .as_str()
            .unwrap()
            .starts_with("no node can run native tasks")
    );
    assert_eq!(create("b", "bb:1", json!([])).await, Vec::<Value>::new());
    assert_eq!(
        create("c", "bb:1", json!(["node.labels.zone==x"]))
            .await
            .len(),
        1
    );
    cluster.add_worker("ours", true);
    assert_eq!(
        create("d", "host:latest", json!([])).await,
        Vec::<Value>::new()
    );
    // Reasons are those that a waiting task has, and none is told where no task waits.
    let mut spec = service("big");
    let reserved = json!({"Reservations": {"NanoCPUs": 100_000_000_000_i64}});
    spec["TaskTemplate"]["Resources"] = reserved;
    let answer = client.post("/services/create", &spec).await.1;
    let text = answer["Warnings"][0].as_str().unwrap();
    assert!(text.contains("so its tasks wait: ") && text.contains("insufficient resources on"));
    spec["Name"] = json!("none");
    spec["Mode"] = json!({"Replicated": {"Replicas": 0}});
    let answer = client.post("/services/create", &spec).await;
    assert_eq!((answer.0, &answer.1["Warnings"]), (201, &Value::Null));
    let version = client.version("none").await;
    spec["Mode"] = json!({"Replicated": {"Replicas": 1}});
    let path = format!("/services/none/update?version={version}");
    let scaled = client.post(&path, &spec).await.1;
    assert!(
        scaled["Warnings"][0]
            .as_str()
            .unwrap()
            .contains("insufficient")
    );
    // Ours runs no images.
    assert_eq!(
        create("e", "bb:1", json!(["node.hostname==ours"]))
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn a_native_task_that_every_node_would_reject_is_refused() {
    let cluster = FakeCluster::manager().await;
    let client = Client::of(&cluster);
    let mut native = service("native");
    native["TaskTemplate"]["ContainerSpec"] = json!({"Image": "host", "Args": ["true"]});
    client.create(&native).await;
    cluster.refuse_native("it has no legs");
    let refused = error(
        400,
        "rpc error: code = InvalidArgument desc = ContainerSpec: it has no legs",
    );
    let version = client.version("native").await;
    let update = format!("/services/native/update?version={version}");
    assert_eq!(client.post(&update, &native).await, refused);
    native["Name"] = json!("other");
    assert_eq!(client.post("/services/create", &native).await, refused);
    assert_eq!(client.get("/services/other").await.0, 404);
    // Images are the engines' business.
    client.create(&service("image")).await;
}

#[tokio::test]
async fn secrets_steered_by_what_nodes_say_of_themselves_are_warned_of() {
    let client = manager().await;
    let secret = json!({"Name": "s", "Data": "eA=="});
    let id = client.post("/secrets/create", &secret).await.1["ID"].clone();
    let create = async |name: &str, secrets: Value, constraints: Value| {
        let mut spec = service(name);
        spec["TaskTemplate"]["ContainerSpec"]["Secrets"] = secrets;
        spec["TaskTemplate"]["Placement"] = json!({"Constraints": constraints});
        let (status, answer) = client.post("/services/create", &spec).await;
        assert_eq!(status, 201, "{answer}");
        answer["Warnings"].to_string()
    };
    let secrets = json!([{"SecretID": id, "SecretName": "s",
        "File": {"Name": "s", "UID": "0", "GID": "0", "Mode": 292}}]);
    let text = "what nodes say of themselves";
    for (name, constraint) in [
        ("a", "node.hostname == vm"),
        ("b", "engine.labels.x!=1"),
        ("c", "node.platform.os==linux"),
    ] {
        let warnings = create(name, secrets.clone(), json!([constraint])).await;
        assert!(warnings.contains(text), "{constraint}: {warnings}");
    }
    for (name, secrets, constraints) in [
        ("d", json!([]), json!(["node.hostname==vm"])),
        ("e", secrets.clone(), json!([])),
        (
            "f",
            secrets.clone(),
            json!(["node.hostname==vm", "node.role==manager"]),
        ),
        ("g", secrets.clone(), json!(["node.labels.zone==x"])),
    ] {
        let warnings = create(name, secrets, constraints).await;
        assert!(!warnings.contains(text), "{name}: {warnings}");
    }
}

#[tokio::test]
async fn networks_are_the_predefined_ones() {
    let client = manager().await;
    for (scope, of) in [("swarm", "swarm"), ("local", "local"), ("", "local")] {
        let (status, host) = client.get(&format!("/networks/host?scope={scope}")).await;
        assert_eq!((status, &host["Id"]), (200, &json!("host")));
        assert_eq!(host["Scope"], of);
        assert_eq!(host["Created"], "2026-11-20T04:35:42.143203612Z");
    }
    let path = "/networks/host?verbose=maybe";
    let text =
        "invalid value for verbose: maybe: strconv.ParseBool: parsing \"maybe\": invalid syntax";
    assert_eq!(client.get(path).await, error(400, text));
    assert_eq!(
        client.get("/networks/host?scope=global").await,
        error(404, "network host not found")
    );
    for scope in ["swarm", ""] {
        let path = format!("/networks/ingress?scope={scope}");
        let (status, answer) = client.get(&path).await;
        let said = answer["message"].as_str().unwrap();
        assert_eq!(status, 501);
        assert!(said.starts_with("network ingress is not offered"), "{said}");
        assert!(said.contains("mode=host"), "{said}");
    }
    assert_eq!(
        client.get("/networks/ingress?scope=local").await,
        error(404, "network ingress not found")
    );
    assert_eq!(
        client.post("/networks/prune", &json!({})).await,
        (200, json!({"NetworksDeleted": null}))
    );
    assert_eq!(
        client
            .post("/networks/prune?filters={\"x\":[\"y\"]}", &json!({}))
            .await,
        error(400, "invalid filter 'x'")
    );
    let (status, answer) = client.post("/networks/host/connect", &json!({})).await;
    assert_eq!(status, 501);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .starts_with("containers")
    );
    assert_eq!(
        client.get("/networks/nosuchnet?scope=swarm").await,
        error(404, "network nosuchnet not found")
    );
    let label = r#"{"label":{"com.docker.stack.namespace=st":true}}"#;
    let answer = client.get(&format!("/networks?filters={label}")).await;
    assert_eq!(answer, (200, json!([])));
    let create = |name: &str| json!({"Name": name, "Driver": "overlay", "CheckDuplicate": true});
    let (status, answer) = client.post("/networks/create", &create("st_default")).await;
    assert_eq!(status, 501);
    assert!(
        answer["message"]
            .as_str()
            .unwrap()
            .contains("--network host"),
        "{answer}"
    );
    assert_eq!(
        client.post("/networks/create", &create("host")).await,
        error(409, "network with name host already exists")
    );
    assert_eq!(
        client.delete("/networks/host").await,
        error(403, "host is a pre-defined network and cannot be removed")
    );
    assert_eq!(
        client.delete("/networks/x").await,
        error(404, "network x not found")
    );
    let mut spec = service("web");
    spec["TaskTemplate"]["Networks"] = json!([{"Target": "host"}]);
    spec["EndpointSpec"] = json!({"Mode": "vip"});
    client.create(&spec).await;
    let read = client.get("/services/web").await.1;
    assert_eq!(
        read["Spec"]["TaskTemplate"]["Networks"],
        json!([{"Target": "host"}])
    );
    assert_eq!(read["Endpoint"], json!({"Spec": {"Mode": "vip"}}));
}

#[tokio::test]
async fn image_names_may_have_slashes() {
    let client = Client::of(&FakeCluster::inactive());
    let digest = |answer: Answer| answer.1["Descriptor"]["digest"].clone();
    let host = digest(client.get("/v1.44/distribution/host/json").await);
    assert!(host.as_str().unwrap().starts_with("sha256:"));
    assert_eq!(
        digest(
            client
                .get("/distribution/docker.io/library/host:latest/json")
                .await
        ),
        host
    );
    assert_eq!(
        client.get("/distribution/registry:5000/a/b:1/json").await.0,
        404
    );
    assert_eq!(
        client.get("/distribution/host").await,
        error(404, "page not found")
    );
    assert_eq!(
        client.get("/distribution/json").await,
        error(404, "page not found")
    );
}
