//! Clients that create secrets as fast as they are let.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;

use crate::Engine;

/// A secret whose creation was answered with 201.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its content.
    pub data: Vec<u8>,
}

/// Threads that create secrets until they are told to stop.
#[derive(Debug)]
pub struct SecretLoad {
    stop: Arc<AtomicBool>,
    done: Arc<Mutex<Vec<Acknowledged>>>,
    threads: Vec<JoinHandle<()>>,
}

impl SecretLoad {
    /// Starts `clients` threads; names begin with `prefix`.
    #[must_use]
    pub fn start(engine: &Engine, prefix: &str, clients: usize) -> SecretLoad {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..clients)
            .map(|client| {
                let (engine, stop, done) = (engine.clone(), Arc::clone(&stop), Arc::clone(&done));
                let prefix = format!("{prefix}-{client}");
                thread::spawn(move || {
                    // A daemon that is killed ends the connection; that is what the load is for.
                    let _ = create(&engine, &prefix, &stop, &done);
                })
            })
            .collect();
        SecretLoad {
            stop,
            done,
            threads,
        }
    }

    /// The content of the secret with a name.
    #[must_use]
    pub fn content(name: &str) -> Vec<u8> {
        format!("content of {name} ").repeat(20).into_bytes()
    }

    /// How many were acknowledged so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.done
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Ends the load; what was acknowledged.
    #[must_use]
    pub fn finish(self) -> Vec<Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join();
        }
        std::mem::take(&mut self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn create(
    engine: &Engine,
    prefix: &str,
    stop: &AtomicBool,
    done: &Mutex<Vec<Acknowledged>>,
) -> Result<()> {
    let mut connection = engine.connect()?;
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}-{number}");
        let data = SecretLoad::content(&name);
        let body = json!({"Name": name, "Labels": {"of": name}, "Data": STANDARD.encode(&data)});
        let answer = connection
            .call("POST", "/secrets/create", Some(&body))?
            .expect(201)?;
        let id = answer.json()?["ID"].as_str().unwrap_or_default().to_owned();
        let made = Acknowledged { id, name, data };
        done.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(made);
    }
    Ok(())
}
