//! Indices over the state, so that no command has to scan it.

use std::collections::{BTreeMap, BTreeSet};

/// Unique names, compared without regard to case, and the ids of their objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(BTreeMap<String, String>);

impl Names {
    /// The id of the object with this name, in any case.
    pub(crate) fn id_of(&self, name: &str) -> Option<&str> {
        self.0.get(&name.to_ascii_lowercase()).map(String::as_str)
    }

    pub(crate) fn insert(&mut self, name: &str, id: &str) {
        self.0.insert(name.to_ascii_lowercase(), id.to_owned());
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.remove(&name.to_ascii_lowercase());
    }
}

/// Ids by something that many objects may share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups(BTreeMap<String, BTreeSet<String>>);

impl Groups {
    /// The ids under this key, in order.
    pub(crate) fn of(&self, key: &str) -> impl Iterator<Item = &str> {
        self.0.get(key).into_iter().flatten().map(String::as_str)
    }

    /// Moves an id from one key to another; the empty key holds nothing.
    pub(crate) fn shift(&mut self, id: &str, from: &str, to: &str) {
        if from == to {
            return;
        }
        if let Some(ids) = self.0.get_mut(from) {
            ids.remove(id);
            if ids.is_empty() {
                self.0.remove(from);
            }
        }
        if !to.is_empty() {
            self.0
                .entry(to.to_owned())
                .or_default()
                .insert(id.to_owned());
        }
    }
}

/// What refers to a secret or config.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum User {
    /// A service, by its spec or the one before, by id.
    Service(String),
    /// A task that has not ended, by id.
    Task(String),
}

/// Who uses what, by the id of the secret or config.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Users(BTreeMap<String, BTreeSet<User>>);

impl Users {
    /// Who uses this object.
    pub(crate) fn of(&self, id: &str) -> impl Iterator<Item = &User> {
        self.0.get(id).into_iter().flatten()
    }

    /// Replaces what `user` uses: no longer `from`, from now on `to`.
    pub(crate) fn shift(&mut self, user: &User, from: &BTreeSet<&str>, to: &BTreeSet<&str>) {
        for id in from.difference(to) {
            if let Some(users) = self.0.get_mut(*id) {
                users.remove(user);
                if users.is_empty() {
                    self.0.remove(*id);
                }
            }
        }
        for id in to.difference(from) {
            self.0
                .entry((*id).to_owned())
                .or_default()
                .insert(user.clone());
        }
    }
}
