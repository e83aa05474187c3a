//! Putting objects into the state: the one place that keeps maps and indices in step.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    change::Change,
    credentials::{handle_of, handles_of_service},
    index::User,
    naming, needs,
    objects::{Cluster, Config, LimitedToken, Node, Secret, Service, Task, TaskSpec, TaskState},
    state::{State, StoredSecret},
};

/// Each setter puts `new` in place of what was there (nothing: removes it) and
/// tells the change. Names must have been found free before.
impl State {
    pub(crate) fn set_cluster(&mut self, new: Cluster) -> Change {
        let new = Some(Arc::new(new));
        let old = std::mem::replace(&mut self.cluster, new.clone());
        Change::Cluster { old, new }
    }

    pub(crate) fn set_node(&mut self, id: &str, new: Option<Node>) -> Change {
        let new = new.map(Arc::new);
        let old = match &new {
            Some(node) => self.nodes.insert(id.to_owned(), Arc::clone(node)),
            None => self.nodes.remove(id),
        };
        let hostname = |node: &Option<Arc<Node>>| {
            node.as_deref()
                .map_or(String::new(), |node| naming::hostname(node).to_owned())
        };
        self.hostnames.shift(id, &hostname(&old), &hostname(&new));
        let key = |node: &Option<Arc<Node>>| {
            node.as_deref()
                .and_then(|node| node.certificate.as_ref())
                .map_or(String::new(), |certificate| {
                    naming::key_name(&certificate.public_key_digest)
                })
        };
        self.node_keys.shift(id, &key(&old), &key(&new));
        Change::Node { old, new }
    }

    /// Adds a secret, or replaces one's object and keeps its payload.
    pub(crate) fn set_secret(&mut self, new: Secret, payload: Option<&[u8]>) -> Change {
        let id = new.id.clone();
        let new = Arc::new(new);
        let old = self.secrets.remove(&id);
        let (sealed, payload_bytes) = match (payload, &old) {
            (Some(plain), _) => (Arc::from(self.vault.seal(plain)), plain.len()),
            (None, Some(old)) => (Arc::clone(&old.sealed), old.payload_bytes),
            (None, None) => (Arc::from(self.vault.seal(&[])), 0),
        };
        let old = old.map(|stored| stored.object);
        if let Some(old) = &old {
            self.secret_names.remove(naming::secret_name(old));
        }
        self.secret_names.insert(naming::secret_name(&new), &id);
        self.secrets.insert(
            id,
            StoredSecret {
                object: Arc::clone(&new),
                sealed,
                payload_bytes,
            },
        );
        Change::Secret {
            old,
            new: Some(new),
        }
    }

    pub(crate) fn remove_secret_object(&mut self, id: &str) -> Change {
        let old = self.secrets.remove(id).map(|stored| stored.object);
        if let Some(old) = &old {
            self.secret_names.remove(naming::secret_name(old));
        }
        Change::Secret { old, new: None }
    }

    pub(crate) fn set_config(&mut self, id: &str, new: Option<Config>) -> Change {
        let new = new.map(Arc::new);
        let old = match &new {
            Some(config) => self.configs.insert(id.to_owned(), Arc::clone(config)),
            None => self.configs.remove(id),
        };
        if let Some(old) = &old {
            self.config_names.remove(naming::config_name(old));
        }
        if let Some(new) = &new {
            self.config_names.insert(naming::config_name(new), id);
        }
        Change::Config { old, new }
    }

    pub(crate) fn set_service(&mut self, id: &str, new: Option<Service>) -> Change {
        let new = new.map(Arc::new);
        let old = match &new {
            Some(service) => self.services.insert(id.to_owned(), Arc::clone(service)),
            None => self.services.remove(id),
        };
        if let Some(old) = &old {
            self.service_names.remove(naming::service_name(old));
        }
        if let Some(new) = &new {
            self.service_names.insert(naming::service_name(new), id);
        }
        let user = User::Service(id.to_owned());
        let (before, after) = (old.as_deref(), new.as_deref());
        self.secret_users.shift(
            &user,
            &before.map_or_else(BTreeSet::new, needs::secrets_of_service),
            &after.map_or_else(BTreeSet::new, needs::secrets_of_service),
        );
        self.config_users.shift(
            &user,
            &before.map_or_else(BTreeSet::new, needs::configs_of_service),
            &after.map_or_else(BTreeSet::new, needs::configs_of_service),
        );
        self.credentials.shift(
            &user,
            &before.map_or_else(BTreeSet::new, handles_of_service),
            &after.map_or_else(BTreeSet::new, handles_of_service),
        );
        Change::Service { old, new }
    }

    pub(crate) fn set_join_token(&mut self, new: LimitedToken) -> Arc<LimitedToken> {
        let new = Arc::new(new);
        if let Some(old) = self.join_tokens.insert(new.id.clone(), Arc::clone(&new)) {
            for reservation in &old.reservations {
                self.reserving.remove(&reservation.node_id);
            }
        }
        for reservation in &new.reservations {
            self.reserving
                .insert(reservation.node_id.clone(), new.id.clone());
        }
        new
    }

    pub(crate) fn set_task(&mut self, id: &str, new: Option<Task>) -> Change {
        let new = new.map(Arc::new);
        let old = match &new {
            Some(task) => self.tasks.insert(id.to_owned(), Arc::clone(task)),
            None => self.tasks.remove(id),
        };
        let (before, after) = (old.as_deref(), new.as_deref());
        let node = |task: Option<&Task>| task.map_or(String::new(), |task| task.node_id.clone());
        let service =
            |task: Option<&Task>| task.map_or(String::new(), |task| task.service_id.clone());
        self.tasks_by_node.shift(id, &node(before), &node(after));
        self.tasks_by_service
            .shift(id, &service(before), &service(after));
        self.shift_task_users(id, before, after);
        // A task that comes with its end holds nothing.
        if let Some(handle) = after.and_then(|task| handle_of(task.spec.as_ref())) {
            self.credentials.drop_unheld(handle);
        }
        Change::Task { old, new }
    }

    /// A task uses what it refers to until it is final. Its spec never changes.
    fn shift_task_users(&mut self, id: &str, before: Option<&Task>, after: Option<&Task>) {
        let (before, after) = (live_spec(before), live_spec(after));
        if before.is_some() == after.is_some() {
            return;
        }
        let user = User::Task(id.to_owned());
        self.secret_users
            .shift(&user, &secrets_of(before), &secrets_of(after));
        self.config_users
            .shift(&user, &configs_of(before), &configs_of(after));
        let handles = |spec| handle_of(spec).into_iter().collect();
        self.credentials
            .shift(&user, &handles(before), &handles(after));
    }
}

fn secrets_of(spec: Option<&TaskSpec>) -> BTreeSet<&str> {
    spec.into_iter().flat_map(needs::secret_ids).collect()
}

fn configs_of(spec: Option<&TaskSpec>) -> BTreeSet<&str> {
    spec.into_iter().flat_map(needs::config_ids).collect()
}

/// The spec of a task that still uses what it refers to. One that is to be removed
/// only stops, with what its node was sent: `docker stack rm` removes secrets right
/// after the services.
fn live_spec(task: Option<&Task>) -> Option<&TaskSpec> {
    task.filter(|task| !needs::is_final(task) && task.desired_state() < TaskState::Remove)?
        .spec
        .as_ref()
}
