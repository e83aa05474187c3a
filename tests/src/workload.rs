//! Clients of several managers at once, and what they saw.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    Answer, Engine,
    history::{Event, Fate, Span, violations},
};

/// A client that waits longer than that gives up: the fate of what it asked for is not known.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two calls of a client, so that histories stay small.
const PAUSE: Duration = Duration::from_millis(4);
/// After a call that failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(25);
/// The label that holds a register's value.
const VALUE: &str = "v";

/// An object whose labels clients replace.
#[derive(Debug, Clone)]
struct Register {
    /// `/secrets/ID`, `/nodes/ID`.
    path: String,
}

/// Clients that create, list, replace and read, each at one manager, until they are told to stop.
#[derive(Debug)]
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    seed: u64,
}

#[derive(Debug)]
struct Shared {
    begin: Instant,
    stop: AtomicBool,
    events: Mutex<Vec<Event>>,
    values: AtomicU64,
    prefix: String,
    registers: Vec<Register>,
}

impl Workload {
    /// Starts `clients` clients at each of `managers`. Registers are two secrets of their own and
    /// the labels of `nodes` (ids), which nobody else may update meanwhile.
    ///
    /// # Errors
    /// When the registers cannot be made.
    pub fn start(managers: &[Engine], clients: usize, nodes: &[String]) -> Result<Workload> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| anyhow!("random bytes: {error}"))?;
        let seed = u64::from_le_bytes(random) | 1;
        let prefix = format!("h{:08x}", seed >> 32);
        let first = managers.first().context("no manager")?;
        let mut registers: Vec<_> = nodes
            .iter()
            .map(|id| Register {
                path: format!("/nodes/{id}"),
            })
            .collect();
        for number in 0..2 {
            let body = json!({"Name": format!("{prefix}-register-{number}"), "Data": "eA=="});
            let made = first.call("POST", "/secrets/create", Some(&body))?;
            let made = made.expect(201)?.json()?;
            let id = made["ID"].as_str().context("no id")?;
            registers.push(Register {
                path: format!("/secrets/{id}"),
            });
        }
        let shared = Arc::new(Shared {
            begin: Instant::now(),
            stop: AtomicBool::new(false),
            events: Mutex::default(),
            values: AtomicU64::new(1),
            prefix,
            registers,
        });
        let mut threads = Vec::new();
        for (index, manager) in managers.iter().enumerate() {
            for client in 0..clients {
                let mut client = Client {
                    shared: Arc::clone(&shared),
                    engine: manager.clone().with_limit(PATIENCE),
                    name: format!("{index}-{client}"),
                    random: seed.rotate_left(u32::try_from(8 * index + client).unwrap_or(0)) | 1,
                };
                threads.push(thread::spawn(move || client.run()));
            }
        }
        Ok(Workload {
            shared,
            threads,
            seed,
        })
    }

    /// How many creations and replacements were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        let events = self.shared.events();
        let done = events.iter().filter(|event| {
            matches!(
                event,
                Event::Create {
                    fate: Fate::Done,
                    ..
                } | Event::Write {
                    fate: Fate::Done,
                    ..
                }
            )
        });
        done.count()
    }

    /// Ends the clients, reads all once more through each of `managers`, and checks the whole; on a
    /// violation the history is kept in `dir`.
    ///
    /// # Errors
    /// What cannot have happened; that there was nothing to check.
    pub fn finish(self, managers: &[Engine], dir: &Path) -> Result<usize> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        for engine in managers {
            let client = Client {
                shared: Arc::clone(&self.shared),
                engine: engine.clone(),
                name: "last".to_owned(),
                random: 1,
            };
            client.list().context("the last list")?;
            for register in &self.shared.registers {
                client.read(register).context("the last read")?;
            }
        }
        let events = self.shared.events();
        let found = violations(&events);
        if !found.is_empty() {
            let kept = dir.join("history");
            let lines: Vec<String> = events.iter().map(|event| format!("{event:?}\n")).collect();
            fs::write(&kept, lines.concat())?;
            anyhow::bail!(
                "seed {}: {found:?}; all {} events are in {}",
                self.seed,
                events.len(),
                kept.display()
            );
        }
        drop(events);
        let acknowledged = Workload {
            shared: self.shared,
            threads: Vec::new(),
            seed: self.seed,
        }
        .acknowledged();
        ensure!(acknowledged > 0, "nothing was acknowledged");
        Ok(acknowledged)
    }
}

