//! The page that holds the key of payloads in memory.

use std::sync::atomic::{AtomicU64, Ordering};

use aes_gcm::{
    Aes256Gcm, KeyInit,
    aead::{Aead, Nonce},
};
use memfd_secret::MemfdSecret;
use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags};
use waxseal_autolock::scrub_stack;
use waxseal_cluster::Vault;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an AES-256 key.
const KEY_BYTES: usize = 32;
/// Bytes of the nonce in front of each sealed payload.
const NONCE_BYTES: usize = 12;

/// Seals payloads under a key of this process.
///
/// The key lies in a `memfd_secret` page, which neither root's `gcore` nor the
/// swap ever sees; where the kernel has none, in a page of its own that is
/// locked and left out of core files. The cipher is built from it for each call
/// and wiped after, so no key schedule rests on the heap.
///
/// A sealed payload is `nonce (12) ‖ ciphertext ‖ tag (16)`. Nonces are a counter:
/// the key lives no longer than the process, so none is used twice.
pub struct PageVault {
    key: KeyPage,
    next_nonce: AtomicU64,
}

enum KeyPage {
    Secret(MemfdSecret),
    Locked(LockedPage),
}

/// Why no vault could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VaultError {
    /// The system gave no random bytes.
    #[error("the system gave no random bytes for the key of payloads in memory")]
    Random,
    /// No page could be locked.
    #[error(
        "no memory page could be locked for the key of payloads; raise the locked-memory limit (ulimit -l) to at least 64 KiB"
    )]
    Lock(#[source] std::io::Error),
}

impl PageVault {
    /// Makes a key and puts it in its page.
    ///
    /// # Errors
    /// [`VaultError::Random`] and [`VaultError::Lock`].
    pub fn new() -> Result<PageVault, VaultError> {
        let mut key = Zeroizing::new([0u8; KEY_BYTES]);
        getrandom::fill(key.as_mut_slice()).map_err(|_| VaultError::Random)?;
        let page = match MemfdSecret::new(KEY_BYTES) {
            Ok(mut page) => {
                page.as_mut_slice().copy_from_slice(key.as_slice());
                KeyPage::Secret(page)
            }
            Err(_) => KeyPage::Locked(LockedPage::holding(&key)?),
        };
        Ok(PageVault {
            key: page,
            next_nonce: AtomicU64::new(0),
        })
    }

    /// Whether the key is out of reach of `/proc/PID/mem` and core files even for root.
    pub fn is_secret_page(&self) -> bool {
        matches!(self.key, KeyPage::Secret(_))
    }

    fn cipher(&self) -> Aes256Gcm {
        let key = match &self.key {
            KeyPage::Secret(page) => page.as_slice(),
            KeyPage::Locked(page) => page.as_slice(),
        };
        Aes256Gcm::new_from_slice(key).expect("the page holds exactly one AES-256 key")
    }
}

impl Vault for PageVault {
    fn seal(&self, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0u8; NONCE_BYTES];
        let count = self.next_nonce.fetch_add(1, Ordering::Relaxed);
        nonce[4..].copy_from_slice(&count.to_be_bytes());
        let nonce = Nonce::<Aes256Gcm>::from(nonce);
        let sealed = self
            .cipher()
            .encrypt(&nonce, plain)
            .expect("a payload is far below the cipher's limit of 64 GiB");
        scrub_stack();
        let mut out = Vec::with_capacity(NONCE_BYTES + sealed.len());
        out.extend_from_slice(nonce.as_slice());
        out.extend_from_slice(&sealed);
        out
    }

    fn open(&self, sealed: &[u8]) -> Zeroizing<Vec<u8>> {
        let (nonce, body) = sealed
            .split_at_checked(NONCE_BYTES)
            .expect("the state holds only what this vault sealed");
        let nonce = Nonce::<Aes256Gcm>::try_from(nonce).expect("split at the nonce's length");
        let plain = self
            .cipher()
            .decrypt(&nonce, body)
            .expect("the state holds only what this vault sealed");
        scrub_stack();
        Zeroizing::new(plain)
    }
}

