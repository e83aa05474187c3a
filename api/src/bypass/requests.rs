//! Where in its requests a client is (RFC 9112).

/// How much of a line is kept: the headers that matter are shorter, and of a line
/// that is not the rest does not tell anything.
const LINE_KEPT: usize = 256;

/// Follows requests in bytes that come in any pieces.
///
/// HTTP itself is the transport's business, which refuses what is malformed; here
/// such bytes are taken for no content, as they are when it is not clear where the
/// content ends.
#[derive(Debug)]
pub(super) struct Requests {
    next: Next,
    line: Vec<u8>,
    head: Head,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// A line of a head.
    Head,
    /// Content, so many bytes of it.
    Content(u64),
    /// A line with the size of a chunk.
    Size,
    /// A chunk, so many bytes of it.
    Chunk(u64),
    /// The end of the line behind a chunk.
    ChunkEnd,
    /// A line behind the last chunk.
    Trailer,
    /// What the transport refuses, and what comes behind it.
    Lost,
}

/// What a head says, as far as it was read.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    is_begun: bool,
    length: Option<u64>,
    is_chunked: bool,
}

/// Bytes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// How many there are; not 0 if there was one.
    pub(super) length: usize,
    /// They are content.
    pub(super) is_content: bool,
    /// A head ends with them.
    pub(super) ends_head: bool,
}

impl Requests {
    pub(super) fn new() -> Requests {
        Requests {
            next: Next::Head,
            line: Vec::with_capacity(LINE_KEPT),
            head: Head::default(),
        }
    }

    /// Goes over the first of `bytes`, as many as belong together.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let mut step = Step {
            length: bytes.len(),
            is_content: false,
            ends_head: false,
        };
        match &mut self.next {
            Next::Lost => {}
            Next::Content(left) | Next::Chunk(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX);
                step.length = length.min(bytes.len());
                step.is_content = true;
                *left -= step.length as u64;
                self.next = match self.next {
                    Next::Content(0) => Next::Head,
                    Next::Chunk(0) => Next::ChunkEnd,
                    next => next,
                };
            }
            Next::Head | Next::Size | Next::ChunkEnd | Next::Trailer => {
                let end = bytes.iter().position(|byte| *byte == b'\n');
                step.length = end.map_or(bytes.len(), |end| end + 1);
                let room = LINE_KEPT - self.line.len();
                let part = &bytes[..step.length];
                self.line.extend_from_slice(&part[..part.len().min(room)]);
                if end.is_some() {
                    step.ends_head = self.end_line();
                }
            }
        }
        step
    }

    /// Reads a line to its end, and says whether a head ends with it.
    fn end_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        // One that was cut is not empty.
        let is_empty = text.is_empty() && line.len() < LINE_KEPT;
        match self.next {
            Next::Head if is_empty && !self.head.is_begun => {}
            Next::Head if is_empty => {
                self.next = std::mem::take(&mut self.head).content();
                self.keep(line);
                return true;
            }
            Next::Head if !self.head.is_begun => self.head.is_begun = true,
            Next::Head => match self.head.read(text) {
                Some(()) => {}
                None => self.next = Next::Lost,
            },
            Next::Size => self.next = chunk_size(text).unwrap_or(Next::Lost),
            Next::ChunkEnd => self.next = if is_empty { Next::Size } else { Next::Lost },
            Next::Trailer if is_empty => self.next = Next::Head,
            Next::Trailer | Next::Content(_) | Next::Chunk(_) | Next::Lost => {}
        }
        self.keep(line);
        false
    }

    /// Takes the room of a line back for the next one.
    fn keep(&mut self, mut line: Vec<u8>) {
        line.clear();
        self.line = line;
    }
}

