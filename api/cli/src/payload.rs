//! What `waxseal secret` and `waxseal config` have in common.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    client::{Client, filters, segment},
    failure::Failure,
    info::{Created, Named},
    input,
    output::{self, Format, ListFormat, Pairs, Table, ago},
};

/// Secret or config.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    /// One of it.
    pub(crate) noun: &'static str,
    /// Its route.
    pub(crate) route: &'static str,
    /// Largest payload (spec/engine-api.md §5.4, §5.5).
    pub(crate) max_bytes: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// Its name: letters, digits, - _ and . (at most 64)
    name: String,
    /// File with the data; - is standard input
    #[arg(default_value = "-")]
    file: String,
    /// A label
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The data is a template, expanded for each task where it runs; golang is the driver offered
    #[arg(long, value_name = "DRIVER")]
    template_driver: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    shown: ListFormat,
    /// Only those that match: id, name (start of it) or label
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Names, ids or starts of ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Names, ids or starts of ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// What is sent to create one.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spec<'a> {
    name: &'a str,
    labels: serde_json::Map<String, serde_json::Value>,
    data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Driver<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Driver<'a> {
    name: &'a str,
}

pub(crate) async fn create(client: &Client, kind: Kind, args: CreateArgs) -> Result<(), Failure> {
    let labels = pairs(&args.labels, "--label")?;
    let data = input::payload(&args.file, kind.noun, kind.max_bytes)?;
    let driver = args.template_driver.as_deref();
    let created = send(client, kind, &args.name, labels, driver, &data).await?;
    output::line(&created.id)
}

/// Creates one from bytes.
pub(crate) async fn send(
    client: &Client,
    kind: Kind,
    name: &str,
    labels: serde_json::Map<String, serde_json::Value>,
    template_driver: Option<&str>,
    data: &[u8],
) -> Result<Created, Failure> {
    let data = Zeroizing::new(STANDARD.encode(data));
    client
        .post(
            &format!("{}/create", kind.route),
            &Spec {
                name,
                labels,
                data: &data,
                templating: template_driver.map(|name| Driver { name }),
            },
        )
        .await
}

pub(crate) async fn list(client: &Client, kind: Kind, args: ListArgs) -> Result<(), Failure> {
    let path = format!("{}?{}", kind.route, filter_query(&args.filters)?);
    let raw: serde_json::Value = client.get(&path).await?;
    let objects = args.shown.for_table(raw, |objects: &Vec<Named>| {
        objects.iter().map(|object| object.id.as_str()).collect()
    });
    let Some(objects) = objects? else {
        return Ok(());
    };
    let mut table = Table::new(&["ID", "NAME", "CREATED", "UPDATED"]);
    for object in objects {
        let (created, updated) = (ago(&object.created_at), ago(&object.updated_at));
        table.row([object.id, object.spec.name, created, updated]);
    }
    table.print()
}

pub(crate) async fn inspect(client: &Client, kind: Kind, args: InspectArgs) -> Result<(), Failure> {
    let (found, fault) = each(client, kind.route, &args.names).await;
    match args.format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            for raw in found {
                let data = raw.pointer("/Spec/Data").and_then(|data| data.as_str());
                let data = data.and_then(|data| STANDARD.decode(data).ok());
                let object = typed::<Named>(raw)?;
                let mut pairs = Pairs::default();
                pairs
                    .add("ID", object.id)
                    .add("Name", object.spec.name)
                    .add("Labels", output::labels(&object.spec.labels.0))
                    .add("Created", object.created_at)
                    .add("Updated", object.updated_at);
                if let Some(data) = data {
                    pairs.add("Data", String::from_utf8_lossy(&data));
                }
                pairs.print()?;
            }
        }
    }
    fault.map_or(Ok(()), Err)
}

pub(crate) async fn remove(client: &Client, kind: Kind, args: RemoveArgs) -> Result<(), Failure> {
    remove_each(client, kind.route, &args.names, "").await
}

/// Reads objects by name, in order, up to the first that cannot be read.
pub(crate) async fn each(
    client: &Client,
    route: &str,
    names: &[String],
) -> (Vec<serde_json::Value>, Option<Failure>) {
    let mut found = Vec::with_capacity(names.len());
    let mut fault: Option<Failure> = None;
    for name in names {
        match client.get(&format!("{route}/{}", segment(name))).await {
            Ok(object) => found.push(object),
            Err(failure) => {
                if let Some(earlier) = fault.replace(failure) {
                    earlier.report();
                }
            }
        }
    }
    (found, fault)
}

/// Removes all that can be removed; the last failure is the answer, others are told before.
pub(crate) async fn remove_each(
    client: &Client,
    route: &str,
    names: &[String],
    query: &str,
) -> Result<(), Failure> {
    let mut outcome = Ok(());
    for name in names {
        match client
            .delete(&format!("{route}/{}{query}", segment(name)))
            .await
        {
            Ok(()) => output::line(output::shown(name))?,
            Err(failure) => {
                if let Err(earlier) = std::mem::replace(&mut outcome, Err(failure)) {
                    earlier.report();
                }
            }
        }
    }
    outcome
}

/// An answer as what it should be.
pub(crate) fn typed<T: serde::de::DeserializeOwned>(raw: serde_json::Value) -> Result<T, Failure> {
    serde_json::from_value(raw).map_err(|error| {
        Failure::refused(format!("the daemon's answer is not understood: {error}"))
    })
}

/// `KEY=VALUE` texts; one without `=` has an empty value.
pub(crate) fn pairs(
    texts: &[String],
    flag: &str,
) -> Result<serde_json::Map<String, serde_json::Value>, Failure> {
    let mut map = serde_json::Map::new();
    for text in texts {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            return Err(Failure::usage(format!("{flag} {text}: the key is empty"))
                .hint(format!("write it as {flag} KEY=VALUE")));
        }
        map.insert(key.to_owned(), value.into());
    }
    Ok(map)
}

/// `KEY=VALUE` filters as a query; values of one key are alternatives.
pub(crate) fn filter_query(texts: &[String]) -> Result<String, Failure> {
    let mut by_key: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for text in texts {
        let Some((key, value)) = text.split_once('=') else {
            return Err(
                Failure::usage(format!("--filter {text}: there is no = in it"))
                    .hint("write it as --filter KEY=VALUE, for example --filter name=db"),
            );
        };
        by_key.entry(key).or_default().push(value);
    }
    if by_key.is_empty() {
        return Ok(String::new());
    }
    let pairs: Vec<(&str, &[&str])> = by_key
        .iter()
        .map(|(key, values)| (*key, values.as_slice()))
        .collect();
    Ok(filters(&pairs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_needs_a_key() {
        assert!(pairs(&["=x".to_owned()], "--label").is_err());
        let map = pairs(&["a=b=c".to_owned(), "d".to_owned()], "--label").unwrap();
        assert_eq!(
            (map["a"].as_str(), map["d"].as_str()),
            (Some("b=c"), Some(""))
        );
    }

    #[test]
    fn a_filter_needs_a_value() {
        assert!(filter_query(&["name".to_owned()]).is_err());
        assert_eq!(filter_query(&[]).unwrap(), "");
    }
}
