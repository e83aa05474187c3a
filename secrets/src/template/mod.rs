//! Templates in payloads and in fields of a task: the part of Go's text/template that
//! Docker Engines expand and that is offered here.
//!
//! | Construct | Offered |
//! |---|---|
//! | text, comments, trim markers | as in Go |
//! | `.Service.ID`, `.Service.Name`, `.Service.Labels`, `.Service.Labels.KEY` | yes |
//! | `.Node.ID`, `.Node.Hostname`, `.Node.Platform.Architecture`, `.Node.Platform.OS` | yes |
//! | `.Task.ID`, `.Task.Name`, `.Task.Slot` | yes |
//! | strings, decimal integers, `true`, `false`, parentheses, pipelines | yes |
//! | `if`, `else if`, `else`, `end` | yes |
//! | functions | [`Function`](function::Function); `secret`, `config` and `env` in payloads only |
//! | `range`, `with`, `define`, `block`, `template`, variables, other functions | refused by name |
//!
//! What is offered gives the bytes that Go gives, so that a task is the same on whatever
//! kind of node it runs. There are no loops: each action is evaluated once at most, and
//! what all of them write is bounded.
//!
//! A payload's text may be secret. Errors tell line and construct, and of the text itself
//! only the target of `secret` and `config` and the key of a label, where these stand in
//! the template as they are.

mod eval;
mod function;
mod lex;
mod parse;
mod value;

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use parse::Node;

/// Most actions in one template, text between them not counted: what a template of many
/// small actions makes the parser hold.
pub const MAX_TEMPLATE_ACTIONS: usize = 10_000;
/// How deep parentheses and branches may nest.
pub const MAX_TEMPLATE_DEPTH: usize = 32;
/// What an expansion may read and write in all, in bytes; the result is bounded by
/// what it is for.
pub const MAX_TEMPLATE_WORK_BYTES: usize = 16 * 1024 * 1024;
/// Largest result of a template in a task's env, hostname or mounts, in bytes: the
/// kernel's bound for one string of an environment (MAX_ARG_STRLEN).
pub const MAX_FIELD_BYTES: usize = 128 * 1024;
/// The template driver of Docker Engines.
pub const TEMPLATE_DRIVER: &str = "golang";
/// What begins an action.
pub(crate) const OPENING: &[u8] = b"{{";

/// Where a template stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A field of the task: an entry of its env, its hostname, a part of a mount.
    Field,
    /// The payload of a secret or config.
    Payload,
}

/// A template that can be expanded.
///
/// Without `Debug`: its text may be secret.
pub struct Template<'t> {
    nodes: Vec<Node<'t>>,
}

impl<'t> Template<'t> {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] with the line of what is malformed or not offered.
    pub fn parse(text: &'t [u8], place: Place) -> Result<Template<'t>, TemplateError> {
        let nodes = parse::parse(text, place)?;
        Ok(Template { nodes })
    }

    /// Replaces the actions by what they stand for.
    ///
    /// # Errors
    /// [`TemplateError`], also if the result has more than `limit` bytes.
    pub fn expand<'v>(
        &'v self,
        names: &TaskNames<'v>,
        files: &'v dyn TaskFiles,
        limit: usize,
    ) -> Result<Zeroizing<Vec<u8>>, TemplateError> {
        eval::expand(&self.nodes, names, files, limit)
    }
}

/// Whether a text has something to expand.
pub fn has_actions(text: &[u8]) -> bool {
    text.windows(OPENING.len()).any(|part| part == OPENING)
}

/// What the fields of a template stand for.
#[derive(Clone, Copy, Debug)]
pub struct TaskNames<'v> {
    /// `.Service.ID`
    pub service_id: &'v str,
    /// `.Service.Name`
    pub service_name: &'v str,
    /// `.Service.Labels`
    pub service_labels: &'v BTreeMap<String, String>,
    /// `.Node.ID`
    pub node_id: &'v str,
    /// `.Node.Hostname`; engines leave it empty in payloads.
    pub node_hostname: &'v str,
    /// `.Node.Platform.Architecture`; engines leave it empty in payloads.
    pub node_architecture: &'v str,
    /// `.Node.Platform.OS`; engines leave it empty in payloads.
    pub node_os: &'v str,
    /// `.Task.ID`
    pub task_id: &'v str,
    /// `.Task.Name`
    pub task_name: &'v str,
    /// `.Task.Slot`: the node's id where there are no slots.
    pub task_slot: &'v str,
}

/// What the functions of payloads read.
pub trait TaskFiles {
    /// The payload of the task's secret with this target name, not expanded.
    fn secret(&self, target: &[u8]) -> Option<&[u8]>;
    /// The payload of the task's config with this target name, not expanded.
    fn config(&self, target: &[u8]) -> Option<&[u8]>;
    /// The value of the first entry of the task's env with this name, not expanded.
    fn env(&self, name: &[u8]) -> Option<&[u8]>;
}

/// For templates in fields, which have none of these functions.
pub struct NoFiles;

impl TaskFiles for NoFiles {
    fn secret(&self, _: &[u8]) -> Option<&[u8]> {
        None
    }

    fn config(&self, _: &[u8]) -> Option<&[u8]> {
        None
    }

    fn env(&self, _: &[u8]) -> Option<&[u8]> {
        None
    }
}

/// A template that is refused or cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {fault}")]
pub struct TemplateError {
    /// The line of the template, from 1.
    pub line: usize,
    /// What is wrong there.
    pub fault: TemplateFault,
}

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateFault {
    /// It is no template in Go either.
    #[error("malformed template: {what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
    /// Go has it.
    #[error("`{construct}` is not offered in templates; offered are {OFFERED}")]
    NotOffered {
        /// Its name.
        construct: &'static str,
    },
    /// A name that is no function.
    #[error("no such function; offered are {}", function::names())]
    NoSuchFunction,
    /// A function of payloads in a field.
    #[error("function `{function}` works in secrets and configs only")]
    PayloadOnly {
        /// Its name.
        function: &'static str,
    },
    /// A field that is not there.
    #[error(
        "no such field; there are .Service.ID, .Service.Name, .Service.Labels, .Node.ID, \
         .Node.Hostname, .Node.Platform.Architecture, .Node.Platform.OS, .Task.ID, .Task.Name and \
         .Task.Slot"
    )]
    NoSuchField,
    /// Too few or too many arguments, or such of another kind.
    #[error("function `{function}` {problem}")]
    Arguments {
        /// Its name.
        function: &'static str,
        /// What is wrong with its arguments.
        problem: &'static str,
    },
    /// The service lacks a label.
    #[error("the service has no label{}; add it with docker service update --label-add", shown(.key.as_deref()))]
    NoLabel {
        /// Its key, if the template names it.
        key: Option<String>,
    },
    /// The task has no such secret or config.
    #[error("{kind} target{} not found; name the file that the service gives it", shown(.target.as_deref()))]
    NoTarget {
        /// `secret` or `config`.
        kind: &'static str,
        /// Its target, if the template names it.
        target: Option<String>,
    },
    /// It is more than is allowed.
    #[error("{what}; at most {most} are allowed")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        most: usize,
    },
}

/// What takes the place of what is not offered.
const OFFERED: &str = "fields, if, else, end, pipelines and functions";

fn shown(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" `{name}`"))
}

#[cfg(test)]
mod tests;
