//! What a node tells of its tasks at once.

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};

use crate::{limits::STATUS_UPDATES, swarmkit::TaskStatusUpdate};

/// Statuses of tasks, as the Docker Engine sends them.
///
/// An empty status takes two bytes on the wire and a hundred times that in memory, so that only
/// so many are read ([`STATUS_UPDATES`]); that there were more is noted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UpdateTaskStatusRequest {
    /// The session of the node that says so.
    pub session_id: String,
    /// What it says, newer ones of a task later.
    pub updates: Vec<TaskStatusUpdate>,
    /// Whether there were more than are taken. Not sent.
    pub too_many: bool,
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
                encoding::message::merge_repeated(wire_type, &mut self.updates, buf, context)
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
