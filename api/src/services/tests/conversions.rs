//! Round trips over recorded requests, and what is refused.

use serde::Deserialize;
use serde_json::{Value, json};
use waxseal_cluster::{objects::ServiceSpec, service_name, validate_service_spec};

use super::super::{
    defaults::insert_defaults, from_object, into_object, names, spec::ServiceSpecJson, view,
};
use crate::{
    error::ApiError,
    json::decode::{Rest, decode},
};

/// Requests to a Docker Engine 20.10 and what it read back for them.
const SPECS: &str = include_str!("../../../tests/data/service-specs.jsonl");
/// Requests that it refused, and how.
const ERRORS: &str = include_str!("../../../tests/data/service-errors.jsonl");

#[derive(Deserialize)]
struct Recorded {
    sent: Value,
    read: Value,
    endpoint: Value,
}

#[derive(Deserialize)]
struct Refused {
    sent: Value,
    status: u16,
    message: String,
}

fn object(sent: &Value) -> Result<ServiceSpec, ApiError> {
    let json = decode::<ServiceSpecJson>(sent.to_string().as_bytes(), Rest::Refused)
        .map_err(|error| ApiError::bad_request(error.to_string()))?;
    let spec = into_object::service_spec(json)?;
    validate_service_spec(&spec)?;
    Ok(spec)
}

/// As a client sees it, through text: a number has no more digits than are sent.
fn rendered(json: &impl serde::Serialize) -> Value {
    serde_json::from_str(&serde_json::to_string(json).unwrap()).unwrap()
}

