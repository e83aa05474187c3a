//! Debug without contents for objects that hold keys or payloads.

use std::fmt;

use crate::objects;

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
    objects::SecretSpec,
    objects::ConfigSpec,
    objects::container_spec::PullOptions,
    objects::CaConfig,
    objects::JoinTokens,
    objects::RootRotation,
    objects::RootCa,
    objects::UnlockKeyRecord,
);
