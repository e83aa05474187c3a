//! Commands as bytes: alone, and many in one entry of the log.
//!
//! The bytes go to the sealer or into a stream of mutual TLS only. Buffers are
//! sized once and wiped when dropped.

use std::ops::Range;

use prost::Message;
use prost_types::Timestamp;

use crate::{
    Wiped,
    objects::{Actor, Command, command::Op},
};

/// The newest command format that this binary writes and reads.
pub const COMMAND_FORMAT: u32 = 1;
/// Largest command, in bytes: swarmkit's limit of one transaction, 1.5 MiB.
pub const MAX_COMMAND_BYTES: usize = 1_572_864;
/// No command is added to a batch that has this many bytes; a larger one is a
/// batch of its own (256 KiB keeps a fan-out of entries within the message limit).
pub const MAX_BATCH_BYTES: usize = 256 * 1024;
/// The newest batch format that this binary writes and reads.
const BATCH_FORMAT: u8 = 1;
/// Bytes of a batch before its first command: the format.
const BATCH_HEAD_BYTES: usize = 1;
/// Bytes before each command of a batch: its length, little-endian.
const LENGTH_BYTES: usize = 4;

/// Why bytes are not a command, or a command cannot become bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The command is too large.
    #[error("the command has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The bytes are not of this form.
    #[error("malformed {what}")]
    Malformed {
        /// `command`, `batch of commands`, `snapshot`.
        what: &'static str,
    },
    /// A newer binary wrote it.
    #[error(
        "{what} has format {found}, this binary reads up to {supported}; start a newer version of it"
    )]
    TooNew {
        /// `command`, `batch of commands`, `snapshot`.
        what: &'static str,
        /// The format found.
        found: u32,
        /// The newest format that is read here.
        supported: u32,
    },
}

impl Command {
    /// A command in the current format.
    pub fn new(actor: Actor, time: Timestamp, op: Op) -> Command {
        Command {
            format: COMMAND_FORMAT,
            actor: Some(actor),
            time: Some(time),
            op: Some(op),
        }
    }
}

/// A command as bytes, at most [`MAX_COMMAND_BYTES`].
///
/// # Errors
/// [`CodecError::TooLarge`].
pub fn encode_command(command: &Command) -> Result<Wiped, CodecError> {
    check_size(command.encoded_len())?;
    Ok(Wiped::new(command.encode_to_vec()))
}

/// The command in these bytes.
///
/// # Errors
/// [`CodecError::TooLarge`], [`CodecError::Malformed`], and
/// [`CodecError::TooNew`] also for an operation that this binary does not know.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    check_size(bytes.len())?;
    let command = Command::decode(bytes).map_err(|_| CodecError::Malformed { what: "command" })?;
    let too_new = |found| CodecError::TooNew {
        what: "the command",
        found,
        supported: COMMAND_FORMAT,
    };
    match command.format {
        0 => Err(CodecError::Malformed { what: "command" }),
        found if found > COMMAND_FORMAT => Err(too_new(found)),
        // The field of an unknown operation is dropped while decoding.
        _ if command.op.is_none() => Err(too_new(COMMAND_FORMAT + 1)),
        _ => Ok(command),
    }
}

/// Whether a command of this size may join a batch that has `batch_bytes` already.
/// An empty batch takes any command.
pub fn batch_takes(batch_bytes: usize, command_bytes: usize) -> bool {
    batch_bytes == 0 || batch_bytes.saturating_add(command_bytes) <= MAX_BATCH_BYTES
}

/// Many encoded commands as one entry:
///
/// | offset | length | meaning |
/// |---|---|---|
/// | 0 | 1 | format, 1 |
/// | 1 | 4 | length *n* of the first command, little-endian |
/// | 5 | *n* | the first command, as [`encode_command`] makes it |
/// | … | | the others likewise |
///
/// # Errors
/// [`CodecError::TooLarge`] if one of them is; [`CodecError::Malformed`] if there is none.
pub fn encode_batch<C: AsRef<[u8]>>(commands: &[C]) -> Result<Wiped, CodecError> {
    if commands.is_empty() {
        return Err(MALFORMED_BATCH);
    }
    let size = commands
        .iter()
        .map(|command| LENGTH_BYTES + command.as_ref().len())
        .sum::<usize>();
    let mut batch = Wiped::new(Vec::with_capacity(BATCH_HEAD_BYTES + size));
    batch.push(BATCH_FORMAT);
    for command in commands {
        let command = command.as_ref();
        check_size(command.len())?;
        let length = u32::try_from(command.len()).map_err(|_| MALFORMED_BATCH)?;
        batch.extend_from_slice(&length.to_le_bytes());
        batch.extend_from_slice(command);
    }
    Ok(batch)
}

/// The commands of a batch, in order. The whole frame is checked before the
/// first command is decoded; nothing is allocated by what the bytes claim.
///
/// # Errors
/// Of the frame: [`CodecError`]. Each command brings its own.
pub fn decode_batch(
    bytes: &[u8],
) -> Result<impl ExactSizeIterator<Item = Result<Command, CodecError>>, CodecError> {
    let ranges = split_batch(bytes)?;
    Ok(ranges
        .into_iter()
        .map(move |range| decode_command(bytes.get(range).unwrap_or_default())))
}

const MALFORMED_BATCH: CodecError = CodecError::Malformed {
    what: "batch of commands",
};