fn lines<'a, T: Deserialize<'a>>(text: &'a str) -> Vec<T> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// 20.10 did not have the field that newer clients want to see.
fn with_newer_fields(mut read: Value) -> Value {
    let container = &mut read["TaskTemplate"]["ContainerSpec"];
    if let Some(privileges) = container.get_mut("Privileges") {
        privileges["NoNewPrivileges"] = json!(false);
    }
    read
}

fn minimal(task: Value) -> Value {
    let mut spec = json!({
        "Name": "web",
        "TaskTemplate": {"ContainerSpec": {"Image": "bb:1"}},
    });
    merge(&mut spec, task);
    spec
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[test]
fn what_the_engine_refuses_is_refused_in_its_words() {
    for refused in lines::<Refused>(ERRORS) {
        let error = object(&refused.sent).expect_err(&refused.message);
        assert_eq!(error.message, refused.message);
        assert_eq!(error.status.as_u16(), refused.status, "{}", refused.message);
    }
}

#[test]
fn numbers_of_generic_resources_are_read_back_as_sent() {
    let reserved = json!({"NanoCPUs": 2_000_000, "GenericResources": [
        {"DiscreteResourceSpec": {"Kind": "gpu", "Value": 2}},
        // As the CLI sends none of them.
        {"DiscreteResourceSpec": {"Kind": "fpga"}},
    ]});
    let sent = minimal(json!({"TaskTemplate": {"Resources": {"Reservations": reserved}}}));
    let spec = object(&sent).unwrap();
    let read = rendered(&from_object::task_spec(spec.task.as_ref().unwrap()));
    assert_eq!(read["Resources"]["Reservations"], reserved);
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let container = |part: Value| json!({"TaskTemplate": {"ContainerSpec": part}});
    let host = |part: Value| {
        let mut spec = container(json!({"Image": "host", "Args": ["true"]}));
        merge(&mut spec, part);
        spec
    };
    let cases = [
        (
            json!({"TaskTemplate": {"PluginSpec": {"Name": "p"}}}),
            501,
            "TaskTemplate.PluginSpec",
        ),
        (
            json!({"TaskTemplate": {"NetworkAttachmentSpec": {"ContainerID": "c"}}}),
            501,
            "TaskTemplate.NetworkAttachmentSpec",
        ),
        (
            json!({"TaskTemplate": {"Runtime": "plugin"}}),
            501,
            "TaskTemplate.Runtime",
        ),
        (
            json!({"TaskTemplate": {"Resources": {"Reservations": {"GenericResources": [
                {"NamedResourceSpec": {"Kind": "gpu", "Value": "a"}}]}}}}),
            400,
            "`gpu=a`, Named Generic Resources is not supported",
        ),
        (
            json!({"TaskTemplate": {"Resources": {"Reservations": {"GenericResources": [
                {"DiscreteResourceSpec": {"Kind": "gpu", "Value": -1}}]}}}}),
            400,
            "cannot ask for negative resource gpu",
        ),
        (
            json!({"TaskTemplate": {"Resources": {"Reservations": {"GenericResources": [{}]}}}}),
            400,
            "either NamedResourceSpec or DiscreteResourceSpec should be set",
        ),
        (
            json!({"TaskTemplate": {"Networks": [{"Target": "host", "Aliases": ["a"]}]}}),
            501,
            "Aliases",
        ),
        (
            json!({"TaskTemplate": {"Networks": [{"Target": "host", "DriverOpts": {"a": "b"}}]}}),
            501,
            "DriverOpts",
        ),
        (
            json!({"TaskTemplate": {"Networks": [{"Target": "front"}]}}),
            404,
            "network front not found",
        ),
        (
            json!({"TaskTemplate": {"Networks": [{"Target": "host"}, {"Target": "none"}]}}),
            400,
            "2 networks asked for",
        ),
        (
            json!({"Mode": {"ReplicatedJob": {}}, "UpdateConfig": {"Parallelism": 1}}),
            400,
            "Jobs may not have an update config",
        ),
        (
            json!({"Mode": {"GlobalJob": {}}, "RollbackConfig": {"Parallelism": 1}}),
            400,
            "Jobs may not have a rollback config",
        ),
        (
            json!({"EndpointSpec": {"Ports": [{"TargetPort": 80}]}}),
            400,
            "ingress mode",
        ),
        (
            container(json!({"Privileges": {"CredentialSpec": {"Config": "c"}}})),
            501,
            "(ContainerSpec.Privileges.CredentialSpec): leave --credential-spec out",
        ),
        (
            container(json!({"Configs": [{"ConfigID": "c", "ConfigName": "n", "Runtime": {}}]})),
            501,
            "configs for the runtime",
        ),
        (
            container(json!({"Mounts": [{"Type": "cluster", "Target": "/v"}]})),
            501,
            "cluster volumes",
        ),
        (
            container(json!({"Env": ["A={{range .Task.ID}}"]})),
            400,
            "environment variable A",
        ),
        (
            container(json!({"Isolation": "bogus"})),
            400,
            "invalid Isolation: \"bogus\"",
        ),
        (
            json!({"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishMode": "host", "Protocol": "bogus"}]}}),
            400,
            "invalid port protocol: \"bogus\"",
        ),
        (
            json!({"EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishMode": "bogus"}]}}),
            400,
            "invalid port publish mode: \"bogus\"",
        ),
        (
            container(
                json!({"Mounts": [{"Type": "bind", "Target": "/a", "Consistency": "bogus"}]}),
            ),
            400,
            "invalid MountConsistency: \"bogus\"",
        ),
        (
            container(json!({"Privileges": {"Seccomp": {"Mode": "custom", "Profile": "*"}}})),
            400,
            "seccomp profile",
        ),
        (
            host(container(json!({"TTY": true, "Sysctls": {"a": "b"}}))),
            501,
            "do not take ContainerSpec.TTY (--tty), ContainerSpec.Sysctls (--sysctl):",
        ),
        (
            host(container(json!({"Healthcheck": {"Test": ["CMD", "true"]}}))),
            501,
            "ContainerSpec.Healthcheck",
        ),
        (
            host(container(
                json!({"Mounts": [{"Type": "volume", "Target": "/v"}]}),
            )),
            501,
            "ContainerSpec.Mounts",
        ),
        (
            host(container(
                json!({"Privileges": {"Seccomp": {"Mode": "default"}}}),
            )),
            501,
            "Privileges.Seccomp",
        ),
        (
            host(json!({"TaskTemplate": {"LogDriver": {"Name": "syslog"}}})),
            501,
            "LogDriver (--log-driver)",
        ),
        (
            host(
                json!({"TaskTemplate": {"LogDriver": {"Name": "json-file", "Options": {"max-size": "1m"}}}}),
            ),
            501,
            "do not take LogDriver.Options (--log-opt):",
        ),
        (
            host(json!({"EndpointSpec": {"Mode": "dnsrr"}})),
            501,
            "do not take EndpointSpec.Mode (--endpoint-mode) dnsrr:",
        ),
        (
            host(json!({"TaskTemplate": {"Networks": [{"Target": "bridge"}]}})),
            501,
            "Networks (--network) with target bridge",
        ),
        (
            host(json!({"EndpointSpec": {"Ports": [
                {"TargetPort": 80, "PublishedPort": 8080, "PublishMode": "host"}]}})),
            501,
            "EndpointSpec.Ports",
        ),
        (
            container(json!({"Image": "host:latest"})),
            400,
            "has no command of its own",
        ),
    ];
    for (part, status, needle) in cases {
        let sent = minimal(part);
        let error = object(&sent).expect_err(&sent.to_string());
        assert_eq!(error.status.as_u16(), status, "{sent}: {}", error.message);
        assert!(error.message.contains(needle), "{}", error.message);
    }
}

