//! Which secrets and configs a node needs.

use std::collections::BTreeSet;

/// What one task asks of the node that it is assigned to.
#[derive(Clone, Copy, Debug)]
pub struct TaskNeeds<S, C> {
    /// Whether the task has reported a state that it never leaves. Its desired
    /// state does not matter: what still runs still needs its secrets.
    pub is_final: bool,
    /// Ids of the secrets that it refers to.
    pub secrets: S,
    /// Ids of the configs that it refers to.
    pub configs: C,
}

/// The ids of all secrets and configs that a node needs: exactly those that
/// its non-final tasks refer to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentSet {
    secrets: BTreeSet<String>,
    configs: BTreeSet<String>,
}

/// What to send and what to take back to get from one set to another, in id order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AssignmentDiff {
    /// Secrets to send.
    pub secrets_added: Vec<String>,
    /// Secrets to take back.
    pub secrets_removed: Vec<String>,
    /// Configs to send.
    pub configs_added: Vec<String>,
    /// Configs to take back.
    pub configs_removed: Vec<String>,
}

impl AssignmentSet {
    /// The set for a node with these tasks.
    pub fn of_tasks<'a, S, C>(tasks: impl IntoIterator<Item = TaskNeeds<S, C>>) -> AssignmentSet
    where
        S: IntoIterator<Item = &'a str>,
        C: IntoIterator<Item = &'a str>,
    {
        let mut set = AssignmentSet::default();
        for task in tasks.into_iter().filter(|task| !task.is_final) {
            set.secrets
                .extend(task.secrets.into_iter().map(String::from));
            set.configs
                .extend(task.configs.into_iter().map(String::from));
        }
        set
    }

    /// Ids of the secrets, in order.
    pub fn secrets(&self) -> impl ExactSizeIterator<Item = &str> {
        self.secrets.iter().map(String::as_str)
    }

    /// Ids of the configs, in order.
    pub fn configs(&self) -> impl ExactSizeIterator<Item = &str> {
        self.configs.iter().map(String::as_str)
    }

    /// Whether the node needs this secret.
    pub fn needs_secret(&self, id: &str) -> bool {
        self.secrets.contains(id)
    }

    /// Whether the node needs this config.
    pub fn needs_config(&self, id: &str) -> bool {
        self.configs.contains(id)
    }

    /// Whether nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty() && self.configs.is_empty()
    }

    /// What leads from this set, which the node has, to `wanted`.
    pub fn diff(&self, wanted: &AssignmentSet) -> AssignmentDiff {
        let missing = |from: &BTreeSet<String>, to: &BTreeSet<String>| {
            to.difference(from).cloned().collect::<Vec<_>>()
        };
        AssignmentDiff {
            secrets_added: missing(&self.secrets, &wanted.secrets),
            secrets_removed: missing(&wanted.secrets, &self.secrets),
            configs_added: missing(&self.configs, &wanted.configs),
            configs_removed: missing(&wanted.configs, &self.configs),
        }
    }
}

impl AssignmentDiff {
    /// Whether both sets were equal.
    pub fn is_empty(&self) -> bool {
        *self == AssignmentDiff::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    type Task = (bool, Vec<String>, Vec<String>);

    fn set(tasks: &[Task]) -> AssignmentSet {
        AssignmentSet::of_tasks(tasks.iter().map(|(is_final, secrets, configs)| TaskNeeds {
            is_final: *is_final,
            secrets: secrets.iter().map(String::as_str),
            configs: configs.iter().map(String::as_str),
        }))
    }

    fn tasks() -> impl Strategy<Value = Vec<Task>> {
        let ids = || vec("[a-e]", 0..4);
        vec((any::<bool>(), ids(), ids()), 0..6)
    }

    #[test]
    fn a_final_task_needs_nothing() {
        let tasks = [(true, vec!["s".into()], vec!["c".into()])];
        assert!(set(&tasks).is_empty());
    }

    #[test]
    fn what_another_task_still_needs_stays() {
        let needs = |is_final| (is_final, vec!["s".into()], vec![]);
        let before = set(&[needs(false), needs(false)]);
        let after = set(&[needs(true), needs(false)]);
        assert!(before.diff(&after).is_empty());
        let gone = before.diff(&set(&[needs(true), needs(true)]));
        assert_eq!(gone.secrets_removed, ["s"]);
    }

    proptest! {
        #[test]
        fn exactly_what_live_tasks_refer_to(tasks in tasks()) {
            let set = set(&tasks);
            let live = || tasks.iter().filter(|task| !task.0);
            for id in ["a", "b", "c", "d", "e"] {
                let refers = |ids: &Vec<String>| ids.iter().any(|other| other == id);
                prop_assert_eq!(set.needs_secret(id), live().any(|task| refers(&task.1)));
                prop_assert_eq!(set.needs_config(id), live().any(|task| refers(&task.2)));
            }
        }

        #[test]
        fn a_difference_leads_to_the_other_set(before in tasks(), after in tasks()) {
            let (mut have, wanted) = (set(&before), set(&after));
            let diff = have.diff(&wanted);
            for id in &diff.secrets_removed {
                prop_assert!(have.secrets.remove(id));
            }
            for id in &diff.configs_removed {
                prop_assert!(have.configs.remove(id));
            }
            for id in diff.secrets_added {
                prop_assert!(have.secrets.insert(id));
            }
            for id in diff.configs_added {
                prop_assert!(have.configs.insert(id));
            }
            prop_assert_eq!(&have, &wanted);
            prop_assert!(have.diff(&wanted).is_empty());
        }
    }
}
