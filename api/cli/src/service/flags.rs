//! Parts of a service's specification that `create` and `update` write alike.

use serde_json::{Value, json};

use super::HOST_IMAGE;
use crate::{failure::Failure, registry::Credentials};

/// Flags of both verbs; what is not given stays as it is.
#[derive(Debug, Default, clap::Args)]
pub(super) struct TaskFlags {
    /// As whom: a user, and perhaps a group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,
    /// Where the command starts
    #[arg(
        short = 'w',
        long = "dir",
        visible_alias = "workdir",
        value_name = "PATH"
    )]
    pub(super) dir: Option<String>,
    /// When a task that ended is started again
    #[arg(long, value_parser = ["none", "on-failure", "any"], value_name = "CONDITION")]
    pub(super) restart_condition: Option<String>,
    /// Time before a task is started again
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub(super) restart_delay: Option<std::time::Duration>,
    /// How often a task is started again
    #[arg(long, value_name = "COUNT")]
    pub(super) restart_max_attempts: Option<u64>,
    /// Signal that asks a task to stop
    #[arg(long, value_name = "SIGNAL")]
    pub(super) stop_signal: Option<String>,
    /// Time that a task has to stop by itself
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    pub(super) stop_grace_period: Option<std::time::Duration>,
}

/// Flags of both verbs, about the registry of the image.
#[derive(Debug, Default, clap::Args)]
pub(super) struct RegistryFlags {
    /// Send the nodes what `docker login` keeps for the image's registry
    #[arg(long)]
    with_registry_auth: bool,
}

impl RegistryFlags {
    /// The credentials, if they are asked for.
    pub(super) async fn credentials(&self, image: &str) -> Result<Option<Credentials>, Failure> {
        if !self.with_registry_auth {
            return Ok(None);
        }
        if image == HOST_IMAGE {
            return Err(Failure::usage(format!(
                "--with-registry-auth does not go with image {HOST_IMAGE}"
            ))
            .hint("its commands are on the nodes already; only images of containers are pulled"));
        }
        Credentials::read(image).await.map(Some)
    }
}

impl TaskFlags {
    /// Writes what was given into a specification.
    pub(super) fn write(&self, spec: &mut Value) -> Result<(), Failure> {
        let container = part(spec, &["TaskTemplate", "ContainerSpec"]);
        set(
            container,
            "User",
            self.user.as_ref().map(|user| json!(user)),
        );
        set(container, "Dir", self.dir.as_ref().map(|dir| json!(dir)));
        set(
            container,
            "StopSignal",
            self.stop_signal.as_ref().map(|signal| json!(signal)),
        );
        set(
            container,
            "StopGracePeriod",
            nanoseconds(self.stop_grace_period)?,
        );
        let condition = self
            .restart_condition
            .as_ref()
            .map(|condition| json!(condition));
        let delay = nanoseconds(self.restart_delay)?;
        let attempts = self.restart_max_attempts.map(|attempts| json!(attempts));
        if condition.is_some() || delay.is_some() || attempts.is_some() {
            let policy = part(spec, &["TaskTemplate", "RestartPolicy"]);
            set(policy, "Condition", condition);
            set(policy, "Delay", delay);
            set(policy, "MaxAttempts", attempts);
        }
        Ok(())
    }
}

fn nanoseconds(span: Option<std::time::Duration>) -> Result<Option<Value>, Failure> {
    span.map(|span| i64::try_from(span.as_nanos()).map(|nanoseconds| json!(nanoseconds)))
        .transpose()
        .map_err(|_| Failure::usage("a span is too long").hint("at most 290y"))
}

fn set(object: &mut Value, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[key] = value;
    }
}

/// A part of a specification, made if it is not there.
pub(super) fn part<'a>(spec: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(spec, |value, key| {
        if !value.is_object() {
            *value = json!({});
        }
        let inner = &mut value[*key];
        if !inner.is_object() {
            *inner = json!({});
        }
        inner
    })
}

/// A list in a specification, made if it is not there.
pub(super) fn list<'a>(spec: &'a mut Value, path: &[&str], key: &str) -> &'a mut Vec<Value> {
    let inner = &mut part(spec, path)[key];
    if !inner.is_array() {
        *inner = json!([]);
    }
    match inner {
        Value::Array(list) => list,
        _ => unreachable!("made an array above"),
    }
}

/// Environment entries: a later one replaces an earlier one of the same name.
pub(super) fn add_env(list: &mut Vec<Value>, entries: &[String]) -> Result<(), Failure> {
    for entry in entries {
        let Some((name, _)) = entry.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(
                Failure::usage(format!("--env {entry}: this is not NAME=VALUE")).hint(
                    "write NAME= for an empty value; a secret does not belong here: use --secret",
                ),
            );
        };
        remove_env(list, name);
        list.push(json!(entry));
    }
    Ok(())
}

/// Removes entries of that name.
pub(super) fn remove_env(list: &mut Vec<Value>, name: &str) {
    list.retain(|entry| {
        let entry = entry.as_str().unwrap_or_default();
        entry.split_once('=').map_or(entry, |(name, _)| name) != name
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut spec = json!({"TaskTemplate": {"ContainerSpec": {"Dir": "/", "Image": "host"}}});
        let flags = TaskFlags {
            user: Some("nobody".into()),
            ..TaskFlags::default()
        };
        flags.write(&mut spec).unwrap();
        assert_eq!(
            spec,
            json!({"TaskTemplate": {"ContainerSpec": {"Dir": "/", "Image": "host", "User": "nobody"}}})
        );
    }

    #[test]
    fn environment_entries_have_names_and_are_unique() {
        let mut env = vec![json!("A=1"), json!("B=2")];
        assert!(add_env(&mut env, &["=x".to_owned()]).is_err());
        assert!(add_env(&mut env, &["A".to_owned()]).is_err());
        add_env(&mut env, &["A=3".to_owned()]).unwrap();
        assert_eq!(env, [json!("B=2"), json!("A=3")]);
        remove_env(&mut env, "B");
        assert_eq!(env, [json!("A=3")]);
    }
}
