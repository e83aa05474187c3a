//! Makes inputs out of inputs.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// Inputs never grow past this; the largest limit of a parser is above it only for sealed state.
const MAX_INPUT_BYTES: usize = 192 * 1024;
/// Numbers at which lengths and counts go wrong.
const NUMBERS: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    i64::MAX.cast_unsigned(),
    1 << 63,
    u64::MAX,
];

/// A deterministic source of mutations.
pub(crate) struct Mutator {
    state: u64,
    words: &'static [&'static str],
}

impl Mutator {
    pub(crate) fn new(seed: u64, words: &'static [&'static str]) -> Mutator {
        Mutator { state: seed, words }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// One of `kept`, changed in a few places; in every other PEM text below the base64.
    pub(crate) fn mutate(&mut self, kept: &[Vec<u8>]) -> Vec<u8> {
        let at = self.below(kept.len());
        let mut input = kept[at].clone();
        if self.below(2) == 0
            && let Some(changed) = self.mutate_der(&input)
        {
            return changed;
        }
        for _ in 0..=self.below(4) {
            self.change(&mut input, kept);
        }
        input.truncate(MAX_INPUT_BYTES);
        input
    }

    /// Changes what one PEM block encodes.
    fn mutate_der(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(text).ok()?;
        let starts: Vec<usize> = text
            .match_indices("-----BEGIN ")
            .map(|found| found.0)
            .collect();
        if starts.is_empty() {
            return None;
        }
        let start = starts[self.below(starts.len())];
        let body = start + text[start..].find('\n')? + 1;
        let end = body + text[body..].find("-----END ")?;
        let plain: String = text[body..end].split_whitespace().collect();
        let mut der = STANDARD.decode(plain).ok()?;
        for _ in 0..=self.below(3) {
            self.change(&mut der, &[]);
        }
        let encoded = STANDARD.encode(der);
        let mut changed = text[..body].to_owned();
        for line in encoded.as_bytes().chunks(64) {
            changed.push_str(std::str::from_utf8(line).ok()?);
            changed.push('\n');
        }
        changed.push_str(&text[end..]);
        Some(changed.into_bytes())
    }

    fn change(&mut self, input: &mut Vec<u8>, others: &[Vec<u8>]) {
        let length = input.len();
        let at = self.below(length + 1);
        let most = (length - at).min(1 << self.below(10));
        let span = self.below(1 + most);
        match self.below(10) {
            0 if at < length => input[at] ^= 1 << self.below(8),
            1 if at < length => input[at] = self.byte(),
            2 => drop(input.drain(at..at + span)),
            3 => {
                let copy = input[at..at + span].to_vec();
                let to = self.below(length + 1);
                input.splice(to..to, copy);
            }
            4 => {
                let noise: Vec<u8> = (0..self.below(16)).map(|_| self.byte()).collect();
                input.splice(at..at + span.min(noise.len()), noise);
            }
            5 => {
                let number = NUMBERS[self.below(NUMBERS.len())].to_be_bytes();
                let number = &number[8 - (1 << self.below(4))..];
                let end = (at + number.len()).min(length);
                input.splice(at..end, number.iter().copied());
            }
            6 if !self.words.is_empty() => {
                let word = self.words[self.below(self.words.len())];
                let over = if self.below(2) == 0 { word.len() } else { 0 };
                let end = (at + over).min(length);
                input.splice(at..end, word.bytes());
            }
            7 if !others.is_empty() => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            8 => {
                // Nesting and repetition, which a bit at a time never reaches.
                let piece = input[at..at + span.min(64)].to_vec();
                let times = 1 << self.below(11);
                let many = piece.repeat(times);
                input.splice(at..at, many);
            }
            _ => input.truncate(at),
        }
        input.truncate(MAX_INPUT_BYTES);
    }
}
