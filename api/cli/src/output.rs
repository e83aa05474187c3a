//! What is printed: tables, JSON, times; text from elsewhere made safe for a terminal.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waxseal_ca::{Clock, SystemClock};

use crate::{failure::Failure, payload::typed};

/// How an answer is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// As the API gave it.
    Json,
}

/// How a list is shown.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ListFormat {
    /// Ids only
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl ListFormat {
    /// Prints the answer as it came, or the ids in it, if that is what is wanted; else it is
    /// given back for a table.
    pub(crate) fn for_table<T: DeserializeOwned>(
        self,
        answer: Value,
        ids: fn(&T) -> Vec<&str>,
    ) -> Result<Option<T>, Failure> {
        if self.format == Format::Json && !self.quiet {
            return json(&answer).map(|()| None);
        }
        let list = typed(answer)?;
        if !self.quiet {
            return Ok(Some(list));
        }
        for id in ids(&list) {
            line(shown(id))?;
        }
        Ok(None)
    }
}

/// Longest text from elsewhere in a cell or message (requirements.md, log injection).
const MAX_SHOWN_BYTES: usize = 256;

/// Text from a peer without what moves a terminal's cursor or colours, cut to a bound.
pub(crate) fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len().min(MAX_SHOWN_BYTES));
    for character in text.chars() {
        // Our own messages may be longer than any that a peer can cause; they have no controls.
        if safe.len() >= 4 * MAX_SHOWN_BYTES {
            safe.push('…');
            break;
        }
        match character {
            '\n' => safe.push(' '),
            character if character.is_control() => safe.extend(character.escape_default()),
            character => safe.push(character),
        }
    }
    safe
}

/// A cell of a table.
fn cell(text: &str) -> String {
    let safe = shown(text);
    match safe.char_indices().nth(MAX_SHOWN_BYTES) {
        Some((end, _)) => format!("{}…", &safe[..end]),
        None => safe,
    }
}

/// Prints one line.
pub(crate) fn line(text: impl AsRef<str>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).map_err(|error| Failure::output(&error))
}

/// Prints bytes as they are, at once.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| Failure::output(&error))
}

/// Prints a value as JSON for people and programs.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::refused(format!("the answer cannot be shown: {error}")))?;
    line(text)
}

/// Columns in line with their headings.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Blanks between columns, as `docker` has them.
const GAP: usize = 3;

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Table {
        Table {
            rows: vec![headings.iter().map(|&heading| heading.to_owned()).collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.iter().map(|text| cell(text)).collect());
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        raw(self.text().as_bytes())
    }

    fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width + GAP - cell.chars().count()));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Names and values, one pair a line; empty values are left out.
#[derive(Debug, Default)]
pub(crate) struct Pairs(Vec<(String, String)>);

impl Pairs {
    pub(crate) fn add(&mut self, name: &str, value: impl Into<String>) -> &mut Pairs {
        let value = value.into();
        if !value.is_empty() {
            self.0.push((name.to_owned(), value));
        }
        self
    }

    /// Several values under one name.
    pub(crate) fn add_all<T: AsRef<str>>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Pairs {
        let mut name = name;
        for value in values {
            self.0.push((name.to_owned(), value.as_ref().to_owned()));
            name = "";
        }
        self
    }

    pub(crate) fn print(&self) -> Result<(), Failure> {
        let width = self
            .0
            .iter()
            .map(|(name, _)| name.chars().count())
            .max()
            .unwrap_or(0);
        for (name, value) in &self.0 {
            let colon = if name.is_empty() { "" } else { ":" };
            let pad = width + 2 - name.chars().count() - colon.len();
            line(format!("{name}{colon}{:pad$}{}", "", shown(value)))?;
        }
        Ok(())
    }
}

/// Labels in one line.
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(", ")
}

/// Now, by this host's clock.
pub(crate) fn now() -> OffsetDateTime {
    SystemClock.now()
}

/// `3 minutes ago`, from the RFC 3339 text of an answer.
pub(crate) fn ago(time: &str) -> String {
    match OffsetDateTime::parse(time, &Rfc3339) {
        Ok(time) => format!("{} ago", span(now() - time)),
        Err(_) => time.to_owned(),
    }
}

/// `2026-02-18 09:12:03 UTC, in 90 days`, from the RFC 3339 text of an answer.
pub(crate) fn until(time: &str) -> String {
    let Ok(time) = OffsetDateTime::parse(time, &Rfc3339) else {
        return time.to_owned();
    };
    let left = time - now();
    match left.is_negative() {
        true => format!("{}, expired {} ago", second(time), span(-left)),
        false => format!("{}, in {}", second(time), span(left)),
    }
}

fn second(time: OffsetDateTime) -> String {
    let (date, clock) = (time.date(), time.time());
    format!(
        "{date} {:02}:{:02}:{:02} UTC",
        clock.hour(),
        clock.minute(),
        clock.second()
    )
}

/// A span in its largest whole unit.
pub(crate) fn span(span: time::Duration) -> String {
    const UNITS: [(i64, &str); 4] = [
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let seconds = span.whole_seconds().max(0);
    let (size, name) = UNITS
        .into_iter()
        .find(|(size, _)| seconds >= *size)
        .unwrap_or((1, "second"));
    let count = seconds / size;
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {name}{plural}")
}

/// A setting's span, in whole days where it is: `90days`, `1h 30m`. Can be given back as
/// it is shown.
pub(crate) fn exact_span(span: std::time::Duration) -> String {
    const DAY: u64 = 86_400;
    match (span.as_secs(), span.subsec_nanos()) {
        // Months and years of the general form are averages that nobody asked for.
        (DAY, 0) => "1day".to_owned(),
        (seconds, 0) if seconds > DAY && seconds % DAY == 0 => format!("{}days", seconds / DAY),
        _ => humantime::format_duration(span).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_elsewhere_reaches_the_terminal_as_a_control() {
        assert_eq!(shown("a\u{1b}[31mb\rc\nd"), "a\\u{1b}[31mb\\rc d");
        assert_eq!(shown("Grüße ✓"), "Grüße ✓");
        assert!(cell(&"x".repeat(10_000)).chars().count() <= MAX_SHOWN_BYTES + 1);
        assert!(shown(&"x".repeat(10_000)).len() < 5 * MAX_SHOWN_BYTES);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["ID", "NAME"]);
        table.row(["abc".to_owned(), "x".to_owned()]);
        assert_eq!(table.text(), "ID    NAME\nabc   x\n");
    }

    #[test]
    fn spans_are_told_in_one_unit() {
        assert_eq!(span(time::Duration::seconds(-5)), "0 seconds");
        assert_eq!(span(time::Duration::seconds(61)), "1 minute");
        assert_eq!(span(time::Duration::days(90)), "90 days");
    }

    #[test]
    fn settings_are_told_as_they_were_made() {
        let hours = |hours: u64| std::time::Duration::from_secs(hours * 3_600);
        for (given, text) in [
            (24 * 90, "90days"),
            (24, "1day"),
            (36, "1day 12h"),
            (1, "1h"),
        ] {
            assert_eq!(exact_span(hours(given)), text);
            assert_eq!(humantime::parse_duration(text).unwrap(), hours(given));
        }
    }
}
