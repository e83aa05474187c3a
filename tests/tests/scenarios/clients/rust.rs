//! `bollard`, the client library for Rust: what it gets is read into its types whole.

use std::{collections::HashMap, net::Ipv4Addr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bollard::{
    API_DEFAULT_VERSION, Docker,
    container::LogOutput,
    errors::Error,
    models::{
        ConfigSpec, EventMessageScopeEnum, EventMessageTypeEnum, LocalNodeState,
        NetworkAttachmentConfig, NodeSpecAvailabilityEnum, NodeState, ObjectVersion, Reachability,
        SecretSpec, Service, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated,
        ServiceSpecUpdateConfig, ServiceSpecUpdateConfigOrderEnum, ServiceUpdateStatusStateEnum,
        SwarmInitRequest, TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecConfigs,
        TaskSpecContainerSpecFile, TaskSpecContainerSpecFile1, TaskSpecContainerSpecSecrets,
        TaskState,
    },
    query_parameters::{
        EventsOptionsBuilder, InspectServiceOptions, LeaveSwarmOptionsBuilder,
        ListConfigsOptionsBuilder, ListNodesOptionsBuilder, ListSecretsOptionsBuilder,
        ListServicesOptionsBuilder, ListTasksOptionsBuilder, LogsOptionsBuilder,
        UpdateConfigOptionsBuilder, UpdateNodeOptionsBuilder, UpdateSecretOptionsBuilder,
        UpdateServiceOptionsBuilder, UpdateSwarmOptionsBuilder,
    },
};
use futures::TryStreamExt;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::runtime::{Builder, Runtime};
use waxseal_ca::{Clock, SystemClock};
use waxseal_tests::{eventually, scenario};

/// Seconds that a call may take.
const CALL: u64 = 60;
/// Until tasks are as they should be.
const LIMIT: Duration = Duration::from_secs(60);
/// Shows all that the task was given, then stays.
const SCRIPT: &str = "cat /run/secrets/a_secret /cfg; echo to stderr >&2; exec sleep 1000";

#[test]
fn the_library_for_rust_reads_all_answers() -> Result<()> {
    scenario("rust", |scene| {
        let node = scene.waxseal("node")?;
        let client = Client::connect(&node.dir().join("s"))?;
        let begin = SystemClock.now().unix_timestamp();
        let node_id = swarm(&client, node.address)?;
        nodes(&client, &node_id)?;
        let secret = secrets(&client)?;
        let config = configs(&client)?;
        services(&client, &secret, &config, &node_id)?;
        client.ask(client.docker.delete_secret("a_secret"))?;
        client.ask(client.docker.delete_config(&config))?;
        client.refused(404, client.docker.inspect_secret(&secret))?;
        ensure!(client.ask(client.docker.list_configs(None))?.is_empty());
        events(&client, begin)?;
        client.refused(503, client.docker.leave_swarm(None))?;
        let force = LeaveSwarmOptionsBuilder::new().force(true).build();
        client.ask(client.docker.leave_swarm(Some(force)))?;
        state(&client, LocalNodeState::INACTIVE)
    })
}

/// The library, awaited.
struct Client {
    docker: Docker,
    runtime: Runtime,
}

impl Client {
    fn connect(socket: &Path) -> Result<Client> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let socket = socket.to_str().context("a socket with a plain name")?;
        let docker = Docker::connect_with_unix(socket, CALL, API_DEFAULT_VERSION)?;
        let docker = runtime.block_on(docker.negotiate_version())?;
        Ok(Client { docker, runtime })
    }

    fn ask<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T> {
        Ok(self.runtime.block_on(call)?)
    }

    /// What the daemon says when it refuses with that status.
    fn refused<T>(
        &self,
        status: u16,
        call: impl Future<Output = Result<T, Error>>,
    ) -> Result<String> {
        match self.runtime.block_on(call) {
            Ok(_) => bail!("was not refused with {status}"),
            Err(Error::DockerResponseServerError {
                status_code,
                message,
            }) if status_code == status => Ok(message),
            Err(error) => Err(error).with_context(|| format!("not refused with {status}")),
        }
    }

    fn service(&self) -> Result<Service> {
        self.ask(
            self.docker
                .inspect_service("web", None::<InspectServiceOptions>),
        )
    }

    /// Changes the service's specification.
    fn update(&self, change: impl FnOnce(&mut ServiceSpec)) -> Result<()> {
        let service = self.service()?;
        let mut spec = service.spec.context("a specification")?;
        change(&mut spec);
        let version = i32::try_from(index(service.version.as_ref())?)?;
        let options = UpdateServiceOptionsBuilder::new().version(version).build();
        self.ask(self.docker.update_service("web", spec, options, None))?;
        Ok(())
    }
}

