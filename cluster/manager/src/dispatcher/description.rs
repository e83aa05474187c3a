//! What a node says of itself, bounded and fit to be shown before it is kept.

use std::collections::BTreeMap;

use tonic::Status;
use waxseal_cluster::objects::{
    EngineDescription, GenericResource, NodeDescription, generic_resource::Resource,
};
use waxseal_wire::clean_name;

/// The most bytes of a node description, as sent and as kept; a stock engine's has
/// about 2 KiB.
const MAX_DESCRIPTION_BYTES: usize = 64 * 1024;

/// A description as it is kept: control characters are escaped in all its names,
/// since clients print them and events carry them as they are.
///
/// # Errors
/// `InvalidArgument` for one that is too large.
pub(super) fn kept(
    description: Option<NodeDescription>,
) -> Result<Option<NodeDescription>, Status> {
    let Some(mut description) = description else {
        return Ok(None);
    };
    check_size(&description)?;
    clean_name(&mut description.hostname);
    if let Some(platform) = &mut description.platform {
        clean_name(&mut platform.architecture);
        clean_name(&mut platform.os);
    }
    if let Some(resources) = &mut description.resources {
        resources.generic.iter_mut().for_each(clean_generic);
    }
    if let Some(engine) = &mut description.engine {
        clean_engine(engine);
    }
    // Escapes are longer than what they stand for.
    check_size(&description)?;
    Ok(Some(description))
}

fn clean_generic(resource: &mut GenericResource) {
    match &mut resource.resource {
        Some(Resource::NamedResourceSpec(named)) => {
            clean_name(&mut named.kind);
            clean_name(&mut named.value);
        }
        Some(Resource::DiscreteResourceSpec(discrete)) => clean_name(&mut discrete.kind),
        None => {}
    }
}

fn clean_engine(engine: &mut EngineDescription) {
    clean_name(&mut engine.engine_version);
    for plugin in &mut engine.plugins {
        clean_name(&mut plugin.r#type);
        clean_name(&mut plugin.name);
    }
    let labels = std::mem::take(&mut engine.labels).into_iter();
    let cleaned = labels.map(|(mut key, mut value)| {
        clean_name(&mut key);
        clean_name(&mut value);
        (key, value)
    });
    engine.labels = cleaned.collect::<BTreeMap<_, _>>();
}

fn check_size(description: &NodeDescription) -> Result<(), Status> {
    let bytes = prost::Message::encoded_len(description);
    if bytes > MAX_DESCRIPTION_BYTES {
        return Err(Status::invalid_argument(format!(
            "the node description has {bytes} bytes, more than {MAX_DESCRIPTION_BYTES}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use waxseal_cluster::{
        generic::{discrete, named},
        objects::{Platform, PluginDescription, Resources},
    };

    use super::*;

    fn of_host(hostname: &str) -> Option<NodeDescription> {
        Some(NodeDescription {
            hostname: hostname.into(),
            ..NodeDescription::default()
        })
    }

    #[test]
    fn too_much_is_refused_before_and_after_escaping() {
        for hostname in ["h".repeat(MAX_DESCRIPTION_BYTES), "\x1b".repeat(20_000)] {
            let refused = kept(of_host(&hostname)).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument);
        }
        assert!(kept(of_host(&"h".repeat(20_000))).is_ok());
    }

    #[test]
    fn nothing_that_a_terminal_obeys_is_kept() {
        let evil = || "x\x1b]0;y\x07\nz\u{202e}".to_owned();
        let plugin = PluginDescription {
            r#type: evil(),
            name: evil(),
        };
        let description = NodeDescription {
            hostname: evil(),
            platform: Some(Platform {
                architecture: evil(),
                os: evil(),
            }),
            resources: Some(Resources {
                generic: vec![named(&evil(), &evil()), discrete(&evil(), 1)],
                ..Resources::default()
            }),
            engine: Some(EngineDescription {
                engine_version: evil(),
                labels: BTreeMap::from([(evil(), evil())]),
                plugins: vec![plugin],
            }),
            ..NodeDescription::default()
        };
        let kept = kept(Some(description)).unwrap().unwrap();
        let engine = kept.engine.unwrap();
        let platform = kept.platform.unwrap();
        let shown = r"x\u{1b}]0;y\u{7}\nz\u{202e}";
        let labels = engine
            .labels
            .into_iter()
            .flat_map(|(key, value)| [key, value]);
        let all = [
            kept.hostname,
            platform.architecture,
            platform.os,
            engine.engine_version,
        ]
        .into_iter()
        .chain(
            engine
                .plugins
                .into_iter()
                .flat_map(|plugin| [plugin.r#type, plugin.name]),
        )
        .chain(labels);
        assert_eq!(all.collect::<Vec<_>>(), vec![shown; 8]);
        let generic = kept.resources.unwrap().generic;
        assert_eq!(generic, [named(shown, shown), discrete(shown, 1)]);
    }
}
