//! Credentials of registries, where `docker login` keeps them.
//!
//! They are plain texts here; the process's allocator wipes what is freed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::failure::Failure;

/// Largest configuration file that is read: some thousand registries.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// Largest answer of a credential helper; a token has a few KiB.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// A helper may ask the user for something.
const HELPER: Duration = Duration::from_secs(60);
/// Under which name `docker login` keeps the credentials of the default registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What helpers give for the user where the secret is a token.
const TOKEN_USER: &str = "<token>";

/// Of `config.json`, what is about registries.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Entry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `user:password` in base64.
    auth: String,
    identitytoken: String,
}

/// What a credential helper answers.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// A user of a registry, as engines are told.
#[derive(Default, Serialize)]
pub(crate) struct Credentials {
    username: String,
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    identitytoken: String,
    serveraddress: String,
}

impl Config {
    /// What stands in the file itself. Old clients wrote URLs there.
    fn stored(&self, registry: &str) -> Result<Option<Credentials>, Failure> {
        let exact = self.auths.get_key_value(registry);
        let entry = exact.or_else(|| {
            self.auths
                .iter()
                .find(|(key, _)| host(key) == host(registry))
        });
        entry
            .map(|(key, entry)| entry.credentials(key))
            .transpose()
            .map(Option::flatten)
    }
}

impl Entry {
    fn credentials(&self, registry: &str) -> Result<Option<Credentials>, Failure> {
        if self.auth.is_empty() && self.identitytoken.is_empty() {
            return Ok(None);
        }
        let wrong = || {
            Failure::usage(format!("the credentials for {registry} cannot be read"))
                .hint("`docker logout` and `docker login` write them anew")
        };
        let decoded = Zeroizing::new(STANDARD.decode(&*self.auth).map_err(|_| wrong())?);
        let text = str::from_utf8(&decoded).map_err(|_| wrong())?;
        let (user, password) = match text {
            "" => ("", ""),
            text => text.split_once(':').ok_or_else(wrong)?,
        };
        Ok(Some(Credentials {
            username: user.to_owned(),
            password: password.trim_end_matches('\0').to_owned(),
            identitytoken: self.identitytoken.clone(),
            serveraddress: registry.to_owned(),
        }))
    }
}

impl Credentials {
    /// Those for the registry that an image is pulled from.
    ///
    /// # Errors
    /// If there are none, or they cannot be read.
    pub(crate) async fn read(image: &str) -> Result<Credentials, Failure> {
        let path = config_path()?;
        let config = read(&path)?;
        let registry = registry_of(image);
        let helper = config.cred_helpers.get(registry);
        let helper = helper.unwrap_or(&config.creds_store);
        let found = match helper.as_str() {
            "" => config.stored(registry)?,
            helper => ask(&format!("docker-credential-{helper}"), registry).await?,
        };
        found.ok_or_else(|| {
            Failure::usage(format!(
                "there are no credentials for {registry} in {}",
                path.display()
            ))
            .hint(
                "log in with `docker login` first, or leave --with-registry-auth out if everybody \
                 may pull the image; DOCKER_CONFIG names another directory",
            )
        })
    }

    /// As the value of a header.
    ///
    /// # Errors
    /// Never for credentials that could be read.
    pub(crate) fn header(&self) -> Result<HeaderValue, Failure> {
        let mut value = HeaderValue::from_str(&self.encoded()?)
            .map_err(|_| Failure::usage("the credentials cannot be written"))?;
        value.set_sensitive(true);
        Ok(value)
    }

    fn of(answer: Answer, registry: &str) -> Credentials {
        let registry = registry.to_owned();
        match answer.username.as_str() {
            TOKEN_USER => Credentials {
                identitytoken: answer.secret,
                serveraddress: registry,
                ..Credentials::default()
            },
            _ => Credentials {
                username: answer.username,
                password: answer.secret,
                serveraddress: registry,
                ..Credentials::default()
            },
        }
    }