fn index(version: Option<&ObjectVersion>) -> Result<i64> {
    let index = version.and_then(|version| version.index);
    Ok(i64::try_from(index.context("a version")?)?)
}

/// Times are texts to the library as it is built here.
fn are_times(texts: [&Option<String>; 2]) -> Result<()> {
    for text in texts {
        let text = text.as_deref().context("a time")?;
        OffsetDateTime::parse(text, &Rfc3339).with_context(|| text.to_owned())?;
    }
    Ok(())
}

fn map(key: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(key.to_owned(), value.to_owned())])
}

fn filter<'a>(key: &'a str, value: &'a str) -> HashMap<&'a str, Vec<&'a str>> {
    HashMap::from([(key, vec![value])])
}

fn state(client: &Client, wanted: LocalNodeState) -> Result<()> {
    let swarm = client.ask(client.docker.info())?.swarm;
    let found = swarm.and_then(|swarm| swarm.local_node_state);
    ensure!(found == Some(wanted), "{found:?}");
    Ok(())
}

fn swarm(client: &Client, address: Ipv4Addr) -> Result<String> {
    let docker = &client.docker;
    ensure!(client.ask(docker.ping())? == "OK");
    let version = client.ask(docker.version())?;
    let negotiated = docker.client_version();
    ensure!(version.api_version == Some(negotiated.to_string()));
    state(client, LocalNodeState::INACTIVE)?;
    client.refused(503, docker.list_secrets(None))?;
    client.refused(503, docker.inspect_swarm())?;
    let request = SwarmInitRequest {
        listen_addr: Some(format!("{address}:2377")),
        advertise_addr: Some(address.to_string()),
        ..SwarmInitRequest::default()
    };
    let node_id = client.ask(docker.init_swarm(request.clone()))?;
    client.refused(503, docker.init_swarm(request))?;
    state(client, LocalNodeState::ACTIVE)?;

    let before = client.ask(docker.inspect_swarm())?;
    are_times([&before.created_at, &before.updated_at])?;
    let mut spec = before.spec.context("a specification")?;
    spec.labels = Some(map("env", "test"));
    let orchestration = spec.orchestration.as_mut().context("orchestration")?;
    orchestration.task_history_retention_limit = Some(3);
    let options = UpdateSwarmOptionsBuilder::new()
        .version(index(before.version.as_ref())?)
        .rotate_worker_token(true)
        .build();
    client.ask(docker.update_swarm(spec.clone(), options.clone()))?;
    let said = client.refused(500, docker.update_swarm(spec.clone(), options))?;
    ensure!(said.ends_with("update out of sequence"), "{said}");
    let after = client.ask(docker.inspect_swarm())?;
    ensure!(after.spec == Some(spec) && after.id == before.id);
    let (before, after) = (before.join_tokens, after.join_tokens);
    let (before, after) = (before.context("tokens")?, after.context("tokens")?);
    ensure!(before.worker != after.worker && before.manager == after.manager);
    // The library has no call for the unlock key.
    for wanted in [true, false] {
        eventually("autolock is switched", LIMIT, || autolock(client, wanted))?;
    }
    Ok(node_id)
}

