//! Secrets and configs: what may be stored, how a service refers to them, and
//! which of them a node needs.
//!
//! Everything here is pure and knows nothing of clusters: names, sizes, file
//! targets and sets of ids come in, verdicts go out. Sealing payloads, sending
//! them and mounting them is left to others.

mod assignment;
mod object;
mod reference;
mod target;
mod template;

pub use assignment::{AssignmentDiff, AssignmentSet, TaskNeeds};
pub use object::{
    Kind, MAX_CONFIG_BYTES, MAX_LABELS_BYTES, MAX_NAME_BYTES, MAX_SECRET_BYTES, ObjectError,
    check_driver, check_labels, check_name, check_payload, check_update,
};
pub use reference::{Reference, ReferenceError, Target, TargetFiles};
pub use target::{FileTarget, TargetError};
pub use template::{
    MAX_FIELD_BYTES, MAX_TEMPLATE_ACTIONS, MAX_TEMPLATE_DEPTH, MAX_TEMPLATE_WORK_BYTES, NoFiles,
    Place, TEMPLATE_DRIVER, TaskFiles, TaskNames, Template, TemplateError, TemplateFault,
    has_actions,
};
