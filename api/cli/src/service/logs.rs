//! `waxseal service logs`.

use std::{
    collections::HashMap,
    io::{self, IsTerminal, Write},
};

use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{
    ROUTE, Service,
    tasks::{Names, Task},
};
use crate::{
    client::{Client, filters, segment},
    failure::{Exit, Failure},
    output,
};

/// Bytes before each payload: stream, three zeros, length (u32, big endian).
const HEAD_BYTES: usize = 8;
/// Longest payload: a line has at most 16 KiB, details and time come before it.
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// The stream of the daemon's own words, after 1 (standard output) and 2 (standard error).
const SYSTEM_ERROR: u8 = 3;

/// Show what a service's tasks print
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Go on with new lines
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each task
    #[arg(short = 'n', long, value_name = "COUNT")]
    tail: Option<u64>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Only the lines, as they are, without the tasks' names
    #[arg(long)]
    raw: bool,
    /// Name, id or start of an id
    #[arg(value_name = "SERVICE")]
    service: String,
}

/// A line of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) is_stderr: bool,
    /// Details, if asked for, a blank, then the text with its newline.
    pub(crate) data: Vec<u8>,
}

/// Cuts a stream of frames into lines.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    pub(crate) fn add(&mut self, data: &[u8]) {
        self.pending.extend_from_slice(data);
    }

    /// The next whole line.
    pub(crate) fn next(&mut self) -> Result<Option<Line>, Failure> {
        let Some((head, rest)) = self.pending.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [stream, _, _, _, a, b, c, d] = *head;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD_BYTES || !(1..=SYSTEM_ERROR).contains(&stream) {
            return Err(Failure::refused("the daemon's stream of logs is not understood")
                .hint("tasks with a terminal have no such stream; a Docker Engine shows them with `docker service logs --raw`"));
        }
        let Some(data) = rest.get(..length) else {
            return Ok(None);
        };
        if stream == SYSTEM_ERROR {
            return Err(incomplete(data));
        }
        let line = Line {
            is_stderr: stream == 2,
            data: data.to_vec(),
        };
        self.pending.drain(..HEAD_BYTES + length);
        Ok(Some(line))
    }
}

/// What the daemon says where a stream ends before all of it came.
fn incomplete(text: &[u8]) -> Failure {
    let text = String::from_utf8_lossy(text);
    let text = text.trim();
    let text = text.strip_prefix("Error grabbing logs: ").unwrap_or(text);
    Failure::refused(text)
        .hint("logs lie on the nodes of their tasks: `waxseal node ls` tells which are not ready")
}

/// The stream of a service's logs.
pub(crate) async fn open(client: &Client, service: &str, query: &str) -> Result<Incoming, Failure> {
    client
        .stream(&format!(
            "{ROUTE}/{}/logs?stdout=1&stderr=1{query}",
            segment(service)
        ))
        .await
}

pub(super) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let service = Service::read(client, &args.service).await?;
    let tail = args
        .tail
        .map_or_else(|| "all".to_owned(), |count| count.to_string());
    let flag = |is_set: bool| if is_set { "1" } else { "0" };
    let query = format!(
        "&follow={}&timestamps={}&details={}&tail={tail}",
        flag(args.follow),
        flag(args.timestamps),
        flag(!args.raw),
    );
    let mut prefixes = Prefixes {
        client,
        service: &service,
        names: None,
        tasks: HashMap::new(),
    };
    let mut body = open(client, &service.id, &query).await?;
    let mut frames = Frames::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("the stream of logs broke off: {error}"),
            )
            .hint("the daemon may have been stopped; `waxseal status` tells")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        frames.add(&data);
        while let Some(line) = frames.next()? {
            let mut text = Vec::new();
            if !args.raw {
                prefixes.put(&line, args.timestamps, &mut text).await?;
            } else {
                text.extend_from_slice(&line.data);
            }
            print(line.is_stderr, &text)?;
        }
    }
    Ok(())
}

