//! Programs from elsewhere, in environments of their own under the target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The path of one, below the target directory; `script` installs it, which `tests/run` runs.
pub(crate) fn installed(program: &str, script: &str) -> Result<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent();
    let path = target.context("a target directory")?.join(program);
    ensure!(
        path.exists(),
        "{} is missing; install it with {script}",
        path.display()
    );
    Ok(path)
}
