//! What the figures depend on beyond the two programs.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::measure::median;

/// Writes that are timed.
const SYNCS: usize = 200;
/// About a sealed record with a secret of 1 KiB.
const RECORD_BYTES: usize = 1536;

/// Prints processors, kernel, file system and the time that a sync takes there.
pub(crate) fn describe(dir: &Path) -> Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpus.lines().find(|line| line.starts_with("model name"));
    let model = model
        .and_then(|line| line.split(": ").nth(1))
        .unwrap_or("processor");
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!(
        "{cores} × {model}, Linux {}, {}, load before {}",
        kernel.trim(),
        file_system(dir)?,
        load()?,
    );
    let mut syncs = sync_times(dir)?;
    syncs.sort_unstable();
    println!(
        "write and fdatasync of {RECORD_BYTES} bytes: p50 {:.2} ms, p99 {:.2} ms\n",
        median(&syncs).as_secs_f64() * 1e3,
        syncs[SYNCS * 99 / 100].as_secs_f64() * 1e3,
    );
    Ok(())
}

/// How many processes wanted a processor over the last minute.
pub(crate) fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

fn file_system(dir: &Path) -> Result<String> {
    let table = fs::read_to_string("/proc/self/mounts")?;
    let mounted = table.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    mounted
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.len())
        .map(|(_, kind)| kind.to_owned())
        .context("the scratch directory is on no file system")
}

fn sync_times(dir: &Path) -> Result<Vec<Duration>> {
    let path = dir.join("syncs");
    let file = File::create(&path)?;
    file.write_all_at(&vec![0; SYNCS * RECORD_BYTES], 0)?;
    file.sync_all()?;
    let record = vec![7; RECORD_BYTES];
    let mut times = Vec::with_capacity(SYNCS);
    for number in 0..SYNCS {
        let begin = Instant::now();
        file.write_all_at(&record, (number * RECORD_BYTES) as u64)?;
        file.sync_data()?;
        times.push(begin.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}
