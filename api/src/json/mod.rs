//! The Engine's JSON types and their conversion from and to the objects.

pub(crate) mod common;
pub(crate) mod decode;
