//! Text and actions, and the tokens of an action.

use zeroize::Zeroizing;

use super::{OPENING, TemplateError, TemplateFault};

const CLOSING: &[u8] = b"}}";
const COMMENT_OPENING: &[u8] = b"/*";
const COMMENT_CLOSING: &[u8] = b"*/";

/// A part of a template.
pub(super) enum Item<'t> {
    Text(&'t [u8]),
    Action { line: usize, tokens: Vec<Token<'t>> },
}

/// A word of an action. Blanks are kept: Go wants them between arguments.
pub(super) enum Token<'t> {
    Blank,
    /// With the dot: `.ID`.
    Field(&'t str),
    Name(&'t str),
    Text(Zeroizing<Vec<u8>>),
    Number(i64),
    Opening,
    Closing,
    Pipe,
}

/// Cuts a template into its parts.
pub(super) struct Lexer<'t> {
    rest: &'t [u8],
    line: usize,
    /// The action before ended with a trim marker.
    trims: bool,
    /// The text before an action was taken, up to the first token.
    is_action_next: bool,
}

type Lexed<T> = Result<T, TemplateError>;

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t [u8]) -> Lexer<'t> {
        Lexer {
            rest: text,
            line: 1,
            trims: false,
            is_action_next: false,
        }
    }

    /// The next part; comments are passed over.
    pub(super) fn next(&mut self) -> Lexed<Option<Item<'t>>> {
        loop {
            if !self.is_action_next {
                let text = self.text();
                if !text.is_empty() {
                    return Ok(Some(Item::Text(text)));
                }
                if !self.is_action_next {
                    return Ok(None);
                }
            }
            self.is_action_next = false;
            let line = self.line;
            if self.rest.starts_with(COMMENT_OPENING) {
                self.comment()?;
                continue;
            }
            let tokens = self.action()?;
            return Ok(Some(Item::Action { line, tokens }));
        }
    }

    pub(super) fn malformed(&self, what: &'static str) -> TemplateError {
        self.error(TemplateFault::Malformed { what })
    }

    fn error(&self, fault: TemplateFault) -> TemplateError {
        let line = self.line;
        TemplateError { line, fault }
    }

    fn not_offered(&self, construct: &'static str) -> TemplateError {
        self.error(TemplateFault::NotOffered { construct })
    }

    /// Takes bytes and counts their lines.
    fn take(&mut self, count: usize) -> &'t [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        self.line += taken.iter().filter(|byte| **byte == b'\n').count();
        taken
    }

    /// The text up to the next action, whose opening is taken too.
    fn text(&mut self) -> &'t [u8] {
        let opening = find(self.rest, OPENING);
        let mut text = self.take(opening.unwrap_or(self.rest.len()));
        if std::mem::take(&mut self.trims) {
            text = trim_start(text);
        }
        if opening.is_some() {
            self.take(OPENING.len());
            self.is_action_next = true;
            if let [b'-', blank, ..] = self.rest
                && is_blank(*blank)
            {
                text = trim_end(text);
                self.take(2);
            }
        }
        text
    }

    fn comment(&mut self) -> Lexed<()> {
        self.take(COMMENT_OPENING.len());
        let end = find(self.rest, COMMENT_CLOSING)
            .ok_or_else(|| self.malformed("a comment without its end"))?;
        self.take(end + COMMENT_CLOSING.len());
        if !self.closing() {
            return Err(self.malformed("a comment does not end the action"));
        }
        Ok(())
    }

    /// Takes the end of an action, with a trim marker if there is one.
    fn closing(&mut self) -> bool {
        if self.rest.starts_with(CLOSING) {
            self.take(CLOSING.len());
            return true;
        }
        if let [blank, b'-', after @ ..] = self.rest
            && is_blank(*blank)
            && after.starts_with(CLOSING)
        {
            self.take(2 + CLOSING.len());
            self.trims = true;
            return true;
        }
        false
    }

    fn action(&mut self) -> Lexed<Vec<Token<'t>>> {
        let mut tokens = Vec::new();
        while !self.closing() {
            tokens.push(self.token()?);
        }
        Ok(tokens)
    }

    fn token(&mut self) -> Lexed<Token<'t>> {
        let Some(first) = self.rest.first().copied() else {
            return Err(self.malformed("an action without its end"));
        };
        match first {
            blank if is_blank(blank) => {
                // One at a time: the last may belong to a trim marker.
                self.take(1);
                Ok(Token::Blank)
            }
            b'"' => self.quoted().map(Token::Text),
            b'`' => self.raw().map(Token::Text),
            b'(' => {
                self.take(1);
                Ok(Token::Opening)
            }
            b')' => {
                self.take(1);
                Ok(Token::Closing)
            }
            b'|' => {
                self.take(1);
                Ok(Token::Pipe)
            }
            b'$' | b'=' | b':' => Err(self.not_offered("variables")),
            b'\'' => Err(self.not_offered("character constants")),
            b'.' => self.field(),
            b'+' | b'-' | b'0'..=b'9' => self.number(),
            b'_' | b'a'..=b'z' | b'A'..=b'Z' => {
                let name = self.word(0)?;
                Ok(Token::Name(name))
            }
            _ => Err(self.malformed("a character that cannot stand in an action")),
        }
    }

    /// Letters, digits and underscores after `skip` bytes, up to what may follow a word.
    fn word(&mut self, skip: usize) -> Lexed<&'t str> {
        let after = self.rest.get(skip..).unwrap_or_default();
        let length = after
            .iter()
            .take_while(|byte| **byte == b'_' || byte.is_ascii_alphanumeric())
            .count();
        let end = after.get(length..).unwrap_or_default();
        let ends = match end.first() {
            None => true,
            Some(byte) => is_blank(*byte) || b".,|:()".contains(byte) || end.starts_with(CLOSING),
        };
        if !ends {
            return Err(self.malformed("a character that cannot stand in a name"));
        }
        let word = self.take(skip + length);
        str::from_utf8(word).map_err(|_| self.malformed("a name that is not text"))
    }

    fn field(&mut self) -> Lexed<Token<'t>> {
        let field = self.word(1)?;
        match field {
            "." => Err(self.not_offered(". alone")),
            _ if field.as_bytes()[1].is_ascii_digit() => {
                Err(self.not_offered("numbers other than decimal integers"))
            }
            _ => Ok(Token::Field(field)),
        }
    }

    fn number(&mut self) -> Lexed<Token<'t>> {
        let sign = usize::from(matches!(self.rest.first(), Some(b'+' | b'-')));
        let word = self.word(sign)?;
        let digits = &word[sign..];
        let is_decimal = !digits.is_empty()
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            // Leading zeros make it octal.
            && (digits == "0" || !digits.starts_with('0'))
            && !self.rest.starts_with(b".");
        match word.parse() {
            Ok(number) if is_decimal => Ok(Token::Number(number)),
            _ => Err(self.not_offered("numbers other than decimal integers")),
        }
    }

    /// Between backquotes, without escapes; carriage returns are dropped, as Go does.
    fn raw(&mut self) -> Lexed<Zeroizing<Vec<u8>>> {
        let length = self.rest[1..].iter().position(|byte| *byte == b'`');
        let length = length.ok_or_else(|| self.malformed("a string without its end"))?;
        let raw = self.take(length + 2);
        let mut text = Zeroizing::new(Vec::with_capacity(length));
        text.extend(raw[1..=length].iter().filter(|byte| **byte != b'\r'));
        Ok(text)
    }

    fn quoted(&mut self) -> Lexed<Zeroizing<Vec<u8>>> {
        let mut end = 1;
        loop {
            match self.rest.get(end) {
                None | Some(b'\n') => return Err(self.malformed("a string without its end")),
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
            }
        }
        let quoted = self.take(end + 1);
        let inside = quoted.get(1..end).unwrap_or_default();
        let text = str::from_utf8(inside)
            .map_err(|_| self.malformed("a string that is not UTF-8 text"))?;
        unescape(text).ok_or_else(|| self.malformed("an unknown escape in a string"))
    }
}

