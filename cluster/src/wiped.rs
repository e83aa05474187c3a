//! Bytes that are wiped when they are dropped.

use std::{
    fmt,
    ops::{Deref, DerefMut},
};

use zeroize::{ZeroizeOnDrop, optimization_barrier};

/// A buffer with something secret in it, wiped as a block when it is dropped.
///
/// As `Zeroizing<Vec<u8>>`, which wipes byte by byte: every write of a manager goes through
/// several buffers of a whole batch. What growing leaves behind is not wiped: size it once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Wiped(Vec<u8>);

impl Wiped {
    /// Takes a buffer over.
    pub fn new(bytes: Vec<u8>) -> Wiped {
        Wiped(bytes)
    }
}

impl Deref for Wiped {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Wiped {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Shows the length alone.
impl fmt::Debug for Wiped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wiped({} bytes)", self.0.len())
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl ZeroizeOnDrop for Wiped {}

/// Overwrites a buffer with zeros, to the end of its capacity: what was cut off lies there still.
pub(crate) fn wipe(bytes: &mut Vec<u8>) {
    let capacity = bytes.capacity();
    bytes.clear();
    bytes.resize(capacity, 0);
    optimization_barrier(bytes.as_slice());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_off_is_wiped_as_well() {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&[7; 48]);
        bytes.truncate(3);
        let before = bytes.as_ptr();
        wipe(&mut bytes);
        assert_eq!(bytes, [0; 64]);
        assert_eq!(bytes.as_ptr(), before);
    }

    #[test]
    fn only_the_length_is_shown() {
        assert_eq!(format!("{:?}", Wiped::new(vec![7; 3])), "Wiped(3 bytes)");
    }
}
