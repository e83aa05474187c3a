//! Fuzzing of every parser of outside bytes: `cargo test --test fuzz [-- TARGET]`.
//!
//! Inputs are mutations of the seeds in `corpus/TARGET` and of those that the targets make
//! themselves; one that has an outcome not seen before joins them. There is no coverage feedback,
//! which stable Rust does not offer. A run is bounded by time and repeats with its seed.
//!
//! | Variable | Meaning |
//! |---|---|
//! | `WAXSEAL_FUZZ_SECONDS` | time for each target; 2, or 60 with `WAXSEAL_LONG=1` |
//! | `WAXSEAL_FUZZ_SEED` | of an earlier run, to repeat it |
//!
//! An input that fails a target is stored and its path printed; `-- --replay TARGET FILE` runs it
//! again. One that is worth keeping goes to the corpus.

mod cfssl;
mod engine;
mod meter;
mod mutate;
mod pki;
mod sealed;
mod state;
mod template;
mod wire;

use std::{
    collections::HashSet,
    fs::{self, File},
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use mutate::Mutator;

/// Inputs with a new outcome that are kept to mutate further, for each target.
const MAX_KEPT: usize = 512;
/// Time that one input may take: a thousand times what the slowest takes, for busy machines.
const MAX_TIME: Duration = Duration::from_secs(5);

/// A parser with what must hold of it.
pub(crate) struct Target {
    name: &'static str,
    /// What the format is made of besides bytes.
    words: &'static [&'static str],
    /// Heap that an input may take at most: so much, and so much for each of its bytes.
    room: (usize, usize),
    /// Seeds that are made with keys or by an encoder.
    seeds: fn() -> Vec<Vec<u8>>,
    /// Panics if something does not hold; says what became of the input.
    check: fn(&[u8]) -> String,
}

/// For targets whose seeds are all in the corpus.
fn no_seeds() -> Vec<Vec<u8>> {
    Vec::new()
}

fn targets() -> Vec<Target> {
    [
        pki::targets(),
        cfssl::targets(),
        sealed::targets(),
        state::targets(),
        template::targets(),
        engine::targets(),
        wire::targets(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let targets = targets();
    if let [flag, name, file] = arguments.as_slice()
        && flag == "--replay"
    {
        let target = targets.iter().find(|target| target.name == name);
        let target = target.with_context(|| format!("no target '{name}'"))?;
        let input = fs::read(file).with_context(|| file.clone())?;
        println!("{}", attempt(target, &input).map_err(|text| anyhow!(text))?);
        return Ok(true);
    }
    // Filters, as the other test binaries of the workspace are given; not their flags.
    let filters: Vec<_> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        targets
            .iter()
            .for_each(|target| println!("{}: test", target.name));
        return Ok(true);
    }
    let seed = match number("WAXSEAL_FUZZ_SEED")? {
        Some(seed) => seed,
        None => {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
            // Short enough to type.
            u64::from_be_bytes(bytes) % 1_000_000_000
        }
    };
    let is_long = std::env::var("WAXSEAL_LONG").is_ok_and(|long| long == "1");
    let seconds = number("WAXSEAL_FUZZ_SECONDS")?.unwrap_or(if is_long { 60 } else { 2 });
    println!("fuzz: {seconds} s for each target, WAXSEAL_FUZZ_SEED={seed}");
    // A failed check says its own text; the hook would print a trace for each input.
    std::panic::set_hook(Box::new(|_| {}));
    let mut passed = true;
    for target in &targets {
        if !filters.is_empty() && !filters.iter().any(|filter| target.name.contains(*filter)) {
            continue;
        }
        let begin = Instant::now();
        match fuzz(target, seed, Duration::from_secs(seconds)) {
            Ok(tally) => {
                println!(
                    "fuzz {}: ok ({} ms)",
                    target.name,
                    begin.elapsed().as_millis()
                );
                println!(
                    "    {} inputs, {} outcomes, {} KiB at most",
                    tally.inputs,
                    tally.outcomes,
                    tally.most / 1024
                );
            }
            Err(error) => {
                println!("fuzz {}: FAILED (seed {seed}): {error:#}", target.name);
                passed = false;
            }
        }
    }
    Ok(passed)
}

fn number(variable: &str) -> Result<Option<u64>> {
    match std::env::var(variable) {
        Ok(text) => Ok(Some(
            text.parse().with_context(|| format!("{variable}={text}"))?,
        )),
        Err(_) => Ok(None),
    }
}

/// What a run of a target came to.
#[derive(Default)]
struct Tally {
    inputs: u64,
    outcomes: usize,
    /// Bytes of heap that an input took at most.
    most: usize,
}

fn fuzz(target: &Target, seed: u64, budget: Duration) -> Result<Tally> {
    let mut kept = corpus(target.name)?;
    kept.extend((target.seeds)());
    if kept.is_empty() {
        bail!("it has no seeds");
    }
    let store = Store::of(target.name)?;
    let mut outcomes = HashSet::new();
    let mut tally = Tally::default();
    let mut judge = |input: &[u8]| -> Result<bool> {
        tally.inputs += 1;
        store.begin(input)?;
        let outcome = attempt(target, input).map_err(|text| store.keep(input, &text))?;
        tally.most = tally.most.max(meter::peak());
        Ok(outcomes.insert(outcome_kind(&outcome)))
    };
    for input in &kept {
        judge(input)?;
    }
    let mut mutator = Mutator::new(seed, target.words);
    let end = Instant::now() + budget;
    while Instant::now() < end {
        let input = mutator.mutate(&kept);
        if judge(&input)? && kept.len() < MAX_KEPT {
            kept.push(input);
        }
    }
    store.end();
    tally.outcomes = outcomes.len();
    Ok(tally)
}

/// Runs one input; the error says what does not hold.
fn attempt(target: &Target, input: &[u8]) -> Result<String, String> {
    let begin = Instant::now();
    meter::begin();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.check)(input)));
    meter::end();
    let outcome = outcome.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or(panic.downcast_ref::<&str>().copied());
        text.unwrap_or("panic").to_owned()
    })?;
    let (base, per_byte) = target.room;
    let room = base + per_byte * input.len();
    if meter::peak() > room {
        return Err(format!(
            "it took {} bytes of heap for {} bytes, and {room} are allowed",
            meter::peak(),
            input.len()
        ));
    }
    let took = begin.elapsed();
    if took > MAX_TIME {
        return Err(format!("it took {took:?} for {} bytes", input.len()));
    }
    Ok(outcome)
}