impl Head {
    /// Reads a header; `None` if it does not tell how long the content is and should.
    fn read(&mut self, line: &[u8]) -> Option<()> {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            // A name so long that its end was cut off is of another header.
            return (line.len() == LINE_KEPT).then_some(());
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = number(value, 10)?;
            if self.length.is_some_and(|other| other != length) {
                return None;
            }
            self.length = Some(length);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            self.is_chunked = true;
        }
        Some(())
    }

    /// What follows it. Chunks count more than a length (RFC 9112 section 6.3).
    fn content(self) -> Next {
        match self.length {
            _ if self.is_chunked => Next::Size,
            None | Some(0) => Next::Head,
            Some(length) => Next::Content(length),
        }
    }
}

fn chunk_size(line: &[u8]) -> Option<Next> {
    let size = line.split(|byte| *byte == b';').next()?;
    Some(match number(size.trim_ascii(), 16)? {
        0 => Next::Trailer,
        size => Next::Chunk(size),
    })
}

fn number(text: &[u8], radix: u32) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    let digits = text.chars().all(|digit| digit.is_digit(radix));
    u64::from_str_radix(text, radix).ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contents behind each head, with whatever is no content left out.
    fn followed(bytes: &[u8], cut: usize) -> (Vec<String>, Next) {
        let mut requests = Requests::new();
        let mut contents = Vec::new();
        for mut piece in bytes.chunks(cut) {
            while !piece.is_empty() {
                let step = requests.step(piece);
                assert!(step.length > 0);
                if step.ends_head {
                    contents.push(String::new());
                }
                if step.is_content {
                    let text = std::str::from_utf8(&piece[..step.length]).unwrap();
                    contents.last_mut().unwrap().push_str(text);
                }
                piece = &piece[step.length..];
            }
        }
        (contents, requests.next)
    }

    fn assert_contents(bytes: &[u8], contents: &[&str], next: Next) {
        for cut in 1..=bytes.len() {
            let (found, left) = followed(bytes, cut);
            assert_eq!(found, contents, "in pieces of {cut}");
            assert_eq!(left, next, "in pieces of {cut}");
        }
    }

    #[test]
    fn what_the_transport_refuses_is_no_content() {
        for head in [
            "Content-Length: 3\r\nContent-Length: 4\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: three\r\n",
            "Content-Length:\r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "no header\r\n",
        ] {
            let bytes = format!("POST / HTTP/1.1\r\n{head}\r\nabc");
            assert_contents(bytes.as_bytes(), &[], Next::Lost);
        }
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (chunks, content) in [("x\r\nabc", ""), ("-1\r\n", ""), ("3\r\nabcd\r\n", "abc")] {
            let bytes = format!("{chunked}{chunks}");
            assert_contents(bytes.as_bytes(), &[content], Next::Lost);
        }
    }

    #[test]
    fn contents_are_told_from_heads_however_they_are_cut() {
        let long = "x".repeat(3 * LINE_KEPT);
        let bytes = format!(
            "\r\n\r\nPOST /a HTTP/1.1\r\nHost: d\r\ncontent-length:  5 \r\n\r\none\r\n\
             GET /b HTTP/1.1\r\nLong: {long}\r\n{long}: 1\r\n\r\n\
             POST /c HTTP/1.1\nContent-Length: 3\nCONTENT-LENGTH: 3\n\ntwo\
             POST /d HTTP/1.1\r\nContent-Length: 0\r\n\r\n\r\n\
             POST /e HTTP/1.1\r\nContent-Length: 7\r\nTransfer-Encoding: Chunked\r\n\r\n\
             5;a=b\r\nfour\n\r\n00a\r\n0\r\n\r\nPOST \r\n0\r\nTrailer: 1\r\n\r\n\
             POST /f HTTP/1.1\r\nContent-Length: 9\r\n\r\nsix"
        );
        let contents = ["one\r\n", "", "two", "", "four\n0\r\n\r\nPOST ", "six"];
        assert_contents(bytes.as_bytes(), &contents, Next::Content(6));
    }
}
