//! What binds the proof of a node that returns to its connection.

use rustls::{ConnectionCommon, ProtocolVersion};
use waxseal_ca::reclaim::{ChannelBinding, RECLAIM_EXPORTER_LABEL};

/// The exporter of a finished handshake (RFC 8446 §7.5), the same at both ends and at no other
/// connection. Nothing before TLS 1.3, where what is exported need not be of one connection
/// alone (RFC 7627).
pub(crate) fn reclaim_binding<Data>(connection: &ConnectionCommon<Data>) -> Option<ChannelBinding> {
    if connection.protocol_version() != Some(ProtocolVersion::TLSv1_3) {
        return None;
    }
    let exported =
        connection.export_keying_material([0u8; 32], RECLAIM_EXPORTER_LABEL, None::<&[u8]>);
    exported.ok().map(ChannelBinding::from_bytes)
}
