//! What comes in beside the command line: payloads and keys, from standard input or a file.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use zeroize::Zeroizing;

use crate::failure::Failure;

/// An unlock key or join token in one line; neither is longer than 100 bytes.
const MAX_LINE_BYTES: usize = 4096;

/// A chain of certificates or a key; the daemon takes no more.
const MAX_PEM_BYTES: usize = 64 * 1024;

/// A payload of at most `max` bytes from a file, or from standard input for `-`.
///
/// # Errors
/// If it is empty, larger, or cannot be read. What `name` says is not repeated: it may
/// be the payload itself, put where a file belongs.
pub(crate) fn payload(name: &str, what: &str, max: usize) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let data = if name == "-" {
        let stdin = io::stdin();
        if stdin.is_terminal() {
            Zeroizing::new(
                ask(&format!("{what} data (one line, not shown): "))?
                    .as_bytes()
                    .to_vec(),
            )
        } else {
            read(stdin.lock(), max).map_err(|error| {
                Failure::usage(format!("standard input cannot be read: {error}"))
            })?
        }
    } else {
        File::open(name).and_then(|file| read(file, max)).map_err(|error| {
            Failure::usage(format!("the file with the {what} data cannot be read: {error}")).hint(format!(
                "the last argument is a file's name, or - for standard input: printf %s … | waxseal {what} create NAME -"
            ))
        })?
    };
    if data.is_empty() {
        return Err(Failure::usage(format!("the {what} data is empty"))
            .hint(format!("a {what} has 1 to {max} bytes")));
    }
    if data.len() > max {
        return Err(
            Failure::usage(format!("the {what} data is larger than {max} bytes")).hint(format!(
                "a {what} has 1 to {max} bytes; keep larger things elsewhere, and their key here"
            )),
        );
    }
    Ok(data)
}

/// A file in PEM, named by an option.
///
/// # Errors
/// If it cannot be read, is too large, or is no PEM.
pub(crate) fn pem_file(option: &str, path: &Path) -> Result<Zeroizing<String>, Failure> {
    let refused = |what: String| Failure::usage(format!("{option} {}: {what}", path.display()));
    let data = File::open(path)
        .and_then(|file| read(file, MAX_PEM_BYTES))
        .map_err(|error| refused(format!("it cannot be read: {error}")))?;
    let text = str::from_utf8(&data).ok();
    match text.filter(|text| data.len() <= MAX_PEM_BYTES && text.contains("-----BEGIN ")) {
        Some(text) => Ok(Zeroizing::new(text.to_owned())),
        None => Err(refused("file contents must be in PEM format".to_owned())),
    }
}

/// At most one byte more than `max`, into memory that is not moved on the way.
fn read(source: impl Read, max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut data = Zeroizing::new(Vec::with_capacity(max + 1));
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut data)?;
    Ok(data)
}

/// One line: asked for on the terminal without being shown, else from standard input.
pub(crate) fn hidden_line(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    if io::stdin().is_terminal() {
        return ask(prompt);
    }
    line_of(io::stdin().lock())
}

/// The first line of a file, or of standard input for `-`.
pub(crate) fn line_of_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    if path == Path::new("-") {
        return hidden_line("join token (not shown): ");
    }
    let file = File::open(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    line_of(file)
}

fn ask(prompt: &str) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(prompt)
        .map(|line| Zeroizing::new(line.trim().to_owned()))
        .map_err(|error| Failure::usage(format!("the terminal cannot be read: {error}")))
}

fn line_of(source: impl Read) -> Result<Zeroizing<String>, Failure> {
    let data = read(source, MAX_LINE_BYTES)
        .map_err(|error| Failure::usage(format!("the input cannot be read: {error}")))?;
    let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let text = str::from_utf8(line).map_err(|_| Failure::usage("the input is not text"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_read_than_needed_to_refuse_it() {
        assert_eq!(read(io::repeat(7), 10).unwrap().len(), 11);
        assert_eq!(read(&[1u8, 2][..], 10).unwrap().len(), 2);
    }

    #[test]
    fn a_file_that_is_not_there_is_not_named() {
        let failure = payload("hunter2", "secret", 10).unwrap_err();
        assert!(!failure.message.contains("hunter2"));
        assert!(!failure.hint.unwrap().contains("hunter2"));
    }

    #[test]
    fn a_line_ends_where_it_ends() {
        assert_eq!(&*line_of(&b" SWMKEY-1-x \nrest"[..]).unwrap(), "SWMKEY-1-x");
        assert_eq!(&*line_of(&b""[..]).unwrap(), "");
        assert!(line_of(&b"\xff"[..]).is_err());
    }
}
