//! The ports that a task has on its node.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};

use crate::objects::PortConfig;

/// Ports that a task says it has: as many as are kept.
///
/// An empty one takes two bytes of a message and some fifty in memory, so that what is beyond is
/// not even read.
pub(crate) const MAX_STATUS_PORTS: usize = 256;

/// The ports of a task, by its status: `repeated PortConfig ports = 1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortStatus {
    /// At most 256 are read.
    pub ports: Vec<PortConfig>,
}

impl PortStatus {
    const PORTS: u32 = 1;
}

impl Message for PortStatus {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        encoding::message::encode_repeated(Self::PORTS, &self.ports, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            Self::PORTS if self.ports.len() < MAX_STATUS_PORTS => {
                encoding::message::merge_repeated(wire_type, &mut self.ports, buf, context)
            }
            _ => encoding::skip_field(wire_type, tag, buf, context),
        }
    }

    fn encoded_len(&self) -> usize {
        encoding::message::encoded_len_repeated(Self::PORTS, &self.ports)
    }

    fn clear(&mut self) {
        self.ports.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::TaskStatus;

    #[test]
    fn ports_beyond_those_that_are_kept_are_not_read() {
        let empty = [0x0a, 0x00].repeat(MAX_STATUS_PORTS + 1);
        let read = PortStatus::decode(&empty[..]).unwrap();
        assert_eq!(read.ports.len(), MAX_STATUS_PORTS);
        assert!(read.ports.capacity() <= 2 * MAX_STATUS_PORTS);
        // A length beyond the end is refused, also where nothing is kept.
        let mut cut = empty;
        cut.extend([0x0a, 0x05]);
        assert!(PortStatus::decode(&cut[..]).is_err());
    }

    #[test]
    fn it_survives_the_wire_as_part_of_a_status() {
        let port = |published_port| PortConfig {
            published_port,
            ..PortConfig::default()
        };
        let status = TaskStatus {
            port_status: Some(PortStatus {
                ports: vec![port(80), port(443)],
            }),
            ..TaskStatus::default()
        };
        let bytes = status.encode_to_vec();
        // Field 6, in it twice field 1, in that field 4.
        assert_eq!(bytes, [0x32, 9, 0x0a, 2, 0x20, 80, 0x0a, 3, 0x20, 0xbb, 3]);
        assert_eq!(TaskStatus::decode(&bytes[..]).unwrap(), status);
    }
}
