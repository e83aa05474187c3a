//! The stock `docker` CLI, aimed at one socket.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, bail};

use crate::{run_with_input, scene::Scene};

/// How long one command may take.
const LIMIT: Duration = Duration::from_secs(60);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Exit code; 128 and the number for a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text, without the last line's end.
    #[must_use]
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text, without the last line's end.
    #[must_use]
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim_end().to_owned()
    }
}

/// A client's program and where it calls.
#[derive(Debug, Clone)]
pub struct Cli {
    program: PathBuf,
    host: String,
    /// Directory of the files of mutual TLS.
    certificates: Option<PathBuf>,
    config: PathBuf,
    record: PathBuf,
}

impl Cli {
    pub(crate) fn new(scene: &Scene, program: &Path, socket: &Path) -> Cli {
        Cli {
            program: program.to_owned(),
            host: format!("unix://{}", socket.display()),
            certificates: None,
            config: scene.dir().join("cli-config"),
            record: scene.dir().join("commands.log"),
        }
    }

    /// Another program, aimed at the same place.
    #[must_use]
    pub fn by(&self, program: &Path) -> Cli {
        Cli {
            program: program.to_owned(),
            ..self.clone()
        }
    }

    /// The same client, aimed at a TCP address; with `ca.pem`, `cert.pem` and `key.pem` of
    /// a directory, or without TLS.
    #[must_use]
    pub fn over_tcp(&self, host: &str, certificates: Option<&Path>) -> Cli {
        Cli {
            host: host.to_owned(),
            certificates: certificates.map(Path::to_owned),
            ..self.clone()
        }
    }

    /// The same client with another directory of settings and credentials.
    #[must_use]
    pub fn with_config(&self, dir: &Path) -> Cli {
        Cli {
            config: dir.to_owned(),
            ..self.clone()
        }
    }

    /// Runs a command, however it ends.
    ///
    /// # Errors
    /// When it cannot be run or does not end in time.
    pub fn run(&self, words: &[&str]) -> Result<Output> {
        self.run_with_input(words, &[])
    }

    /// Runs a command with bytes on its standard input.
    ///
    /// # Errors
    /// When it cannot be run or does not end in time.
    pub fn run_with_input(&self, words: &[&str], input: &[u8]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command
            .args(words)
            .env("DOCKER_HOST", &self.host)
            .env("DOCKER_CONFIG", &self.config)
            .env("DOCKER_CLI_HINTS", "false");
        if let Some(certificates) = &self.certificates {
            command
                .env("DOCKER_TLS_VERIFY", "1")
                .env("DOCKER_CERT_PATH", certificates);
        }
        let output = run_with_input(&mut command, input, LIMIT)?;
        self.note(words, &output);
        Ok(output)
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ok(&self, words: &[&str]) -> Result<String> {
        self.ok_with_input(words, &[])
    }

    /// The same with bytes on standard input.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ok_with_input(&self, words: &[&str], input: &[u8]) -> Result<String> {
        let output = self.run_with_input(words, input)?;
        if output.code != 0 {
            bail!(
                "`{}` ended with {}: {}",
                words.join(" "),
                output.code,
                output.err()
            );
        }
        Ok(output.out())
    }

    /// Standard error of a command that must fail with exit code 1.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn fails(&self, words: &[&str]) -> Result<String> {
        self.fails_with_input(words, &[])
    }

    /// The same with bytes on standard input.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub fn fails_with_input(&self, words: &[&str], input: &[u8]) -> Result<String> {
        let output = self.run_with_input(words, input)?;
        if output.code != 1 {
            bail!(
                "`{}` was to fail with 1, ended with {}: {} {}",
                words.join(" "),
                output.code,
                output.out(),
                output.err()
            );
        }
        Ok(output.err())
    }

    /// A command that must fail with exactly this answer of the daemon.
    ///
    /// # Errors
    /// When it ends otherwise or says something else.
    pub fn refused(&self, words: &[&str], message: &str) -> Result<()> {
        self.refused_with_input(words, &[], message)
    }

    /// The same with bytes on standard input.
    ///
    /// # Errors
    /// When it ends otherwise or says something else.
    pub fn refused_with_input(&self, words: &[&str], input: &[u8], message: &str) -> Result<()> {
        let said = self.fails_with_input(words, input)?;
        let expected = format!("Error response from daemon: {}", message.trim());
        if said.lines().next() != expected.lines().next() || !said.starts_with(&expected) {
            bail!(
                "`{}`\n  said     {said}\n  expected {expected}",
                words.join(" ")
            );
        }
        Ok(())
    }

    /// What was run and answered, for whoever looks into a failure. Input is not kept.
    fn note(&self, words: &[&str], output: &Output) {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.record);
        if let Ok(mut file) = file {
            let _ = writeln!(
                file,
                "[{}] {}\n-> {}\n{}\n{}",
                self.host,
                words.join(" "),
                output.code,
                output.out(),
                output.err()
            );
        }
    }
}
