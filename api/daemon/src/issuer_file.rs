//! Whose leaves count, as managers last said: `<data-root>/swarm/certificates/swarm-issuers`.
//!
//! Lines of text: `format 1`, `below` with the SHA-256 of the roots that this was said of, `only`
//! and `refused`, each with the SHA-256 of a key, all in hex, then `end`, so that a part is not
//! taken for the whole.

use std::fmt::Write;

use waxseal_ca::{BundleDigest, IssuerRules, PublicKeyDigest};

/// The format that is written, and the only one that is read.
const FORMAT: &str = "format 1";
/// The last line.
const END: &str = "end";

/// The text of the rules that managers named below these roots.
pub(crate) fn encode(below: &BundleDigest, rules: &IssuerRules) -> String {
    let below = PublicKeyDigest::from_bytes(*below.as_bytes());
    let mut text = format!("{FORMAT}\nbelow {below}\n");
    let only = rules.only.iter().flatten().map(|key| ("only", key));
    let refused = rules.refused.iter().map(|key| ("refused", key));
    for (word, key) in only.chain(refused) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{word} {key}");
    }
    text + END + "\n"
}

/// The rules in a text as they hold below these roots: what was said of those below others pins
/// nobody. Nothing if it is not what was written.
pub(crate) fn decode(text: &str, present: &BundleDigest) -> Option<IssuerRules> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next() != Some(FORMAT) || lines.next_back() != Some(END) {
        return None;
    }
    let below = digest(lines.next()?.strip_prefix("below ")?)?;
    let mut rules = IssuerRules::default();
    for line in lines {
        match line.split_once(' ')? {
            ("only", key) => rules.only.get_or_insert_default().push(digest(key)?),
            ("refused", key) => rules.refused.push(digest(key)?),
            _ => return None,
        }
    }
    rules.only = rules
        .only
        .filter(|_| below.as_bytes() == present.as_bytes());
    Some(rules)
}

fn digest(hex: &str) -> Option<PublicKeyDigest> {
    let mut bytes = [0; 32];
    if hex.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(pair[0])? * 16 + digit(pair[1])?;
        *byte = u8::try_from(value).ok()?;
    }
    Some(PublicKeyDigest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> PublicKeyDigest {
        PublicKeyDigest::from_bytes([byte; 32])
    }

    fn root(pem: &str) -> BundleDigest {
        BundleDigest::of(pem.as_bytes())
    }

    #[test]
    fn parts_and_other_formats_are_refused() {
        let rules = IssuerRules {
            only: Some(vec![key(1), key(0xfe)]),
            refused: vec![key(3)],
        };
        let here = root("here");
        let text = encode(&here, &rules);
        for end in 0..text.len() {
            assert_eq!(decode(&text[..end], &here), None, "{end}");
        }
        for (word, other) in [
            ("format 1", "format 2"),
            ("below", "above"),
            ("only", "once"),
            ("fefe", "fexe"),
            ("0303", "030"),
            ("end\n", "end\nend\n"),
        ] {
            let changed = text.replacen(word, other, 1);
            assert_eq!(decode(&changed, &here), None, "{other}");
        }
        assert_eq!(decode(&text, &here), Some(rules.clone()));
        // Who counts below one root says nothing of another; who does not, never does again.
        let elsewhere = IssuerRules {
            only: None,
            ..rules
        };
        assert_eq!(decode(&text, &root("elsewhere")), Some(elsewhere));
    }

    #[test]
    fn the_text_of_format_1_stays_as_it_is() {
        let here = root("");
        let below = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let nothing = format!("format 1\nbelow {below}\nend\n");
        assert_eq!(decode(&nothing, &here), Some(IssuerRules::default()));
        assert_eq!(encode(&here, &IssuerRules::default()), nothing);
        let rules = IssuerRules {
            only: Some(vec![key(0x10)]),
            refused: vec![key(0xab)],
        };
        let (only, refused) = ("10".repeat(32), "ab".repeat(32));
        let text = format!("format 1\nbelow {below}\nonly {only}\nrefused {refused}\nend\n");
        assert_eq!(encode(&here, &rules), text);
        assert_eq!(decode(&text, &here), Some(rules));
    }
}
