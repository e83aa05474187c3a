//! Golden files: bytes of each format version, kept in the repository.

use std::{env, fs, path::PathBuf};

use anyhow::{Context, Result, ensure};

/// The bytes of a golden file. With `WAXSEAL_WRITE_GOLDEN=1` a file that does not exist is
/// written from `make`; one that exists never changes.
///
/// # Errors
/// When it is missing.
pub fn golden(name: &str, make: impl FnOnce() -> Vec<u8>) -> Result<Vec<u8>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("golden")
        .join(name);
    if !path.exists() && env::var("WAXSEAL_WRITE_GOLDEN").is_ok_and(|value| value == "1") {
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, make())?;
    }
    fs::read(&path).with_context(|| path.display().to_string())
}

/// A copy of `bytes` whose byte at `place`, the format's version, is raised by one.
///
/// # Errors
/// When the byte is not `version`.
pub fn golden_with_version(bytes: &[u8], place: usize, version: u8) -> Result<Vec<u8>> {
    let mut newer = bytes.to_vec();
    let byte = newer.get_mut(place).context("shorter than its header")?;
    ensure!(
        *byte == version,
        "byte {place} is {byte}, not the version {version}"
    );
    *byte = version + 1;
    Ok(newer)
}
