//! Whether this machine can show the demonstration, found out before anything is started.

use std::path::Path;

use crate::failure::Failure;

/// Programs that the demonstration's task runs.
const PROGRAMS: [&str; 4] = ["sh", "sha256sum", "cut", "sleep"];
/// Settings of the kernel under which nobody but root makes a user namespace.
const FORBIDDING: [(&str, &str); 2] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
];

pub(super) fn this_machine() -> Result<(), Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |program: &&str| {
        std::env::split_paths(&path)
            .chain([Path::new("/bin").into(), Path::new("/usr/bin").into()])
            .any(|dir| dir.join(program).is_file())
    };
    let missing: Vec<&str> = PROGRAMS
        .into_iter()
        .filter(|program| !is_there(program))
        .collect();
    if !missing.is_empty() {
        return Err(Failure::refused(format!(
            "the demonstration's task needs {}",
            missing.join(", ")
        ))
        .hint("install the package coreutils"));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let forbids = |(file, value): &(&str, &str)| {
        std::fs::read_to_string(file).is_ok_and(|text| text.trim() == *value)
    };
    match FORBIDDING.iter().find(|setting| forbids(setting)) {
        None => Ok(()),
        Some((file, _)) => Err(Failure::refused(format!(
            "tasks without root need user namespaces, which this kernel forbids ({file})"
        ))
        .hint("run the demonstration as root, or allow user namespaces with sysctl")),
    }
}

/// What more there is to say when a task does not start without root.
pub(super) fn namespace_hint() -> &'static str {
    const APPARMOR: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
    let is_restricted = std::fs::read_to_string(APPARMOR).is_ok_and(|text| text.trim() == "1");
    match (rustix::process::geteuid().is_root(), is_restricted) {
        (false, true) => {
            "AppArmor forbids user namespaces to this program: run as root, or set kernel.apparmor_restrict_unprivileged_userns to 0"
        }
        (false, false) => {
            "tasks without root need user namespaces; run the demonstration as root if this machine forbids them"
        }
        (true, _) => "tasks need the right to mount (CAP_SYS_ADMIN), which containers often lack",
    }
}
