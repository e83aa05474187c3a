//! Which node can take a task, and in what words it cannot.

use super::{
    LABEL_NATIVE_TASKS, PLUGIN_ENGINE, PLUGIN_HOST, PLUGIN_LIMITS, PLUGIN_TYPE,
    constraint::{Constraint, parse_constraints},
    load::Load,
};
use crate::{
    feature::{TEMPLATES_LEVEL, described_level},
    objects::{
        Availability, Membership, Mount, Node, NodeDescription, NodeState, Platform, Resources,
        Task, TaskSpec, mount,
    },
    plan::task::{is_host_image, node_state},
    state::State,
    templates::needs_expansion,
};

/// Why a node cannot take a task; in the order in which it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unfit {
    /// Not ready, not active, or not a member.
    NotAvailable,
    /// Runs images only.
    NoNativeTasks,
    /// Runs native tasks, but not as this user.
    NativeUser,
    /// Runs native tasks only.
    NativeOnly,
    /// Cannot enforce limits of native tasks.
    NoLimits,
    /// Expands no templates.
    NoTemplates,
    /// Not enough left of what the task reserves.
    Resources,
    /// A log or volume driver is missing.
    Plugin,
    /// Constraints.
    Constraint,
    /// Other processor or operating system than the image's.
    Platform,
    /// A host port is taken.
    HostPort,
    /// Has as many tasks of the service as it may.
    MaxReplicas,
}

impl Unfit {
    /// The reason in swarmkit's words, where swarmkit has it too.
    pub(super) fn explain(self, nodes: usize) -> String {
        let what = match self {
            Unfit::NotAvailable if nodes == 1 => {
                return "1 node not available for new tasks".to_owned();
            }
            Unfit::NotAvailable => return format!("{nodes} nodes not available for new tasks"),
            Unfit::MaxReplicas => return "max replicas per node limit exceed".to_owned(),
            Unfit::NoNativeTasks => "native tasks (image host) not supported",
            Unfit::NativeUser => "native tasks of this user not allowed",
            Unfit::NativeOnly => "only native tasks (image host) supported",
            Unfit::NoLimits => "limits of native tasks not enforceable",
            Unfit::NoTemplates => "templates not supported (update waxseal there)",
            Unfit::Resources => "insufficient resources",
            Unfit::Plugin => "missing plugin",
            Unfit::Constraint => "scheduling constraints not satisfied",
            Unfit::Platform => "unsupported platform",
            Unfit::HostPort => "host-mode port already in use",
        };
        let plural = if nodes == 1 { "" } else { "s" };
        format!("{what} on {nodes} node{plural}")
    }
}

/// What a task asks of its node, read once for all tasks of a spec.
pub(super) struct Needs<'a> {
    task: &'a Task,
    spec: &'a TaskSpec,
    /// `None` if they cannot be read: no node satisfies them.
    constraints: Option<Vec<Constraint>>,
    max_replicas: u64,
    /// It has templates.
    needs_expansion: bool,
}

