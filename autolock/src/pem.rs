//! Just enough PEM (RFC 7468) for the key file, in buffers that wipe themselves.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// Characters of base64 in a line, as RFC 7468 asks.
const LINE: usize = 64;

/// A block as read.
pub(crate) struct Block {
    pub(crate) label: String,
    pub(crate) bytes: Zeroizing<Vec<u8>>,
}

/// The blocks of a text, in order. Text outside of blocks is passed over, as openssl does.
pub(crate) fn parse(text: &str) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix("-----BEGIN ") else {
            continue;
        };
        let label = rest.trim_end().strip_suffix("-----")?;
        let mut encoded = Zeroizing::new(String::with_capacity(text.len()));
        loop {
            let line = lines.next()?.trim_end();
            match line.strip_prefix("-----END ") {
                Some(end) if end.strip_suffix("-----")? == label => break,
                Some(_) => return None,
                None => encoded.push_str(line),
            }
        }
        let mut bytes = Zeroizing::new(vec![0; encoded.len()]);
        let len = STANDARD.decode_slice(encoded.as_bytes(), &mut bytes).ok()?;
        bytes.truncate(len);
        blocks.push(Block {
            label: label.to_owned(),
            bytes,
        });
    }
    Some(blocks)
}

/// Appends a block to `out`.
pub(crate) fn encode(out: &mut Zeroizing<String>, label: &str, bytes: &[u8]) {
    let encoded_len = bytes.len().div_ceil(3) * 4;
    let mut encoded = Zeroizing::new(String::with_capacity(encoded_len));
    STANDARD.encode_string(bytes, &mut encoded);
    let added = encoded_len + encoded_len.div_ceil(LINE) + 2 * (label.len() + 20);
    if out.capacity() - out.len() < added {
        // Grow by hand: the buffer that is left behind wipes itself.
        let mut larger = Zeroizing::new(String::with_capacity(out.len() + added));
        larger.push_str(out);
        *out = larger;
    }
    for part in ["-----BEGIN ", label, "-----\n"] {
        out.push_str(part);
    }
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    for part in ["-----END ", label, "-----\n"] {
        out.push_str(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_broken_blocks() {
        assert!(parse("-----BEGIN A-----\nAAAA\n").is_none(), "no end");
        assert!(
            parse("-----BEGIN A-----\nAAAA\n-----END B-----\n").is_none(),
            "other end"
        );
        assert!(
            parse("-----BEGIN A-----\nA*AA\n-----END A-----\n").is_none(),
            "no base64"
        );
        assert!(
            parse("-----BEGIN A\nAAAA\n-----END A-----\n").is_none(),
            "no dashes"
        );
        assert_eq!(parse("nothing\n").unwrap().len(), 0);
    }

    #[test]
    fn round_trip() {
        for len in [0, 1, 47, 48, 49, 200] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut text = Zeroizing::new(String::new());
            encode(&mut text, "A B", &bytes);
            encode(&mut text, "C", b"x");
            assert!(text.lines().all(|line| line.len() <= LINE));
            let blocks = parse(&text.replace('\n', "\r\n")).unwrap();
            assert_eq!(blocks[0].label, "A B");
            assert_eq!(*blocks[0].bytes, bytes);
            assert_eq!(blocks[1].label, "C");
        }
    }
}
