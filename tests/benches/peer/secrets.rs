//! Secrets created, listed and inspected.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use waxseal_tests::Scene;

use crate::{
    http::{self, Requests},
    measure::{Measured, measure},
    report::{self, Pairs},
    server::{Server, Side, order},
};

/// Bytes of each secret.
const SECRET_BYTES: usize = 1024;
/// Digits of a name's number.
const DIGITS: usize = 10;
/// Connections, secrets per run, and the ratio to reach.
const CREATIONS: [(usize, usize, Option<f64>); 3] = [
    (1, 1_500, Some(1.5)),
    (16, 8_000, None),
    (64, 12_000, Some(8.0)),
];
/// Secrets that are listed.
pub(crate) const LISTED: usize = 5_000;
/// Listings and inspections per run.
const LISTINGS: usize = 20;
const INSPECTIONS: usize = 20_000;

/// Requests that create objects of which each has a name of its own.
pub(crate) struct Creations {
    template: Vec<u8>,
    digits: Range<usize>,
    first: usize,
}

impl Creations {
    /// Secrets. Names are numbered from `first` on.
    pub(crate) fn from(first: usize) -> Result<Creations> {
        let mut data = [0; SECRET_BYTES];
        getrandom::fill(&mut data).ok().context("no random bytes")?;
        let data = STANDARD.encode(data);
        Creations::of("/secrets/create", first, |name| {
            format!(r#"{{"Name":"{name}","Labels":{{}},"Data":"{data}"}}"#)
        })
    }

    /// What is posted for a name, whose length is the same for all.
    pub(crate) fn of(
        path: &str,
        first: usize,
        body: impl FnOnce(&str) -> String,
    ) -> Result<Creations> {
        let zeros = "0".repeat(DIGITS);
        let body = body(&format!("bench-{zeros}"));
        let template = format!(
            "POST /v1.41{path} HTTP/1.1\r\nHost: docker\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let start = template.find(&zeros).context("no name")?;
        Ok(Creations {
            template: template.into_bytes(),
            digits: start..start + DIGITS,
            first,
        })
    }
}

impl Requests for Creations {
    fn write(&self, number: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.template);
        let mut rest = self.first + number;
        for digit in buffer[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
        }
    }

    fn status(&self) -> &'static [u8; 3] {
        b"201"
    }
}

/// GETs, in turn.
struct Gets(Vec<Vec<u8>>);

impl Gets {
    fn of(paths: impl Iterator<Item = String>) -> Gets {
        let request =
            |path| format!("GET /v1.41{path} HTTP/1.1\r\nHost: docker\r\n\r\n").into_bytes();
        Gets(paths.map(request).collect())
    }
}

impl Requests for Gets {
    fn write(&self, number: usize, buffer: &mut Vec<u8>) {
        buffer.clear();
        buffer.extend_from_slice(&self.0[number % self.0.len()]);
    }

    fn status(&self) -> &'static [u8; 3] {
        b"200"
    }
}

/// Creations at growing numbers of connections.
pub(crate) fn create(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Server::start(scene, Side::Ours, "create", false)?;
    let stock = Server::start(scene, Side::Stock, "create", false)?;
    let mut first = 0;
    for (connections, count, target) in CREATIONS {
        let mut pairs = Pairs::default();
        for round in 0..rounds {
            for side in order(round) {
                let (server, runs) = match side {
                    Side::Ours => (&ours, &mut pairs.ours),
                    Side::Stock => (&stock, &mut pairs.other),
                };
                let creations = Creations::from(first)?;
                let socket = server.engine.socket();
                runs.push(measure(&[server], || {
                    http::run(socket, connections, count, creations)
                })?);
            }
            first += count;
        }
        let title = format!("secrets created, 1 KiB, {connections} connections");
        report::rates(&title, &pairs, target);
    }
    Ok(())
}

/// A list of many, and single ones.
pub(crate) fn read(scene: &Scene, rounds: usize) -> Result<()> {
    let ours = Server::start(scene, Side::Ours, "read", false)?;
    let stock = Server::start(scene, Side::Stock, "read", false)?;
    let (mut lists, mut inspections) = (Pairs::default(), Pairs::default());
    for server in [&ours, &stock] {
        fill(server, LISTED)?;
    }
    for round in 0..rounds {
        for side in order(round) {
            let (server, lists, inspections) = match side {
                Side::Ours => (&ours, &mut lists.ours, &mut inspections.ours),
                Side::Stock => (&stock, &mut lists.other, &mut inspections.other),
            };
            lists.push(list(server, "/secrets")?);
            inspections.push(inspect(server)?);
        }
    }
    report::rates(&format!("{LISTED} secrets listed"), &lists, None);
    report::rates("secrets inspected, 64 connections", &inspections, None);
    Ok(())
}

/// Creates so many secrets, unmeasured.
pub(crate) fn fill(server: &Server, count: usize) -> Result<()> {
    let creations = Creations::from(0)?;
    http::run(server.engine.socket(), 16, count, creations).map(drop)
}

/// The list, again and again.
pub(crate) fn list(server: &Server, path: &str) -> Result<Measured> {
    let gets = Gets::of(std::iter::once(path.to_owned()));
    measure(&[server], || {
        http::run(server.engine.socket(), 1, LISTINGS, gets)
    })
}

/// Each of those on the list.
pub(crate) fn inspect(server: &Server) -> Result<Measured> {
    let list = server.engine.get("/secrets")?;
    let ids = list.as_array().context("not a list")?;
    ensure!(ids.len() == LISTED, "{} secrets are there", ids.len());
    let paths = ids
        .iter()
        .map(|secret| format!("/secrets/{}", secret["ID"].as_str().unwrap_or_default()));
    let gets = Gets::of(paths);
    measure(&[server], || {
        http::run(server.engine.socket(), 64, INSPECTIONS, gets)
    })
}
