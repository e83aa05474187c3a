//! `waxseal service update` and `scale`.

use serde_json::{Value, json};

use super::{
    ROUTE, Service, WaitArgs,
    flags::{RegistryFlags, TaskFlags, add_env, list, part, remove_env},
    progress,
    reference::{name_key, resolve},
};
use crate::{
    client::Client,
    config::CONFIG,
    failure::Failure,
    info::Created,
    output::{self, shown},
    payload::{Kind, pairs},
    registry::Credentials,
    secret::SECRET,
};

const CONTAINER: [&str; 2] = ["TaskTemplate", "ContainerSpec"];
const PLACEMENT: [&str; 2] = ["TaskTemplate", "Placement"];

/// Change a service; tasks that must change are replaced
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(super) struct Args {
    #[arg(long, value_name = "COUNT")]
    replicas: Option<u64>,
    #[arg(long)]
    image: Option<String>,
    /// Command and its arguments, as one text split at blanks; "" for none
    #[arg(long, value_name = "COMMAND")]
    args: Option<String>,
    /// Set an environment variable; no place for a secret
    #[arg(long, value_name = "NAME=VALUE")]
    env_add: Vec<String>,
    /// Remove an environment variable
    #[arg(long, value_name = "NAME")]
    env_rm: Vec<String>,
    /// Add a secret, as in `service create --secret`
    #[arg(long, value_name = "NAME")]
    secret_add: Vec<String>,
    /// Take a secret away
    #[arg(long, value_name = "NAME")]
    secret_rm: Vec<String>,
    /// Add a config, as in `service create --config`
    #[arg(long, value_name = "NAME")]
    config_add: Vec<String>,
    /// Take a config away
    #[arg(long, value_name = "NAME")]
    config_rm: Vec<String>,
    /// Add a constraint, as in `service create --constraint`
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<String>,
    /// Remove a constraint, written as it was
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<String>,
    /// Set a label of the service
    #[arg(long, value_name = "KEY=VALUE")]
    label_add: Vec<String>,
    /// Remove a label of the service
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    #[command(flatten)]
    registry: RegistryFlags,
    /// Replace all tasks, though nothing changed
    #[arg(long)]
    force: bool,
    /// Back to the specification before the last change
    #[arg(long, conflicts_with = "with_registry_auth")]
    rollback: bool,
    #[command(flatten)]
    task: TaskFlags,
    #[command(flatten)]
    wait: WaitArgs,
    /// Name, id or start of an id
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// Change how many tasks services have
#[derive(Debug, clap::Args)]
pub(super) struct ScaleArgs {
    /// Services and how many tasks each is to have
    #[arg(required = true, value_name = "SERVICE=COUNT")]
    scales: Vec<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let service = Service::read(client, &args.service).await?;
    let mut spec = service.spec.clone();
    let image = args.image.as_deref().unwrap_or(service.image());
    let credentials = args.registry.credentials(image).await?;
    let suffix = if args.rollback {
        "&rollback=previous"
    } else {
        edit(client, &service, &mut spec, &args).await?;
        ""
    };
    replace(client, &service, &spec, suffix, credentials.as_ref()).await?;
    output::line(shown(&service.id))?;
    progress::wait(client, &service.id, &args.wait).await
}

pub(super) async fn scale(client: &Client, args: ScaleArgs) -> Result<(), Failure> {
    let parsed: Vec<(&str, u64)> = args
        .scales
        .iter()
        .map(|text| {
            let pair = text
                .rsplit_once('=')
                .and_then(|(name, count)| Some((name, count.parse().ok()?)));
            pair.ok_or_else(|| {
                Failure::usage(format!("{text}: this is not SERVICE=COUNT"))
                    .hint("for example web=3")
            })
        })
        .collect::<Result<_, _>>()?;
    let mut ids = Vec::with_capacity(parsed.len());
    for (name, count) in parsed {
        let service = Service::read(client, name).await?;
        let mut spec = service.spec.clone();
        set_replicas(&service, &mut spec, count)?;
        replace(client, &service, &spec, "", None).await?;
        output::line(format!("{} scaled to {count}", shown(service.name())))?;
        ids.push(service.id);
    }
    for id in ids {
        progress::wait(client, &id, &args.wait).await?;
    }
    Ok(())
}

async fn replace(
    client: &Client,
    service: &Service,
    spec: &Value,
    suffix: &str,
    credentials: Option<&Credentials>,
) -> Result<(), Failure> {
    let path = format!(
        "{ROUTE}/{}/update?registryAuthFrom=spec&version={}{suffix}",
        service.id, service.version.index
    );
    let answer: Created = client.post_with(&path, spec, credentials).await?;
    for warning in answer.warnings.iter().flatten() {
        eprintln!("warning: {}", shown(warning));
    }
    Ok(())
}

fn set_replicas(service: &Service, spec: &mut Value, count: u64) -> Result<(), Failure> {
    if let Some(Some(_)) = service.completions() {
        part(spec, &["Mode", "ReplicatedJob"])["TotalCompletions"] = json!(count);
        return Ok(());
    }
    if service.is_global() || service.completions().is_some() {
        return Err(Failure::refused(format!(
            "{} has one task on every node",
            shown(service.name())
        ))
        .hint(
            "only replicated services are scaled; --constraint-add narrows where a global one runs",
        ));
    }
    part(spec, &["Mode", "Replicated"])["Replicas"] = json!(count);
    Ok(())
}

async fn edit(
    client: &Client,
    service: &Service,
    spec: &mut Value,
    args: &Args,
) -> Result<(), Failure> {
    if let Some(count) = args.replicas {
        set_replicas(service, spec, count)?;
    }
    let container = part(spec, &CONTAINER);
    if let Some(image) = &args.image {
        container["Image"] = json!(image);
    }
    if let Some(command) = &args.args {
        container["Args"] = command.split_whitespace().collect::<Vec<_>>().into();
    }
    args.task.write(spec)?;
    let env = list(spec, &CONTAINER, "Env");
    args.env_rm.iter().for_each(|name| remove_env(env, name));
    add_env(env, &args.env_add)?;
    let constraints = list(spec, &PLACEMENT, "Constraints");
    constraints.retain(|constraint| !args.constraint_rm.iter().any(|gone| constraint == gone));
    constraints.extend(
        args.constraint_add
            .iter()
            .map(|constraint| json!(constraint)),
    );
    let added = pairs(&args.label_add, "--label-add")?;
    let labels = part(spec, &["Labels"]);
    if let Some(labels) = labels.as_object_mut() {
        args.label_rm
            .iter()
            .for_each(|key| drop(labels.remove(key)));
        labels.extend(added);
    }
    references(client, spec, SECRET, &args.secret_rm, &args.secret_add).await?;
    references(client, spec, CONFIG, &args.config_rm, &args.config_add).await?;
    if args.force {
        let count = spec
            .pointer("/TaskTemplate/ForceUpdate")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        part(spec, &["TaskTemplate"])["ForceUpdate"] = json!(count + 1);
    }
    Ok(())
}

/// Takes references out and puts others in.
async fn references(
    client: &Client,
    spec: &mut Value,
    kind: Kind,
    gone: &[String],
    added: &[String],
) -> Result<(), Failure> {
    let added = resolve(client, kind, added).await?;
    if gone.is_empty() && added.is_empty() {
        return Ok(());
    }
    let key = if kind.noun == "secret" {
        "Secrets"
    } else {
        "Configs"
    };
    let list = list(spec, &CONTAINER, key);
    for name in gone {
        let before = list.len();
        list.retain(|reference| reference[name_key(kind)] != json!(name));
        if list.len() == before {
            return Err(Failure::usage(format!(
                "the service does not use the {} {name}",
                kind.noun
            ))
            .hint("`waxseal service inspect` lists what it uses"));
        }
    }
    list.extend(added);
    Ok(())
}
