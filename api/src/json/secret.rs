//! Secrets as JSON.

use serde::{Deserialize, Serialize};
use waxseal_cluster::objects;

use super::common::{Base64, Driver, Labels, Meta, annotations, no_labels};

/// A secret, without its data, which is never shown again.
#[derive(Serialize)]
pub(crate) struct Secret<'a> {
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
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<Driver>,
    #[serde(skip_serializing_if = "Option::is_none")]
    templating: Option<Driver>,
}

impl<'a> From<&'a objects::Secret> for Secret<'a> {
    fn from(secret: &'a objects::Secret) -> Secret<'a> {
        let spec = secret.spec.as_ref();
        Secret {
            id: &secret.id,
            meta: Meta::of(secret.meta.as_ref()),
            spec: ShownSpec {
                name: waxseal_cluster::secret_name(secret),
                labels: spec
                    .and_then(|spec| spec.annotations.as_ref())
                    .map_or_else(no_labels, |annotations| &annotations.labels),
                driver: spec.and_then(|spec| spec.driver.as_ref()).map(Driver::from),
                templating: spec
                    .and_then(|spec| spec.templating.as_ref())
                    .map(Driver::from),
            },
        }
    }
}

/// A secret as a client sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct SecretSpec {
    /// Unique without regard to case.
    pub(crate) name: String,
    /// The one thing that an update may change.
    pub(crate) labels: Labels,
    /// The payload.
    pub(crate) data: Base64,
    /// A plugin that would deliver the payload.
    pub(crate) driver: Option<Driver>,
    /// A template driver.
    pub(crate) templating: Option<Driver>,
}

impl From<SecretSpec> for objects::SecretSpec {
    fn from(spec: SecretSpec) -> objects::SecretSpec {
        objects::SecretSpec {
            annotations: Some(annotations(spec.name, spec.labels)),
            data: spec.data.into_vec(),
            // An empty one is none to clients; engines would fail the tasks.
            templating: spec
                .templating
                .map(objects::Driver::from)
                .filter(|driver| !driver.name.is_empty()),
            driver: spec.driver.map(Into::into),
        }
    }
}
