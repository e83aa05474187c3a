//! The functions that templates may call, and what they come to.

use std::cmp::Ordering;

use zeroize::Zeroizing;

use super::{
    TemplateFault,
    value::{Bytes, Value},
};

/// A function, with Go's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Secret,
    Config,
    Env,
    Join,
    And,
    Or,
    Not,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Len,
    Index,
    Print,
    Println,
    Printf,
    Html,
    Urlquery,
}

/// All of them with their names, and how many arguments they take.
const FUNCTIONS: [(&str, Function, usize, usize); 20] = [
    ("secret", Function::Secret, 1, 1),
    ("config", Function::Config, 1, 1),
    ("env", Function::Env, 1, 1),
    ("join", Function::Join, 1, usize::MAX),
    ("and", Function::And, 1, usize::MAX),
    ("or", Function::Or, 1, usize::MAX),
    ("not", Function::Not, 1, 1),
    ("eq", Function::Eq, 2, usize::MAX),
    ("ne", Function::Ne, 2, 2),
    ("lt", Function::Lt, 2, 2),
    ("le", Function::Le, 2, 2),
    ("gt", Function::Gt, 2, 2),
    ("ge", Function::Ge, 2, 2),
    ("len", Function::Len, 1, 1),
    ("index", Function::Index, 2, 2),
    ("print", Function::Print, 0, usize::MAX),
    ("println", Function::Println, 0, usize::MAX),
    ("printf", Function::Printf, 1, usize::MAX),
    ("html", Function::Html, 1, usize::MAX),
    ("urlquery", Function::Urlquery, 1, usize::MAX),
];

/// Their names, for messages.
pub(super) fn names() -> String {
    FUNCTIONS.map(|(name, ..)| name).join(", ")
}

impl Function {
    pub(super) fn of(name: &str) -> Option<Function> {
        let known = FUNCTIONS.iter().find(|(known, ..)| *known == name)?;
        Some(known.1)
    }