    fn encoded(&self) -> Result<Zeroizing<String>, Failure> {
        let json = serde_json::to_vec(self).map(Zeroizing::new);
        let json = json.map_err(|error| {
            Failure::usage(format!("the credentials cannot be written: {error}"))
        })?;
        Ok(Zeroizing::new(URL_SAFE.encode(&*json)))
    }
}

/// The registry that an image is pulled from, as `docker login` names it.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) | None => DOCKER_HUB,
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        Some(_) => DOCKER_HUB,
    }
}

fn host(registry: &str) -> &str {
    let rest = registry
        .split_once("://")
        .map_or(registry, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn config_path() -> Result<PathBuf, Failure> {
    let dir = match std::env::var_os("DOCKER_CONFIG") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => std::env::home_dir()
            .ok_or_else(|| {
                Failure::usage("there is no home directory with credentials of registries")
                    .hint("set HOME, or DOCKER_CONFIG to the directory with config.json")
            })?
            .join(".docker"),
    };
    Ok(dir.join("config.json"))
}

/// The file; without one nobody is logged in.
fn read(path: &Path) -> Result<Config, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!("{} cannot be read: {what}", path.display()))
            .hint("it is what `docker login` writes; DOCKER_CONFIG names another directory")
    };
    let mut text = Zeroizing::new(Vec::new());
    match File::open(path) {
        Ok(file) => file
            .take(MAX_CONFIG_BYTES + 1)
            .read_to_end(&mut text)
            .map_err(|error| wrong(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(wrong(format!("it has more than {MAX_CONFIG_BYTES} bytes")));
    }
    // The parser's own text may repeat what stands there.
    serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("line {} is not as expected", error.line())))
}

/// Asks a credential helper; `None` if it knows none.
async fn ask(program: &str, registry: &str) -> Result<Option<Credentials>, Failure> {
    answer_of(Command::new(program), program, registry).await
}

