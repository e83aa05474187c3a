//! The steps, in order.

use std::{fmt::Write as _, future::Future, time::Duration};

use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use super::{
    Stage,
    check::namespace_hint,
    leftovers::is_alive,
    member::{Member, free_address},
    story::{Story, Told},
};
use crate::{
    client::{Client, filters, segment},
    failure::{Exit, Failure},
    info::Named,
    node::Node,
    payload,
    secret::SECRET,
    service::{self, reference::Reference, tasks::Task},
    status, swarm, unlock,
};

const SECRET_NAME: &str = "demo_password";
const SERVICE_NAME: &str = "reader";
/// A well-formed key that opens nothing: 32 zero bytes.
const WRONG_KEY: &str = "SWMKEY-1-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// What ends the task's report.
const LAST_LINE: &str = "that is all";
/// How long something that must come about may take; a step ends after 30 s in any case.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the service's task runs: says what it sees of the secret, but not the secret.
fn script() -> String {
    format!(
        "f=/run/secrets/{SECRET_NAME}; \
         echo \"sha256 $(sha256sum <$f | cut -c1-64)\"; \
         while read -r _ point kind options _; do \
         case $point in /run/secrets*) echo \"mount $point $kind $options\";; esac; \
         done </proc/self/mounts; \
         if (echo x >$f) 2>/dev/null || (echo x >/run/secrets/new) 2>/dev/null; \
         then echo 'write allowed'; else echo 'write refused'; fi; \
         echo '{LAST_LINE}'; \
         exec sleep 86400"
    )
}

/// What is made on the way and needed later.
struct Made {
    unlock_key: Zeroizing<String>,
    secret_id: String,
    service_id: String,
    task_id: String,
    pid: i64,
}

pub(super) async fn all(stage: &mut Stage, story: &mut Story) -> Result<(), Failure> {
    let manager = stage.manager.client();
    let unlock_key = cluster(stage, story, &manager).await?;
    let made = secret_and_task(story, &manager, unlock_key).await?;
    lock(stage, story, &manager, &made).await?;
    end(stage, story, &manager, &made).await
}

/// Steps 1 to 5: a manager, a worker, a cluster of both.
async fn cluster(
    stage: &mut Stage,
    story: &mut Story,
    manager: &Client,
) -> Result<Zeroizing<String>, Failure> {
    let command = stage.manager.command();
    story
        .step(
            "start a daemon, the manager to be",
            &command,
            start(&mut stage.manager),
        )
        .await?;
    let address = free_address()?;
    let command = format!("docker swarm init --autolock --advertise-addr {address}");
    let unlock_key = story
        .step(
            "create a cluster whose managers lock",
            &command,
            init(manager, &address),
        )
        .await?;
    let command = stage.worker.command();
    story
        .step(
            "start a daemon, the worker to be",
            &command,
            start(&mut stage.worker),
        )
        .await?;
    let worker = stage.worker.client();
    let command = format!("docker swarm join --token SWMTKN-1-… {address}");
    story
        .step(
            "join it with the worker's token",
            &command,
            join(manager, &worker, &address),
        )
        .await?;
    story
        .step(
            "wait until both are ready",
            "docker node ls",
            both_ready(manager),
        )
        .await?;
    Ok(unlock_key)
}

async fn start(member: &mut Member) -> Result<Told<()>, Failure> {
    let pid = member.start().await?;
    Ok(Told::new((), [format!("process {pid} answers")]))
}

async fn init(client: &Client, address: &str) -> Result<Told<Zeroizing<String>>, Failure> {
    let init = swarm::Init {
        listen_addr: address.to_owned(),
        advertise_addr: address.to_owned(),
        auto_lock_managers: true,
        availability: "active".to_owned(),
        spec: json!({}),
        ..swarm::Init::default()
    };
    let node_id = swarm::create(client, &init).await?;
    let key = swarm::keys::read_unlock_key(client).await?;
    if !key.starts_with("SWMKEY-1-") {
        return Err(Failure::refused(
            "the cluster was to lock, but has no unlock key",
        ));
    }
    let told = format!("manager {node_id}; the unlock key SWMKEY-1-… is with us alone");
    Ok(Told::new(key, [told]))
}

async fn join(manager: &Client, worker: &Client, address: &str) -> Result<Told<()>, Failure> {
    let token = Zeroizing::new(swarm::Swarm::read(manager).await?.join_tokens.worker);
    let join = swarm::Join {
        listen_addr: address,
        advertise_addr: "127.0.0.1",
        remote_addrs: &[address.to_owned()],
        join_token: &token,
        availability: "active",
    };
    swarm::enter(worker, &join).await?;
    Ok(Told::new(
        (),
        ["the worker has a certificate of this cluster".to_owned()],
    ))
}