    pub(super) fn name(self) -> &'static str {
        self.entry().0
    }

    /// Whether it reads what only payloads have.
    pub(super) fn is_of_payloads(self) -> bool {
        matches!(self, Function::Secret | Function::Config | Function::Env)
    }

    /// The least and the most arguments.
    pub(super) fn arity(self) -> (usize, usize) {
        let (_, _, least, most) = self.entry();
        (least, most)
    }

    fn entry(self) -> (&'static str, Function, usize, usize) {
        // In the order of the variants; a test holds it.
        FUNCTIONS[self as usize]
    }

    pub(super) fn fault(self, problem: &'static str) -> TemplateFault {
        TemplateFault::Arguments {
            function: self.name(),
            problem,
        }
    }

    /// What it makes of its arguments. `secret`, `config` and `env` need the task, and `and`
    /// and `or` decide themselves what they look at: the evaluator has these.
    pub(super) fn call<'v>(self, arguments: &[Value<'v>]) -> Result<Value<'v>, TemplateFault> {
        match self {
            Function::Join => self.join(arguments),
            Function::Not => Ok(Value::Bool(!arguments[0].is_true())),
            Function::Eq => self.equals_any(arguments).map(Value::Bool),
            Function::Ne => self.equals_any(arguments).map(|equal| Value::Bool(!equal)),
            Function::Lt => self.ordered(arguments, Ordering::is_lt),
            Function::Le => self.ordered(arguments, Ordering::is_le),
            Function::Gt => self.ordered(arguments, Ordering::is_gt),
            Function::Ge => self.ordered(arguments, Ordering::is_ge),
            Function::Len => self.length(&arguments[0]),
            Function::Index => self.label(arguments),
            Function::Print => Ok(made(print(arguments))),
            Function::Println => Ok(made(println(arguments))),
            Function::Printf => self.printf(arguments),
            Function::Html => Ok(made(escape_html(&print(arguments)))),
            Function::Urlquery => Ok(made(escape_query(&print(arguments)))),
            Function::Secret | Function::Config | Function::Env | Function::And | Function::Or => {
                Err(self.fault("is not called like this"))
            }
        }
    }

    pub(super) fn text<'a>(self, value: &'a Value<'_>) -> Result<&'a [u8], TemplateFault> {
        match value {
            Value::Text(text) => Ok(text.as_slice()),
            _ => Err(self.fault("takes strings only")),
        }
    }

    fn join<'v>(self, arguments: &[Value<'v>]) -> Result<Value<'v>, TemplateFault> {
        let texts = arguments.iter().map(|argument| self.text(argument));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let mut parts = Vec::with_capacity(2 * texts.len());
        for (index, text) in texts[1..].iter().enumerate() {
            if index > 0 {
                parts.push(texts[0]);
            }
            parts.push(*text);
        }
        Ok(made(concat(&parts)))
    }

    fn equals_any(self, arguments: &[Value<'_>]) -> Result<bool, TemplateFault> {
        for other in &arguments[1..] {
            if self.compared(&arguments[0], other)? == Ordering::Equal {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn compared(self, one: &Value<'_>, other: &Value<'_>) -> Result<Ordering, TemplateFault> {
        match (one, other) {
            (Value::Text(one), Value::Text(other)) => Ok(one.as_slice().cmp(other.as_slice())),
            (Value::Number(one), Value::Number(other)) => Ok(one.cmp(other)),
            (Value::Bool(one), Value::Bool(other)) => Ok(one.cmp(other)),
            _ => Err(self.fault("compares strings with strings and numbers with numbers only")),
        }
    }

    fn ordered<'v>(
        self,
        arguments: &[Value<'_>],
        holds: impl Fn(Ordering) -> bool,
    ) -> Result<Value<'v>, TemplateFault> {
        if matches!(arguments[0], Value::Bool(_)) {
            return Err(self.fault("compares strings with strings and numbers with numbers only"));
        }
        self.compared(&arguments[0], &arguments[1])
            .map(|order| Value::Bool(holds(order)))
    }

    fn length<'v>(self, value: &Value<'_>) -> Result<Value<'v>, TemplateFault> {
        let length = match value {
            Value::Text(text) => text.as_slice().len(),
            Value::Labels(labels) => labels.len(),
            Value::Number(_) | Value::Bool(_) => {
                return Err(self.fault("takes strings and .Service.Labels only"));
            }
        };
        i64::try_from(length)
            .map(Value::Number)
            .map_err(|_| self.fault("takes strings and .Service.Labels only"))
    }

    /// An absent label is the empty string, as in Go, where `.Service.Labels.KEY` is an error.
    fn label<'v>(self, arguments: &[Value<'v>]) -> Result<Value<'v>, TemplateFault> {
        let [Value::Labels(labels), Value::Text(key)] = arguments else {
            return Err(self.fault("takes .Service.Labels and the key of a label only"));
        };
        let value = str::from_utf8(key.as_slice())
            .ok()
            .and_then(|key| labels.get(key));
        Ok(Value::lent(value.map_or("", String::as_str)))
    }

    fn printf<'v>(self, arguments: &[Value<'v>]) -> Result<Value<'v>, TemplateFault> {
        let format = self.text(&arguments[0])?;
        let mut values = arguments[1..].iter();
        let mut parts: Vec<Zeroizing<Vec<u8>>> = Vec::new();
        for verb in verbs(format) {
            let part = match verb {
                Verb::Text(text) => text.to_vec(),
                Verb::Percent => b"%".to_vec(),
                Verb::Value(kind) => {
                    let value = values.next().ok_or_else(|| self.fault(MISCOUNTED))?;
                    let fits = match value {
                        Value::Text(_) => kind != b'd',
                        Value::Number(_) => kind != b's',
                        Value::Bool(_) | Value::Labels(_) => kind == b'v',
                    };
                    if !fits {
                        return Err(self.fault("has a verb of another kind than its value"));
                    }
                    value.printed().into_owned()
                }
                Verb::NotOffered => return Err(self.fault(NO_SUCH_VERB)),
            };
            parts.push(Zeroizing::new(part));
        }
        if values.next().is_some() {
            return Err(self.fault(MISCOUNTED));
        }
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_slice()).collect();
        Ok(made(concat(&parts)))
    }

    /// Whether a format has verbs that are offered, and as many as there are values.
    pub(super) fn check_format(self, format: &[u8], values: usize) -> Result<(), TemplateFault> {
        let mut count = 0;
        for verb in verbs(format) {
            match verb {
                Verb::Value(_) => count += 1,
                Verb::NotOffered => return Err(self.fault(NO_SUCH_VERB)),
                Verb::Text(_) | Verb::Percent => {}
            }
        }
        if count == values {
            Ok(())
        } else {
            Err(self.fault(MISCOUNTED))
        }
    }
}

