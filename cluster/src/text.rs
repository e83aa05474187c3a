//! Text from outside.

/// Whether a character may be shown as it is: neither a control character nor one that reorders or
/// hides what stands beside it.
pub fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(
            character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_not_shown() {
        for character in [
            '\n', '\x1b', '\u{9b}', '\u{200b}', '\u{202e}', '\u{2066}', '\u{feff}',
        ] {
            assert!(!is_harmless(character), "{character:?}");
        }
        assert!(['a', 'é', '漢', ' '].into_iter().all(is_harmless));
    }
}
