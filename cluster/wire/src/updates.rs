//! What a node tells of its tasks at once.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};

use crate::{
    limits::{STATUS_PORTS, STATUS_UPDATES},
    swarmkit::TaskStatusUpdate,
};

/// Statuses of tasks, as the Docker Engine sends them.
///
/// An empty status takes two bytes on the wire and a hundred times that in memory, and so does a
/// port in one, so that only so many are read ([`STATUS_UPDATES`], [`STATUS_PORTS`]); that there
/// were more is noted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateTaskStatusRequest {
    /// The session of the node that says so.
    pub session_id: String,
    /// What it says, newer ones of a task later.
    pub updates: Vec<TaskStatusUpdate>,
    /// Whether there were more than are taken. Not sent.
    pub too_many: bool,
    /// Ports in all of it that were read. Not sent.
    ports: usize,
}

impl UpdateTaskStatusRequest {
    const SESSION_ID: u32 = 1;
    const UPDATES: u32 = 3;

    /// What a node says in a session.
    pub fn new(session_id: impl Into<String>, updates: Vec<TaskStatusUpdate>) -> Self {
        UpdateTaskStatusRequest {
            session_id: session_id.into(),
            updates,
            too_many: false,
            ports: 0,
        }
    }

    /// Counts the ports of the update that was just read.
    fn count_ports(&mut self) {
        let status = self
            .updates
            .last_mut()
            .and_then(|last| last.status.as_mut());
        let Some(ports) = status.and_then(|status| status.port_status.as_mut()) else {
            return;
        };
        self.ports += ports.ports.len();
        if self.ports > STATUS_PORTS {
            ports.ports = Vec::new();
            self.too_many = true;
        }
    }
}

impl Message for UpdateTaskStatusRequest {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if !self.session_id.is_empty() {
            encoding::string::encode(Self::SESSION_ID, &self.session_id, buf);
        }
        encoding::message::encode_repeated(Self::UPDATES, &self.updates, buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            Self::SESSION_ID => {
                encoding::string::merge(wire_type, &mut self.session_id, buf, context)
            }
            Self::UPDATES if self.updates.len() < STATUS_UPDATES => {
                encoding::message::merge_repeated(wire_type, &mut self.updates, buf, context)?;
                self.count_ports();
                Ok(())
            }
            _ => {
                self.too_many |= tag == Self::UPDATES;
                encoding::skip_field(wire_type, tag, buf, context)
            }
        }
    }

    fn encoded_len(&self) -> usize {
        let session_id = match self.session_id.is_empty() {
            true => 0,
            false => encoding::string::encoded_len(Self::SESSION_ID, &self.session_id),
        };
        session_id + encoding::message::encoded_len_repeated(Self::UPDATES, &self.updates)
    }

    fn clear(&mut self) {
        *self = UpdateTaskStatusRequest::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(task: usize) -> TaskStatusUpdate {
        TaskStatusUpdate {
            task_id: task.to_string(),
            status: Some(waxseal_cluster::objects::TaskStatus {
                message: "started".to_owned(),
                ..Default::default()
            }),
        }
    }

    #[test]
    fn what_is_too_much_is_not_read_and_noted() {
        // Two bytes each.
        let empty = [0x1a, 0x00].repeat(STATUS_UPDATES + 1);
        let read = UpdateTaskStatusRequest::decode(&empty[..]).unwrap();
        assert_eq!(read.updates.len(), STATUS_UPDATES);
        assert!(read.too_many);
        let all = UpdateTaskStatusRequest::decode(&empty[2..]).unwrap();
        assert_eq!((all.updates.len(), all.too_many), (STATUS_UPDATES, false));
        // A length beyond the end is refused, also where nothing is kept.
        let mut cut = empty;
        cut.extend([0x1a, 0x05]);
        assert!(UpdateTaskStatusRequest::decode(&cut[..]).is_err());
    }

    #[test]
    fn ports_of_all_statuses_together_are_bounded() {
        let with_ports = |count: usize| {
            let mut update = update(0);
            let status = update.status.as_mut().unwrap();
            status.port_status.get_or_insert_default().ports = vec![Default::default(); count];
            update
        };
        let read = |updates: Vec<TaskStatusUpdate>| {
            let sent = UpdateTaskStatusRequest::new("", updates).encode_to_vec();
            let read = UpdateTaskStatusRequest::decode(&sent[..]).unwrap();
            let statuses = read
                .updates
                .iter()
                .filter_map(|update| update.status.as_ref());
            let ports = statuses.filter_map(|status| status.port_status.as_ref());
            let kept: usize = ports.map(|ports| ports.ports.len()).sum();
            (kept, read.too_many)
        };
        // Of one status no more are read than are kept.
        assert_eq!(read(vec![with_ports(2_000_000)]), (256, false));
        let full = STATUS_PORTS / 256;
        assert_eq!(read(vec![with_ports(256); full]), (STATUS_PORTS, false));
        assert_eq!(read(vec![with_ports(256); full + 9]), (STATUS_PORTS, true));
    }

    #[test]
    fn it_survives_the_wire() {
        let updates = (0..3).map(update).collect();
        let sent = UpdateTaskStatusRequest::new("session", updates);
        let bytes = sent.encode_to_vec();
        assert_eq!(bytes.len(), sent.encoded_len());
        // Field 1, then three of field 3.
        assert_eq!(bytes[..2], [0x0a, 7]);
        assert_eq!(bytes[9], 0x1a);
        assert_eq!(UpdateTaskStatusRequest::decode(&bytes[..]).unwrap(), sent);
        let nothing = UpdateTaskStatusRequest::default();
        assert_eq!(nothing.encode_to_vec(), b"");
    }
}
