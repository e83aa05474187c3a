//! `waxseal service create`.

use serde_json::{Value, json};

use super::{
    HOST_IMAGE, ROUTE, WaitArgs,
    flags::{RegistryFlags, TaskFlags, add_env, list, part},
    progress,
    reference::resolve,
};
use crate::{
    client::{Client, segment},
    config::CONFIG,
    failure::Failure,
    info::Created,
    output::{self, shown},
    payload::pairs,
    registry::Credentials,
    secret::SECRET,
};

/// Create a service: a command that runs on the nodes themselves, or in an image's containers
#[derive(Debug, clap::Args)]
#[command(after_help = "\
For example: waxseal service create --name web --secret db_password -- /usr/bin/web --port 80
Image host, the default, runs the command as a process of the node, with a mount namespace and a
/run/secrets of its own; any other image needs nodes that run a Docker Engine.")]
pub(super) struct Args {
    /// Name of the service
    #[arg(long)]
    name: Option<String>,
    /// Image to run, or host
    #[arg(long, default_value = HOST_IMAGE)]
    image: String,
    /// As many tasks as --replicas says, or one on every node; of a job they run to their end once
    #[arg(
        long,
        value_parser = ["replicated", "global", "replicated-job", "global-job"],
        default_value = "replicated"
    )]
    mode: String,
    /// How many tasks
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u64>,
    /// How many tasks of a replicated job at a time; all if this is not given
    #[arg(long, value_name = "COUNT")]
    max_concurrent: Option<u64>,
    /// An environment variable; no place for a secret
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// A secret, as file /run/secrets/NAME or elsewhere (source=NAME,target=FILE,uid=,gid=,mode=)
    #[arg(long = "secret", value_name = "NAME")]
    secrets: Vec<String>,
    /// A config, as file /NAME or elsewhere
    #[arg(long = "config", value_name = "NAME")]
    configs: Vec<String>,
    /// Which nodes: node.id, node.role, node.hostname, node.labels.KEY with == or !=
    #[arg(long = "constraint", value_name = "CONSTRAINT")]
    constraints: Vec<String>,
    /// A label of the service
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Network: host, or none; containers also the engine's default (bridge)
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    #[command(flatten)]
    task: TaskFlags,
    #[command(flatten)]
    wait: WaitArgs,
    /// Command and its arguments
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    command: Vec<String>,
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let credentials = args.registry.credentials(&args.image).await?;
    let spec = spec(client, &args).await?;
    let created = create(client, &spec, credentials.as_ref()).await?;
    output::line(&created.id)?;
    progress::wait(client, &created.id, &args.wait).await
}

/// Creates a service from a whole specification.
pub(crate) async fn create(
    client: &Client,
    spec: &Value,
    credentials: Option<&Credentials>,
) -> Result<Created, Failure> {
    let path = format!("{ROUTE}/create");
    let created: Created = client.post_with(&path, spec, credentials).await?;
    for warning in created.warnings.iter().flatten() {
        eprintln!("warning: {}", shown(warning));
    }
    Ok(created)
}

async fn spec(client: &Client, args: &Args) -> Result<Value, Failure> {
    if args.image == HOST_IMAGE && args.command.is_empty() {
        return Err(Failure::usage("there is no command to run")
            .hint("write it after --, as in `waxseal service create --name web -- /usr/bin/web`"));
    }
    if args.mode.starts_with("global") && args.replicas.is_some() {
        return Err(
            Failure::usage(format!("--replicas does not go with --mode {}", args.mode))
                .hint("a global service has one task on every node that its constraints allow"),
        );
    }
    if args.mode != "replicated-job" && args.max_concurrent.is_some() {
        return Err(Failure::usage(format!(
            "--max-concurrent does not go with --mode {}",
            args.mode
        ))
        .hint("it is for --mode replicated-job"));
    }
    let replicas = args.replicas.unwrap_or(1);
    let mut spec = json!({
        "Name": args.name.as_deref().unwrap_or_default(),
        "Labels": pairs(&args.labels, "--label")?,
        "TaskTemplate": { "ContainerSpec": { "Image": args.image, "Args": args.command } },
        "Mode": match args.mode.as_str() {
            "global" => json!({ "Global": {} }),
            "global-job" => json!({ "GlobalJob": {} }),
            "replicated-job" => json!({ "ReplicatedJob": {
                "MaxConcurrent": args.max_concurrent.unwrap_or(replicas),
                "TotalCompletions": replicas,
            } }),
            _ => json!({ "Replicated": { "Replicas": replicas } }),
        },
    });
    args.task.write(&mut spec)?;
    const CONTAINER: [&str; 2] = ["TaskTemplate", "ContainerSpec"];
    if !args.env.is_empty() {
        add_env(list(&mut spec, &CONTAINER, "Env"), &args.env)?;
    }
    if !args.constraints.is_empty() {
        part(&mut spec, &["TaskTemplate", "Placement"])["Constraints"] = json!(args.constraints);
    }
    // What is referred to is looked up last: the rest is checked without the cluster.
    let secrets = resolve(client, SECRET, &args.secrets).await?;
    let configs = resolve(client, CONFIG, &args.configs).await?;
    let mut networks = Vec::with_capacity(args.networks.len());
    for network in &args.networks {
        networks.push(json!({ "Target": network_id(client, network).await? }));
    }
    let container = part(&mut spec, &CONTAINER);
    for (key, references) in [("Secrets", secrets), ("Configs", configs)] {
        if !references.is_empty() {
            container[key] = references.into();
        }
    }
    if !networks.is_empty() {
        part(&mut spec, &["TaskTemplate"])["Networks"] = networks.into();
    }
    Ok(spec)
}

async fn network_id(client: &Client, name: &str) -> Result<String, Failure> {
    let network: Value = client
        .get(&format!("/networks/{}?scope=swarm", segment(name)))
        .await?;
    Ok(network
        .get("Id")
        .and_then(Value::as_str)
        .unwrap_or(name)
        .to_owned())
}
