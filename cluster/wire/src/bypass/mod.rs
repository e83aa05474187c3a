//! A way past HTTP/2 for messages that hold secrets.
//!
//! gRPC, HTTP/2 and TLS keep buffers for as long as a connection lives, and what was
//! sent over it last stays in them. A stream that is put on a [`Line`] gives HTTP/2
//! blanks of the right length; [`Bypassed`], the stream below HTTP/2, puts the content
//! in their place on its way out, and takes it out and leaves blanks on its way in.
//! The content itself lies in parts that are wiped as they are used up. On the wire
//! nothing differs, so the peer need not know.

mod client;
mod frames;
mod io;
mod queue;
mod relay;
mod scrub;
mod server;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;

pub use self::{client::Assignments, server::DispatcherService};
pub(crate) use self::{
    io::{Bypassed, Side},
    relay::Passing,
    scrub::Scrubbed,
};
use self::{queue::Queue, relay::Question};

/// Swarmkit's call that brings secrets to a node.
pub(crate) const ASSIGNMENTS: &str = "/docker.swarmkit.v1.Dispatcher/Assignments";

/// Bytes before each message of a gRPC stream: one of flags, four of length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// What HTTP/2 is given in the place of content.
static BLANKS: [u8; 16 * 1024] = [0; 16 * 1024];

/// The first bytes of a stream that is on a line, which tell [`Bypassed`] so. They
/// stand where the first message's prefix would, and never reach the wire.
type Mark = [u8; PREFIX_BYTES];

/// The lines of one connection.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// Opened, but nothing was sent yet, so that their stream is not known.
    waiting: Mutex<Vec<(Mark, Arc<Line>)>>,
}

/// The content of one stream on its way.
#[derive(Debug, Default)]
struct Line {
    outgoing: Mutex<Queue>,
    incoming: Mutex<Queue>,
    /// Its stream was broken off: what HTTP/2 still sends of it may be blank.
    broken_off: AtomicBool,
}

impl Lines {
    /// Opens a line, known by its mark.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    fn open(&self) -> Result<(Mark, Arc<Line>), getrandom::Error> {
        let mut mark = Mark::default();
        getrandom::fill(&mut mark)?;
        // No stream begins like that by itself: the flags are 0 or 1.
        mark[0] |= 0x80;
        let line = Arc::new(Line::default());
        lock(&self.waiting).push((mark, Arc::clone(&line)));
        Ok((mark, line))
    }

    /// The line that these first bytes in a DATA frame are the mark of. Flow control
    /// may have cut the mark.
    fn claimed_by(&self, bytes: &[u8]) -> Option<Arc<Line>> {
        let waiting = lock(&self.waiting);
        let (_, line) = waiting.iter().find(|(mark, _)| is_begun(mark, bytes))?;
        Some(Arc::clone(line))
    }

    /// Takes it off the list of those that wait for their stream.
    fn forget(&self, line: &Arc<Line>) {
        lock(&self.waiting).retain(|(_, waiting)| !Arc::ptr_eq(waiting, line));
    }

    /// A stream was reset that is on no line, before its mark was sent: it is one of those
    /// that were broken off. If another of them is still to be sent, its mark says to its
    /// receiver that it is no message.
    fn forget_broken_off(&self) {
        let is_kept = |line: &Line| !line.broken_off.load(Ordering::Relaxed);
        lock(&self.waiting).retain(|(_, waiting)| is_kept(waiting));
    }
}

fn is_begun(mark: &Mark, bytes: &[u8]) -> bool {
    let seen = bytes.len().min(mark.len());
    seen > 0 && mark[..seen] == bytes[..seen]
}

/// The sending end of a line.
struct Sender {
    lines: Arc<Lines>,
    line: Arc<Line>,
    mark: Option<Mark>,
    blanks: usize,
    /// All was handed to HTTP/2, which may not have sent it yet.
    complete: bool,
}

impl Sender {
    fn open(lines: &Arc<Lines>) -> Result<Sender, getrandom::Error> {
        let (mark, line) = lines.open()?;
        Ok(Sender {
            lines: Arc::clone(lines),
            line,
            mark: Some(mark),
            blanks: 0,
            complete: false,
        })
    }

    /// Puts a message with its prefix on the line.
    fn put(&mut self, content: Vec<u8>) {
        self.blanks += content.len();
        lock(&self.line.outgoing).push(content);
    }

    /// The next bytes for HTTP/2; `None` once all that was put got its blanks.
    fn blank(&mut self) -> Option<Bytes> {
        if self.blanks == 0 {
            return None;
        }
        let blank = match self.mark.take() {
            Some(mark) => Bytes::copy_from_slice(&mark),
            None => Bytes::from_static(&BLANKS[..self.blanks.min(BLANKS.len())]),
        };
        self.blanks -= blank.len();
        Some(blank)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.complete {
            self.line.broken_off.store(true, Ordering::Relaxed);
            // What HTTP/2 has blanks for it may send yet, as the stream need not end with a
            // reset; blanks in its place would be messages without content.
            lock(&self.line.outgoing).cut(self.blanks);
            if self.mark.is_some() {
                self.lines.forget(&self.line);
            }
        }
    }
}

/// A gRPC message with its prefix, in one piece that never grows.
///
/// # Errors
/// If it is longer than a prefix can say.
fn framed(message: &impl prost::Message) -> Result<Vec<u8>, tonic::Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| tonic::Status::resource_exhausted("a message of more than 4 GiB"))?;
    let mut content = Vec::with_capacity(PREFIX_BYTES + length);
    content.push(0);
    content.extend_from_slice(&prefix.to_be_bytes());
    message.encode_raw(&mut content);
    Ok(content)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
