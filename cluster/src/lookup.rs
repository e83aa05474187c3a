//! Finding an object by what a user types.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use crate::{
    naming,
    objects::{Config, Node, Secret, Service, Task},
    state::{State, StoredSecret},
};

/// The outcome of looking an object up by id, name or id prefix.
#[derive(Clone, Debug)]
pub enum Lookup<T> {
    /// Exactly one matched.
    Found(Arc<T>),
    /// None matched.
    NotFound,
    /// So many matched at the first step that gave anything.
    Ambiguous(usize),
}

/// Three steps, and the first that gives anything decides: full id, full name,
/// id prefix. A name thus wins over another object's id prefix. Ids are case
/// sensitive; nothing matches the empty input.
impl State {
    /// A node by id, hostname or id prefix, in this order.
    pub fn find_node(&self, input: &str) -> Lookup<Node> {
        if let Some(node) = self.nodes.get(input) {
            return Lookup::Found(Arc::clone(node));
        }
        let named = self
            .hostnames
            .of(input)
            .filter_map(|id| self.nodes.get(id))
            .filter(|_| !input.is_empty());
        choose(named).unwrap_or_else(|| by_prefix(&self.nodes, input, |node| node))
    }

    /// A secret by id, name (any case) or id prefix.
    pub fn find_secret(&self, input: &str) -> Lookup<Secret> {
        let named = || self.secret(self.secret_names.id_of(input)?);
        match self.secret(input).or_else(named) {
            Some(secret) => Lookup::Found(Arc::clone(secret)),
            None => by_prefix(&self.secrets, input, |stored: &StoredSecret| &stored.object),
        }
    }

    /// A config by id, name (any case) or id prefix.
    pub fn find_config(&self, input: &str) -> Lookup<Config> {
        let named = || self.config(self.config_names.id_of(input)?);
        match self.config(input).or_else(named) {
            Some(config) => Lookup::Found(Arc::clone(config)),
            None => by_prefix(&self.configs, input, |config| config),
        }
    }

    /// A service by id, name (exact) or id prefix.
    pub fn find_service(&self, input: &str) -> Lookup<Service> {
        let named = || {
            self.service(self.service_names.id_of(input)?)
                .filter(|service| naming::service_name(service) == input)
        };
        match self.service(input).or_else(named) {
            Some(service) => Lookup::Found(Arc::clone(service)),
            None => by_prefix(&self.services, input, |service| service),
        }
    }

    /// A task by id, generated name or id prefix.
    pub fn find_task(&self, input: &str) -> Lookup<Task> {
        // A generated name ends in the task's id.
        let named = || {
            let (_, id) = input.rsplit_once('.')?;
            self.task(id)
                .filter(|task| naming::task_name(task) == input)
        };
        match self.task(input).or_else(named) {
            Some(task) => Lookup::Found(Arc::clone(task)),
            None => by_prefix(&self.tasks, input, |task| task),
        }
    }
}

/// The single one, their number, or nothing if there are none.
fn choose<'a, T: 'a>(mut matches: impl Iterator<Item = &'a Arc<T>>) -> Option<Lookup<T>> {
    let first = matches.next()?;
    match matches.count() {
        0 => Some(Lookup::Found(Arc::clone(first))),
        more => Some(Lookup::Ambiguous(1 + more)),
    }
}