/// To the stream that it came from; a terminal is not at the mercy of tasks.
fn print(is_stderr: bool, text: &[u8]) -> Result<(), Failure> {
    let is_terminal = if is_stderr {
        io::stderr().is_terminal()
    } else {
        io::stdout().is_terminal()
    };
    let safe;
    let text = match is_terminal {
        true => {
            safe = without_controls(text);
            safe.as_bytes()
        }
        false => text,
    };
    match is_stderr {
        true => io::stderr()
            .write_all(text)
            .map_err(|error| Failure::output(&error)),
        false => output::raw(text),
    }
}

fn without_controls(text: &[u8]) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in String::from_utf8_lossy(text).chars() {
        match character {
            '\n' | '\t' => safe.push(character),
            character if character.is_control() => safe.extend(character.escape_default()),
            character => safe.push(character),
        }
    }
    safe
}

/// Turns a line's details into the task's name.
struct Prefixes<'a> {
    client: &'a Client,
    service: &'a Service,
    names: Option<Names>,
    tasks: HashMap<String, String>,
}

impl Prefixes<'_> {
    async fn put(
        &mut self,
        line: &Line,
        has_time: bool,
        text: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        // [time blank] details blank text
        let mut parts = line
            .data
            .splitn(if has_time { 3 } else { 2 }, |&byte| byte == b' ');
        if has_time {
            text.extend_from_slice(parts.next().unwrap_or_default());
            text.push(b' ');
        }
        let details = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
        let task_id = details
            .split(',')
            .find_map(|pair| pair.strip_prefix("com.docker.swarm.task.id="))
            .unwrap_or_default();
        text.extend_from_slice(self.name(task_id).await?.as_bytes());
        text.extend_from_slice(b" | ");
        text.extend_from_slice(parts.next().unwrap_or_default());
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        Ok(())
    }

    async fn name(&mut self, task_id: &str) -> Result<String, Failure> {
        if let Some(name) = self.tasks.get(task_id) {
            return Ok(name.clone());
        }
        if self.names.is_none() {
            self.names = Some(Names::read(self.client).await?);
        }
        let path = format!("/tasks?{}", filters(&[("service", &[&self.service.id])]));
        let tasks: Vec<Task> = self.client.get(&path).await?;
        if let Some(names) = &self.names {
            for task in &tasks {
                let name = format!("{}@{}", names.task(task), names.node(&task.node_id));
                self.tasks.insert(task.id.clone(), output::shown(&name));
            }
        }
        // A task that is gone already is named by its id.
        let name = self.tasks.entry(task_id.to_owned());
        Ok(name.or_insert_with(|| output::shown(task_id)).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_where_they_end() {
        let mut frames = Frames::default();
        frames.add(&[1, 0, 0, 0, 0, 0, 0, 2, b'a']);
        assert_eq!(frames.next().unwrap(), None);
        frames.add(&[b'\n', 2, 0, 0, 0, 0, 0, 0, 0]);
        let line = frames.next().unwrap().unwrap();
        assert_eq!((line.is_stderr, &*line.data), (false, &b"a\n"[..]));
        assert!(frames.next().unwrap().unwrap().is_stderr);
        assert_eq!(frames.next().unwrap(), None);
    }

    #[test]
    fn an_incomplete_stream_says_why() {
        let text =
            b"Error grabbing logs: warning: incomplete log stream. node n is not available\n";
        let mut frames = Frames::default();
        frames.add(&[1, 0, 0, 0, 0, 0, 0, 1, b'\n', 3, 0, 0, 0, 0, 0, 0]);
        frames.add(&[u8::try_from(text.len()).unwrap()]);
        frames.add(text);
        assert!(frames.next().unwrap().is_some());
        let failure = frames.next().unwrap_err();
        assert_eq!(
            failure.message,
            "warning: incomplete log stream. node n is not available"
        );
        assert!(failure.hint.is_some());
    }

    #[test]
    fn a_stream_of_something_else_is_refused() {
        for bytes in [&b"HTTP/1.1 200"[..], &[1, 0, 0, 0, 255, 0, 0, 0]] {
            let mut frames = Frames::default();
            frames.add(bytes);
            assert!(frames.next().is_err());
        }
    }

    #[test]
    fn tasks_do_not_move_the_cursor() {
        assert_eq!(without_controls(b"a\x1b[2J\tb\n"), "a\\u{1b}[2J\tb\n");
    }
}