/// Go's escapes of interpreted strings; `None` for what is none.
fn unescape(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    // No escape is shorter than what it stands for.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let kind = escape.chars().next()?;
        let after = &escape[kind.len_utf8()..];
        let (digits, radix) = match kind {
            'x' => (2, 16),
            'u' => (4, 16),
            'U' => (8, 16),
            '0'..='7' => (3, 8),
            _ => (0, 0),
        };
        if digits == 0 {
            bytes.push(plain_escape(kind)?);
            rest = after;
            continue;
        }
        let start = if radix == 8 { escape } else { after };
        let number = start.get(..digits)?;
        if !number.bytes().all(|byte| char::from(byte).is_digit(radix)) {
            return None;
        }
        let number = u32::from_str_radix(number, radix).ok()?;
        match kind {
            'u' | 'U' => {
                let mut buffer = [0; 4];
                let encoded = char::from_u32(number)?.encode_utf8(&mut buffer);
                bytes.extend_from_slice(encoded.as_bytes());
            }
            _ => bytes.push(u8::try_from(number).ok()?),
        }
        rest = &start[digits..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

fn plain_escape(kind: char) -> Option<u8> {
    Some(match kind {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        _ => return None,
    })
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn trim_start(text: &[u8]) -> &[u8] {
    let blanks = text.iter().take_while(|byte| is_blank(**byte)).count();
    &text[blanks..]
}

fn trim_end(text: &[u8]) -> &[u8] {
    let blanks = text
        .iter()
        .rev()
        .take_while(|byte| is_blank(**byte))
        .count();
    &text[..text.len() - blanks]
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}
