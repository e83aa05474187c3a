//! What the machine must have.

use std::{
    env,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};

/// Whether the long runs are asked for: `WAXSEAL_LONG=1`, which `tests/run --long` sets.
#[must_use]
pub fn long_run() -> bool {
    env::var("WAXSEAL_LONG").is_ok_and(|value| value == "1")
}

/// Paths of the programs that scenarios use.
#[derive(Debug)]
pub struct Machine {
    /// Our binary, from the same build as the test.
    pub waxseal: PathBuf,
    /// The same on a disk with faults.
    pub waxseal_fault: PathBuf,
    /// The stock engine.
    pub dockerd: PathBuf,
    /// The stock CLI.
    pub docker: PathBuf,
    /// The one that stands last on the PATH: the distribution's, which may be years older than
    /// one that was put before it.
    pub last_docker: PathBuf,
}

impl Machine {
    /// Looks once; the CLI's version is printed then.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn look() -> Result<&'static Machine> {
        static MACHINE: OnceLock<Result<Machine, String>> = OnceLock::new();
        MACHINE
            .get_or_init(|| Machine::find().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|text| anyhow::anyhow!("{text}"))
    }

    fn find() -> Result<Machine> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the scenarios start Docker Engines and mount file systems; run them as root"
        );
        require("setpriv", "util-linux")?;
        let machine = Machine {
            waxseal: built("waxseal")?,
            waxseal_fault: built("waxseal-fault")?,
            dockerd: require("dockerd", "docker.io")?,
            docker: require("docker", "docker.io")?,
            last_docker: candidates("docker").last().context("no docker")?,
        };
        for docker in [&machine.docker, &machine.last_docker] {
            let version = std::process::Command::new(docker)
                .arg("--version")
                .output()?;
            println!(
                "docker CLI: {}",
                String::from_utf8_lossy(&version.stdout).trim()
            );
        }
        Ok(machine)
    }
}

/// A program of the workspace, beside the test executable's directory.
fn built(name: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("the test has no directory")?;
    let binary = profile.join(name);
    ensure!(
        binary.is_file(),
        "{} is not built; run `cargo build --workspace` first",
        binary.display()
    );
    Ok(binary)
}

/// Where a program is, in the order of the PATH.
fn candidates(program: &str) -> impl Iterator<Item = PathBuf> + '_ {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let dirs: Vec<PathBuf> = env::split_paths(&path).chain(system).collect();
    let found = dirs.into_iter().map(move |dir| dir.join(program));
    found.filter(|path| path.is_file())
}

/// The path of a program.
///
/// # Errors
/// Names the Debian package to install.
pub fn require(program: &str, package: &str) -> Result<PathBuf> {
    match candidates(program).next() {
        Some(path) => Ok(path),
        None => bail!(
            "{program} is missing; install it with `apt-get install --no-install-recommends {package}`"
        ),
    }
}