fn autolock(client: &Client, wanted: bool) -> Result<()> {
    let docker = &client.docker;
    let swarm = client.ask(docker.inspect_swarm())?;
    let mut spec = swarm.spec.context("a specification")?;
    let encryption = spec.encryption_config.as_mut().context("encryption")?;
    encryption.auto_lock_managers = Some(wanted);
    let version = index(swarm.version.as_ref())?;
    let options = UpdateSwarmOptionsBuilder::new().version(version).build();
    client.ask(docker.update_swarm(spec.clone(), options))?;
    ensure!(client.ask(docker.inspect_swarm())?.spec == Some(spec));
    Ok(())
}

fn nodes(client: &Client, node_id: &str) -> Result<()> {
    let docker = &client.docker;
    let of_role = |role| {
        let options = ListNodesOptionsBuilder::new().filters(&filter("role", role));
        client.ask(docker.list_nodes(Some(options.build())))
    };
    ensure!(of_role("worker")?.is_empty());
    let node = of_role("manager")?.pop().context("the node")?;
    ensure!(node.id.as_deref() == Some(node_id));
    are_times([&node.created_at, &node.updated_at])?;
    let manager = node.manager_status.context("a manager")?;
    ensure!(manager.leader == Some(true));
    ensure!(manager.reachability == Some(Reachability::REACHABLE));
    ensure!(node.status.and_then(|status| status.state) == Some(NodeState::READY));
    let mut spec = node.spec.context("a specification")?;
    ensure!(spec.availability == Some(NodeSpecAvailabilityEnum::ACTIVE));
    spec.labels = Some(map("dc", "east"));
    let version = index(node.version.as_ref())?;
    let options = UpdateNodeOptionsBuilder::new().version(version).build();
    client.ask(docker.update_node(node_id, spec.clone(), options))?;
    let node = client.ask(docker.inspect_node(node_id))?;
    ensure!(node.spec == Some(spec));
    let said = client.refused(404, docker.inspect_node("nosuch"))?;
    ensure!(said == "node nosuch not found", "{said}");
    Ok(())
}

fn secrets(client: &Client) -> Result<String> {
    let docker = &client.docker;
    let spec = SecretSpec {
        name: Some("a_secret".to_owned()),
        data: Some(STANDARD.encode("hunter2\n")),
        ..SecretSpec::default()
    };
    let id = client.ask(docker.create_secret(spec.clone()))?.id;
    client.refused(409, docker.create_secret(spec))?;
    let secret = client.ask(docker.inspect_secret(&id))?;
    are_times([&secret.created_at, &secret.updated_at])?;
    let mut spec = secret.spec.context("a specification")?;
    ensure!(spec.name.as_deref() == Some("a_secret") && spec.data.is_none());
    spec.labels = Some(map("l", "1"));
    let version = index(secret.version.as_ref())?;
    let options = UpdateSecretOptionsBuilder::new().version(version).build();
    client.ask(docker.update_secret(&id, spec.clone(), options))?;
    let options = ListSecretsOptionsBuilder::new().filters(&filter("label", "l=1"));
    let listed = client.ask(docker.list_secrets(Some(options.build())))?;
    ensure!(
        listed.len() == 1 && listed[0].spec == Some(spec),
        "{listed:?}"
    );
    Ok(id)
}

fn configs(client: &Client) -> Result<String> {
    let docker = &client.docker;
    let data = STANDARD.encode("port = 80\n");
    let spec = ConfigSpec {
        name: Some("a_config".to_owned()),
        data: Some(data.clone()),
        ..ConfigSpec::default()
    };
    let id = client.ask(docker.create_config(spec.clone()))?.id;
    client.refused(409, docker.create_config(spec))?;
    let config = client.ask(docker.inspect_config("a_config"))?;
    are_times([&config.created_at, &config.updated_at])?;
    let mut spec = config.spec.context("a specification")?;
    ensure!(spec.data == Some(data));
    spec.labels = Some(map("l", "1"));
    let version = index(config.version.as_ref())?;
    let options = UpdateConfigOptionsBuilder::new().version(version).build();
    client.ask(docker.update_config(&id, spec.clone(), options))?;
    let options = ListConfigsOptionsBuilder::new().filters(&filter("name", "a_"));
    let listed = client.ask(docker.list_configs(Some(options.build())))?;
    ensure!(
        listed.len() == 1 && listed[0].spec == Some(spec),
        "{listed:?}"
    );
    Ok(id)
}

