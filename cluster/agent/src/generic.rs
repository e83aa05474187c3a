//! Generic resources: what this node offers, and what a task is told of those it was given.

use std::collections::BTreeMap;

use waxseal_cluster::{
    generic::{discrete, named},
    objects::{GenericResource, Task, generic_resource::Resource},
};

/// Start of the names of environment variables, as an engine has them; the kind follows.
const ENV_PREFIX: &str = "DOCKER_RESOURCE_";

/// Why settings of `--node-generic-resource` are none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GenericResourceError {
    /// Not a kind and a value, or with a control character.
    #[error("invalid node-generic-resource format `{0}` expected `name=value`")]
    Format(String),
    /// Less than nothing of this kind.
    #[error("could not parse GenericResource: cannot ask for negative resource {0}")]
    Negative(String),
    /// A number beside names or other numbers; its kind.
    #[error("could not parse GenericResource: mixed discrete and named resources of kind {0}")]
    Mixed(String),
    /// The same name twice; an engine would give it to two tasks.
    #[error("could not parse GenericResource: {0} is given twice")]
    Twice(String),
}

/// Reads settings as dockerd does: `KIND=NUMBER` once, or `KIND=NAME` for each name.
///
/// # Errors
/// [`GenericResourceError`], the first found.
pub fn parse_generic_resources(
    settings: &[String],
) -> Result<Vec<GenericResource>, GenericResourceError> {
    let mut kinds: Vec<(&str, Vec<&str>)> = Vec::new();
    for setting in settings {
        let bad = || GenericResourceError::Format(setting.clone());
        let (kind, value) = setting.split_once('=').ok_or_else(bad)?;
        let (kind, value) = (kind.trim(), value.trim());
        if kind.is_empty()
            || value.is_empty()
            || value.contains('=')
            || setting.contains(char::is_control)
        {
            return Err(bad());
        }
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, values)) if values.contains(&value) => {
                return Err(GenericResourceError::Twice(setting.clone()));
            }
            Some((_, values)) => values.push(value),
            None => kinds.push((kind, vec![value])),
        }
    }
    let mut offered = Vec::new();
    for (kind, values) in kinds {
        let mut numbers = values.iter().filter_map(|value| value.parse::<i64>().ok());
        match (numbers.next(), values.len()) {
            (None, _) => offered.extend(values.iter().map(|value| named(kind, value))),
            (Some(count @ 0..), 1) => offered.push(discrete(kind, count)),
            (Some(_), 1) => return Err(GenericResourceError::Negative(kind.to_owned())),
            (Some(_), _) => return Err(GenericResourceError::Mixed(kind.to_owned())),
        }
    }
    Ok(offered)
}

/// What a task reads in its environment of what it was given: a number, or names with commas.
pub(crate) fn environment(task: &Task) -> Vec<String> {
    let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for given in &task.assigned_generic_resources {
        let (kind, value) = match &given.resource {
            Some(Resource::NamedResourceSpec(named)) => (&named.kind, named.value.clone()),
            Some(Resource::DiscreteResourceSpec(some)) => (&some.kind, some.value.to_string()),
            None => continue,
        };
        kinds.entry(kind.to_uppercase()).or_default().push(value);
    }
    kinds
        .into_iter()
        .map(|(kind, values)| format!("{ENV_PREFIX}{kind}={}", values.join(",")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: &[&str]) -> Result<Vec<GenericResource>, GenericResourceError> {
        let settings: Vec<String> = settings.iter().map(|one| (*one).to_owned()).collect();
        parse_generic_resources(&settings)
    }

    #[test]
    fn what_no_engine_offers_is_refused() {
        use GenericResourceError::{Format, Mixed, Negative, Twice};
        for bad in ["", "gpu", "=", "gpu=", "=a", " =a", "gpu=a=b", "gpu=a\nb"] {
            assert_eq!(parse(&[bad]), Err(Format(bad.to_owned())), "{bad:?}");
        }
        assert_eq!(parse(&["fpga=-1"]), Err(Negative("fpga".to_owned())));
        for mixed in [["gpu=a", "gpu=1"], ["gpu=1", "gpu=2"], ["gpu=-1", "gpu=a"]] {
            assert_eq!(parse(&mixed), Err(Mixed("gpu".to_owned())), "{mixed:?}");
        }
        let twice = parse(&["gpu=a", "fpga=1", "gpu=a"]);
        assert_eq!(twice, Err(Twice("gpu=a".to_owned())));
    }

    #[test]
    fn names_and_numbers_are_offered_in_the_order_given() {
        let offered = parse(&["gpu=b", "fpga=4", "gpu = a ", "none=0"]).unwrap();
        let expected = [
            named("gpu", "b"),
            named("gpu", "a"),
            discrete("fpga", 4),
            discrete("none", 0),
        ];
        assert_eq!(offered, expected);
        assert_eq!(parse(&[]), Ok(Vec::new()));
    }

    #[test]
    fn a_task_is_told_what_it_was_given() {
        let task = Task {
            assigned_generic_resources: vec![
                named("gpu", "b"),
                discrete("fpga", 2),
                named("GPU", "a"),
                GenericResource::default(),
            ],
            ..Task::default()
        };
        let expected = ["DOCKER_RESOURCE_FPGA=2", "DOCKER_RESOURCE_GPU=b,a"];
        assert_eq!(environment(&task), expected);
        assert!(environment(&Task::default()).is_empty());
    }
}
