//! Logs of services and tasks.
//!
//! Without a terminal each line is a frame: a head of 8 bytes (stream number,
//! three zeros, length as u32 big endian), then the line with its newline. One
//! frame holds one line; the CLI relies on it. With a terminal the lines are
//! written as they are.

use std::{fmt::Write as _, time::Duration};

use axum::{extract::State as Shares, response::Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{
    StreamExt,
    future::{self, Either},
    stream::BoxStream,
};
use http::HeaderValue;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use waxseal_cluster::objects::{Service, Task, TaskSpec};

use crate::{
    cluster::{Cluster, ClusterError, LogLine, LogRequest},
    error::{ApiError, found},
    extract::{Id, Params},
    reader::{self, Inlet},
    respond,
    server::Shared,
    table::{Routes, doc},
    version::ApiVersion,
};

/// Content type of frames, from 1.42 on.
const FRAMES: HeaderValue = HeaderValue::from_static("application/vnd.docker.multiplexed-stream");
/// Content type of bare lines, from 1.42 on.
const RAW: HeaderValue = HeaderValue::from_static("application/vnd.docker.raw-stream");
/// Bytes before a frame's payload.
const HEAD_BYTES: usize = 8;
/// Stream number of standard output.
const STDOUT: u8 = 1;
/// Stream number of standard error.
const STDERR: u8 = 2;
/// Stream number of the daemon's own errors.
const SYSTEM_ERROR: u8 = 3;
/// Room for time and details before a line.
const PREFIX_BYTES: usize = 200;
/// How long what a task prints now waits for a reader that lets all room fill up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The last words to one that takes nothing for longer.
const TOO_SLOW: &str =
    "lines came faster than they were read, and none was read for 10 s; ask again with since";

/// What a caller may ask for.
const QUERY: [&str; 8] = [
    "stdout",
    "stderr",
    "follow",
    "since",
    "until",
    "timestamps",
    "tail",
    "details",
];

/// The routes of this module.
pub(crate) fn routes<C: Cluster>() -> Routes<C> {
    Routes::new()
        .get(
            "/services/{id}/logs",
            doc("What a service's tasks wrote, in frames")
                .query(&QUERY)
                .media_type("application/vnd.docker.multiplexed-stream"),
            of_service,
        )
        .get(
            "/tasks/{id}/logs",
            doc("What a task wrote, in frames")
                .query(&QUERY)
                .media_type("application/vnd.docker.multiplexed-stream"),
            of_task,
        )
}

async fn of_service<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    Id(id): Id,
    params: Params,
) -> Result<Response, ApiError> {
    let query = Query::of(&params)?;
    let (id, tty) = api
        .cluster
        .read(move |state| {
            let service = found(state.find_service(&id), "service", &id)?;
            Ok::<_, ApiError>((service.id.clone(), service_has_tty(&service)))
        })
        .await??;
    answer(&api, version, tty, query.of_service(id)).await
}

async fn of_task<C: Cluster>(
    Shares(api): Shares<Shared<C>>,
    version: ApiVersion,
    Id(id): Id,
    params: Params,
) -> Result<Response, ApiError> {
    let query = Query::of(&params)?;
    let (id, tty) = api
        .cluster
        .read(move |state| {
            let task = found(state.find_task(&id), "task", &id)?;
            Ok::<_, ApiError>((task.id.clone(), task_has_tty(&task)))
        })
        .await??;
    answer(&api, version, tty, query.of_task(id)).await
}

fn service_has_tty(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.and_then(|spec| spec.task.as_ref())
        .is_some_and(has_tty)
}

fn task_has_tty(task: &Task) -> bool {
    task.spec.as_ref().is_some_and(has_tty)
}

fn has_tty(spec: &TaskSpec) -> bool {
    spec.container
        .as_ref()
        .is_some_and(|container| container.tty)
}

