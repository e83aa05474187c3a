//! Text that a peer sent, made fit for logs, errors and tables.

use waxseal_cluster::is_harmless;

/// The most bytes of a peer's text that are shown.
pub const PEER_TEXT_LIMIT: usize = 256;

/// `text` with control characters escaped, cut at [`PEER_TEXT_LIMIT`] bytes.
///
/// What was cut is shown by a final `…`, which is not counted.
pub fn peer_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(PEER_TEXT_LIMIT));
    for character in text.chars() {
        let start = shown.len();
        if is_harmless(character) {
            shown.push(character);
        } else {
            shown.extend(character.escape_default());
        }
        if shown.len() > PEER_TEXT_LIMIT {
            shown.truncate(start);
            shown.push('…');
            break;
        }
    }
    shown
}

/// Escapes what a terminal would obey or hide in a name, in place.
pub fn clean_name(name: &mut String) {
    clean(name, is_harmless);
}

/// As [`clean_name`], of a text that may have several lines.
pub fn clean_text(text: &mut String) {
    clean(text, |character| {
        is_harmless(character) || matches!(character, '\n' | '\r' | '\t')
    });
}

fn clean(text: &mut String, may_stay: impl Fn(char) -> bool) {
    if text.chars().all(&may_stay) {
        return;
    }
    let mut cleaned = String::with_capacity(text.len());
    for character in text.chars() {
        if may_stay(character) {
            cleaned.push(character);
        } else {
            cleaned.extend(character.escape_default());
        }
    }
    *text = cleaned;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_reordering_characters_are_escaped() {
        assert_eq!(
            peer_text("a\nb\x1b[31m\u{202e}"),
            "a\\nb\\u{1b}[31m\\u{202e}"
        );
    }

    #[test]
    fn long_text_is_cut_between_characters() {
        let shown = peer_text(&"é".repeat(1000));
        assert_eq!(shown, format!("{}…", "é".repeat(128)));
        // An escape is shown whole or not at all.
        let shown = peer_text(&"\n".repeat(1000));
        assert_eq!(shown, format!("{}…", "\\n".repeat(128)));
    }

    #[test]
    fn names_have_one_line_and_texts_may_have_more() {
        let given = "a\n\tb\x1b[31m\u{9b}\u{202e}\0é";
        let mut name = given.to_owned();
        clean_name(&mut name);
        assert_eq!(name, "a\\n\\tb\\u{1b}[31m\\u{9b}\\u{202e}\\u{0}é");
        let mut text = given.to_owned();
        clean_text(&mut text);
        assert_eq!(text, "a\n\tb\\u{1b}[31m\\u{9b}\\u{202e}\\u{0}é");
    }

    #[test]
    fn plain_text_stays() {
        assert_eq!(peer_text("größe 7"), "größe 7");
    }
}
