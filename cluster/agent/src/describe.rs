//! What a node says of itself.

use std::{collections::BTreeMap, fs, thread};

use waxseal_ca::LiveTls;
use waxseal_cluster::{
    FEATURE_LEVEL, feature_level_plugin,
    objects::{
        EngineDescription, GenericResource, NodeDescription, NodeTlsInfo, Platform,
        PluginDescription, Resources,
    },
    plan::{LABEL_NATIVE_TASKS, PLUGIN_HOST, PLUGIN_LIMITS, PLUGIN_TYPE},
};

use crate::native::UserPolicy;

/// Plugins that a scheduler asks for before it places a task: the predefined networks, and the
/// log drivers that a native task's own log stands in for.
const STOCK_PLUGINS: &[(&str, &str)] = &[
    ("Log", "json-file"),
    ("Log", "local"),
    ("Network", "bridge"),
    ("Network", "host"),
    ("Network", "null"),
];

/// Facts about this host and daemon that do not change while it runs.
#[derive(Clone, Debug)]
pub struct HostFacts {
    /// The host's name.
    pub hostname: String,
    /// What the daemon reports as its version.
    pub engine_version: String,
    /// `--label` of the daemon.
    pub labels: BTreeMap<String, String>,
    /// As whom native tasks may run here.
    pub native_tasks: UserPolicy,
    /// Whether limits of native tasks are enforced here.
    pub limits: bool,
    /// What this binary can read as a manager.
    pub feature_level: u32,
    /// Processors, in billionths.
    pub nano_cpus: i64,
    /// Memory of the host.
    pub memory_bytes: i64,
    /// `--node-generic-resource` of the daemon.
    pub generic_resources: Vec<GenericResource>,
    /// As the kernel names it, `x86_64`.
    pub architecture: String,
}

impl HostFacts {
    /// Looks at this host.
    pub fn read(
        engine_version: impl Into<String>,
        labels: BTreeMap<String, String>,
        native_tasks: UserPolicy,
        limits: bool,
    ) -> HostFacts {
        let system = rustix::system::uname();
        let processors = thread::available_parallelism().map_or(1, |count| count.get());
        HostFacts {
            hostname: system.nodename().to_string_lossy().into_owned(),
            engine_version: engine_version.into(),
            labels,
            native_tasks,
            limits,
            feature_level: FEATURE_LEVEL,
            nano_cpus: i64::try_from(processors)
                .unwrap_or(i64::MAX)
                .saturating_mul(1_000_000_000),
            memory_bytes: fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| total_memory(&text))
                .unwrap_or(0),
            generic_resources: Vec::new(),
            architecture: system.machine().to_string_lossy().into_owned(),
        }
    }

    /// The description with the present identity's issuer and trust.
    pub(crate) fn describe(&self, tls: &LiveTls) -> NodeDescription {
        let mut labels = self.labels.clone();
        labels.insert(LABEL_NATIVE_TASKS.to_owned(), self.native_tasks.to_string());
        NodeDescription {
            hostname: self.hostname.clone(),
            platform: Some(Platform {
                architecture: self.architecture.clone(),
                os: "linux".to_owned(),
            }),
            resources: Some(Resources {
                nano_cpus: self.nano_cpus,
                memory_bytes: self.memory_bytes,
                generic: self.generic_resources.clone(),
            }),
            engine: Some(EngineDescription {
                engine_version: self.engine_version.clone(),
                labels,
                plugins: self.plugins(),
            }),
            tls_info: tls.credentials().map(|credentials| NodeTlsInfo {
                trust_root: tls.trust().pem().to_vec(),
                cert_issuer_subject: credentials.issuer().subject_der.clone(),
                cert_issuer_public_key: credentials.issuer().public_key_der.clone(),
            }),
            fips: false,
        }
    }

    /// Sorted by type and name, as engines send them.
    fn plugins(&self) -> Vec<PluginDescription> {
        let limits = self.limits.then_some((PLUGIN_TYPE, PLUGIN_LIMITS));
        let level = feature_level_plugin(self.feature_level);
        STOCK_PLUGINS
            .iter()
            .copied()
            .chain([(PLUGIN_TYPE, PLUGIN_HOST), (PLUGIN_TYPE, level.as_str())])
            .chain(limits)
            .map(|(r#type, name)| PluginDescription {
                r#type: r#type.to_owned(),
                name: name.to_owned(),
            })
            .collect()
    }
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total_memory(meminfo: &str) -> Option<i64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(total_memory(""), None);
        assert_eq!(total_memory("MemTotal: many kB\n"), None);
        assert_eq!(total_memory(&format!("MemTotal: {} kB\n", i64::MAX)), None);
        let text = "MemTotal:        8039256 kB\nMemFree:          120 kB\n";
        assert_eq!(total_memory(text), Some(8_039_256 * 1024));
    }

    #[test]
    fn plugins_are_those_a_stock_scheduler_asks_for_and_our_own() {
        let mut facts = HostFacts::read("0", BTreeMap::new(), UserPolicy::Any, true);
        let names = |facts: &HostFacts| {
            facts
                .plugins()
                .iter()
                .map(|plugin| format!("{}/{}", plugin.r#type, plugin.name))
                .collect::<Vec<_>>()
        };
        let stock = [
            "Log/json-file",
            "Log/local",
            "Network/bridge",
            "Network/host",
            "Network/null",
        ];
        assert_eq!(names(&facts)[..5], stock);
        let level = format!("Waxseal/{}", feature_level_plugin(FEATURE_LEVEL));
        assert_eq!(
            names(&facts)[5..],
            ["Waxseal/host", &level, "Waxseal/limits"]
        );
        facts.limits = false;
        assert_eq!(names(&facts)[5..], ["Waxseal/host", &level]);
    }
}