fn by_prefix<S, T>(
    objects: &BTreeMap<String, S>,
    prefix: &str,
    object: impl Fn(&S) -> &Arc<T>,
) -> Lookup<T> {
    if prefix.is_empty() {
        return Lookup::NotFound;
    }
    let matches = objects
        .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
        .take_while(|(id, _)| id.starts_with(prefix))
        .map(|(_, stored)| object(stored));
    choose(matches).unwrap_or(Lookup::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::{NodeDescription, NodeObservation, ObserveNodes, command::Op, task_change},
        testing::{
            bootstrapped, change_tasks, create_config, create_secret, create_service,
            create_worker, run, service_spec, task_of,
        },
    };

    /// The id found, or how many there were.
    fn outcome<T>(lookup: Lookup<T>, id: impl Fn(&T) -> &str) -> Result<String, usize> {
        match lookup {
            Lookup::Found(object) => Ok(id(&object).to_owned()),
            Lookup::NotFound => Err(0),
            Lookup::Ambiguous(number) => Err(number),
        }
    }

    fn secret(state: &State, input: &str) -> Result<String, usize> {
        outcome(state.find_secret(input), |secret| &secret.id)
    }

    #[test]
    fn nothing_matches_the_empty_input() {
        let mut state = bootstrapped();
        run(&mut state, create_secret("abc", "db", b"x")).unwrap();
        run(&mut state, create_worker("w1")).unwrap();
        assert_eq!(secret(&state, ""), Err(0));
        assert_eq!(outcome(state.find_node(""), |node| &node.id), Err(0));
        assert_eq!(outcome(state.find_task(""), |task| &task.id), Err(0));
    }

    #[test]
    fn id_then_name_then_prefix() {
        let mut state = bootstrapped();
        for (id, name) in [
            ("abc1", "one"),
            ("abc2", "ABC"),
            ("abd3", "abc1"),
            ("xyz", "ab"),
        ] {
            run(&mut state, create_secret(id, name, b"x")).unwrap();
        }
        assert_eq!(secret(&state, "nothing"), Err(0));
        // A full id wins over another one's name.
        assert_eq!(secret(&state, "abc1"), Ok("abc1".into()));
        // A name, in any case, wins over prefixes.
        assert_eq!(secret(&state, "abc"), Ok("abc2".into()));
        assert_eq!(secret(&state, "AB"), Ok("xyz".into()));
        assert_eq!(secret(&state, "abd"), Ok("abd3".into()));
        assert_eq!(secret(&state, "a"), Err(3));
        // Ids are case sensitive.
        assert_eq!(secret(&state, "ABD3"), Err(0));
        assert_eq!(secret(&state, "abc11"), Err(0));
    }

    #[test]
    fn configs_in_any_case_and_services_in_theirs() {
        let mut state = bootstrapped();
        run(&mut state, create_config("c1", "App", b"x")).unwrap();
        run(
            &mut state,
            create_service("s1", service_spec("cc", &[], &[])),
        )
        .unwrap();
        assert!(matches!(state.find_config("aPP"), Lookup::Found(_)));
        assert!(matches!(state.find_service("cc"), Lookup::Found(_)));
        assert!(matches!(state.find_service("s"), Lookup::Found(_)));
        assert!(matches!(state.find_service("Cc"), Lookup::NotFound));
    }

    #[test]
    fn nodes_by_hostname_which_several_may_bear() {
        let mut state = bootstrapped();
        let named = |id: &str, hostname: &str| NodeObservation {
            node_id: id.into(),
            description: Some(NodeDescription {
                hostname: hostname.into(),
                ..NodeDescription::default()
            }),
            ..NodeObservation::default()
        };
        for id in ["w1", "w2", "x1"] {
            run(&mut state, create_worker(id)).unwrap();
        }
        let nodes = vec![named("w1", "host"), named("w2", "host"), named("x1", "w")];
        run(&mut state, Op::ObserveNodes(ObserveNodes { nodes })).unwrap();
        let find = |state: &State, input: &str| outcome(state.find_node(input), |node| &node.id);
        assert_eq!(find(&state, "host"), Err(2));
        assert_eq!(find(&state, "HOST"), Err(0));
        assert_eq!(find(&state, "w"), Ok("x1".into()));
        let nodes = vec![named("w2", "other")];
        run(&mut state, Op::ObserveNodes(ObserveNodes { nodes })).unwrap();
        assert_eq!(find(&state, "host"), Ok("w1".into()));
        assert_eq!(find(&state, "other"), Ok("w2".into()));
    }

    #[test]
    fn tasks_by_their_generated_name() {
        let mut state = bootstrapped();
        run(&mut state, create_worker("w1")).unwrap();
        run(
            &mut state,
            create_service("s1", service_spec("web", &[], &[])),
        )
        .unwrap();
        let mut global = task_of(&state, "s1", "t2", "w1");
        global.slot = 0;
        let tasks = [task_of(&state, "s1", "t1", "w1"), global];
        run(
            &mut state,
            change_tasks(tasks.map(task_change::Change::Create)),
        )
        .unwrap();
        let find = |input: &str| outcome(state.find_task(input), |task| &task.id);
        assert_eq!(find("web.1.t1"), Ok("t1".into()));
        assert_eq!(find("web.w1.t2"), Ok("t2".into()));
        assert_eq!(find("web.2.t1"), Err(0));
        assert_eq!(find("web.1"), Err(0));
        assert_eq!(find("t"), Err(2));
    }
}
