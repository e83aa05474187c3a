//! The configuration file: JSON with dockerd's key names.

use std::{io, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    log::{Level, LogFormat},
    settings::{NativeTasks, OrphanTasks},
};
use crate::failure::Failure;

/// Where it is looked for if none is named; it need not be there.
pub(super) const DEFAULT: &str = "/etc/waxseal/daemon.json";
/// Largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The keys of the file; what is absent is left to flags and defaults.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct FileSettings {
    pub(super) hosts: Option<Vec<String>>,
    pub(super) data_root: Option<String>,
    pub(super) exec_root: Option<String>,
    pub(super) pidfile: Option<String>,
    pub(super) group: Option<String>,
    pub(super) labels: Option<Vec<String>>,
    pub(super) node_generic_resources: Option<Vec<String>>,
    pub(super) debug: Option<bool>,
    pub(super) log_level: Option<Level>,
    pub(super) log_format: Option<LogFormat>,
    pub(super) swarm_default_advertise_addr: Option<String>,
    pub(super) shutdown_timeout: Option<u64>,
    pub(super) native_tasks: Option<NativeTasks>,
    pub(super) orphan_tasks: Option<OrphanTasks>,
    pub(super) tls12: Option<bool>,
    pub(super) tlsverify: Option<bool>,
    pub(super) tlscacert: Option<String>,
    pub(super) tlscert: Option<String>,
    pub(super) tlskey: Option<String>,
}

/// All keys, for the answer to an unknown one.
pub(super) const KEYS: [&str; 19] = [
    "hosts",
    "data-root",
    "exec-root",
    "pidfile",
    "group",
    "labels",
    "node-generic-resources",
    "debug",
    "log-level",
    "log-format",
    "swarm-default-advertise-addr",
    "shutdown-timeout",
    "native-tasks",
    "orphan-tasks",
    "tls12",
    "tlsverify",
    "tlscacert",
    "tlscert",
    "tlskey",
];

/// A file as read: its settings, and which keys it has.
#[derive(Debug, Default)]
pub(super) struct ConfigFile {
    pub(super) settings: FileSettings,
    pub(super) keys: Map<String, Value>,
}

/// Reads the file; `None` is the default one, which may be absent.
pub(super) fn read(path: Option<&Path>) -> Result<ConfigFile, Failure> {
    let named = path.unwrap_or(Path::new(DEFAULT));
    let refused = |why: &dyn std::fmt::Display| {
        Failure::usage(format!(
            "the configuration file {} cannot be used: {why}",
            named.display()
        ))
    };
    match std::fs::metadata(named) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_none() => {
            return Ok(ConfigFile::default());
        }
        Err(error) => return Err(refused(&error).hint("--config-file names another")),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(
                refused(&format_args!("it is larger than {MAX_BYTES} bytes"))
                    .hint("is it the right file?"),
            );
        }
        Ok(_) => {}
    }
    let text = std::fs::read(named).map_err(|error| refused(&error))?;
    parse(&text).map_err(|why| {
        refused(&why).hint(format!(
            "it is a JSON object with the keys {}",
            KEYS.join(", ")
        ))
    })
}

/// Reads the text of a file; all unknown keys are named at once.
fn parse(text: &[u8]) -> Result<ConfigFile, String> {
    if text.trim_ascii().is_empty() {
        return Ok(ConfigFile::default());
    }
    let keys: Map<String, Value> =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let unknown: Vec<&str> = keys
        .keys()
        .map(String::as_str)
        .filter(|key| !KEYS.contains(key))
        .collect();
    if !unknown.is_empty() {
        return Err(format!(
            "the following directives don't match any configuration option: {}",
            unknown.join(", ")
        ));
    }
    // One key after the other, so that the fault can be told by its key.
    for (key, value) in &keys {
        let mut alone = Map::new();
        alone.insert(key.clone(), value.clone());
        serde_json::from_value::<FileSettings>(Value::Object(alone))
            .map_err(|error| format!("{key}: {error}"))?;
    }
    let settings =
        serde_json::from_value(Value::Object(keys.clone())).map_err(|error| error.to_string())?;
    Ok(ConfigFile { settings, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_it_does_not_know_and_names_all_of_it() {
        let fault = parse(br#"{"debug": true, "storage-driver": "x", "bip": "y"}"#).unwrap_err();
        assert!(fault.contains("bip, storage-driver"), "{fault}");
        let fault = parse(br#"{"shutdown-timeout": "soon"}"#).unwrap_err();
        assert!(fault.starts_with("shutdown-timeout: "), "{fault}");
        assert!(parse(b"[]").is_err());
        assert!(parse(b"{\"debug\":true").is_err());
    }

    #[test]
    fn every_key_that_is_listed_is_read_and_no_other() {
        for key in KEYS {
            let mut object = Map::new();
            object.insert(key.to_owned(), Value::Null);
            assert!(
                parse(&serde_json::to_vec(&object).unwrap()).is_ok(),
                "{key}"
            );
            let wrong = serde_json::json!({ key: {"x": 1} });
            assert!(
                parse(&serde_json::to_vec(&wrong).unwrap()).is_err(),
                "{key}"
            );
        }
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert!(parse(b" \n").unwrap().keys.is_empty());
    }
}
