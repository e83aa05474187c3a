//! Where payloads rest in a manager's memory.

use zeroize::Zeroizing;

/// Seals secret payloads while they lie in the state and opens them for sending.
///
/// A manager's vault seals under a key of the process that sits in a page
/// which is neither dumped nor swapped, so a core file shows no payload.
pub trait Vault: Send + Sync {
    /// Seals `plain`.
    fn seal(&self, plain: &[u8]) -> Vec<u8>;
    /// Opens what [`Vault::seal`] of the same process made.
    ///
    /// # Panics
    /// If `sealed` was not made by this vault: the state holds only what it sealed.
    fn open(&self, sealed: &[u8]) -> Zeroizing<Vec<u8>>;
}

/// Keeps payloads as they are; for tests and tools that hold no secrets.
#[derive(Debug, Default)]
pub struct PlainVault;

impl Vault for PlainVault {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        plain.to_vec()
    }

    fn open(&self, sealed: &[u8]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(sealed.to_vec())
    }
}