/// Two tasks with a secret and a config, one at a time when they change.
fn wanted(secret: &str, config: &str) -> ServiceSpec {
    let text = |text: &str| Some(text.to_owned());
    let container = TaskSpecContainerSpec {
        image: text("host"),
        args: Some(["sh", "-c", SCRIPT].map(str::to_owned).to_vec()),
        env: Some(vec!["A=1".to_owned()]),
        stop_grace_period: Some(1_000_000_000),
        secrets: Some(vec![TaskSpecContainerSpecSecrets {
            secret_id: text(secret),
            secret_name: text("a_secret"),
            file: Some(TaskSpecContainerSpecFile {
                name: text("a_secret"),
                uid: text("0"),
                gid: text("0"),
                mode: Some(0o400),
            }),
        }]),
        configs: Some(vec![TaskSpecContainerSpecConfigs {
            config_id: text(config),
            config_name: text("a_config"),
            file: Some(TaskSpecContainerSpecFile1 {
                name: text("/cfg"),
                uid: text("0"),
                gid: text("0"),
                mode: Some(0o444),
            }),
            ..TaskSpecContainerSpecConfigs::default()
        }]),
        ..TaskSpecContainerSpec::default()
    };
    let network = NetworkAttachmentConfig {
        target: text("host"),
        ..NetworkAttachmentConfig::default()
    };
    ServiceSpec {
        name: text("web"),
        labels: Some(map("tier", "front")),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            networks: Some(vec![network]),
            ..TaskSpec::default()
        }),
        mode: Some(replicas(2)),
        update_config: Some(ServiceSpecUpdateConfig {
            parallelism: Some(1),
            monitor: Some(1_000_000),
            order: Some(ServiceSpecUpdateConfigOrderEnum::STOP_FIRST),
            ..ServiceSpecUpdateConfig::default()
        }),
        ..ServiceSpec::default()
    }
}

fn replicas(count: i64) -> ServiceSpecMode {
    ServiceSpecMode {
        replicated: Some(ServiceSpecModeReplicated {
            replicas: Some(count),
        }),
        ..ServiceSpecMode::default()
    }
}

fn services(client: &Client, secret: &str, config: &str, node_id: &str) -> Result<()> {
    let docker = &client.docker;
    let spec = wanted(secret, config);
    let created = client.ask(docker.create_service(spec.clone(), None))?;
    let id = created.id.context("an id")?;
    client.refused(409, docker.create_service(spec, None))?;
    eventually("two tasks run", LIMIT, || running(client, node_id, 2))?;
    eventually("both have printed", LIMIT, || printed(client))?;
    let options = ListServicesOptionsBuilder::new()
        .filters(&filter("label", "tier=front"))
        .status(true);
    let listed = client.ask(docker.list_services(Some(options.build())))?;
    ensure!(
        listed.len() == 1 && listed[0].id.as_deref() == Some(&*id),
        "{listed:?}"
    );
    are_times([&listed[0].created_at, &listed[0].updated_at])?;
    let status = listed[0].service_status.as_ref().context("a status")?;
    ensure!((status.running_tasks, status.desired_tasks) == (Some(2), Some(2)));
    let said = client.refused(400, docker.delete_secret(secret))?;
    ensure!(
        said.contains("is in use by the following service: web"),
        "{said}"
    );

    client.update(|spec| spec.mode = Some(replicas(1)))?;
    eventually("one task runs", LIMIT, || running(client, node_id, 1))?;
    client.update(|spec| {
        let task = spec.task_template.get_or_insert_default();
        task.container_spec.get_or_insert_default().env = Some(vec!["A=2".to_owned()]);
    })?;
    eventually("the update ends", LIMIT, || {
        let status = client.service()?.update_status.context("an update")?;
        ensure!(
            status.state == Some(ServiceUpdateStatusStateEnum::COMPLETED),
            "{status:?}"
        );
        are_times([&status.started_at, &status.completed_at])
    })?;
    running(client, node_id, 1)?;
    let said = client.refused(404, docker.inspect_service("nosuch", None))?;
    ensure!(said == "service nosuch not found", "{said}");
    client.ask(docker.delete_service("web"))?;
    eventually("no tasks are left", LIMIT, || {
        let tasks = client.ask(docker.list_tasks(None))?;
        ensure!(tasks.is_empty(), "{tasks:?}");
        Ok(())
    })
}

