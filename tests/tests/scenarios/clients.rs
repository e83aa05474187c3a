//! Public client libraries at our daemon: `docker` for Python, `bollard` for Rust.

mod rust;

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Result, ensure};
use waxseal_tests::{run, scenario};

use crate::installed::installed;

const LIMIT: Duration = Duration::from_secs(180);

#[test]
fn the_library_for_python_finds_what_it_expects() -> Result<()> {
    scenario("python", |scene| {
        let node = scene.waxseal("node")?;
        let python = installed("clients/bin/python", "tests/clients/install")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/exercise.py");
        let mut command = Command::new(python);
        command
            .arg(script)
            .arg(node.dir().join("s"))
            .arg(node.address.to_string())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DOCKER_CONFIG", scene.dir().join("config"));
        let output = run(&mut command, LIMIT)?;
        let said = output.out();
        ensure!(output.code == 0, "{said}\n{}", output.err());
        ensure!(said.ends_with("done"), "{said}");
        Ok(())
    })
}