const MISCOUNTED: &str = "has not as many values as verbs";
const NO_SUCH_VERB: &str = "knows the verbs %s, %v, %d and %% only, without flags and widths";

/// A part of a format of `printf`.
enum Verb<'f> {
    Text(&'f [u8]),
    Percent,
    /// `s`, `v` or `d`.
    Value(u8),
    NotOffered,
}

fn verbs(format: &[u8]) -> impl Iterator<Item = Verb<'_>> {
    let mut rest = format;
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        if *first != b'%' {
            let length = rest.iter().take_while(|byte| **byte != b'%').count();
            let (text, after) = rest.split_at(length);
            rest = after;
            return Some(Verb::Text(text));
        }
        let verb = match after.first() {
            Some(b'%') => Verb::Percent,
            Some(kind @ (b's' | b'v' | b'd')) => Verb::Value(*kind),
            _ => Verb::NotOffered,
        };
        rest = after.get(1..).unwrap_or_default();
        Some(verb)
    })
}

fn made<'v>(bytes: Zeroizing<Vec<u8>>) -> Value<'v> {
    Value::Text(Bytes::Made(bytes))
}

/// Sized once: no copy is left behind by growing.
fn concat(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut whole = Zeroizing::new(Vec::with_capacity(length));
    for part in parts {
        whole.extend_from_slice(part);
    }
    whole
}

/// With a blank between two that are no strings.
fn print(values: &[Value<'_>]) -> Zeroizing<Vec<u8>> {
    let printed: Vec<_> = values.iter().map(Value::printed).collect();
    let is_text = |index: usize| matches!(values[index], Value::Text(_));
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * values.len());
    for (index, part) in printed.iter().enumerate() {
        if index > 0 && !is_text(index - 1) && !is_text(index) {
            parts.push(b" ");
        }
        parts.push(part);
    }
    concat(&parts)
}

/// With a blank between all, and a new line.
fn println(values: &[Value<'_>]) -> Zeroizing<Vec<u8>> {
    let printed: Vec<_> = values.iter().map(Value::printed).collect();
    let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * values.len() + 1);
    for (index, part) in printed.iter().enumerate() {
        if index > 0 {
            parts.push(b" ");
        }
        parts.push(part);
    }
    parts.push(b"\n");
    concat(&parts)
}

fn escape_html(text: &[u8]) -> Zeroizing<Vec<u8>> {
    fn escaped(byte: &u8) -> &[u8] {
        match byte {
            0 => "\u{fffd}".as_bytes(),
            b'"' => b"&#34;",
            b'\'' => b"&#39;",
            b'&' => b"&amp;",
            b'<' => b"&lt;",
            b'>' => b"&gt;",
            other => std::slice::from_ref(other),
        }
    }
    let length = text.iter().map(|byte| escaped(byte).len()).sum();
    let mut whole = Zeroizing::new(Vec::with_capacity(length));
    for byte in text {
        whole.extend_from_slice(escaped(byte));
    }
    whole
}

/// As in the query of a URL: a blank is a plus sign.
fn escape_query(text: &[u8]) -> Zeroizing<Vec<u8>> {
    const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";
    // The longest that it can become.
    let mut escaped = Zeroizing::new(Vec::with_capacity(3 * text.len()));
    for byte in text {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(*byte);
            }
            b' ' => escaped.push(b'+'),
            other => escaped.extend([
                b'%',
                HEXADECIMAL[usize::from(other >> 4)],
                HEXADECIMAL[usize::from(other & 15)],
            ]),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_stand_in_the_order_of_their_variants() {
        for (name, function, least, most) in FUNCTIONS {
            assert_eq!(function.name(), name);
            assert_eq!(Function::of(name), Some(function));
            assert!(least <= most);
        }
        assert_eq!(Function::of("range"), None);
    }
}