/// Asks for the lines and sends them as they come. The lines are no longer
/// asked for as soon as the client is gone, since the body is dropped then.
async fn answer<C: Cluster>(
    api: &Shared<C>,
    version: ApiVersion,
    tty: bool,
    mut query: Query,
) -> Result<Response, ApiError> {
    let place = api.place_for_reader()?;
    let now = api.cluster.now();
    let until = query.until;
    // Nothing is printed in the past.
    query.request.follow &= until.is_none_or(|until| until > now);
    let follow = query.request.follow;
    let (inlet, chunks) = reader::queue();
    let reading = Reading {
        form: query.form(tty),
        until,
        live_since: follow.then_some(now),
        inlet,
    };
    let lines = api.cluster.logs(query.request).await?;
    let ended = match until.filter(|_| follow) {
        Some(until) => Either::Left(tokio::time::sleep((until - now).unsigned_abs())),
        None => Either::Right(future::pending()),
    };
    // Also while the client takes nothing; it goes with the body.
    let mut tasks = JoinSet::new();
    tasks.spawn(reading.run(lines.take_until(ended).boxed()));
    let content_type = version
        .is_modern()
        .then_some(if tty { RAW } else { FRAMES });
    let chunks = chunks.map(move |chunk| {
        let _held = (&place, &tasks);
        Ok(chunk)
    });
    Ok(respond::stream(api, content_type, chunks))
}

/// Turns lines into what waits for a reader.
struct Reading {
    form: Form,
    /// Later lines are left out.
    until: Option<OffsetDateTime>,
    /// Lines newer than this come from tasks that go on; `None` for a reader that does
    /// not follow.
    live_since: Option<OffsetDateTime>,
    inlet: Inlet,
}

impl Reading {
    /// What was printed before waits for its reader, and the nodes with it; what is printed
    /// now ends a reader that takes nothing of what waits.
    async fn run(self, mut lines: BoxStream<'static, Result<LogLine, ClusterError>>) {
        while let Some(line) = lines.next().await {
            let is_after = |limit: Option<OffsetDateTime>| {
                let time = line.as_ref().ok().map(|line| line.time);
                time.zip(limit).is_some_and(|(time, limit)| time > limit)
            };
            if is_after(self.until) {
                continue;
            }
            let putting = self.inlet.put(self.form.chunk(&line));
            let is_read = match is_after(self.live_since) {
                true => tokio::time::timeout(PATIENCE, putting).await,
                false => Ok(putting.await),
            };
            match is_read {
                // A failure is the last thing that is written.
                Ok(true) if line.is_ok() => {}
                Ok(_) => return,
                Err(_) => {
                    let error = ClusterError::Unavailable(TOO_SLOW.to_owned());
                    self.inlet.put_last(self.form.error(&error));
                    return;
                }
            }
        }
    }
}

/// What the query asks for.
struct Query {
    request: LogRequest,
    /// Of the lines that are asked for: a Docker Engine looks at the last ones first, too.
    until: Option<OffsetDateTime>,
    timestamps: bool,
    details: bool,
}

impl Query {
    /// Reads the query; statuses and texts are those of the engine.
    fn of(params: &Params) -> Result<Query, ApiError> {
        let (stdout, stderr) = (params.loose("stdout"), params.loose("stderr"));
        if !(stdout || stderr) {
            return Err(ApiError::internal(
                "Bad parameters: you must choose at least one stream",
            ));
        }
        Ok(Query {
            request: LogRequest {
                service_ids: Vec::new(),
                task_ids: Vec::new(),
                stdout,
                stderr,
                follow: params.loose("follow"),
                tail: tail(params.text("tail"))?,
                since: unix_time("since", params)?,
            },
            until: unix_time("until", params)?,
            timestamps: params.loose("timestamps"),
            details: params.loose("details"),
        })
    }

    fn of_service(mut self, id: String) -> Query {
        self.request.service_ids = vec![id];
        self
    }

    fn of_task(mut self, id: String) -> Query {
        self.request.task_ids = vec![id];
        self
    }

    fn form(&self, tty: bool) -> Form {
        Form {
            tty,
            timestamps: self.timestamps,
            details: self.details,
        }
    }
}

