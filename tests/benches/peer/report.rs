//! Tables of what was measured.

use std::time::Duration;

use crate::measure::{Measured, median};

/// Both sides' runs, pair by pair.
pub(crate) struct Pairs<T> {
    names: [&'static str; 2],
    pub(crate) ours: Vec<T>,
    pub(crate) other: Vec<T>,
}

impl<T> Default for Pairs<T> {
    /// Ours beside the stock engine.
    fn default() -> Pairs<T> {
        Pairs::of(["waxseal", "stock"])
    }
}

impl<T> Pairs<T> {
    /// Sides with other names.
    pub(crate) fn of(names: [&'static str; 2]) -> Pairs<T> {
        Pairs {
            names,
            ours: Vec::new(),
            other: Vec::new(),
        }
    }
}

/// The median over the runs of one figure.
pub(crate) fn middle<T>(runs: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    let mut figures: Vec<f64> = runs.iter().map(figure).collect();
    figures.sort_unstable_by(f64::total_cmp);
    median(&figures)
}

/// The ratio of one figure, ours by the other's: the median of the pairs, the least and the most.
fn ratios<T>(pairs: &Pairs<T>, figure: impl Fn(&T) -> f64) -> (f64, f64, f64) {
    let mut ratios: Vec<f64> = pairs
        .ours
        .iter()
        .zip(&pairs.other)
        .map(|(ours, other)| figure(ours) / figure(other))
        .collect();
    ratios.sort_unstable_by(f64::total_cmp);
    (median(&ratios), ratios[0], ratios[ratios.len() - 1])
}

pub(crate) fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Prints rates, latencies, processor seconds and peak memory; `target` is the least ratio.
pub(crate) fn rates(title: &str, pairs: &Pairs<Measured>, target: Option<f64>) {
    println!("{title}: {} pairs", pairs.ours.len());
    println!(
        "                each      per s   p50 ms   p99 ms   server CPU s   client CPU s   peak MiB"
    );
    let [ours, other] = pairs.names;
    for (side, runs) in [(ours, &pairs.ours), (other, &pairs.other)] {
        println!(
            "{side:12} {:8.0} {:10.0} {:8.2} {:8.2} {:14.2} {:14.2} {:10.0}",
            middle(runs, |run| run.count as f64),
            middle(runs, Measured::rate),
            middle(runs, |run| millis(run.percentile(50))),
            middle(runs, |run| millis(run.percentile(99))),
            middle(runs, |run| run.server_cpu.as_secs_f64()),
            middle(runs, |run| run.client_cpu.as_secs_f64()),
            middle(runs, |run| run.peak_kib as f64 / 1024.0),
        );
    }
    let (ratio, least, most) = ratios(pairs, Measured::rate);
    let target = target.map_or_else(String::new, |target| format!(", target ≥ {target}"));
    println!("ratio        {ratio:8.2}× ({least:.2}..{most:.2}){target}\n");
}

/// Prints one figure of which less is better; `target` is the most that ours may be.
pub(crate) fn figure<T>(
    title: &str,
    unit: &str,
    pairs: &Pairs<T>,
    target: Option<f64>,
    of: impl Fn(&T) -> f64,
) {
    let (ratio, least, most) = ratios(pairs, &of);
    let target = target.map_or_else(String::new, |target| format!(", target ≤ {target} {unit}"));
    let [ours, other] = pairs.names;
    println!(
        "{title}: {ours} {:.1} {unit}, {other} {:.1} {unit}, ratio {ratio:.2}× ({least:.2}..{most:.2}){target}",
        middle(&pairs.ours, &of),
        middle(&pairs.other, &of),
    );
}

/// Prints the median, the least and the most of times in seconds.
pub(crate) fn times(title: &str, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
        return;
    };
    println!(
        "{title}: median {:.2} s ({:.2}..{:.2}), {} rounds",
        median(&sorted).as_secs_f64(),
        least.as_secs_f64(),
        most.as_secs_f64(),
        sorted.len(),
    );
}
