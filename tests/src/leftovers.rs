//! What a scratch directory still has: processes and mounts.

use std::{fs, path::Path};

use anyhow::Result;
use rustix::{
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

/// Mount points at or below `dir`, the newest first, as this process sees them.
///
/// # Errors
/// When the mount table cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(1));
    let mut points: Vec<String> = points
        .filter(|point| Path::new(point).starts_with(dir))
        .map(str::to_owned)
        .collect();
    points.reverse();
    Ok(points)
}

/// Processes that name `dir` in their command line or work in it.
///
/// # Errors
/// When /proc cannot be read.
pub fn processes_below(dir: &Path) -> Result<Vec<(u32, String)>> {
    let text = dir.to_string_lossy();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        let inside = ["cwd", "root"].iter().any(|link| {
            fs::read_link(entry.path().join(link)).is_ok_and(|path| path.starts_with(dir))
        });
        if (words.contains(&*text) || inside) && !is_zombie(&entry.path()) {
            found.push((pid, words));
        }
    }
    Ok(found)
}

fn is_zombie(proc: &Path) -> bool {
    let stat = fs::read_to_string(proc.join("stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_none_or(|rest| rest.starts_with(['Z', 'X']))
}

/// Kills what still runs below `dir` and unmounts what is still mounted there.
pub fn clear(dir: &Path) {
    for _ in 0..20 {
        let running = processes_below(dir).unwrap_or_default();
        for (pid, _) in &running {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let mounted = mounts_below(dir).unwrap_or_default();
        for point in &mounted {
            let _ = unmount(point.as_str(), UnmountFlags::DETACH);
        }
        if running.is_empty() && mounted.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}
