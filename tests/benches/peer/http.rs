//! The cheapest client of the Engine API that there is: it shares the processors with the server.
//!
//! One thread, one connection per client, one request at a time on each; nothing of an answer is
//! read but its status and its length.

use std::{
    cell::Cell,
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::LocalSet,
};

/// Until all requests of one run are answered.
const PATIENCE: Duration = Duration::from_secs(300);

/// Requests that differ in their number alone.
pub(crate) trait Requests: 'static {
    /// Puts the request with this number into the buffer, which held another before.
    fn write(&self, number: usize, buffer: &mut Vec<u8>);
    /// The status that each answer must have.
    fn status(&self) -> &'static [u8; 3];
}

/// Sends `count` requests over so many connections; how long each took.
pub(crate) fn run<R: Requests>(
    socket: &Path,
    connections: usize,
    count: usize,
    requests: R,
) -> Result<Vec<Duration>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    let requests = Rc::new(requests);
    let next = Rc::new(Cell::new(0));
    let clients = (0..connections).map(|_| {
        let (requests, next, socket) = (Rc::clone(&requests), Rc::clone(&next), socket.to_owned());
        local.spawn_local(async move {
            let stream = UnixStream::connect(socket).await?;
            client(stream, &*requests, &next, count).await
        })
    });
    let clients: Vec<_> = clients.collect();
    let all = local.run_until(async {
        let mut latencies = Vec::with_capacity(count);
        for client in clients {
            latencies.extend(client.await??);
        }
        anyhow::Ok(latencies)
    });
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, all)
            .await
            .context("no end in time")?
    })
}

async fn client(
    mut stream: UnixStream,
    requests: &impl Requests,
    next: &Cell<usize>,
    count: usize,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut request = Vec::new();
    let mut answer = Vec::with_capacity(64 << 10);
    while next.get() < count {
        let number = next.replace(next.get() + 1);
        requests.write(number, &mut request);
        answer.clear();
        let begin = Instant::now();
        stream.write_all(&request).await?;
        while !is_whole(&answer)? {
            let read = stream.read_buf(&mut answer).await?;
            ensure!(read > 0, "the server closed the connection");
        }
        latencies.push(begin.elapsed());
        // "HTTP/1.1 ", the status behind it.
        if answer.get(9..12) != Some(requests.status()) {
            bail!("answered {}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(latencies)
}

/// Whether an answer is there to its end. As both servers write their headers: in whatever case,
/// with a length or chunked.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let Some(head) = find(answer, b"\r\n\r\n") else {
        return Ok(false);
    };
    let (head, body) = answer.split_at(head + 4);
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let (name, value) = line.split_at(colon);
        if name.eq_ignore_ascii_case(b"content-length") {
            let length: usize = std::str::from_utf8(&value[1..])?.trim().parse()?;
            return Ok(body.len() >= length);
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Ok(body.ends_with(b"0\r\n\r\n"));
        }
    }
    bail!(
        "an answer without a length: {}",
        String::from_utf8_lossy(head)
    )
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
