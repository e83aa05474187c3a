//! The socket where rules are set: a line, an answer of one line.
//!
//! | Line | Answer |
//! |---|---|
//! | `set RULE` | `ok` |
//! | `clear` | `ok` |
//! | `hits` | how often a rule took effect since the last `clear` |
//!
//! Anything else is answered with `error: ` and why.

use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    thread,
};

use super::{FaultyDisk, Rule};

/// Listens on a socket, in place of what an earlier run left there.
///
/// # Errors
/// When it cannot be made.
pub fn serve(disk: FaultyDisk, socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    thread::Builder::new()
        .name("faults".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // Who hangs up has what it wants.
                let _ = answer(&disk, &stream);
            }
        })?;
    Ok(())
}

fn answer(disk: &FaultyDisk, mut stream: &UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let said = match line.trim().split_once(' ').unwrap_or((line.trim(), "")) {
        ("set", rule) => match rule.parse::<Rule>() {
            Ok(rule) => {
                disk.add(rule);
                "ok".to_owned()
            }
            Err(error) => format!("error: {error}"),
        },
        ("clear", "") => {
            disk.clear();
            "ok".to_owned()
        }
        ("hits", "") => disk.hits().to_string(),
        _ => "error: say set, clear or hits".to_owned(),
    };
    writeln!(stream, "{said}")
}