/// The last so many lines; empty or `all` is no limit.
fn tail(text: &str) -> Result<Option<u64>, ApiError> {
    if ["", "all"].contains(&text) {
        return Ok(None);
    }
    let number = text
        .parse::<i64>()
        .map_err(|_| ApiError::internal("tail value must be a positive integer or \"all\""))?;
    u64::try_from(number)
        .map(Some)
        .map_err(|_| ApiError::internal("negative tail values not supported"))
}

/// `<unix seconds>[.<fraction>]`; empty or 0 is no limit.
fn unix_time(name: &str, params: &Params) -> Result<Option<OffsetDateTime>, ApiError> {
    let text = params.text(name);
    if ["", "0"].contains(&text) {
        return Ok(None);
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let wrong = |part: &str| {
        ApiError::internal(format!(
            "could not parse {name} timestamp: strconv.ParseInt: parsing \"{part}\": invalid syntax"
        ))
    };
    let seconds = seconds.parse::<i64>().map_err(|_| wrong(seconds))?;
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong(fraction));
    }
    let nanos = format!("{fraction:0<9}")
        .parse::<i64>()
        .map_err(|_| wrong(fraction))?;
    OffsetDateTime::from_unix_timestamp(seconds)
        .map(|time| Some(time + time::Duration::nanoseconds(nanos)))
        .map_err(|_| {
            ApiError::internal(format!(
                "could not parse {name} timestamp: {seconds} is no time in seconds since 1970"
            ))
        })
}

/// How lines are written.
#[derive(Clone, Copy, Debug)]
struct Form {
    tty: bool,
    timestamps: bool,
    details: bool,
}

impl Form {
    fn chunk(self, line: &Result<LogLine, ClusterError>) -> Bytes {
        match line {
            Ok(line) => self.line(line),
            Err(error) => self.error(error),
        }
    }

    /// Time, details and the line, in this order.
    fn line(self, line: &LogLine) -> Bytes {
        let mut prefix = String::with_capacity(PREFIX_BYTES);
        if self.timestamps {
            prefix.push_str(&fixed_time(line.time));
            prefix.push(' ');
        }
        if self.details {
            // Writing to a string cannot fail.
            let _ = write!(
                prefix,
                "com.docker.swarm.node.id={},com.docker.swarm.service.id={},com.docker.swarm.task.id={} ",
                line.node_id, line.service_id, line.task_id
            );
        }
        let stream = if line.stderr { STDERR } else { STDOUT };
        self.frame(stream, prefix.as_bytes(), &line.data)
    }

    fn error(self, error: &ClusterError) -> Bytes {
        let text = format!(
            "Error grabbing logs: {}\n",
            error.to_string().escape_debug()
        );
        self.frame(SYSTEM_ERROR, text.as_bytes(), &[])
    }

    fn frame(self, stream: u8, prefix: &[u8], data: &[u8]) -> Bytes {
        let length = prefix.len() + data.len();
        let mut frame = BytesMut::with_capacity(HEAD_BYTES + length);
        if !self.tty {
            frame.put_slice(&[stream, 0, 0, 0]);
            // Lines are bounded far below that where they are taken in.
            frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        }
        frame.put_slice(prefix);
        frame.put_slice(data);
        frame.freeze()
    }
}

