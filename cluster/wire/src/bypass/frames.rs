//! Where in its frames one direction of an HTTP/2 connection is (RFC 9113 section 4.1).

/// Length (3), type (1), flags (1), stream (4).
const HEAD_BYTES: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const END_STREAM: u8 = 0x1;
const PADDED: u8 = 0x8;
/// The highest bit is reserved.
const STREAM_MASK: u32 = 0x7fff_ffff;

/// Follows the frames in bytes that come in any pieces.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frames {
    preface_left: usize,
    head: [u8; HEAD_BYTES],
    head_read: usize,
    frame: Option<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// The first byte of its payload says how much padding ends it.
    is_padded: bool,
    content_left: usize,
    padding_left: usize,
    is_begun: bool,
}

/// Bytes that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// How many there are; not 0 if there was one.
    pub(super) length: usize,
    /// Set if they are content of a DATA frame.
    pub(super) data: Option<Data>,
    /// What the frame that ends with them says of its stream.
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) stream: u32,
    /// They are the first of their frame.
    pub(super) begins: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing more comes in this direction.
    Ended(u32),
    /// The stream is gone.
    Reset(u32),
}

impl Frames {
    /// `preface` bytes come before the first frame.
    pub(super) fn after(preface: usize) -> Frames {
        Frames {
            preface_left: preface,
            head: [0; HEAD_BYTES],
            head_read: 0,
            frame: None,
        }
    }

    /// Goes over the first of `bytes`, as many as belong together.
    pub(super) fn step(&mut self, bytes: &[u8]) -> Step {
        let plain = |length, end| Step {
            length,
            data: None,
            end,
        };
        if self.preface_left > 0 {
            let length = self.preface_left.min(bytes.len());
            self.preface_left -= length;
            return plain(length, None);
        }
        let Some(frame) = &mut self.frame else {
            let length = (HEAD_BYTES - self.head_read).min(bytes.len());
            self.head[self.head_read..][..length].copy_from_slice(&bytes[..length]);
            self.head_read += length;
            if self.head_read == HEAD_BYTES {
                self.head_read = 0;
                self.frame = Some(Frame::of(self.head));
            }
            return plain(length, self.end_of_frame());
        };
        let step = frame.step(bytes);
        let end = self.end_of_frame();
        Step { end, ..step }
    }

    fn end_of_frame(&mut self) -> Option<End> {
        let frame = self.frame.filter(Frame::is_over)?;
        self.frame = None;
        match frame.kind {
            RST_STREAM => Some(End::Reset(frame.stream)),
            DATA | HEADERS if frame.flags & END_STREAM != 0 => Some(End::Ended(frame.stream)),
            _ => None,
        }
    }
}

impl Frame {
    fn of(head: [u8; HEAD_BYTES]) -> Frame {
        let [a, b, c, kind, flags, stream @ ..] = head;
        Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & STREAM_MASK,
            is_padded: kind == DATA && flags & PADDED != 0,
            content_left: u32::from_be_bytes([0, a, b, c]) as usize,
            padding_left: 0,
            is_begun: false,
        }
    }

    fn is_over(&self) -> bool {
        self.content_left == 0 && self.padding_left == 0
    }

    fn step(&mut self, bytes: &[u8]) -> Step {
        let mut step = Step {
            length: 0,
            data: None,
            end: None,
        };
        let Some(first) = bytes.first() else {
            return step;
        };
        if std::mem::take(&mut self.is_padded) {
            let padding = usize::from(*first);
            // Padding that is longer than its frame: HTTP/2 ends the connection for it.
            self.padding_left = padding.min(self.content_left - 1);
            self.content_left -= 1 + self.padding_left;
            step.length = 1;
        } else if self.content_left > 0 {
            step.length = self.content_left.min(bytes.len());
            self.content_left -= step.length;
            step.data = (self.kind == DATA).then_some(Data {
                stream: self.stream,
                begins: !self.is_begun,
            });
            self.is_begun = true;
        } else {
            step.length = self.padding_left.min(bytes.len());
            self.padding_left -= step.length;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, flags];
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The content of each DATA frame with its stream, and the ends.
    fn followed(bytes: &[u8], cut: usize) -> (Vec<(u32, Vec<u8>)>, Vec<End>) {
        let mut frames = Frames::after(3);
        let (mut contents, mut ends) = (Vec::new(), Vec::new());
        for mut piece in bytes.chunks(cut) {
            while !piece.is_empty() {
                let step = frames.step(piece);
                assert!(step.length > 0);
                if let Some(Data { stream, begins }) = step.data {
                    if begins {
                        contents.push((stream, Vec::new()));
                    }
                    let content: &mut (u32, Vec<u8>) = contents.last_mut().unwrap();
                    assert_eq!(content.0, stream);
                    content.1.extend_from_slice(&piece[..step.length]);
                }
                ends.extend(step.end);
                piece = &piece[step.length..];
            }
        }
        (contents, ends)
    }

    #[test]
    fn content_is_told_from_heads_padding_and_other_frames_however_it_is_cut() {
        let bytes = [
            b"pre".to_vec(),
            frame(0x4, 0, 0, &[]),
            frame(HEADERS, 0x4, 1, b"header"),
            frame(DATA, 0, 1, b"one"),
            frame(DATA, PADDED, 3, b"\x02two\0\0"),
            frame(DATA, PADDED, 3, b"\x00"),
            frame(DATA, 0, 3, b""),
            frame(DATA, END_STREAM, 0x8000_0001, b"more"),
            frame(0xfa, 0xff, 5, b"unknown"),
            frame(DATA, END_STREAM, 5, b""),
            frame(HEADERS, 0x5, 3, b"trailer"),
            frame(RST_STREAM, 0, 7, &[0; 4]),
        ]
        .concat();
        let contents = [(1, "one"), (3, "two"), (1, "more")].map(|(s, c)| (s, c.into()));
        let ends = [End::Ended(1), End::Ended(5), End::Ended(3), End::Reset(7)];
        for cut in 1..=bytes.len() {
            let (found, ended) = followed(&bytes, cut);
            assert_eq!(found, contents, "in pieces of {cut}");
            assert_eq!(ended, ends);
        }
    }

    #[test]
    fn padding_longer_than_its_frame_takes_nothing_of_the_next() {
        let bytes = [
            b"pre".to_vec(),
            frame(DATA, PADDED, 1, b"\xffabc"),
            frame(DATA, 0, 1, b"one"),
        ]
        .concat();
        for cut in 1..=bytes.len() {
            assert_eq!(followed(&bytes, cut).0, [(1, b"one".to_vec())]);
        }
    }

    #[test]
    fn a_padded_frame_without_a_payload_is_over() {
        let bytes = [
            b"pre".to_vec(),
            frame(DATA, PADDED, 1, b""),
            frame(DATA, 0, 1, b"one"),
        ]
        .concat();
        assert_eq!(followed(&bytes, 64).0, [(1, b"one".to_vec())]);
    }
}