fn split_batch(bytes: &[u8]) -> Result<Vec<Range<usize>>, CodecError> {
    match bytes.first() {
        Some(&BATCH_FORMAT) => {}
        Some(&found) if found > BATCH_FORMAT => {
            return Err(CodecError::TooNew {
                what: "the batch of commands",
                found: u32::from(found),
                supported: u32::from(BATCH_FORMAT),
            });
        }
        _ => return Err(MALFORMED_BATCH),
    }
    let mut ranges = Vec::new();
    let mut at = BATCH_HEAD_BYTES;
    while at < bytes.len() {
        let length = bytes
            .get(at..)
            .and_then(|rest| rest.first_chunk::<LENGTH_BYTES>())
            .ok_or(MALFORMED_BATCH)?;
        let length = u32::from_le_bytes(*length) as usize;
        check_size(length)?;
        let start = at + LENGTH_BYTES;
        at = start + length;
        if at > bytes.len() {
            return Err(MALFORMED_BATCH);
        }
        ranges.push(start..at);
    }
    if ranges.is_empty() {
        return Err(MALFORMED_BATCH);
    }
    Ok(ranges)
}

fn check_size(bytes: usize) -> Result<(), CodecError> {
    if bytes > MAX_COMMAND_BYTES {
        return Err(CodecError::TooLarge {
            bytes,
            limit: MAX_COMMAND_BYTES,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{command, create_config, create_secret};

    fn encoded(name: &str, bytes: usize) -> Wiped {
        encode_command(&command(1, create_secret("id", name, &vec![7; bytes]))).unwrap()
    }

    #[test]
    fn commands_that_are_not_decoded() {
        let malformed = CodecError::Malformed { what: "command" };
        assert_eq!(decode_command(b""), Err(malformed.clone()));
        assert_eq!(decode_command(b"\xff\xff\xff"), Err(malformed.clone()));
        let whole = encoded("a", 10);
        assert_eq!(decode_command(&whole[..whole.len() - 1]), Err(malformed));
        let mut newer = command(1, create_secret("id", "a", b"x"));
        newer.format = COMMAND_FORMAT + 1;
        assert!(matches!(
            decode_command(&newer.encode_to_vec()),
            Err(CodecError::TooNew { found: 2, .. })
        ));
        assert!(matches!(
            decode_command(&vec![0; MAX_COMMAND_BYTES + 1]),
            Err(CodecError::TooLarge { .. })
        ));
    }

    #[test]
    fn an_operation_of_a_later_version_is_told_from_none() {
        let mut unknown = command(1, create_secret("id", "a", b"x"));
        unknown.op = None;
        let mut bytes = unknown.encode_to_vec();
        // Field 1000, length-delimited, empty: an operation that does not exist yet.
        bytes.extend_from_slice(&[0xc2, 0x3e, 0x00]);
        assert!(matches!(
            decode_command(&bytes),
            Err(CodecError::TooNew {
                found: 2,
                supported: 1,
                ..
            })
        ));
    }

    #[test]
    fn the_largest_objects_fit_and_larger_commands_do_not() {
        let largest = command(1, create_config("c1", "app", &vec![7; 1_023_999]));
        assert!(encode_command(&largest).is_ok());
        let larger = command(1, create_config("c1", "app", &vec![7; MAX_COMMAND_BYTES]));
        assert!(matches!(
            encode_command(&larger),
            Err(CodecError::TooLarge { .. })
        ));
    }

    #[test]
    fn batches_that_are_not_decoded() {
        let batch = encode_batch(&[encoded("a", 10), encoded("b", 10)]).unwrap();
        let mut cut_inside = batch.to_vec();
        cut_inside.pop();
        let mut newer = batch.to_vec();
        newer[0] = 2;
        let lying = [&[BATCH_FORMAT][..], &u32::MAX.to_le_bytes()].concat();
        let short = [&[BATCH_FORMAT][..], &100u32.to_le_bytes(), &[1, 2, 3]].concat();
        for bad in [
            &b""[..],
            b"\x01",
            b"\x00",
            b"\x01\x01\x00",
            &cut_inside,
            &lying,
            &short,
        ] {
            assert!(decode_batch(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(
            decode_batch(&newer).err(),
            Some(CodecError::TooNew { found: 2, .. })
        ));
        assert!(encode_batch::<Vec<u8>>(&[]).is_err());
    }

    #[test]
    fn a_batch_takes_what_fits_and_a_lone_large_command() {
        assert!(batch_takes(0, MAX_COMMAND_BYTES));
        assert!(batch_takes(1, MAX_BATCH_BYTES - 1));
        assert!(!batch_takes(1, MAX_BATCH_BYTES));
        assert!(!batch_takes(1, usize::MAX));
    }

    #[test]
    fn one_broken_command_leaves_the_others_readable() {
        let broken = Wiped::new(b"\xff".to_vec());
        let batch = encode_batch(&[encoded("a", 1), broken, encoded("b", 1)]).unwrap();
        let commands: Vec<_> = decode_batch(&batch).unwrap().collect();
        assert_eq!(commands.len(), 3);
        assert!(commands[0].is_ok() && commands[1].is_err() && commands[2].is_ok());
    }

    proptest! {
        #[test]
        fn batches_come_back_as_they_were(sizes in proptest::collection::vec(1usize..200, 1..20)) {
            let commands: Vec<_> = sizes
                .iter()
                .map(|size| command(1, create_secret("id", "name", &vec![7; *size])))
                .collect();
            let encoded: Vec<_> = commands.iter().map(|c| encode_command(c).unwrap()).collect();
            let batch = encode_batch(&encoded).unwrap();
            prop_assert_eq!(batch.capacity(), batch.len());
            let decoded: Vec<_> = decode_batch(&batch).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(decoded, commands);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_command(&bytes);
            if let Ok(commands) = decode_batch(&bytes) {
                commands.for_each(drop);
            }
        }
    }
}
