//! Rules of a cluster's settings.

use prost_types::Duration;

use crate::{change::Refusal, naming::name_of, objects::ClusterSpec, validate::labels_of};

/// Shortest validity of a node's certificate, in seconds (swarmkit's limit of one hour).
const MIN_NODE_CERT_EXPIRY_SECS: i64 = 60 * 60;
/// Longest, in seconds: 100 years, what the CA issues at most.
const MAX_NODE_CERT_EXPIRY_SECS: i64 = 100 * 365 * 24 * 60 * 60;
/// Shortest heartbeat period: below it, nodes would miss three beats by a hiccup.
const MIN_HEARTBEAT_NANOS: i32 = 100_000_000;
/// The one name that a cluster may have.
const CLUSTER_NAME: &str = "default";

/// The settings of a cluster, as a user wants them.
///
/// # Errors
/// [`Refusal::Invalid`].
pub fn validate_cluster_spec(spec: &ClusterSpec) -> Result<(), Refusal> {
    let annotations = spec.annotations.as_ref();
    if name_of(annotations) != CLUSTER_NAME {
        return Err(Refusal::invalid("swarm spec must be named \"default\""));
    }
    waxseal_secrets::check_labels(labels_of(annotations))?;
    if let Some(ca) = &spec.ca_config {
        // Zero is what clients send for "not set".
        let too_short = ca.node_cert_expiry.as_ref().is_some_and(|expiry| {
            let unset = expiry.seconds == 0 && expiry.nanos == 0;
            !unset && expiry.seconds < MIN_NODE_CERT_EXPIRY_SECS
        });
        if too_short {
            return Err(Refusal::invalid(
                "minimum certificate expiry time is: 1h0m0s",
            ));
        }
        let expiry = ca.node_cert_expiry.as_ref();
        if expiry.is_some_and(|expiry| expiry.seconds > MAX_NODE_CERT_EXPIRY_SECS) {
            return Err(Refusal::invalid(
                "maximum certificate expiry time is: 876000h0m0s",
            ));
        }
        if !ca.signing_ca_key.is_empty() && ca.signing_ca_cert.is_empty() {
            return Err(Refusal::invalid(
                "if a signing CA key is provided, the signing CA cert must also be provided",
            ));
        }
    }
    let heartbeat = spec
        .dispatcher
        .as_ref()
        .and_then(|d| d.heartbeat_period.as_ref());
    if heartbeat.is_some_and(is_negative) {
        return Err(Refusal::invalid(
            "heartbeat time period cannot be a negative duration",
        ));
    }
    let too_short =
        |period: &Duration| period.seconds == 0 && (1..MIN_HEARTBEAT_NANOS).contains(&period.nanos);
    if heartbeat.is_some_and(too_short) {
        return Err(Refusal::invalid("minimum heartbeat time period is: 100ms"));
    }
    Ok(())
}

fn is_negative(duration: &Duration) -> bool {
    duration.seconds < 0 || duration.nanos < 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        defaults::default_cluster_spec,
        objects::{CaConfig, DispatcherConfig},
        testing::annotations,
    };

    fn refused(change: impl FnOnce(&mut ClusterSpec)) -> String {
        let mut spec = default_cluster_spec();
        change(&mut spec);
        validate_cluster_spec(&spec).unwrap_err().to_string()
    }

    fn seconds(seconds: i64) -> Option<Duration> {
        Some(Duration { seconds, nanos: 0 })
    }

    #[test]
    fn what_the_ca_or_the_dispatcher_could_not_serve_is_refused() {
        let century = MAX_NODE_CERT_EXPIRY_SECS;
        let long = refused(|spec| with_expiry(spec, seconds(century + 1)));
        assert_eq!(long, "maximum certificate expiry time is: 876000h0m0s");
        let hectic = refused(|spec| {
            let heartbeat_period = Some(Duration {
                seconds: 0,
                nanos: 1,
            });
            spec.dispatcher = Some(DispatcherConfig { heartbeat_period });
        });
        assert_eq!(hectic, "minimum heartbeat time period is: 100ms");
    }

    fn with_expiry(spec: &mut ClusterSpec, expiry: Option<Duration>) {
        spec.ca_config = Some(CaConfig {
            node_cert_expiry: expiry,
            ..CaConfig::default()
        });
    }

    fn with_heartbeat(spec: &mut ClusterSpec, heartbeat_period: Option<Duration>) {
        spec.dispatcher = Some(DispatcherConfig { heartbeat_period });
    }

    #[test]
    fn another_name_is_refused() {
        let text = "swarm spec must be named \"default\"";
        assert_eq!(
            refused(|spec| spec.annotations = annotations("other")),
            text
        );
        assert_eq!(refused(|spec| spec.annotations = None), text);
    }

    #[test]
    fn certificates_of_less_than_an_hour_are_refused() {
        let text = "minimum certificate expiry time is: 1h0m0s";
        for expiry in [3599, 1, -1, -3600] {
            assert_eq!(refused(|spec| with_expiry(spec, seconds(expiry))), text);
        }
        for expiry in [seconds(3600), seconds(0), None] {
            let mut spec = default_cluster_spec();
            with_expiry(&mut spec, expiry);
            assert_eq!(validate_cluster_spec(&spec), Ok(()));
        }
    }

    #[test]
    fn negative_heartbeats_are_refused() {
        let text = "heartbeat time period cannot be a negative duration";
        assert_eq!(refused(|spec| with_heartbeat(spec, seconds(-1))), text);
        let nanos = Duration {
            seconds: 0,
            nanos: -1,
        };
        assert_eq!(refused(|spec| with_heartbeat(spec, Some(nanos))), text);
    }

    #[test]
    fn a_signing_key_without_its_certificate_is_refused() {
        let text = refused(|spec| {
            spec.ca_config = Some(CaConfig {
                signing_ca_key: b"hunter2".to_vec(),
                ..CaConfig::default()
            });
        });
        assert!(
            text.starts_with("if a signing CA key is provided"),
            "{text}"
        );
        assert!(!text.contains("hunter2"));
    }
}