/// One page that is not swapped, dumped or inherited.
struct LockedPage {
    base: std::ptr::NonNull<u8>,
}

/// The least size that the kernel maps.
const PAGE_BYTES: usize = 4096;

impl LockedPage {
    fn holding(key: &[u8; KEY_BYTES]) -> Result<LockedPage, VaultError> {
        let lock_error = |error: rustix::io::Errno| VaultError::Lock(error.into());
        #[expect(unsafe_code, reason = "a private anonymous mapping of one page")]
        // SAFETY: the kernel chooses the address; the length is not zero.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(lock_error)?;
        let Some(pointer) = std::ptr::NonNull::new(base.cast::<u8>()) else {
            return Err(VaultError::Lock(std::io::ErrorKind::OutOfMemory.into()));
        };
        let mut page = LockedPage { base: pointer };
        #[expect(unsafe_code, reason = "advice and lock on the mapping made above")]
        // SAFETY: base..base+PAGE_BYTES is the mapping made above.
        unsafe {
            rustix::mm::mlock_with(base, PAGE_BYTES, MlockFlags::empty()).map_err(lock_error)?;
            rustix::mm::madvise(base, PAGE_BYTES, Advice::LinuxDontDump).map_err(lock_error)?;
            rustix::mm::madvise(base, PAGE_BYTES, Advice::LinuxWipeOnFork).map_err(lock_error)?;
        }
        page.as_mut_slice().copy_from_slice(key);
        Ok(page)
    }

    fn as_slice(&self) -> &[u8] {
        #[expect(unsafe_code, reason = "reads the mapping this value owns")]
        // SAFETY: the mapping is readable, lives as long as self, and KEY_BYTES < PAGE_BYTES.
        unsafe {
            std::slice::from_raw_parts(self.base.as_ptr(), KEY_BYTES)
        }
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        #[expect(unsafe_code, reason = "writes the mapping this value owns")]
        // SAFETY: the mapping is writable and &mut self is the only way to it.
        unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr(), KEY_BYTES)
        }
    }
}

impl Drop for LockedPage {
    fn drop(&mut self) {
        self.as_mut_slice().zeroize();
        #[expect(unsafe_code, reason = "unmaps what this value owns")]
        // SAFETY: the mapping was made by this value and nothing points into it any more.
        unsafe {
            let _ = rustix::mm::munmap(self.base.as_ptr().cast(), PAGE_BYTES);
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the page is owned, and written only before it is shared"
)]
// SAFETY: the mapping belongs to this value alone; & gives reads only.
unsafe impl Send for LockedPage {}
#[expect(
    unsafe_code,
    reason = "the page is owned, and written only before it is shared"
)]
// SAFETY: as above.
unsafe impl Sync for LockedPage {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "only what this vault sealed")]
    fn another_vaults_payload_is_not_opened() {
        let sealed = PageVault::new().unwrap().seal(b"db_password");
        PageVault::new().unwrap().open(&sealed);
    }

    #[test]
    fn payloads_are_sealed_each_under_its_own_nonce() {
        let vault = PageVault::new().unwrap();
        let (one, two) = (vault.seal(b"db_password"), vault.seal(b"db_password"));
        assert_ne!(one, two);
        assert!(!one.windows(11).any(|window| window == b"db_password"));
        assert_eq!(vault.open(&one).as_slice(), b"db_password");
        assert_eq!(vault.open(&two).as_slice(), b"db_password");
    }

    #[test]
    fn the_fallback_page_keeps_the_key() {
        let page = LockedPage::holding(&[7; KEY_BYTES]).unwrap();
        assert_eq!(page.as_slice(), &[7; KEY_BYTES]);
    }
}
