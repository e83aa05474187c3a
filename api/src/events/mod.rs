//! `GET /events`: what changed of late and from now on, one JSON object per line.

mod hub;

use std::sync::Arc;

use axum::{extract::State, response::Response};
use bytes::Bytes;
use futures::{StreamExt, stream};
use time::OffsetDateTime;
use waxseal_cluster::events::Event;

pub(crate) use hub::Hub;

use crate::{
    cluster::Cluster,
    error::ApiError,
    extract::Params,
    filters::Filters,
    respond::{self, APPLICATION_JSON},
    server::Shared,
    table::{Routes, doc},
};

const FILTERS: &[&str] = &[
    "type",
    "event",
    "scope",
    "secret",
    "config",
    "node",
    "service",
    "network",
    "label",
    "container",
    "image",
    "volume",
    "plugin",
    "daemon",
];
/// Filter keys that an object's id or name begins with, whatever its kind: an engine does not
/// look at that.
const NAMES: &[&str] = &[
    "secret",
    "config",
    "node",
    "service",
    "network",
    "container",
    "volume",
    "plugin",
    "daemon",
];

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new().get(
        "/events",
        doc("What changes, one JSON object per line")
            .query(&["since", "until", "filters"])
            .answers("Event"),
        events::<C>,
    )
}

async fn events<C: Cluster>(
    State(api): State<Shared<C>>,
    params: Params,
) -> Result<Response, ApiError> {
    let since = unix_time(params.text("since"))?;
    let until = unix_time(params.text("until"))?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::bad_request(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            params.text("since"),
            params.text("until")
        )));
    }
    let wanted = Wanted {
        since,
        until,
        filters: params.filters(FILTERS)?,
    };
    let now = api.cluster.now();
    let json = Some(APPLICATION_JSON);
    let lines = |lines: Vec<Bytes>| stream::iter(lines.into_iter().map(Ok));
    match until {
        // Nothing can be added to the past.
        Some(until) if until <= now => {
            let past = api.hub.recent(&wanted);
            Ok(respond::stream(&api, json, lines(past)))
        }
        _ => {
            let left = until.map(|until| (until - now).unsigned_abs());
            let place = api.place_for_reader()?;
            let (past, live) = api.hub.subscribe(Arc::new(wanted));
            let live = live.map(move |line| {
                let _place = &place;
                Ok(line)
            });
            let both = lines(past).chain(live);
            let ended = async move {
                match left {
                    Some(left) => tokio::time::sleep(left).await,
                    None => std::future::pending().await,
                }
            };
            Ok(respond::stream(&api, json, both.take_until(ended)))
        }
    }
}

/// What a reader wants to see.
#[derive(Debug)]
struct Wanted {
    since: Option<OffsetDateTime>,
    until: Option<OffsetDateTime>,
    filters: Filters,
}

impl Wanted {
    /// Whether past events are asked for at all.
    fn past(&self) -> bool {
        self.since.is_some() || self.until.is_some()
    }

    fn in_time(&self, event: &Event) -> bool {
        let time = event.time;
        self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time <= until)
    }

    fn passes(&self, event: &Event) -> bool {
        let filters = &self.filters;
        if filters.is_empty() {
            return true;
        }
        let name = event.attributes.get("name").map_or("", String::as_str);
        let is_named = |key: &&str| filters.prefix(key, &event.id) || filters.prefix(key, name);
        filters.any("type", |kind| kind == event.kind)
            && filters.any("event", |action| action == event.action.as_str())
            && filters.any("scope", |scope| scope == "swarm")
            && filters.labels("label", &event.attributes)
            && filters.any("image", |image| image == event.id)
            && NAMES.iter().all(is_named)
    }
}

/// Reads unix seconds with up to 9 digits of fraction; empty is none.
///
/// # Errors
/// 500 in the words of the engine's parser.
fn unix_time(text: &str) -> Result<Option<OffsetDateTime>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let wrong = |part: &str| {
        ApiError::internal(format!(
            "strconv.ParseInt: parsing \"{part}\": invalid syntax"
        ))
    };
    let seconds: i64 = seconds.parse().map_err(|_| wrong(seconds))?;
    let nanos = if fraction.is_empty() {
        0
    } else if fraction.len() <= 9 && fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        format!("{fraction:0<9}")
            .parse::<i128>()
            .map_err(|_| wrong(fraction))?
    } else {
        return Err(wrong(fraction));
    };
    let nanos = i128::from(seconds) * i128::from(NANOS_PER_SECOND) + nanos;
    OffsetDateTime::from_unix_timestamp_nanos(nanos)
        .map(Some)
        .map_err(|_| {
            ApiError::internal(format!(
                "strconv.ParseInt: parsing \"{seconds}\": value out of range"
            ))
        })
}

const NANOS_PER_SECOND: i64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_times_in_the_engines_words() {
        let text = |input: &str| unix_time(input).unwrap_err().message;
        assert_eq!(
            text("abc"),
            "strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
        assert!(text("1.x").contains("invalid syntax"));
        assert!(text("1.1234567890").contains("invalid syntax"));
        assert!(text("9223372036854775807").contains("out of range"));
    }

    #[test]
    fn reads_fractions() {
        let time = unix_time("10.5").unwrap().unwrap();
        assert_eq!(time.unix_timestamp_nanos(), 10_500_000_000);
        assert!(unix_time("").unwrap().is_none());
    }
}