/// RFC 3339 in UTC with all nine digits, so that lines stand in columns.
fn fixed_time(time: OffsetDateTime) -> String {
    let time = time.to_offset(time::UtcOffset::UTC);
    let (hour, minute, second, nanos) = time.to_hms_nano();
    format!(
        "{:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(data: &'static str, stderr: bool) -> Result<LogLine, ClusterError> {
        Ok(LogLine {
            node_id: "n".to_owned(),
            service_id: "s".to_owned(),
            task_id: "t".to_owned(),
            time: OffsetDateTime::from_unix_timestamp(1_795_149_566).unwrap()
                + time::Duration::nanoseconds(36_483_710),
            stderr,
            data: Bytes::from_static(data.as_bytes()),
        })
    }

    const BARE: Form = Form {
        tty: false,
        timestamps: false,
        details: false,
    };

    fn refused(query: &str) -> String {
        let params = Params::parse(query).unwrap();
        match Query::of(&params) {
            Ok(_) => panic!("{query} was taken"),
            Err(error) => format!("{} {}", error.status.as_u16(), error.message),
        }
    }

    #[test]
    fn refuses_what_the_engine_refuses() {
        for query in ["", "stdout=0", "stdout=false&stderr=no", "follow=1"] {
            assert_eq!(
                refused(query),
                "500 Bad parameters: you must choose at least one stream"
            );
        }
        assert_eq!(
            refused("stdout=1&tail=abc"),
            "500 tail value must be a positive integer or \"all\""
        );
        assert_eq!(
            refused("stdout=1&tail=-5"),
            "500 negative tail values not supported"
        );
        assert_eq!(
            refused("stdout=1&since=abc"),
            "500 could not parse since timestamp: strconv.ParseInt: parsing \"abc\": invalid syntax"
        );
        for since in ["1.", "1.x", "1.0123456789", "9223372036854775807", "1.-5"] {
            assert!(refused(&format!("stdout=1&since={since}")).contains("since"));
        }
        assert_eq!(
            refused("stdout=1&until=5.x"),
            "500 could not parse until timestamp: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
    }

    #[test]
    fn reads_what_clients_send() {
        let text = "details=1&follow=1&since=10.5&until=11&stderr=True&stdout=1&tail=2";
        let query = Query::of(&Params::parse(text).unwrap()).unwrap();
        assert!(query.details && !query.timestamps);
        assert_eq!(query.until.unwrap().unix_timestamp(), 11);
        let request = query.request;
        assert!(request.follow && request.stdout && request.stderr);
        assert_eq!(request.tail, Some(2));
        let since = request.since.unwrap();
        assert_eq!(since.unix_timestamp_nanos(), 10_500_000_000);
        let all = Query::of(&Params::parse("stdout=1&tail=all&since=0&until=0").unwrap()).unwrap();
        assert_eq!(
            (all.request.tail, all.request.since, all.until),
            (None, None, None)
        );
        assert!(!all.request.stderr);
    }

    #[test]
    fn a_line_is_a_frame() {
        assert_eq!(
            &BARE.chunk(&line("tick\n", false))[..],
            b"\x01\0\0\0\0\0\0\x05tick\n"
        );
        assert_eq!(&BARE.chunk(&line("", true))[..], b"\x02\0\0\0\0\0\0\0");
    }

    /// Recorded with `timestamps=1`.
    #[test]
    fn time_comes_before_details_before_the_line() {
        let form = Form {
            timestamps: true,
            ..BARE
        };
        assert_eq!(
            &form.chunk(&line("tick\n", false))[..],
            b"\x01\0\0\0\0\0\0$2026-11-20T04:39:26.036483710Z tick\n"
        );
        let form = Form {
            details: true,
            ..form
        };
        let chunk = form.chunk(&line("tick\n", false));
        assert_eq!(
            &chunk[HEAD_BYTES..],
            b"2026-11-20T04:39:26.036483710Z com.docker.swarm.node.id=n,com.docker.swarm.service.id=s,com.docker.swarm.task.id=t tick\n"
        );
        assert_eq!(usize::from(chunk[7]), chunk.len() - HEAD_BYTES);
    }

    #[test]
    fn a_terminal_has_no_frames() {
        let form = Form { tty: true, ..BARE };
        assert_eq!(&form.chunk(&line("a\r\n", true))[..], b"a\r\n");
    }

    #[test]
    fn failures_are_escaped_in_a_stream_of_their_own() {
        let chunk = BARE.chunk(&Err(ClusterError::Internal("a\nb".to_owned())));
        assert_eq!(chunk[0], SYSTEM_ERROR);
        assert_eq!(&chunk[HEAD_BYTES..], b"Error grabbing logs: a\\nb\n");
    }
}
