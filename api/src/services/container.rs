//! The JSON of a container spec: what a task's process is given.
//!
//! Names, order and the rule of what is left out when empty are those of the
//! Engine API (spec/engine-api.md §5.6). Durations are integer nanoseconds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spec::{is_default, is_empty};
use crate::json::common::Driver;

/// `ContainerSpec`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ContainerSpec", rename_all = "PascalCase")]
pub(crate) struct ContainerSpecJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) image: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) command: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) hostname: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) env: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) user: String,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) groups: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) privileges: Option<PrivilegesJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) init: Option<bool>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) stop_signal: String,
    #[serde(rename = "TTY", skip_serializing_if = "is_default")]
    pub(crate) tty: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) open_stdin: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) read_only: bool,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) mounts: Vec<MountJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_grace_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) healthcheck: Option<HealthcheckJson>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) hosts: Vec<String>,
    #[serde(rename = "DNSConfig", skip_serializing_if = "Option::is_none")]
    pub(crate) dns_config: Option<DnsConfigJson>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) secrets: Vec<SecretReferenceJson>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) configs: Vec<ConfigReferenceJson>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) isolation: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) sysctls: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) capability_add: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) capability_drop: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) ulimits: Vec<UlimitJson>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) oom_score_adj: i64,
}

/// `Privileges`. The first two are written even when null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Privileges", rename_all = "PascalCase")]
pub(crate) struct PrivilegesJson {
    pub(crate) credential_spec: Option<CredentialSpecJson>,
    #[serde(rename = "SELinuxContext")]
    pub(crate) selinux_context: Option<SeLinuxContextJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seccomp: Option<SeccompJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) app_armor: Option<AppArmorJson>,
    pub(crate) no_new_privileges: bool,
}

/// `CredentialSpec`, read only to be refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "CredentialSpec", rename_all = "PascalCase")]
pub(crate) struct CredentialSpecJson {
    pub(crate) config: String,
    pub(crate) file: String,
    pub(crate) registry: String,
}

/// `SELinuxContext`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "SELinuxContext", rename_all = "PascalCase")]
pub(crate) struct SeLinuxContextJson {
    pub(crate) disable: bool,
    pub(crate) user: String,
    pub(crate) role: String,
    pub(crate) r#type: String,
    pub(crate) level: String,
}

/// `SeccompOpts`; the profile is base64.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "SeccompOpts", rename_all = "PascalCase")]
pub(crate) struct SeccompJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mode: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) profile: String,
}

/// `AppArmorOpts`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "AppArmorOpts", rename_all = "PascalCase")]
pub(crate) struct AppArmorJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) mode: String,
}

/// `Mount`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Mount", rename_all = "PascalCase")]
pub(crate) struct MountJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) r#type: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) source: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) read_only: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) consistency: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bind_options: Option<BindOptionsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) volume_options: Option<VolumeOptionsJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmpfs_options: Option<TmpfsOptionsJson>,
}

/// `BindOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "BindOptions", rename_all = "PascalCase")]
pub(crate) struct BindOptionsJson {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) propagation: String,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) non_recursive: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) create_mountpoint: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) read_only_non_recursive: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) read_only_force_recursive: bool,
}

/// `VolumeOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "VolumeOptions", rename_all = "PascalCase")]
pub(crate) struct VolumeOptionsJson {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) no_copy: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) subpath: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) driver_config: Option<Driver>,
}

/// `TmpfsOptions`; each option is a flag or a key and a value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "TmpfsOptions", rename_all = "PascalCase")]
pub(crate) struct TmpfsOptionsJson {
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) size_bytes: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) mode: u32,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) options: Vec<Vec<String>>,
}

/// `HealthConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "HealthConfig", rename_all = "PascalCase")]
pub(crate) struct HealthcheckJson {
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) test: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) interval: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) timeout: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) start_period: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) start_interval: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub(crate) retries: i32,
}

/// `DNSConfig`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "DNSConfig", rename_all = "PascalCase")]
pub(crate) struct DnsConfigJson {
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) nameservers: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) search: Vec<String>,
    #[serde(skip_serializing_if = "is_empty")]
    pub(crate) options: Vec<String>,
}

/// Where a secret or config appears: `File` of a reference.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(
    default,
    rename = "SecretReferenceFileTarget",
    rename_all = "PascalCase"
)]
pub(crate) struct FileTargetJson {
    pub(crate) name: String,
    #[serde(rename = "UID")]
    pub(crate) uid: String,
    #[serde(rename = "GID")]
    pub(crate) gid: String,
    /// Permission bits, decimal in JSON.
    pub(crate) mode: u32,
}

/// `SecretReference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "SecretReference", rename_all = "PascalCase")]
pub(crate) struct SecretReferenceJson {
    pub(crate) file: Option<FileTargetJson>,
    #[serde(rename = "SecretID")]
    pub(crate) secret_id: String,
    pub(crate) secret_name: String,
}

/// `ConfigReference`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ConfigReference", rename_all = "PascalCase")]
pub(crate) struct ConfigReferenceJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<FileTargetJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) runtime: Option<RuntimeTargetJson>,
    #[serde(rename = "ConfigID")]
    pub(crate) config_id: String,
    pub(crate) config_name: String,
}

/// `Runtime` of a config reference: for credential specs, without fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "ConfigReferenceRuntimeTarget")]
pub(crate) struct RuntimeTargetJson {}

/// `Ulimit`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename = "Ulimit", rename_all = "PascalCase")]
pub(crate) struct UlimitJson {
    pub(crate) name: String,
    pub(crate) hard: i64,
    pub(crate) soft: i64,
}
