//! Bytes in order, wiped as they are used up.

use std::{collections::VecDeque, fmt};

use zeroize::Zeroizing;

/// Content in the parts that it came in.
#[derive(Default)]
pub(super) struct Queue {
    parts: VecDeque<Zeroizing<Vec<u8>>>,
    /// How much of the first part is used up.
    used: usize,
    length: usize,
}

impl Queue {
    pub(super) fn push(&mut self, part: Vec<u8>) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push_back(Zeroizing::new(part));
        }
    }

    /// The first bytes, as many as lie in one piece; empty if there are none.
    pub(super) fn first(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| &part[self.used..])
    }

    /// Uses up `count` of [`Self::first`].
    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        self.length -= count;
        if self
            .parts
            .front()
            .is_some_and(|part| part.len() == self.used)
        {
            self.parts.pop_front();
            self.used = 0;
        }
    }

    /// Takes `count` bytes out; `None` if there are not that many.
    pub(super) fn take(&mut self, count: usize) -> Option<Zeroizing<Vec<u8>>> {
        if count > self.length {
            return None;
        }
        let mut taken = Zeroizing::new(Vec::with_capacity(count));
        while taken.len() < count {
            let first = self.first();
            let piece = first.len().min(count - taken.len());
            taken.extend_from_slice(&first[..piece]);
            self.consume(piece);
        }
        Some(taken)
    }

    /// Takes all there is.
    pub(super) fn take_all(&mut self) -> Zeroizing<Vec<u8>> {
        self.take(self.length).unwrap_or_default()
    }

    /// Forgets the last `count` bytes.
    pub(super) fn cut(&mut self, count: usize) {
        let left = self.length.saturating_sub(count);
        while self.length > left {
            // Of the first part some is used up.
            let used = if self.parts.len() == 1 { self.used } else { 0 };
            let Some(last) = self.parts.back_mut() else {
                return;
            };
            let cut = (self.length - left).min(last.len() - used);
            let rest = last.len() - cut;
            last.truncate(rest);
            self.length -= cut;
            if last.len() == used {
                self.parts.pop_back();
                self.used = if self.parts.is_empty() { 0 } else { self.used };
            }
        }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Queue {{ {} bytes }}", self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_is_not_taken() {
        let mut queue = Queue::default();
        queue.push(b"abc".to_vec());
        assert!(queue.take(4).is_none());
        assert_eq!(queue.take(3).unwrap().as_slice(), b"abc");
        assert_eq!(queue.first(), b"");
        assert_eq!(queue.take(0).unwrap().as_slice(), b"");
    }

    #[test]
    fn the_end_is_cut_off_whatever_the_parts() {
        for cut in 0..=8 {
            let mut queue = Queue::default();
            for part in ["abc", "de", "fgh"] {
                queue.push(part.into());
            }
            queue.consume(1);
            queue.cut(cut);
            let left = 7_usize.saturating_sub(cut);
            assert_eq!(queue.take_all().as_slice(), &b"bcdefgh"[..left], "{cut}");
            queue.push(b"x".to_vec());
            assert_eq!(queue.take_all().as_slice(), b"x");
        }
    }

    #[test]
    fn bytes_come_out_in_order_whatever_the_parts() {
        let mut queue = Queue::default();
        for part in ["ab", "", "c", "defg"] {
            queue.push(part.into());
        }
        queue.consume(1);
        assert_eq!(queue.take(4).unwrap().as_slice(), b"bcde");
        assert_eq!(queue.first(), b"fg");
        assert_eq!(format!("{queue:?}"), "Queue { 2 bytes }");
    }
}
