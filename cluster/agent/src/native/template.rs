//! Placeholders such as `{{.Task.ID}}` in env, hostname and mounts.
//!
//! The engine takes Go templates there; native tasks know the plain fields only and refuse the
//! rest, so that nothing is passed on half expanded.

use super::error::LaunchError;
use super::types::TaskLaunch;

/// `text` with its placeholders replaced; `field` names where it stands, for the refusal.
pub(super) fn expand(text: &str, field: &str, task: &TaskLaunch) -> Result<String, LaunchError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, after) = after.split_once("}}").ok_or_else(|| {
            LaunchError::rejected(format!(
                "{field} has `{{{{` without `}}}}`; native tasks take it for a placeholder"
            ))
        })?;
        expanded.push_str(before);
        expanded.push_str(&value(name.trim(), field, task)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn value(name: &str, field: &str, task: &TaskLaunch) -> Result<String, LaunchError> {
    let names = &task.names;
    Ok(match name {
        ".Service.ID" => task.service_id.clone(),
        ".Service.Name" => names.service.clone(),
        ".Node.ID" => task.node_id.clone(),
        ".Node.Hostname" => names.node_hostname.clone(),
        ".Node.Platform.OS" => "linux".to_owned(),
        ".Node.Platform.Architecture" => std::env::consts::ARCH.to_owned(),
        ".Task.ID" => task.task_id.clone(),
        ".Task.Name" if names.task.is_empty() => {
            format!("{}.{}.{}", names.service, slot(task), task.task_id)
        }
        ".Task.Name" => names.task.clone(),
        ".Task.Slot" => slot(task),
        _ => {
            return Err(LaunchError::rejected(format!(
                "{field} has a placeholder that native tasks do not know; they know .Service.ID, \
                 .Service.Name, .Node.ID, .Node.Hostname, .Node.Platform.OS, \
                 .Node.Platform.Architecture, .Task.ID, .Task.Name and .Task.Slot"
            )));
        }
    })
}

fn slot(task: &TaskLaunch) -> String {
    if task.names.slot == 0 {
        task.node_id.clone()
    } else {
        task.names.slot.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::types::TaskNames;

    fn task(slot: u64) -> TaskLaunch {
        let names = TaskNames {
            service: "web".into(),
            slot,
            ..TaskNames::default()
        };
        TaskLaunch {
            task_id: "t1".into(),
            service_id: "s1".into(),
            node_id: "n1".into(),
            names,
            ..TaskLaunch::default()
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for text in [
            "{{",
            "{{.Task.ID",
            "{{join}}",
            "{{.Service.Labels}}",
            "{{env \"A\"}}",
        ] {
            let refused = expand(text, "env", &task(1));
            assert!(refused.is_err_and(|error| error.is_rejected()), "{text}");
        }
    }

    #[test]
    fn fields_are_replaced() {
        let expanded = |text, slot| expand(text, "env", &task(slot)).unwrap();
        assert_eq!(expanded("plain }} text", 1), "plain }} text");
        assert_eq!(expanded("a-{{ .Task.ID }}-{{.Node.ID}}", 1), "a-t1-n1");
        assert_eq!(expanded("{{.Task.Name}}", 3), "web.3.t1");
        assert_eq!(expanded("{{.Task.Name}}", 0), "web.n1.t1");
    }
}