impl Shared {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Client {
    shared: Arc<Shared>,
    engine: Engine,
    name: String,
    random: u64,
}

impl Client {
    fn run(&mut self) {
        for number in 0_u64.. {
            if self.shared.stop.load(Ordering::Relaxed) {
                return;
            }
            let choice = self.next();
            let index = usize::try_from(choice >> 8).unwrap_or(0) % self.shared.registers.len();
            let register = self.shared.registers[index].clone();
            let done = match choice % 8 {
                0..=2 => self.create(number),
                3 => self.list(),
                4 | 5 => self.replace(&register),
                _ => self.read(&register).map(drop),
            };
            // A manager that is down, or has no leader: what is written about it is in the events.
            thread::sleep(if done.is_ok() { PAUSE } else { FAILURE_PAUSE });
        }
    }

    /// Xorshift; the seed is printed with what it led to.
    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn span(&self, begin: Duration) -> Span {
        let end = self.shared.begin.elapsed();
        Span { begin, end }
    }

    fn create(&self, number: u64) -> Result<()> {
        let name = format!("{}-{}-{number}", self.shared.prefix, self.name);
        let body = json!({"Name": name, "Data": STANDARD.encode(name.repeat(4))});
        let begin = self.shared.begin.elapsed();
        let answer = self.engine.call("POST", "/secrets/create", Some(&body));
        let span = self.span(begin);
        let fate = fate(&answer, 201);
        self.shared
            .events()
            .push(Event::Create { name, fate, span });
        answer?.expect(201).map(drop)
    }

    fn list(&self) -> Result<()> {
        let begin = self.shared.begin.elapsed();
        let list = self.engine.get("/secrets")?;
        let span = self.span(begin);
        let list = list.as_array().context("no list")?;
        let names = list
            .iter()
            .filter_map(|secret| secret["Spec"]["Name"].as_str());
        let ours = |name: &&str| {
            name.strip_prefix(&self.shared.prefix)
                .is_some_and(|rest| !rest.starts_with("-register"))
        };
        let names: BTreeSet<String> = names.filter(ours).map(str::to_owned).collect();
        self.shared.events().push(Event::List { names, span });
        Ok(())
    }

    /// The object, its version and value.
    fn read(&self, register: &Register) -> Result<(Value, u64)> {
        let begin = self.shared.begin.elapsed();
        let object = self.engine.get(&register.path)?;
        let span = self.span(begin);
        let version = object["Version"]["Index"].as_u64().context("no version")?;
        let value = &object["Spec"]["Labels"][VALUE];
        let value = value.as_str().map_or(Ok(0), str::parse)?;
        let key = register.path.clone();
        self.shared.events().push(Event::Read {
            key,
            version,
            value,
            span,
        });
        Ok((object, version))
    }

    fn replace(&self, register: &Register) -> Result<()> {
        let (object, expected) = self.read(register)?;
        let value = self.shared.values.fetch_add(1, Ordering::Relaxed);
        let mut spec = object["Spec"].clone();
        spec["Labels"][VALUE] = json!(value.to_string());
        let path = format!("{}/update?version={expected}", register.path);
        let begin = self.shared.begin.elapsed();
        let answer = self.engine.call("POST", &path, Some(&spec));
        let span = self.span(begin);
        let fate = fate(&answer, 200);
        let key = register.path.clone();
        self.shared.events().push(Event::Write {
            key,
            expected,
            value,
            fate,
            span,
        });
        answer.map(drop)
    }
}

/// Only "out of sequence" is an answer that nothing can follow: all others may come from a manager
/// that does not know.
fn fate(answer: &Result<Answer>, done: u16) -> Fate {
    match answer {
        Ok(answer) if answer.status.as_u16() == done => Fate::Done,
        Ok(answer) if String::from_utf8_lossy(&answer.body).contains("update out of sequence") => {
            Fate::Refused
        }
        _ => Fate::Unknown,
    }
}
