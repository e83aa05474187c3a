//! `waxseal events`.

use http_body_util::BodyExt;
use serde::Deserialize;
use std::collections::BTreeMap;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    client::{Client, segment},
    failure::{Exit, Failure},
    output::{self, Format},
    payload::filter_query,
};

/// Longest line of the stream; an event has a few hundred bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// Show what changes in the cluster, as it happens
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Begin with what happened since: unix seconds, RFC 3339, or a span such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End there
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only those that match: type, event, secret, config, node, service
    #[arg(short, long = "filter", value_name = "KEY=VALUE")]
    filters: Vec<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// A line of `GET /events`.
#[derive(Debug, Deserialize)]
struct Event {
    #[serde(rename = "Type", default)]
    kind: String,
    #[serde(rename = "Action", default)]
    action: String,
    #[serde(rename = "Actor", default)]
    actor: Actor,
    #[serde(rename = "timeNano", default)]
    time_nanos: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: BTreeMap<String, String>,
}

/// The last line of a stream that the daemon ended.
#[derive(Deserialize)]
struct Ended {
    error: String,
}

pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let mut query = vec![filter_query(&args.filters)?];
    for (name, text) in [("since", &args.since), ("until", &args.until)] {
        if let Some(text) = text {
            query.push(format!("{name}={}", segment(&unix_time(name, text)?)));
        }
    }
    query.retain(|part| !part.is_empty());
    let mut body = client
        .stream(&format!("/events?{}", query.join("&")))
        .await?;
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("the stream of events broke off: {error}"),
            )
            .hint("the daemon may have been stopped; `waxseal status` tells")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let rest = pending.split_off(end + 1);
            let line = std::mem::replace(&mut pending, rest);
            show(args.format, &line)?;
        }
        if pending.len() > MAX_LINE_BYTES {
            return Err(Failure::refused("the daemon sent an event without an end"));
        }
    }
    Ok(())
}

fn show(format: Format, line: &[u8]) -> Result<(), Failure> {
    if format == Format::Json {
        return output::raw(line);
    }
    let Ok(event) = serde_json::from_slice::<Event>(line) else {
        return match serde_json::from_slice::<Ended>(line) {
            Ok(Ended { error }) => Err(Failure::refused(error)),
            Err(_) => Ok(()),
        };
    };
    let time = OffsetDateTime::from_unix_timestamp_nanos(event.time_nanos.into())
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default();
    let attributes = output::labels(&event.actor.attributes);
    output::line(output::shown(&format!(
        "{time} {} {} {} ({attributes})",
        event.kind, event.action, event.actor.id
    )))
}

/// A point of time as the API takes it.
fn unix_time(flag: &str, text: &str) -> Result<String, Failure> {
    if text
        .split('.')
        .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Ok(text.to_owned());
    }
    if let Ok(time) = OffsetDateTime::parse(text, &Rfc3339) {
        return Ok(seconds(time));
    }
    match humantime::parse_duration(text) {
        Ok(span) => Ok(seconds(output::now() - span)),
        Err(_) => Err(
            Failure::usage(format!("--{flag} {text}: this is no point of time")).hint(
                "write unix seconds, 2026-02-18T09:00:00Z, or a span back from now such as 10m",
            ),
        ),
    }
}

fn seconds(time: OffsetDateTime) -> String {
    format!("{}.{:09}", time.unix_timestamp(), time.nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        assert_eq!(unix_time("since", "1795149403.5").unwrap(), "1795149403.5");
        assert_eq!(
            unix_time("since", "1970-01-01T00:00:07Z").unwrap(),
            "7.000000000"
        );
        assert!(unix_time("since", "10m").is_ok());
        assert!(unix_time("since", "yesterday").is_err());
        assert!(unix_time("since", "").is_err());
    }
}