async fn both_ready(client: &Client) -> Result<Told<()>, Failure> {
    until("both nodes to be ready", async || {
        let nodes: Vec<Node> = client.get("/nodes").await?;
        let is_ready = nodes.len() == 2 && nodes.iter().all(|node| node.status.state == "ready");
        let told = nodes
            .iter()
            .map(|node| format!("{} {}", node.id, node.status.state))
            .collect();
        Ok(if is_ready {
            Ok(Told::new((), Vec::<String>::into_iter(told)))
        } else {
            Err(told.join(", "))
        })
    })
    .await
}

/// Steps 6 to 8: a secret, and a task that reads it.
async fn secret_and_task(
    story: &mut Story,
    manager: &Client,
    unlock_key: Zeroizing<String>,
) -> Result<Made, Failure> {
    let mut data = Zeroizing::new([0u8; 32]);
    getrandom::fill(&mut *data)
        .map_err(|error| Failure::refused(format!("the system gave no random bytes: {error}")))?;
    let digest = hex(&Sha256::digest(*data));
    let command = format!("head -c 32 /dev/urandom | docker secret create {SECRET_NAME} -");
    let secret_id = story
        .step("create a secret", &command, create_secret(manager, &*data))
        .await?;
    let command = format!(
        "docker service create --name {SERVICE_NAME} --secret {SECRET_NAME} --constraint node.role==worker --network host host sh -c '…'"
    );
    let (service_id, task) = story
        .step(
            "run a service that reads it, on the worker",
            &command,
            create_service(manager, &secret_id),
        )
        .await?;
    let command = format!("docker service logs {SERVICE_NAME}");
    story
        .step(
            "see what its task saw",
            &command,
            read_log(manager, &service_id, &digest),
        )
        .await?;
    let container = task.status.container_status.as_ref();
    let pid = container
        .map(|container| container.pid)
        .filter(|pid| *pid > 0)
        .ok_or_else(|| Failure::refused("the task's process is not known"))?;
    Ok(Made {
        unlock_key,
        secret_id,
        service_id,
        task_id: task.id,
        pid,
    })
}

async fn create_secret(client: &Client, data: &[u8]) -> Result<Told<String>, Failure> {
    let created = payload::send(client, SECRET, SECRET_NAME, Map::new(), None, data).await?;
    let told = format!(
        "secret {}; its data is in no answer from now on",
        created.id
    );
    Ok(Told::new(created.id, [told]))
}

async fn create_service(client: &Client, secret_id: &str) -> Result<Told<(String, Task)>, Failure> {
    let spec = json!({
        "Name": SERVICE_NAME,
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": service::HOST_IMAGE,
                "Args": ["sh", "-c", script()],
                "StopGracePeriod": 1_000_000_000,
                "Secrets": [Reference::parse(SECRET_NAME, SECRET)?.object(SECRET, secret_id)],
            },
            "Placement": { "Constraints": ["node.role==worker"] },
            "Networks": [{ "Target": "host" }],
            "RestartPolicy": { "Condition": "none" },
        },
        "Mode": { "Replicated": { "Replicas": 1 } },
    });
    let created = service::create(client, &spec, None).await?;
    let task = until("the task to run", async || {
        let tasks = tasks_of(client, &created.id).await?;
        let Some(task) = tasks.into_iter().next() else {
            return Ok(Err("no task yet".to_owned()));
        };
        match task.status.state.as_str() {
            "running" => Ok(Ok(task)),
            "failed" | "rejected" | "complete" | "shutdown" | "orphaned" => {
                let why = [&task.status.err, &task.status.message]
                    .map(String::as_str)
                    .join(" ");
                Err(
                    Failure::refused(format!("the task is {}: {}", task.status.state, why.trim()))
                        .hint(namespace_hint()),
                )
            }
            state => Ok(Err(format!("the task is {state} {}", task.status.err))),
        }
    })
    .await?;
    let told = format!("task {} runs on node {}", task.id, task.node_id);
    Ok(Told::new((created.id, task), [told]))
}

async fn tasks_of(client: &Client, service_id: &str) -> Result<Vec<Task>, Failure> {
    client
        .get(&format!(
            "/tasks?{}",
            filters(&[("service", &[service_id])])
        ))
        .await
}

