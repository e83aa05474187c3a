//! `waxseal service ls`, `ps` and `inspect`.

use serde_json::Value;

use super::{ROUTE, Service, tasks};
use crate::{
    client::{Client, filters},
    failure::Failure,
    output::{self, Format, Pairs, Table, ago},
    payload::{each, filter_query, typed},
};

/// List services
#[derive(Debug, clap::Args)]
#[command(visible_alias = "list")]
pub(super) struct Args {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Only those that match: id, name (start of it), label, mode
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

/// List the tasks of services
#[derive(Debug, clap::Args)]
pub(super) struct PsArgs {
    /// Names, ids or starts of ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Show services whole
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// Names, ids or starts of ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let path = format!("{ROUTE}?status=true&{}", filter_query(&args.filters)?);
    let raw: Value = client.get(&path).await?;
    if args.format == Format::Json && !args.quiet {
        return output::json(&raw);
    }
    let services: Vec<Service> = typed(raw)?;
    if args.quiet {
        return services
            .iter()
            .try_for_each(|service| output::line(output::shown(&service.id)));
    }
    let mut table = Table::new(&["ID", "NAME", "MODE", "TASKS", "IMAGE"]);
    for service in &services {
        let tasks = service
            .service_status
            .as_ref()
            .map_or(String::new(), |status| {
                let running = format!("{}/{}", status.running_tasks, status.desired_tasks);
                let done = status.completed_tasks;
                match service.completions() {
                    Some(Some(all)) => format!("{running} ({done}/{all} completed)"),
                    Some(None) => format!("{running} ({done} completed)"),
                    None => running,
                }
            });
        table.row([
            service.id.clone(),
            service.name().to_owned(),
            service.mode().to_owned(),
            tasks,
            without_digest(service.image()).to_owned(),
        ]);
    }
    table.print()
}

/// An image's name and tag: the digest, which is shown by inspect, fills a line.
fn without_digest(image: &str) -> &str {
    image.split_once('@').map_or(image, |(name, _)| name)
}

pub(super) async fn ps(client: &Client, args: PsArgs) -> Result<(), Failure> {
    let mut ids = Vec::with_capacity(args.services.len());
    for name in &args.services {
        ids.push(Service::read(client, name).await?.id);
    }
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let path = format!("/tasks?{}", filters(&[("service", &ids)]));
    tasks::show(client, &path, args.quiet, args.format).await
}

pub(super) async fn inspect(client: &Client, args: InspectArgs) -> Result<(), Failure> {
    let (found, fault) = each(client, ROUTE, &args.services).await;
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            for raw in found {
                print(&typed(raw)?)?;
            }
        }
    }
    fault.map_or(Ok(()), Err)
}

fn print(service: &Service) -> Result<(), Failure> {
    let texts = |pointer: &str| -> Vec<String> {
        let list = service.spec.pointer(pointer).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(|text| text.as_str().map(str::to_owned))
            .collect()
    };
    let references = |pointer: &str, name: &str| -> Vec<String> {
        let list = service.spec.pointer(pointer).and_then(Value::as_array);
        let shown = |reference: &Value| {
            let text = |pointer| {
                reference
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            format!("{} as {}", text(name), text("/File/Name"))
        };
        list.into_iter().flatten().map(shown).collect()
    };
    let replicas = service
        .replicas()
        .map(|count| format!(", {count} tasks"))
        .unwrap_or_default();
    let update = service.update_status.as_ref();
    let update = update.map(|update| format!("{} ({})", update.state, update.message));
    let previous = if service.previous_spec.is_some() {
        "kept, for --rollback"
    } else {
        ""
    };
    let mut pairs = Pairs::default();
    pairs
        .add("ID", &service.id)
        .add("Name", service.name())
        .add("Created", ago(&service.created_at))
        .add("Updated", ago(&service.updated_at))
        .add("Mode", format!("{}{replicas}", service.mode()))
        .add("Image", service.image())
        .add(
            "Command",
            texts("/TaskTemplate/ContainerSpec/Command").join(" "),
        )
        .add(
            "Arguments",
            texts("/TaskTemplate/ContainerSpec/Args").join(" "),
        )
        .add("User", service.text("/TaskTemplate/ContainerSpec/User"))
        .add("Directory", service.text("/TaskTemplate/ContainerSpec/Dir"))
        .add_all("Environment", texts("/TaskTemplate/ContainerSpec/Env"))
        .add_all(
            "Secrets",
            references("/TaskTemplate/ContainerSpec/Secrets", "/SecretName"),
        )
        .add_all(
            "Configs",
            references("/TaskTemplate/ContainerSpec/Configs", "/ConfigName"),
        )
        .add_all("Constraints", texts("/TaskTemplate/Placement/Constraints"))
        .add("Last change", update.unwrap_or_default())
        .add("Former version", previous);
    pairs.print()
}
