//! What is an image reference.
//!
//! The grammar is that of the distribution project's references, which Docker Engines parse before
//! they take a service: `[DOMAIN/]PATH[:TAG][@DIGEST]`, the path in lower case.

/// Longest name, domain included (the distribution project's bound).
const MAX_NAME_BYTES: usize = 255;
/// Longest tag.
const MAX_TAG_BYTES: usize = 128;
/// Fewest hexadecimal digits of a digest.
const MIN_DIGEST_DIGITS: usize = 32;
/// What looks like an image's id is no reference.
const ID_DIGITS: usize = 64;

/// Whether an engine takes it for the reference of an image.
pub(super) fn is_reference(text: &str) -> bool {
    let is_id = text.len() == ID_DIGITS && text.bytes().all(is_hex);
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    let (domain, rest) = match rest.split_once('/') {
        Some((first, after)) if names_domain(first) => (Some(first), after),
        _ => (None, rest),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (rest, None),
    };
    let name_bytes = domain.map_or(0, |domain| domain.len() + 1) + path.len();
    !is_id
        && name_bytes <= MAX_NAME_BYTES
        && domain.is_none_or(is_domain)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
}

/// Whether what stands before the first slash is a host and not part of the path.
fn names_domain(first: &str) -> bool {
    let has_upper = || first.bytes().any(|byte| byte.is_ascii_uppercase());
    first.contains(['.', ':']) || first == "localhost" || has_upper()
}

/// A host name, or an IPv6 address in brackets, with a port if need be.
fn is_domain(domain: &str) -> bool {
    if let Some((address, after)) = domain
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        let in_address = |byte: u8| byte.is_ascii_hexdigit() || byte == b':';
        let is_port = after.is_empty() || after.strip_prefix(':').is_some_and(is_number);
        return !address.is_empty() && address.bytes().all(in_address) && is_port;
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label) && port.is_none_or(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Small letters and digits, with one dot, one or two underscores or any number of dashes between.
fn is_component(component: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_between =
        |part: &str| matches!(part, "" | "." | "_" | "__") || part.bytes().all(|byte| byte == b'-');
    component.starts_with(is_plain)
        && component.ends_with(is_plain)
        && component.split(is_plain).all(is_between)
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG_BYTES
        && tag.bytes().next().is_some_and(is_word)
        && tag
            .bytes()
            .all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_digest(digest: &str) -> bool {
    let Some((algorithm, digits)) = digest.split_once(':') else {
        return false;
    };
    let is_part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['+', '.', '-', '_']).all(is_part)
        && digits.len() >= MIN_DIGEST_DIGITS
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::is_reference;

    const DIGITS: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_no_engine_takes() {
        let id = DIGITS.repeat(2);
        let long = format!("a/{}", "b".repeat(254));
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            "UPPER",
            "a b",
            "a/",
            "/a",
            "a//b",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a.-b",
            "a:",
            "a:-t",
            "a:b:c",
            "a:b/c",
            "a@bad",
            "a@sha256:",
            "a@sha256:abc",
            "a@sha256:zz",
            "ä",
            "a\0",
            "a.b/C",
            "-x.y/a",
            "x.y:p/a",
            "x.y:/a",
            "[::1/a",
            "[]:5000/a",
            "docker.io/",
            &id,
            &long,
            &tag,
        ] {
            assert!(!is_reference(text), "{text}");
        }
    }

    #[test]
    fn what_engines_take() {
        let digest = format!("r.io:5000/a/b:1@sha256:{DIGITS}");
        let tag = format!("a:{}", "t".repeat(128));
        for text in [
            "bb:1",
            "host",
            "docker.io/library/host",
            "a/b",
            "a.b/c",
            "localhost/x",
            "localhost:5000/x:t",
            "a-b__c.d--e",
            "r.io:5000/a/b",
            "192.0.2.1:80/a",
            "[2001:db8::1]:5000/a",
            "[::1]/a",
            "Upper/a",
            "a:_x.y-Z",
            "a:1",
            "1",
            &DIGITS[..12],
            &digest,
            &tag,
        ] {
            assert!(is_reference(text), "{text}");
        }
    }
}