fn running(client: &Client, node_id: &str, count: usize) -> Result<()> {
    let docker = &client.docker;
    let mut filters = filter("desired-state", "running");
    filters.insert("service", vec!["web"]);
    let options = ListTasksOptionsBuilder::new().filters(&filters).build();
    let tasks = client.ask(docker.list_tasks(Some(options)))?;
    ensure!(tasks.len() == count, "{tasks:?}");
    for task in tasks {
        let status = task.status.as_ref().context("a status")?;
        ensure!(status.state == Some(TaskState::RUNNING), "{status:?}");
        are_times([&task.created_at, &status.timestamp])?;
        ensure!(task.node_id.as_deref() == Some(node_id));
        let again = client.ask(docker.inspect_task(task.id.as_deref().context("an id")?))?;
        ensure!((again.slot, again.service_id) == (task.slot, task.service_id));
    }
    Ok(())
}

/// What both tasks were given came out of them.
fn printed(client: &Client) -> Result<()> {
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .tail("all")
        .build();
    let lines = client.docker.service_logs("web", Some(options));
    let lines: Vec<LogOutput> = client.ask(lines.try_collect())?;
    let count = |wanted: &LogOutput| lines.iter().filter(|line| *line == wanted).count();
    let out = |text: &'static str| LogOutput::StdOut {
        message: text.into(),
    };
    let err = LogOutput::StdErr {
        message: "to stderr\n".into(),
    };
    for wanted in [out("hunter2\n"), out("port = 80\n"), err] {
        ensure!(count(&wanted) == 2, "{lines:?}");
    }
    Ok(())
}

fn events(client: &Client, begin: i64) -> Result<()> {
    let options = EventsOptionsBuilder::new()
        .since(&begin.to_string())
        .until(&(SystemClock.now().unix_timestamp() + 1).to_string())
        .filters(&HashMap::from([(
            "type",
            vec!["secret", "config", "service", "node"],
        )]))
        .build();
    let events = client.docker.events(Some(options));
    let events = client.ask(events.try_collect::<Vec<_>>())?;
    for event in &events {
        ensure!(
            event.scope == Some(EventMessageScopeEnum::SWARM),
            "{event:?}"
        );
        let actor = event.actor.as_ref().context("an actor")?;
        ensure!(
            actor.id.is_some() && actor.attributes.is_some(),
            "{event:?}"
        );
    }
    use EventMessageTypeEnum::{CONFIG, NODE, SECRET, SERVICE};
    for (kind, action) in [
        (NODE, "update"),
        (SECRET, "create"),
        (SECRET, "update"),
        (SECRET, "remove"),
        (CONFIG, "create"),
        (CONFIG, "remove"),
        (SERVICE, "create"),
        (SERVICE, "update"),
        (SERVICE, "remove"),
    ] {
        let found = events
            .iter()
            .any(|event| event.typ == Some(kind) && event.action.as_deref() == Some(action));
        ensure!(found, "no {kind} {action} among {events:?}");
    }
    Ok(())
}