/// An outcome without its numbers and names, of which there are too many.
fn outcome_kind(outcome: &str) -> String {
    let mut quoted = false;
    let mut kind = String::new();
    for character in outcome.chars().take(160) {
        quoted ^= matches!(character, '"' | '\'' | '`');
        if !quoted && !character.is_ascii_digit() {
            kind.push(character);
        }
    }
    kind
}

fn corpus(name: &str) -> Result<Vec<Vec<u8>>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = fs::read_dir(&directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    // The same seed must meet the same corpus.
    paths.sort();
    let read = |path: &PathBuf| fs::read(path).with_context(|| path.display().to_string());
    paths.iter().map(read).collect()
}

/// Where inputs are put that fail, also by ending the process.
struct Store {
    directory: PathBuf,
    current: PathBuf,
    /// Stays open: opening it anew for each input would have the disk sync each time.
    file: File,
}

impl Store {
    fn of(name: &str) -> Result<Store> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fuzz");
        fs::create_dir_all(&directory)?;
        let current = directory.join(format!("{name}.current"));
        let file = File::create(&current).with_context(|| current.display().to_string())?;
        Ok(Store {
            directory,
            current,
            file,
        })
    }

    /// A stack that overflows leaves no time to write it then.
    fn begin(&self, input: &[u8]) -> Result<()> {
        self.file.set_len(input.len() as u64)?;
        Ok(self.file.write_all_at(input, 0)?)
    }

    fn keep(&self, input: &[u8], text: &str) -> anyhow::Error {
        let digest = crc32fast::hash(input);
        let name = self.current.file_stem().unwrap_or_default().display();
        let path = self.directory.join(format!("{name}-{digest:08x}"));
        match fs::rename(&self.current, &path) {
            Ok(()) => anyhow!("{text}; the input is {}", path.display()),
            Err(error) => anyhow!("{text}; the input could not be stored: {error}"),
        }
    }

    fn end(&self) {
        // Only a leftover.
        let _ = fs::remove_file(&self.current);
    }
}
