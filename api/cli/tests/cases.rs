//! The command line as its users meet it: a file per verb and per refusal in `cases/`.
//!
//! A case file is TOML with a list `case`:
//!
//! | Key | Meaning |
//! |---|---|
//! | `args` | the arguments; `@DIR@` is a directory of the case's own |
//! | `stdin` | text on standard input; none by default |
//! | `env` | environment, which is otherwise empty but for `PATH` |
//! | `files` | files in the directory, by name |
//! | `status` | the exit code |
//! | `stdout`, `stderr` | lists of texts that must be there, in this order |
//! | `absent` | texts that must be in neither |
//! | `silent` | nothing at all on standard output |

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    case: Vec<Case>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    args: Vec<String>,
    stdin: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    status: i32,
    #[serde(default)]
    stdout: Vec<String>,
    #[serde(default)]
    stderr: Vec<String>,
    #[serde(default)]
    absent: Vec<String>,
    #[serde(default)]
    silent: bool,
}

#[test]
fn every_case_holds() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let mut faults = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(&cases).unwrap() {
        let path = entry.unwrap().path();
        let file: File = toml::from_str(&std::fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for case in file.case {
            count += 1;
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            faults.extend(
                case.run()
                    .into_iter()
                    .map(|fault| format!("{name}: waxseal {}: {fault}", case.args.join(" "))),
            );
        }
    }
    assert!(count > 30, "only {count} cases were found");
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
}

#[expect(
    clippy::unwrap_used,
    reason = "a case that cannot be run is a failed test"
)]
impl Case {
    fn run(&self) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let placed = |text: &str| text.replace("@DIR@", dir.path().to_str().unwrap());
        for (name, text) in &self.files {
            std::fs::write(dir.path().join(name), placed(text)).unwrap();
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_waxseal"));
        command
            .args(self.args.iter().map(|arg| placed(arg)))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.env.iter().map(|(name, value)| (name, placed(value))))
            .stdin(if self.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let Some(text) = &self.stdin {
            // One that refuses before it reads closes the pipe.
            let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
        }
        let output = child.wait_with_output().unwrap();
        let stdout = String::from_utf8(output.stdout).unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let mut faults = Vec::new();
        if output.status.code() != Some(self.status) {
            faults.push(format!("ended with {}, not {}", output.status, self.status));
        }
        faults.extend(missing(
            "standard output",
            &stdout,
            self.stdout.iter().map(|text| placed(text)),
        ));
        faults.extend(missing(
            "standard error",
            &stderr,
            self.stderr.iter().map(|text| placed(text)),
        ));
        for text in &self.absent {
            if stdout.contains(text) || stderr.contains(text) {
                faults.push(format!("shows {text:?}"));
            }
        }
        if self.silent && !stdout.is_empty() {
            faults.push("prints on standard output".to_owned());
        }
        if !faults.is_empty() {
            faults.push(format!("stdout:\n{stdout}\nstderr:\n{stderr}"));
        }
        faults
    }
}

/// The first text that is not there after the one before it.
fn missing(stream: &str, output: &str, texts: impl Iterator<Item = String>) -> Option<String> {
    let mut rest = output;
    for text in texts {
        match rest.find(&text) {
            Some(at) => rest = &rest[at + text.len()..],
            None => return Some(format!("{stream} lacks {text:?}")),
        }
    }
    None
}
