//! Rules of specs, for those who accept them from users; texts are the Docker
//! Engine's where it has the rule.

mod cluster;
mod image;
mod service;

use waxseal_secrets::{Kind, check_driver, check_labels, check_name, check_payload};

pub use cluster::validate_cluster_spec;
pub use service::validate_service_spec;

use crate::{
    change::Refusal,
    naming::name_of,
    objects::{Annotations, ConfigSpec, Driver, SecretSpec},
    templates::check_payload_template,
};

/// Name and labels of a secret or config.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn validate_annotations(annotations: Option<&Annotations>) -> Result<(), Refusal> {
    check_name(name_of(annotations))?;
    check_labels(labels_of(annotations))?;
    Ok(())
}

/// A secret as it is to be created.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn validate_secret_spec(spec: &SecretSpec) -> Result<(), Refusal> {
    validate_secret_parts(spec, spec.data.len())?;
    check_payload_template(Kind::Secret, spec.templating.as_ref(), &spec.data)
}

/// A config as it is to be created.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn validate_config_spec(spec: &ConfigSpec) -> Result<(), Refusal> {
    validate_config_parts(spec)?;
    check_payload_template(Kind::Config, spec.templating.as_ref(), &spec.data)
}

/// As [`validate_config_spec`], without what binaries may judge differently: what
/// templates offer grows, and all managers must apply a command alike.
pub(crate) fn validate_config_parts(spec: &ConfigSpec) -> Result<(), Refusal> {
    validate_annotations(spec.annotations.as_ref())?;
    check_driver(Kind::Config, None, driver_name(spec.templating.as_ref()))?;
    check_payload(Kind::Config, spec.data.len())?;
    Ok(())
}

/// As [`validate_config_parts`], for secrets, with the data already taken out of the spec.
pub(crate) fn validate_secret_parts(spec: &SecretSpec, data_bytes: usize) -> Result<(), Refusal> {
    validate_annotations(spec.annotations.as_ref())?;
    let (driver, templating) = (spec.driver.as_ref(), spec.templating.as_ref());
    check_driver(Kind::Secret, driver_name(driver), driver_name(templating))?;
    check_payload(Kind::Secret, data_bytes)?;
    Ok(())
}

pub(crate) fn labels_of(annotations: Option<&Annotations>) -> impl Iterator<Item = (&str, &str)> {
    annotations
        .into_iter()
        .flat_map(|annotations| &annotations.labels)
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

fn driver_name(driver: Option<&Driver>) -> Option<&str> {
    driver.map(|driver| driver.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::annotations;

    #[test]
    fn a_secret_without_a_spec_to_speak_of() {
        let texts = |spec: &SecretSpec| validate_secret_spec(spec).unwrap_err().to_string();
        // The name's error comes first, as in the Docker Engine.
        assert_eq!(texts(&SecretSpec::default()), "name must be provided");
        let mut spec = SecretSpec {
            annotations: annotations("db"),
            ..SecretSpec::default()
        };
        assert_eq!(
            texts(&spec),
            "secret data must be larger than 0 and less than 512000 bytes"
        );
        spec.driver = Some(Driver::default());
        assert_eq!(texts(&spec), "secret driver must have a name");
    }

    #[test]
    fn templates_are_read_when_they_are_asked_for() {
        let spec = |data: &str, driver: &str| ConfigSpec {
            annotations: annotations("app"),
            data: data.into(),
            templating: Some(Driver {
                name: driver.into(),
                ..Driver::default()
            }),
        };
        let refused = |data: &str, driver: &str| {
            validate_config_spec(&spec(data, driver))
                .unwrap_err()
                .to_string()
        };
        assert!(refused("a", "jinja").contains("driver jinja is not available"));
        let text = refused("hunter2\n{{ range .Service.Labels }}{{ end }}", "golang");
        assert!(text.contains("line 2: `range` is not offered"), "{text}");
        let mut secret = SecretSpec {
            annotations: annotations("db"),
            data: b"hunter2 {{ hunter2 }}".to_vec(),
            templating: spec("", "golang").templating,
            ..SecretSpec::default()
        };
        let text = validate_secret_spec(&secret).unwrap_err().to_string();
        assert!(text.contains("line 1: no such function"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
        // Other binaries may offer more: what was accepted is applied.
        assert_eq!(validate_secret_parts(&secret, 5), Ok(()));
        // Braces in data without a template driver are just data.
        secret.templating = None;
        assert_eq!(validate_secret_spec(&secret), Ok(()));
        let good = spec("{{ .Task.Slot }}", "golang");
        assert_eq!(validate_config_spec(&good), Ok(()));
    }
}
