//! Configs as JSON.

use serde::{Deserialize, Serialize};
use waxseal_cluster::objects;

use super::common::{AsBase64, Base64, Driver, Labels, Meta, annotations, no_labels};

/// A config, with its data.
#[derive(Serialize)]
pub(crate) struct Config<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    #[serde(flatten)]
    meta: Meta,
    #[serde(rename = "Spec")]
    spec: ShownSpec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShownSpec<'a> {
    name: &'a str,
    labels: &'a Labels,
    data: AsBase64<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Driver>,
}

impl<'a> From<&'a objects::Config> for Config<'a> {
    fn from(config: &'a objects::Config) -> Config<'a> {
        let spec = config.spec.as_ref();
        Config {
            id: &config.id,
            meta: Meta::of(config.meta.as_ref()),
            spec: ShownSpec {
                name: waxseal_cluster::config_name(config),
                labels: spec
                    .and_then(|spec| spec.annotations.as_ref())
                    .map_or_else(no_labels, |annotations| &annotations.labels),
                data: AsBase64(spec.map_or(&[], |spec| &spec.data)),
                templating: spec
                    .and_then(|spec| spec.templating.as_ref())
                    .map(Driver::from),
            },
        }
    }
}

/// A config as a client sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ConfigSpec {
    /// Unique without regard to case.
    pub(crate) name: String,
    /// The one thing that an update may change.
    pub(crate) labels: Labels,
    /// The payload.
    pub(crate) data: Base64,
    /// A template driver.
    pub(crate) templating: Option<Driver>,
}

impl From<ConfigSpec> for objects::ConfigSpec {
    fn from(spec: ConfigSpec) -> objects::ConfigSpec {
        objects::ConfigSpec {
            annotations: Some(annotations(spec.name, spec.labels)),
            data: spec.data.into_vec(),
            // An empty one is none to clients; engines would fail the tasks.
            templating: spec
                .templating
                .map(objects::Driver::from)
                .filter(|driver| !driver.name.is_empty()),
        }
    }
}