#[test]
fn all_that_is_not_offered_is_named_at_once() {
    let sent = minimal(json!({"TaskTemplate": {
        "PluginSpec": {},
        "Networks": [{"Target": "host", "Aliases": ["a"]}],
    }}));
    let message = object(&sent).unwrap_err().message;
    assert!(
        message.contains("PluginSpec") && message.contains("Aliases"),
        "{message}"
    );
}

#[test]
fn a_secret_in_a_variable_is_not_told_when_it_is_refused() {
    let sent = minimal(json!({"TaskTemplate": {"ContainerSpec": {"Env": ["K=marker{{x}}"]}}}));
    let message = object(&sent).unwrap_err().message;
    assert!(!message.contains("marker"), "{message}");
}

#[test]
fn recorded_specs_read_back_as_from_the_engine() {
    let recorded = lines::<Recorded>(SPECS);
    assert!(recorded.len() > 60, "only {} recordings", recorded.len());
    for recorded in recorded {
        let spec = object(&recorded.sent).unwrap_or_else(|error| {
            panic!("{}: {}", recorded.sent, error.message);
        });
        let read = rendered(&from_object::service_spec(&spec));
        assert_eq!(
            read,
            with_newer_fields(recorded.read),
            "sent {}",
            recorded.sent
        );
        let service = waxseal_cluster::objects::Service {
            spec: Some(spec),
            ..Default::default()
        };
        let endpoint = rendered(&view::service(&service, false, None).endpoint);
        assert_eq!(endpoint, recorded.endpoint, "sent {}", recorded.sent);
    }
}

#[test]
fn what_was_read_can_be_sent_back_unchanged() {
    for recorded in lines::<Recorded>(SPECS) {
        let once = object(&recorded.sent).unwrap();
        let read = rendered(&from_object::service_spec(&once));
        assert_eq!(object(&read).unwrap(), once, "sent {}", recorded.sent);
    }
}

/// What nodes carry out for native tasks, and what `stack deploy` sends always.
#[test]
fn native_tasks_take_what_processes_have() {
    let sent = minimal(json!({
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": "host:latest", "Args": ["true"], "DNSConfig": {}, "Init": false,
                "Privileges": {"CredentialSpec": null, "SELinuxContext": null,
                    "Seccomp": {"Mode": "unconfined"}, "NoNewPrivileges": false},
                "Mounts": [{"Type": "tmpfs", "Target": "/t"}, {"Type": "bind", "Source": "/a", "Target": "/b"}],
                "Healthcheck": {"Test": ["NONE"]}, "ReadOnly": true, "CapabilityDrop": ["CAP_CHOWN"],
                "Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}], "Isolation": "default",
            },
            "LogDriver": {"Name": "json-file"}, "Networks": [{"Target": "none"}],
        },
        "EndpointSpec": {"Ports": [{"TargetPort": 80, "PublishedPort": 80, "PublishMode": "host"}]},
    }));
    object(&sent).unwrap();
}

#[test]
fn newer_fields_survive() {
    let container = json!({
        "Image": "bb:1",
        "Privileges": {
            "CredentialSpec": null,
            "SELinuxContext": {"Disable": false, "User": "u", "Role": "r", "Type": "t", "Level": "l"},
            "Seccomp": {"Mode": "custom", "Profile": "e30="},
            "AppArmor": {"Mode": "disabled"},
            "NoNewPrivileges": true,
        },
        "Mounts": [
            {"Type": "bind", "Source": "/a", "Target": "/b", "Consistency": "cached", "BindOptions":
                {"Propagation": "shared", "NonRecursive": true, "CreateMountpoint": true,
                 "ReadOnlyNonRecursive": true, "ReadOnlyForceRecursive": true}},
            {"Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {"Subpath": "s"}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions":
                {"SizeBytes": 5, "Mode": 511, "Options": [["noexec"], ["uid", "1"]]}},
        ],
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 2_500_000_000_i64, "StartInterval": 1_000_000},
        "Isolation": "default",
        "OomScoreAdj": -5,
    });
    let sent = minimal(json!({"TaskTemplate": {
        "ContainerSpec": container,
        "Resources": {"SwapBytes": -1, "MemorySwappiness": 0},
    }}));
    let read = rendered(&from_object::service_spec(&object(&sent).unwrap()));
    assert_eq!(read["TaskTemplate"]["ContainerSpec"], container);
    assert_eq!(
        read["TaskTemplate"]["Resources"],
        json!({"SwapBytes": -1, "MemorySwappiness": 0})
    );
}

