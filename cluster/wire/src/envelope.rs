//! Who a relayed call is of, as one header.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use rustls::pki_types::CertificateDer;
use tonic::{
    Status,
    metadata::{Binary, MetadataMap, MetadataValue},
};

use waxseal_ca::reclaim::ChannelBinding;

use crate::{limits::ENVELOPE_LIMIT, peer::Peer, waxseal::Envelope};

/// Bears the [`Envelope`] of a relayed call.
const ENVELOPE: HeaderName = HeaderName::from_static("waxseal-envelope-bin");
/// swarmkit's managers say by these whose call they forward; ours never believe them.
const FOREIGN: [&str; 2] = ["redirect", "remote_addr"];
/// The same, with what follows.
const FOREIGN_PREFIX: &str = "forwarded";

/// A call cannot be relayed, or bears no envelope that can be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvelopeError {
    #[error(
        "the caller's certificates fill an envelope of {bytes} bytes, and at most {ENVELOPE_LIMIT} \
         are relayed; connect to the leader"
    )]
    TooLarge { bytes: usize },
    #[error("a relayed call bears one envelope of at most {ENVELOPE_LIMIT} bytes")]
    Malformed,
}

impl From<EnvelopeError> for Status {
    fn from(error: EnvelopeError) -> Status {
        match error {
            EnvelopeError::TooLarge { .. } => Status::resource_exhausted(error.to_string()),
            EnvelopeError::Malformed => Status::invalid_argument(error.to_string()),
        }
    }
}

/// Takes out what says for whom a call is made: a caller speaks for itself alone.
///
/// Answers the envelope, if there is exactly one, for the one door that reads it.
pub(crate) fn take_claims(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let is_claim = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with(FOREIGN_PREFIX) || FOREIGN.contains(&name)
    };
    if headers.keys().any(is_claim) {
        let claims: Vec<_> = headers
            .keys()
            .filter(|name| is_claim(name))
            .cloned()
            .collect();
        for name in claims {
            headers.remove(name);
        }
    }
    let mut envelopes = headers.get_all(&ENVELOPE).iter();
    let envelope = match (envelopes.next(), envelopes.next()) {
        (None, _) => return None,
        (Some(envelope), None) => Some(envelope.clone()),
        (Some(_), Some(_)) => None,
    };
    headers.remove(&ENVELOPE);
    envelope
}

/// Puts the caller into an envelope on the call.
///
/// # Errors
/// [`EnvelopeError::TooLarge`].
pub(crate) fn enclose(
    headers: &mut HeaderMap,
    peer: &Peer,
    incarnation: u64,
) -> Result<(), EnvelopeError> {
    let envelope = Envelope {
        chain: peer.chain.iter().map(|der| der.to_vec()).collect(),
        remote_addr: peer.address.to_string(),
        incarnation,
        binding: peer
            .binding
            .map_or_else(Vec::new, |binding| binding.as_bytes().to_vec()),
    };
    let bytes = envelope.encoded_len();
    if bytes > ENVELOPE_LIMIT {
        return Err(EnvelopeError::TooLarge { bytes });
    }
    let value = MetadataValue::<Binary>::from_bytes(&envelope.encode_to_vec());
    let mut value = HeaderValue::from_bytes(value.as_encoded_bytes())
        .map_err(|_| EnvelopeError::TooLarge { bytes })?;
    // Keeps it out of the table of headers that both ends remember.
    value.set_sensitive(true);
    headers.insert(ENVELOPE, value);
    Ok(())
}

/// What an envelope says; none of it is verified.
pub(crate) struct Opened {
    pub(crate) address: SocketAddr,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) incarnation: u64,
    pub(crate) binding: Option<ChannelBinding>,
}

