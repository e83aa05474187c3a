//! Debug without contents for messages that hold tokens, keys or task output.

use std::fmt;

use crate::{swarmkit, waxseal};

macro_rules! redacted {
    ($($type:ty),* $(,)?) => {$(
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), " { .. }"))
            }
        }
    )*};
}

redacted!(
    swarmkit::IssueNodeCertificateRequest,
    swarmkit::EncryptionKey,
    swarmkit::LogMessage,
    waxseal::RaftEntry,
    waxseal::SnapshotRequest,
    waxseal::ProposeRequest,
);