impl<'a> Needs<'a> {
    /// `None` for a task without spec.
    pub(super) fn of(task: &'a Task, state: &State) -> Option<Needs<'a>> {
        let spec = task.spec.as_ref()?;
        let placement = spec.placement.as_ref();
        let constraints = placement.map_or(&[][..], |placement| &placement.constraints);
        Some(Needs {
            task,
            spec,
            constraints: parse_constraints(constraints).ok(),
            max_replicas: placement.map_or(0, |placement| placement.max_replicas),
            needs_expansion: needs_expansion(state, task),
        })
    }

    /// Why the node cannot take the task; `None` if it can.
    pub(super) fn unfit(&self, load: &Load<'_>) -> Option<Unfit> {
        let node = load.node;
        if !is_available(node) {
            return Some(Unfit::NotAvailable);
        }
        if let Some(unfit) = unfit_for_image(self.spec, node) {
            return Some(unfit);
        }
        // Engines expand templates, and nodes of ours since they say so.
        if self.needs_expansion
            && described_level(node).is_some_and(|level| level < TEMPLATES_LEVEL)
        {
            return Some(Unfit::NoTemplates);
        }
        if !load.has_resources(reservations(self.spec)) {
            return Some(Unfit::Resources);
        }
        if !self.has_plugins(node) {
            return Some(Unfit::Plugin);
        }
        let satisfied = self.constraints.as_ref().is_some_and(|constraints| {
            constraints
                .iter()
                .all(|constraint| constraint.matches(node))
        });
        if !satisfied {
            return Some(Unfit::Constraint);
        }
        if !is_on_platform(self.spec, node) {
            return Some(Unfit::Platform);
        }
        self.unfit_now(load)
    }

    /// As [`Needs::unfit`], of what placing other tasks can have changed.
    pub(super) fn unfit_now(&self, load: &Load<'_>) -> Option<Unfit> {
        if !load.has_resources(reservations(self.spec)) {
            return Some(Unfit::Resources);
        }
        if load.has_port_of(self.task) {
            return Some(Unfit::HostPort);
        }
        let here = load.tasks_of(&self.task.service_id);
        if self.max_replicas > 0 && u64::from(here) >= self.max_replicas {
            return Some(Unfit::MaxReplicas);
        }
        None
    }

    fn has_plugins(&self, node: &Node) -> bool {
        let own = self.spec.log_driver.as_ref();
        let log_driver = own.or(self.task.log_driver.as_ref());
        let log_driver = log_driver.map_or("", |driver| driver.name.as_str());
        // Old engines do not list log drivers at all.
        let lists_logs = plugins(node).any(|(kind, _)| kind == "Log");
        let logs =
            matches!(log_driver, "" | "none") || !lists_logs || has_plugin(node, "Log", log_driver);
        let container = self.spec.container.as_ref();
        let mounts = container.map_or(&[][..], |container| &container.mounts);
        logs && mounts
            .iter()
            .filter_map(volume_driver)
            .all(|driver| has_plugin(node, "Volume", driver))
    }
}

/// What a task reserves.
pub(super) fn reservations(spec: &TaskSpec) -> Option<&Resources> {
    spec.resources.as_ref()?.reservations.as_ref()
}

/// Whether a node can run such tasks at all: its kind, its policy, its platform.
pub(in crate::plan) fn is_capable(spec: &TaskSpec, node: &Node) -> bool {
    unfit_for_image(spec, node).is_none() && is_on_platform(spec, node)
}

fn is_available(node: &Node) -> bool {
    let spec = node.spec.as_ref();
    node_state(node) == NodeState::Ready
        && spec.is_some_and(|spec| {
            spec.availability == Availability::Active as i32
                && spec.membership == Membership::Accepted as i32
        })
}

/// Native tasks go to our nodes, as far as those allow; all else to engines.
fn unfit_for_image(spec: &TaskSpec, node: &Node) -> Option<Unfit> {
    let container = spec.container.as_ref();
    let image = container.map_or("", |container| container.image.as_str());
    let is_native = has_plugin(node, PLUGIN_TYPE, PLUGIN_HOST);
    if !is_host_image(image) {
        let runs_images = !is_native || has_plugin(node, PLUGIN_TYPE, PLUGIN_ENGINE);
        return (!runs_images).then_some(Unfit::NativeOnly);
    }
    if !is_native {
        return Some(Unfit::NoNativeTasks);
    }
    let user = container.map_or("", |container| container.user.as_str());
    match native_policy(node) {
        "" | "any" => {}
        "nonroot" if !is_root(user) => {}
        "off" => return Some(Unfit::NoNativeTasks),
        _ => return Some(Unfit::NativeUser),
    }
    if has_limits(spec) && !has_plugin(node, PLUGIN_TYPE, PLUGIN_LIMITS) {
        return Some(Unfit::NoLimits);
    }
    None
}

fn native_policy(node: &Node) -> &str {
    let engine = description(node).and_then(|description| description.engine.as_ref());
    let label = engine.and_then(|engine| engine.labels.get(LABEL_NATIVE_TASKS));
    label.map_or("", String::as_str)
}

/// Whether `user[:group]` is root. Another name may still be of uid 0 on the node;
/// the node itself checks that.
fn is_root(user: &str) -> bool {
    let user = user.split_once(':').map_or(user, |(user, _)| user);
    matches!(user, "" | "root") || user.parse::<u64>() == Ok(0)
}

fn has_limits(spec: &TaskSpec) -> bool {
    let limits = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.limits.as_ref());
    let pids = spec
        .container
        .as_ref()
        .map_or(0, |container| container.pids_limit);
    pids > 0 || limits.is_some_and(|limits| limits.nano_cpus > 0 || limits.memory_bytes > 0)
}

fn is_on_platform(spec: &TaskSpec, node: &Node) -> bool {
    let placement = spec.placement.as_ref();
    let platforms = placement.map_or(&[][..], |placement| &placement.platforms);
    if platforms.is_empty() {
        return true;
    }
    let actual = description(node).and_then(|description| description.platform.as_ref());
    let suits = |wanted: &Platform, actual: &Platform| {
        let (wanted_arch, arch) = (&wanted.architecture, &actual.architecture);
        (wanted_arch.is_empty() || architecture(wanted_arch) == architecture(arch))
            && (wanted.os.is_empty() || wanted.os.eq_ignore_ascii_case(&actual.os))
    };
    actual.is_some_and(|actual| platforms.iter().any(|wanted| suits(wanted, actual)))
}

/// Kernels and images name the two most common ones differently.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn description(node: &Node) -> Option<&NodeDescription> {
    node.description.as_ref()
}

fn plugins(node: &Node) -> impl Iterator<Item = (&str, &str)> {
    let engine = description(node).and_then(|description| description.engine.as_ref());
    let plugins = engine.map_or(&[][..], |engine| &engine.plugins);
    plugins
        .iter()
        .map(|plugin| (plugin.r#type.as_str(), plugin.name.as_str()))
}

fn has_plugin(node: &Node, kind: &str, name: &str) -> bool {
    plugins(node).any(|(has_kind, has)| {
        has_kind == kind && (has == name || has.strip_suffix(":latest") == Some(name))
    })
}

fn volume_driver(mount: &Mount) -> Option<&str> {
    let options = mount.volume_options.as_ref()?;
    let driver = options.driver_config.as_ref()?;
    (mount.r#type == mount::Type::Volume as i32 && !driver.name.is_empty())
        .then_some(driver.name.as_str())
}