#[test]
fn names_of_fields_match_in_any_case_and_unknown_ones_are_ignored() {
    let sent = json!({
        "name": "web", "future": {"a": [1]},
        "tasktemplate": {"CONTAINERSPEC": {"image": "bb:1", "dnsconfig": {}, "tty": true}},
        "mode": {"replicated": {"replicas": 3}},
    });
    let read = rendered(&from_object::service_spec(&object(&sent).unwrap()));
    assert_eq!(read["Name"], "web");
    assert_eq!(read["Mode"], json!({"Replicated": {"Replicas": 3}}));
    assert_eq!(read["TaskTemplate"]["ContainerSpec"]["TTY"], true);
}

#[test]
fn networks_of_old_clients_are_kept() {
    let sent = minimal(json!({"Networks": [{"Target": "host"}]}));
    let read = rendered(&from_object::service_spec(&object(&sent).unwrap()));
    assert_eq!(
        read["TaskTemplate"]["Networks"],
        json!([{"Target": "host"}])
    );
}

#[test]
fn credentials_of_a_registry_are_not_read_back() {
    let mut spec = object(&minimal(json!({}))).unwrap();
    let auth = zeroize::Zeroizing::new("marker".to_owned());
    super::super::set_registry_auth(&mut spec, Some(auth));
    let container = spec.task.as_ref().unwrap().container.as_ref().unwrap();
    let options = container.pull_options.as_ref().unwrap();
    assert_eq!(options.registry_auth, "marker");
    let read = rendered(&from_object::service_spec(&spec)).to_string();
    assert!(!read.contains("marker"), "{read}");
}

/// Observed with `insertDefaults=true`.
#[test]
fn defaults_are_filled_in_where_nothing_was_said() {
    let filled = |sent: Value| {
        let mut spec = from_object::service_spec(&object(&minimal(sent)).unwrap());
        insert_defaults(&mut spec);
        rendered(&spec)
    };
    let policy = json!({"Parallelism": 1, "FailureAction": "pause", "Monitor": 5_000_000_000_i64,
        "MaxFailureRatio": 0, "Order": "stop-first"});
    assert_eq!(
        filled(json!({})),
        json!({
            "Name": "web", "Labels": {},
            "TaskTemplate": {
                "ContainerSpec": {"Image": "bb:1", "StopGracePeriod": 10_000_000_000_i64,
                    "DNSConfig": {}, "Isolation": "default"},
                "Resources": {},
                "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000_i64, "MaxAttempts": 0},
                "Placement": {}, "ForceUpdate": 0, "Runtime": "container",
            },
            "Mode": {"Replicated": {"Replicas": 1}},
            "UpdateConfig": policy, "RollbackConfig": policy,
        })
    );
    let partly = filled(json!({
        "TaskTemplate": {"ContainerSpec": {"StopGracePeriod": 0, "Healthcheck": {}},
            "RestartPolicy": {"Condition": "none", "Window": 0}},
        "UpdateConfig": {"Order": "start-first"}, "RollbackConfig": {"Parallelism": 3},
        "EndpointSpec": {}, "Mode": {"Global": {}},
    }));
    let task = &partly["TaskTemplate"];
    assert_eq!(task["ContainerSpec"]["StopGracePeriod"], 0);
    assert_eq!(task["ContainerSpec"]["Healthcheck"], json!({}));
    assert_eq!(
        task["RestartPolicy"],
        json!({"Condition": "none", "Delay": 5_000_000_000_i64, "MaxAttempts": 0, "Window": 0})
    );
    assert_eq!(partly["UpdateConfig"]["Parallelism"], 0);
    assert_eq!(partly["UpdateConfig"]["Monitor"], 5_000_000_000_i64);
    assert_eq!(partly["RollbackConfig"]["Parallelism"], 3);
    assert_eq!(partly["EndpointSpec"], json!({"Mode": "vip"}));
}

#[test]
fn made_up_names_are_valid_and_not_taken() {
    let mut random = [0; names::RANDOM_BYTES];
    let first = names::choose(random, |_| false);
    let mut spec = object(&minimal(json!({}))).unwrap();
    spec.annotations
        .get_or_insert_default()
        .name
        .clone_from(&first);
    validate_service_spec(&spec).unwrap();
    random[3] = 1;
    let second = names::choose(random, |name| name == first);
    assert_ne!(first, second);
    let third = names::choose([0; names::RANDOM_BYTES], |name| name == first);
    assert!(third.starts_with(&first) && third != first, "{third}");
    assert_eq!(
        service_name(&waxseal_cluster::objects::Service::default()),
        ""
    );
}
