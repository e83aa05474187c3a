//! Generic resources: what nodes offer of a kind, by names or as a number, and what of it is left.
//!
//! A task asks for numbers only. What it is given stands in its record, names and all, so whoever
//! leads next knows it; it is given back with the task's end.

use std::collections::{BTreeMap, BTreeSet};

use crate::objects::{
    DiscreteGenericResource, GenericResource, NamedGenericResource, Node,
    generic_resource::Resource,
};

/// What is left of a node's generic resources, by kind.
///
/// Applying an assignment asks it too: a change of what it answers is a change of what managers
/// agree on.
#[derive(Debug, Default)]
pub(crate) struct GenericStock<'a> {
    kinds: BTreeMap<&'a str, Left<'a>>,
}

/// What is left of one kind.
#[derive(Debug)]
enum Left<'a> {
    /// Names, in the order in which the node offers them, and which of them are free.
    Names {
        all: Vec<&'a str>,
        free: BTreeSet<&'a str>,
    },
    /// Never negative.
    Count(i64),
}

impl Left<'_> {
    fn count(&self) -> i64 {
        match self {
            Left::Names { free, .. } => i64::try_from(free.len()).unwrap_or(i64::MAX),
            Left::Count(count) => *count,
        }
    }
}

impl<'a> GenericStock<'a> {
    /// All that a node offers. A name counts once; a kind that is given both ways is what it is
    /// first.
    pub(crate) fn of(node: &'a Node) -> GenericStock<'a> {
        let description = node.description.as_ref();
        let resources = description.and_then(|description| description.resources.as_ref());
        let mut kinds = BTreeMap::new();
        for offered in resources.map_or(&[][..], |resources| &resources.generic) {
            match &offered.resource {
                Some(Resource::NamedResourceSpec(named)) => {
                    let left = kinds.entry(named.kind.as_str()).or_insert(Left::Names {
                        all: Vec::new(),
                        free: BTreeSet::new(),
                    });
                    if let Left::Names { all, free } = left
                        && free.insert(&named.value)
                    {
                        all.push(&named.value);
                    }
                }
                Some(Resource::DiscreteResourceSpec(discrete)) => {
                    let left = kinds.entry(discrete.kind.as_str());
                    if let Left::Count(count) = left.or_insert(Left::Count(0)) {
                        *count = count.saturating_add(discrete.value.max(0));
                    }
                }
                None => {}
            }
        }
        GenericStock { kinds }
    }

    /// Takes what a task was given. Whether all of it was there; what was not there (any more) is
    /// passed over.
    pub(crate) fn take(&mut self, given: &[GenericResource]) -> bool {
        let mut had_all = true;
        for one in given {
            let (kind, had) = match &one.resource {
                Some(Resource::NamedResourceSpec(named)) => (&named.kind, Err(&named.value)),
                Some(Resource::DiscreteResourceSpec(some)) => (&some.kind, Ok(some.value.max(0))),
                None => continue,
            };
            had_all &= match (self.kinds.get_mut(kind.as_str()), had) {
                (Some(Left::Names { free, .. }), Err(value)) => free.remove(value.as_str()),
                (Some(Left::Count(left)), Ok(count)) => {
                    let had = count <= *left;
                    *left = left.saturating_sub(count).max(0);
                    had
                }
                _ => false,
            };
        }
        had_all
    }

    /// Whether so much is left. Nobody can ask for a name.
    pub(crate) fn covers(&self, wanted: &[GenericResource]) -> bool {
        let Some(wanted) = counts(wanted) else {
            return false;
        };
        wanted.iter().all(|(kind, count)| {
            self.kinds
                .get(kind)
                .is_some_and(|left| *count <= left.count())
        })
    }

    /// What a task that wants so much is given: of names the first that are free. `None` if
    /// there is not so much. Nothing is taken yet.
    pub(crate) fn pick(&self, wanted: &[GenericResource]) -> Option<Vec<GenericResource>> {
        if !self.covers(wanted) {
            return None;
        }
        let mut given = Vec::new();
        for (kind, count) in counts(wanted)? {
            match self.kinds.get(kind)? {
                Left::Names { all, free } => {
                    let picked = all.iter().filter(|value| free.contains(**value));
                    let picked = picked.take(usize::try_from(count).unwrap_or(usize::MAX));
                    given.extend(picked.map(|value| named(kind, value)));
                }
                Left::Count(_) if count > 0 => given.push(discrete(kind, count)),
                Left::Count(_) => {}
            }
        }
        Some(given)
    }
}

/// How much of each kind is wanted; `None` if that is no number.
fn counts(wanted: &[GenericResource]) -> Option<BTreeMap<&str, i64>> {
    let mut counts = BTreeMap::new();
    for one in wanted {
        let Some(Resource::DiscreteResourceSpec(wanted)) = &one.resource else {
            return None;
        };
        let count: &mut i64 = counts.entry(wanted.kind.as_str()).or_default();
        *count = count.saturating_add(wanted.value.max(0));
    }
    Some(counts)
}

/// One that has a name.
pub fn named(kind: &str, value: &str) -> GenericResource {
    GenericResource {
        resource: Some(Resource::NamedResourceSpec(NamedGenericResource {
            kind: kind.to_owned(),
            value: value.to_owned(),
        })),
    }
}

/// So many of a kind.
pub fn discrete(kind: &str, value: i64) -> GenericResource {
    GenericResource {
        resource: Some(Resource::DiscreteResourceSpec(DiscreteGenericResource {
            kind: kind.to_owned(),
            value,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{objects::NodeRole, testing::node};

    fn offering(generic: Vec<GenericResource>) -> Node {
        let mut node = node("n1", NodeRole::Worker);
        let description = node.description.get_or_insert_default();
        description.resources.get_or_insert_default().generic = generic;
        node
    }

    #[test]
    fn only_a_number_of_what_is_left_is_covered() {
        let silent = node("n1", NodeRole::Worker);
        assert!(!GenericStock::of(&silent).covers(&[discrete("gpu", 0)]));
        assert!(GenericStock::of(&silent).covers(&[]));
        let node = offering(vec![named("gpu", "a"), discrete("fpga", 2)]);
        let stock = GenericStock::of(&node);
        for bad in [
            vec![GenericResource::default()],
            vec![named("gpu", "a")],
            vec![discrete("GPU", 1)],
            vec![discrete("gpu", 2)],
            vec![discrete("gpu", 1), discrete("fpga", 3)],
            // Together more than there is.
            vec![discrete("fpga", 1), discrete("fpga", 2)],
            vec![discrete("fpga", i64::MAX), discrete("fpga", i64::MAX)],
        ] {
            assert!(!stock.covers(&bad), "{bad:?}");
            assert_eq!(stock.pick(&bad), None, "{bad:?}");
        }
        let all = [discrete("gpu", 1), discrete("fpga", 2)];
        let given = [discrete("fpga", 2), named("gpu", "a")];
        assert_eq!(stock.pick(&all).unwrap(), given);
        // Nothing of a kind is no entry, and less than nothing frees none.
        for none in [0, -1] {
            let none = [discrete("gpu", none), discrete("fpga", none)];
            assert_eq!(stock.pick(&none).unwrap(), []);
        }
    }

    #[test]
    fn what_is_taken_is_not_there_any_more() {
        let node = offering(["c", "a", "b"].map(|name| named("gpu", name)).to_vec());
        let mut stock = GenericStock::of(&node);
        assert!(stock.take(&[named("gpu", "c")]));
        assert!(!stock.take(&[named("gpu", "c")]));
        assert!(!stock.take(&[named("gpu", "x"), named("tpu", "a"), discrete("gpu", 1)]));
        assert!(!stock.covers(&[discrete("gpu", 3)]));
        let left = stock.pick(&[discrete("gpu", 2)]).unwrap();
        assert_eq!(left, [named("gpu", "a"), named("gpu", "b")]);
    }

    #[test]
    fn a_number_never_becomes_negative() {
        let node = offering(vec![discrete("fpga", 2), discrete("fpga", i64::MAX)]);
        let mut stock = GenericStock::of(&node);
        assert!(stock.take(&[discrete("fpga", i64::MAX)]));
        assert!(!stock.take(&[discrete("fpga", 1)]));
        assert!(stock.take(&[discrete("fpga", -5)]), "which frees none");
        assert!(!stock.covers(&[discrete("fpga", 1)]));
        assert!(stock.covers(&[discrete("fpga", 0)]));
    }

    #[test]
    fn what_is_offered_twice_counts_once() {
        let node = offering(vec![
            named("gpu", "a"),
            named("gpu", "a"),
            discrete("gpu", 5),
            discrete("fpga", -3),
            named("fpga", "a"),
        ]);
        let stock = GenericStock::of(&node);
        assert!(!stock.covers(&[discrete("gpu", 2)]));
        assert!(!stock.covers(&[discrete("fpga", 1)]));
    }
}
