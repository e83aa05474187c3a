//! A registry of images on the loopback, behind basic authentication.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::{require, run_with_input};

/// What one request may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a request's head.
const MAX_HEAD_BYTES: u64 = 64 * 1024;

/// How a client of TLS begins; engines try that first.
const TLS_HANDSHAKE: [u8; 1] = [22];
const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPE: &str = "application/vnd.docker.container.image.v1+json";
const LAYER_TYPE: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// A registry that serves one image, busybox with `sh`, `cat` and `sleep`, under any name
/// and tag to who knows a password. It lives as long as the process of the test.
#[derive(Clone, Debug)]
pub struct Registry {
    /// `address:port`, the first part of the image's name.
    pub host: String,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `Basic …`
    wanted: String,
    /// Manifests by digest and the blobs, with their types.
    content: BTreeMap<String, (&'static str, Vec<u8>)>,
    manifest: String,
    granted: BTreeMap<String, usize>,
    refused: usize,
}

impl Registry {
    /// Serves on `address`.
    ///
    /// # Errors
    /// When the image cannot be made or the port not be had.
    pub fn start(address: Ipv4Addr, dir: &Path) -> Result<Registry> {
        let listener = TcpListener::bind((address, 0))?;
        let host = listener.local_addr()?.to_string();
        let registry = Registry {
            host,
            shared: Arc::default(),
        };
        registry.with(|shared| shared.fill(dir))?;
        let serving = registry.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let registry = serving.clone();
                // Who does not speak HTTP is let go.
                thread::spawn(move || drop(registry.answer(stream)));
            }
        });
        Ok(registry)
    }

    /// From now on this is the password of `user`; no other user is known.
    pub fn set_password(&self, password: &str) {
        self.with(|shared| {
            shared.wanted = format!("Basic {}", STANDARD.encode(format!("user:{password}")));
        });
    }

    /// How often the manifest was given to who knew the password, by tag.
    #[must_use]
    pub fn granted(&self, tag: &str) -> usize {
        self.with(|shared| shared.granted.get(tag).copied().unwrap_or(0))
    }

    /// How often somebody did not know the password, or told none.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.with(|shared| shared.refused)
    }

    /// A directory for `docker --config` with the credentials of `user`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn client_config(&self, dir: &Path, password: &str) -> Result<String> {
        fs::create_dir_all(dir)?;
        let auth = STANDARD.encode(format!("user:{password}"));
        let config = json!({"auths": {&self.host: {"auth": auth}}});
        fs::write(dir.join("config.json"), config.to_string())?;
        Ok(dir.display().to_string())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        act(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn answer(&self, stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut first = [0];
        stream.peek(&mut first)?;
        ensure!(first != TLS_HANDSHAKE, "it speaks TLS");
        let mut head = BufReader::new(stream.try_clone()?.take(MAX_HEAD_BYTES));
        let mut line = String::new();
        head.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (method, path) = (method.to_owned(), path.to_owned());
        let mut authorization = String::new();
        loop {
            let mut header = String::new();
            head.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("authorization")
            {
                value.trim().clone_into(&mut authorization);
            }
        }
        let (status, headers, body) = self.with(|shared| shared.answer(&path, &authorization));
        let length = body.len();
        let mut stream = stream;
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{headers}Docker-Distribution-Api-Version: registry/2.0\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n"
        )?;
        if method != "HEAD" {
            stream.write_all(&body)?;
        }
        Ok(())
    }
}

impl Shared {
    /// Builds the image.
    fn fill(&mut self, dir: &Path) -> Result<()> {
        let root = dir.join("registry-root");
        let bin = root.join("bin");
        fs::create_dir_all(&bin)?;
        fs::copy(require("busybox", "busybox-static")?, bin.join("busybox"))?;
        for applet in ["sh", "cat", "sleep"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet))?;
        }
        let tar = crate::run(
            Command::new("tar").arg("-C").arg(&root).args(["-c", "."]),
            LIMIT,
        )?;
        ensure!(tar.code == 0, "tar: {}", tar.err());
        fs::remove_dir_all(root)?;
        let layer_bytes = tar.stdout.len();
        let layer = self.add(LAYER_TYPE, tar.stdout)?;
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Cmd": ["sleep", "1000"]},
            "rootfs": {"type": "layers", "diff_ids": [layer]},
        });
        let config = config.to_string().into_bytes();
        let config_bytes = config.len();
        let config = self.add(CONFIG_TYPE, config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "size": config_bytes, "digest": config},
            "layers": [{"mediaType": LAYER_TYPE, "size": layer_bytes, "digest": layer}],
        });
        self.manifest = self.add(MANIFEST_TYPE, manifest.to_string().into_bytes())?;
        Ok(())
    }

    fn add(&mut self, kind: &'static str, content: Vec<u8>) -> Result<String> {
        let sum = run_with_input(&mut Command::new("sha256sum"), &content, LIMIT)?;
        let hex = sum.out().split_whitespace().next().map(str::to_owned);
        let digest = format!("sha256:{}", hex.unwrap_or_default());
        ensure!(digest.len() == 71, "sha256sum: {}", sum.err());
        self.content.insert(digest.clone(), (kind, content));
        Ok(digest)
    }

    fn answer(&mut self, path: &str, authorization: &str) -> (&'static str, String, Vec<u8>) {
        if authorization != self.wanted {
            self.refused += 1;
            let headers = "WWW-Authenticate: Basic realm=\"registry\"\r\n".to_owned();
            let body = json!({"errors": [{"code": "UNAUTHORIZED", "message": "log in"}]});
            return ("401 Unauthorized", headers, body.to_string().into_bytes());
        }
        if path == "/v2/" {
            return ("200 OK", String::new(), b"{}".to_vec());
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        let is_tag = path.contains("/manifests/") && !last.starts_with("sha256:");
        let digest = if is_tag { self.manifest.as_str() } else { last };
        let Some((kind, content)) = self.content.get(digest) else {
            return ("404 Not Found", String::new(), Vec::new());
        };
        let headers = format!("Content-Type: {kind}\r\nDocker-Content-Digest: {digest}\r\n");
        let content = content.clone();
        if is_tag {
            *self.granted.entry(last.to_owned()).or_default() += 1;
        }
        ("200 OK", headers, content)
    }
}