/// What the helper that this command starts answers.
async fn answer_of(
    mut helper: Command,
    program: &str,
    registry: &str,
) -> Result<Option<Credentials>, Failure> {
    let wrong = |what: String| {
        Failure::usage(format!(
            "{program} gives no credentials for {registry}: {what}"
        ))
        .hint("it is named in docker's config.json; `docker login` uses it too")
    };
    let failed = |error: io::Error| wrong(error.to_string());
    let asked = async {
        let mut helper = helper
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = helper.stdin.take() {
            // One that does not read says why by its exit code.
            let _ = input.write_all(registry.as_bytes()).await;
        }
        let mut answer = Zeroizing::new(Vec::new());
        if let Some(output) = helper.stdout.take() {
            let mut output = output.take(MAX_ANSWER_BYTES);
            output.read_to_end(&mut answer).await.map_err(failed)?;
        }
        Ok((helper.wait().await.map_err(failed)?, answer))
    };
    let asked = timeout(HELPER, asked).await;
    let (status, answer) =
        asked.map_err(|_| wrong(format!("no answer within {} s", HELPER.as_secs())))??;
    if status.success() {
        let answer = serde_json::from_slice(&answer)
            .map_err(|_| wrong("its answer is not understood".to_owned()))?;
        return Ok(Some(Credentials::of(answer, registry)));
    }
    // The one text that helpers have in common.
    if answer.starts_with(b"credentials not found") {
        return Ok(None);
    }
    Err(wrong(status.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_registry_is_the_first_part_that_looks_like_a_host() {
        for (image, registry) in [
            ("web", DOCKER_HUB),
            ("web:1", DOCKER_HUB),
            ("user/web", DOCKER_HUB),
            ("docker.io/user/web", DOCKER_HUB),
            ("localhost/web", "localhost"),
            ("10.0.0.1:5000/web@sha256:00", "10.0.0.1:5000"),
            ("registry.example/team/web:1", "registry.example"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[test]
    fn credentials_of_other_registries_and_unreadable_ones_are_not_taken() {
        let config = config(
            r#"{"auths": {"a.example": {"auth": "dXNlcg=="}, "b.example": {"auth": "?"},
                "c.example": {}, "d.example.org": {"auth": "dXNlcjpwYXNz"}}, "psFormat": "x"}"#,
        );
        for registry in ["a.example", "b.example"] {
            let failure = config.stored(registry).err().unwrap();
            assert!(failure.message.contains(registry), "{}", failure.message);
        }
        for registry in ["c.example", "d.example", "example.org", DOCKER_HUB] {
            assert!(config.stored(registry).unwrap().is_none(), "{registry}");
        }
    }

    #[test]
    fn credentials_are_found_by_name_and_by_url() {
        let config = config(
            r#"{"auths": {"a.example:5000": {"auth": "dXNlcjpwYTpzcw=="},
                "https://b.example/v1/": {"auth": "dXNlcjpwYXNz"},
                "https://index.docker.io/v1/": {"identitytoken": "t"}}}"#,
        );
        let found = |registry: &str| {
            let text = config.stored(registry).unwrap().unwrap().encoded().unwrap();
            String::from_utf8(URL_SAFE.decode(&*text).unwrap()).unwrap()
        };
        assert_eq!(
            found("a.example:5000"),
            r#"{"username":"user","password":"pa:ss","serveraddress":"a.example:5000"}"#
        );
        assert_eq!(
            found("b.example"),
            r#"{"username":"user","password":"pass","serveraddress":"https://b.example/v1/"}"#
        );
        assert_eq!(
            found(DOCKER_HUB),
            r#"{"username":"","password":"","identitytoken":"t","serveraddress":"https://index.docker.io/v1/"}"#
        );
    }

    /// What a helper gives that is this script.
    async fn helped(script: &str) -> Result<Option<Credentials>, String> {
        let mut helper = Command::new("sh");
        helper.args(["-c", script]);
        let answer = answer_of(helper, "docker-credential-x", "r.example:5000").await;
        answer.map_err(|failure| failure.message)
    }

    #[tokio::test]
    async fn a_helper_that_does_not_help_is_named() {
        let refused = |why: &str| {
            format!("docker-credential-x gives no credentials for r.example:5000: {why}")
        };
        for (script, why) in [
            ("echo secret >&2; exit 1", "exit status: 1"),
            ("echo secret; exit 2", "exit status: 2"),
            ("kill -9 $$", "signal: 9 (SIGKILL)"),
            ("echo secret", "its answer is not understood"),
            ("exit 0", "its answer is not understood"),
        ] {
            let said = helped(script).await.err();
            assert_eq!(said, Some(refused(why)), "{script}");
        }
        assert!(helped("yes").await.is_err(), "an answer without an end");
        let missing = ask("docker-credential-nonesuch", "r").await.err().unwrap();
        assert!(missing.message.contains("docker-credential-nonesuch"));
        assert!(
            missing.message.contains("No such file"),
            "{}",
            missing.message
        );
    }

    #[tokio::test]
    async fn a_helper_is_asked_for_the_registry_as_docker_asks() {
        let none = "echo credentials not found in native keychain; exit 1";
        assert!(helped(none).await.unwrap().is_none());
        // Its argument is the one that follows the script's.
        let script = r#"test "$0" = get || exit 9
            printf '{"ServerURL":"%s","Username":"u at %s","Secret":"pass"}' x "$(cat)""#;
        let found = helped(script).await.unwrap().unwrap();
        assert_eq!(found.username, "u at r.example:5000");
        assert_eq!(
            (&*found.password, &*found.serveraddress),
            ("pass", "r.example:5000")
        );
    }

    #[test]
    fn a_helper_gives_a_password_or_a_token() {
        let of = |text: &str| Credentials::of(serde_json::from_str(text).unwrap(), "r");
        let password = of(r#"{"ServerURL": "r", "Username": "u", "Secret": "s"}"#);
        assert_eq!((&*password.username, &*password.password), ("u", "s"));
        let token = of(r#"{"Username": "<token>", "Secret": "s"}"#);
        assert_eq!((&*token.username, &*token.identitytoken), ("", "s"));
    }
}