/// Follows the log to the task's last line, then compares.
async fn read_log(client: &Client, service_id: &str, digest: &str) -> Result<Told<()>, Failure> {
    let read = async {
        let mut body = service::logs::open(client, service_id, "&follow=1").await?;
        let mut frames = service::logs::Frames::default();
        let mut lines: Vec<String> = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Failure::refused(format!("the stream of logs broke off: {error}"))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            frames.add(&data);
            while let Some(line) = frames.next()? {
                let line = String::from_utf8_lossy(&line.data).trim_end().to_owned();
                if line == LAST_LINE {
                    return Ok(lines);
                }
                lines.push(line);
            }
        }
        Err(Failure::refused(format!(
            "the log ended before the task did: {}",
            lines.join(" | ")
        )))
    };
    let lines = match tokio::time::timeout(PATIENCE, read).await {
        Ok(lines) => lines?,
        Err(_) => return Err(Failure::refused("the task's log shows no end")),
    };
    let expected = format!("sha256 {digest}");
    let is_mount = |line: &&String| line.starts_with("mount /run/secrets");
    let is_read_only_tmpfs = |line: &String| {
        let mut words = line.split_whitespace().skip(2);
        words.next() == Some("tmpfs")
            && words
                .next()
                .is_some_and(|options| options.split(',').any(|option| option == "ro"))
    };
    for (holds, fault) in [
        (
            lines.contains(&expected),
            "the task read other bytes than were stored",
        ),
        (
            lines.iter().any(|line| line == "write refused"),
            "the task could write beside its secret",
        ),
        (
            lines.iter().any(|line| is_mount(&line))
                && lines.iter().filter(is_mount).all(is_read_only_tmpfs),
            "the task's /run/secrets is no read-only tmpfs",
        ),
    ] {
        if !holds {
            return Err(Failure::refused(format!("{fault}: {}", lines.join(" | "))));
        }
    }
    let summary =
        "the digest is that of the stored bytes; the mount is a read-only tmpfs".to_owned();
    Ok(Told::new((), lines.into_iter().chain([summary])))
}

/// Steps 9 to 13: restarted, the manager is locked until it gets its key.
async fn lock(
    stage: &mut Stage,
    story: &mut Story,
    manager: &Client,
    made: &Made,
) -> Result<(), Failure> {
    story
        .step(
            "restart the manager",
            "systemctl restart waxseal",
            restart(stage),
        )
        .await?;
    story
        .step(
            "ask it for its secrets, as long as it is locked",
            "docker secret ls",
            refused_locked(manager),
        )
        .await?;
    story
        .step("try a wrong key", "docker swarm unlock", wrong_key(manager))
        .await?;
    story
        .step(
            "unlock it with the right one",
            "docker swarm unlock",
            right_key(manager, &made.unlock_key),
        )
        .await?;
    let command = format!("docker secret ls && docker service ps {SERVICE_NAME}");
    story
        .step(
            "find everything as it was",
            &command,
            all_there(manager, made),
        )
        .await
}

async fn restart(stage: &mut Stage) -> Result<Told<()>, Failure> {
    stage.manager.stop().await?;
    let pid = stage.manager.start().await?;
    let client = stage.manager.client();
    until("the manager to be locked", async || {
        match status::state(&client).await?.as_str() {
            "locked" => Ok(Ok(())),
            other => Ok(Err(format!("it is {other}"))),
        }
    })
    .await?;
    Ok(Told::new(
        (),
        [format!(
            "process {pid} answers, and is locked; the task runs on"
        )],
    ))
}

async fn refused_locked(client: &Client) -> Result<Told<()>, Failure> {
    match client.get::<Value>(SECRET.route).await {
        Err(failure) if failure.exit == Exit::Locked => {
            Ok(Told::new((), [format!("refused: {}", failure.message)]))
        }
        Err(failure) => Err(failure),
        Ok(_) => Err(Failure::refused("a locked manager answered")),
    }
}

async fn wrong_key(client: &Client) -> Result<Told<()>, Failure> {
    match unlock::with_key(client, WRONG_KEY).await {
        Ok(()) => Err(Failure::refused("a wrong key opened the manager")),
        Err(failure) if failure.message.contains("not the unlock key") => {
            match status::state(client).await?.as_str() {
                "locked" => Ok(Told::new((), [format!("refused: {}", failure.message)])),
                other => Err(Failure::refused(format!(
                    "after a wrong key the manager is {other}"
                ))),
            }
        }
        Err(failure) => Err(failure),
    }
}

