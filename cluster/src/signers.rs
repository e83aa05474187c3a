//! Which external CAs sign for which root.

use crate::objects::{ExternalCa, external_ca::Protocol};

/// The addresses that are given for the root `wanted`, in order: those whose certificate it is,
/// or that come without one if it is the `current` root (spec/pki.md §5.4).
pub fn signer_urls(cas: &[ExternalCa], wanted: &[u8], current: &[u8]) -> Vec<String> {
    let is_for = |ca: &&ExternalCa| {
        let cert = match ca.ca_cert.trim_ascii() {
            [] => current,
            cert => cert,
        };
        ca.protocol() == Protocol::Cfssl && cert.trim_ascii() == wanted.trim_ascii()
    };
    cas.iter().filter(is_for).map(|ca| ca.url.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ca(url: &str, cert: &str) -> ExternalCa {
        ExternalCa {
            protocol: Protocol::Cfssl.into(),
            url: url.to_owned(),
            ca_cert: cert.as_bytes().to_vec(),
            ..ExternalCa::default()
        }
    }

    #[test]
    fn addresses_count_for_the_root_that_they_are_given_with() {
        let cas = [
            ca("a", ""),
            ca("b", "new\n"),
            ca("c", "old"),
            ca("d", "new"),
        ];
        assert_eq!(signer_urls(&cas, b"old\n", b"old\n"), ["a", "c"]);
        assert_eq!(signer_urls(&cas, b"new", b"old"), ["b", "d"]);
        assert!(signer_urls(&cas, b"other", b"old").is_empty());
    }
}
