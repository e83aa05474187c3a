//! Text that nodes report about themselves, made fit for clients that print it raw.
//!
//! A node chooses its hostname and the words of its errors; stock clients write them
//! to the operator's terminal as they come.

use std::borrow::Cow;

use waxseal_cluster::is_harmless;

use super::common::Labels;

/// The most bytes of a name that are shown: a domain name has 253 at most (RFC 1035
/// section 2.3.4, as text).
const MAX_NAME_BYTES: usize = 253;

/// `text` in one line, with what a terminal would obey or hide escaped.
///
/// Line ends and tabs become spaces, as stock clients show them.
pub(crate) fn node_text(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' | '\r' | '\t' => shown.push(' '),
            character if is_harmless(character) => shown.push(character),
            character => shown.extend(character.escape_default()),
        }
    }
    Cow::Owned(shown)
}

/// As [`node_text`], of what is no longer than a name can be.
pub(crate) fn node_name(text: &str) -> Cow<'_, str> {
    node_text(&text[..text.floor_char_boundary(MAX_NAME_BYTES)])
}

/// As [`node_text`], keys and values.
pub(crate) fn node_labels(labels: &Labels) -> Cow<'_, Labels> {
    let is_clean = |text: &String| text.chars().all(is_harmless);
    if labels
        .iter()
        .all(|(key, value)| is_clean(key) && is_clean(value))
    {
        return Cow::Borrowed(labels);
    }
    let shown = labels.iter().map(|(key, value)| {
        let (key, value) = (node_text(key), node_text(value));
        (key.into_owned(), value.into_owned())
    });
    Cow::Owned(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        assert_eq!(
            node_text("a\x1b[2J\u{9b}31m\u{202e}b\u{200b}"),
            r"a\u{1b}[2J\u{9b}31m\u{202e}b\u{200b}"
        );
        assert_eq!(node_text("one\r\n\ttwo"), "one   two");
    }

    #[test]
    fn names_are_cut_between_characters() {
        assert_eq!(node_name(&"é".repeat(200)), "é".repeat(126));
    }

    #[test]
    fn labels_are_escaped_on_both_sides() {
        let labels = Labels::from([("k\x07".to_owned(), "v\x1b".to_owned())]);
        let shown = Labels::from([(r"k\u{7}".to_owned(), r"v\u{1b}".to_owned())]);
        assert_eq!(*node_labels(&labels), shown);
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        let text = "task: non-zero exit (1): größe";
        assert!(matches!(node_text(text), Cow::Borrowed(same) if same == text));
        let labels = Labels::from([("region".to_owned(), "north".to_owned())]);
        assert!(matches!(node_labels(&labels), Cow::Borrowed(_)));
    }
}