async fn right_key(client: &Client, key: &str) -> Result<Told<()>, Failure> {
    unlock::with_key(client, key).await?;
    until("the manager to answer", async || {
        match client.get::<Value>(SECRET.route).await {
            Ok(_) => Ok(Ok(())),
            Err(failure) => Ok(Err(failure.message)),
        }
    })
    .await?;
    Ok(Told::new((), ["open".to_owned()]))
}

async fn all_there(client: &Client, made: &Made) -> Result<Told<()>, Failure> {
    let secret: Named = client
        .get(&format!("/secrets/{}", segment(SECRET_NAME)))
        .await?;
    if secret.id != made.secret_id {
        return Err(Failure::refused("the secret is another one than before"));
    }
    until("the worker to be back", async || {
        let nodes: Vec<Node> = client.get("/nodes").await?;
        let is_ready = nodes.iter().all(|node| node.status.state == "ready");
        Ok(if is_ready {
            Ok(())
        } else {
            Err("not all nodes are ready".to_owned())
        })
    })
    .await?;
    let tasks = tasks_of(client, &made.service_id).await?;
    let same = tasks.iter().find(|task| task.id == made.task_id);
    let is_running =
        same.is_some_and(|task| task.status.state == "running" && task.desired_state == "running");
    if !is_running || tasks.len() != 1 || !is_alive(made.pid) {
        let state = same.map_or("gone".to_owned(), |task| task.status.state.clone());
        return Err(Failure::refused(format!(
            "the task is {state}; it was to run on"
        )));
    }
    Ok(Told::new(
        (),
        [
            format!("secret {} is there", made.secret_id),
            format!("task {} has run all the time", made.task_id),
        ],
    ))
}

/// Steps 14 to 16: everything is taken down again.
async fn end(
    stage: &mut Stage,
    story: &mut Story,
    manager: &Client,
    made: &Made,
) -> Result<(), Failure> {
    let command = format!("docker service rm {SERVICE_NAME} && docker secret rm {SECRET_NAME}");
    story
        .step(
            "remove the service and the secret",
            &command,
            remove(manager, made),
        )
        .await?;
    let worker = stage.worker.client();
    story
        .step(
            "leave the cluster, the worker first",
            "docker swarm leave --force",
            leave(&worker, manager),
        )
        .await?;
    stage.leftovers.look_for_tasks();
    let command = "kill %1 %2";
    story
        .step("stop both daemons; nothing is left", command, stop(stage))
        .await
}

async fn remove(client: &Client, made: &Made) -> Result<Told<()>, Failure> {
    client
        .delete(&format!("/services/{}", segment(SERVICE_NAME)))
        .await?;
    until("the task's process to end", async || {
        let is_gone = !is_alive(made.pid);
        Ok(if is_gone {
            Ok(())
        } else {
            Err("it runs still".to_owned())
        })
    })
    .await?;
    client
        .delete(&format!("/secrets/{}", segment(SECRET_NAME)))
        .await?;
    let left: Vec<Named> = client.get(SECRET.route).await?;
    match left.len() {
        0 => Ok(Told::new(
            (),
            ["the task's process is gone, and its tmpfs with it".to_owned()],
        )),
        count => Err(Failure::refused(format!("{count} secrets are left"))),
    }
}

async fn leave(worker: &Client, manager: &Client) -> Result<Told<()>, Failure> {
    for client in [worker, manager] {
        swarm::leave(client, true).await?;
        let state = status::state(client).await?;
        if state != "inactive" {
            return Err(Failure::refused(format!(
                "after it left, a node is {state}"
            )));
        }
    }
    Ok(Told::new((), ["both are in no cluster".to_owned()]))
}

async fn stop(stage: &mut Stage) -> Result<Told<()>, Failure> {
    stage.worker.stop().await?;
    stage.manager.stop().await?;
    stage.leftovers.none()?;
    Ok(Told::new(
        (),
        ["no process, no mount; the directory goes now".to_owned()],
    ))
}

/// Looks again and again until something is there; `Ok(Err(_))` says what is there instead.
async fn until<T, F>(what: &str, mut look: impl FnMut() -> F) -> Result<T, Failure>
where
    F: Future<Output = Result<Result<T, String>, Failure>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await? {
            Ok(found) => return Ok(found),
            Err(instead) if Instant::now() > deadline => {
                return Err(Failure::refused(format!(
                    "waited for {what} in vain: {instead}"
                )));
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_written_as_sha256sum_does() {
        assert_eq!(hex(&[0, 15, 255]), "000fff");
    }

    #[test]
    fn the_script_never_prints_the_secret_itself() {
        assert!(!script().contains("cat "));
        assert!(script().contains(SECRET_NAME));
    }
}