/// Reads an envelope.
///
/// # Errors
/// [`EnvelopeError::Malformed`].
pub(crate) fn open(envelope: &HeaderValue) -> Result<Opened, EnvelopeError> {
    // Base64 takes four characters for three bytes.
    if envelope.len() > ENVELOPE_LIMIT.div_ceil(3) * 4 {
        return Err(EnvelopeError::Malformed);
    }
    let malformed = || EnvelopeError::Malformed;
    // The way in which metadata is decoded everywhere.
    let headers = HeaderMap::from_iter([(ENVELOPE, envelope.clone())]);
    let metadata = MetadataMap::from_headers(headers);
    let encoded = metadata.get_bin(ENVELOPE.as_str()).ok_or_else(malformed)?;
    let bytes = encoded.to_bytes().map_err(|_| malformed())?;
    if bytes.len() > ENVELOPE_LIMIT {
        return Err(malformed());
    }
    let Envelope {
        chain,
        remote_addr,
        incarnation,
        binding,
    } = Envelope::decode(bytes).map_err(|_| malformed())?;
    Ok(Opened {
        address: remote_addr.parse().map_err(|_| malformed())?,
        chain: chain.into_iter().map(CertificateDer::from).collect(),
        incarnation,
        binding: match binding.as_slice() {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| malformed())?),
        }
        .map(ChannelBinding::from_bytes),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn peer(chain: &[usize]) -> Peer {
        let certificate = |bytes: &usize| CertificateDer::from(vec![7; *bytes]);
        Peer {
            sealing: None,
            address: "192.0.2.1:4711".parse().unwrap(),
            identity: None,
            chain: chain.iter().map(certificate).collect::<Arc<[_]>>(),
            relayed_by: None,
            binding: Some(ChannelBinding::from_bytes([9; 32])),
        }
    }

    #[test]
    fn claims_of_callers_are_taken_out_and_the_rest_stays() {
        let mut headers = HeaderMap::new();
        for name in [
            "forwarded_cert",
            "forwarded_cert_cn",
            "forwarded_cert_ou",
            "forwarded",
            "redirect",
            "remote_addr",
            "content-type",
            "waxseal-features",
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("x"));
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("y"));
        }
        enclose(&mut headers, &peer(&[]), 1).unwrap();
        assert!(take_claims(&mut headers).is_some());
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "waxseal-features"]);
        assert!(take_claims(&mut headers).is_none());
    }

    #[test]
    fn two_envelopes_are_none() {
        let mut headers = HeaderMap::new();
        enclose(&mut headers, &peer(&[]), 1).unwrap();
        let second = headers[&ENVELOPE].clone();
        headers.append(ENVELOPE, second);
        assert!(take_claims(&mut headers).is_none());
        assert!(headers.is_empty());
    }

    #[test]
    fn what_is_enclosed_is_read() {
        let mut headers = HeaderMap::new();
        enclose(&mut headers, &peer(&[700, 600]), 3).unwrap();
        let opened = open(&take_claims(&mut headers).unwrap()).unwrap();
        assert_eq!(opened.address, peer(&[]).address);
        assert_eq!(opened.incarnation, 3);
        assert_eq!(opened.binding, peer(&[]).binding);
        let lengths: Vec<_> = opened.chain.iter().map(|der| der.len()).collect();
        assert_eq!(lengths, [700, 600]);
    }

    #[test]
    fn too_large_an_envelope_is_refused_on_both_sides() {
        let mut headers = HeaderMap::new();
        let error = enclose(&mut headers, &peer(&[ENVELOPE_LIMIT]), 1).unwrap_err();
        assert!(matches!(error, EnvelopeError::TooLarge { .. }), "{error:?}");
        assert!(headers.is_empty());
        let large = Envelope {
            chain: vec![vec![7; ENVELOPE_LIMIT]],
            remote_addr: "192.0.2.1:1".to_owned(),
            incarnation: 1,
            binding: Vec::new(),
        };
        let half_bound = Envelope {
            chain: Vec::new(),
            binding: vec![9; 31],
            ..large.clone()
        };
        for bytes in [
            large.encode_to_vec(),
            half_bound.encode_to_vec(),
            vec![0xff; 40],
            Vec::new(),
        ] {
            let value = MetadataValue::<Binary>::from_bytes(&bytes);
            let value = HeaderValue::from_bytes(value.as_encoded_bytes()).unwrap();
            assert_eq!(open(&value).err(), Some(EnvelopeError::Malformed));
        }
        let text = HeaderValue::from_static("not base64 !!");
        assert_eq!(open(&text).err(), Some(EnvelopeError::Malformed));
    }
}
