//! `waxseal ca`.

use std::{path::PathBuf, time::Duration};

use clap::{Subcommand, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format, Table, shown},
    payload::typed,
};

const ROUTE: &str = "/waxseal/v1/ca";
/// How often a rotation that is watched is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Characters of the progress bar.
const BAR: usize = 32;
/// Largest certificate or key that is read from a file; a root has about 600 bytes.
const MAX_PEM_BYTES: u64 = 64 * 1024;

/// Rotate the cluster's root certificate and see how far it is
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Replace the root; every node renews its certificate, then trust and join tokens change
    Rotate(Box<RotateArgs>),
    /// Show the root and, while it rotates, every node that is not done yet and why
    Status(StatusArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Laggards {
    /// Wait for them
    Wait,
    /// Finish without them; they have to prove themselves when they return
    Quarantine,
    /// Remove workers, quarantine managers
    Evict,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// Show who would renew and who is a problem, and change nothing
    #[arg(long, conflicts_with_all = ["abort", "running", "cert"])]
    plan: bool,
    /// When the rest is given up, as 90s, 10m or 2h from now; implies --laggards quarantine
    #[arg(long, value_name = "TIME", value_parser = duration)]
    deadline: Option<Duration>,
    /// What becomes of nodes that have not renewed by the deadline (10m unless --deadline says)
    #[arg(long, value_enum)]
    laggards: Option<Laggards>,
    /// Most nodes that renew at the same time; as many as the leader gets through if not given
    #[arg(long, value_name = "NODES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pace: Option<u32>,
    /// The present root's or issuer's key is in foreign hands: leave no way from it to the new
    /// one, and wait for nobody beyond the deadline (10m) unless --laggards wait says so
    #[arg(long)]
    compromised: bool,
    /// Change how the rotation that runs is to end, and begin none
    #[arg(long, conflicts_with_all = ["abort", "cert"])]
    running: bool,
    /// Go back to the present root; possible until the last step
    #[arg(long, conflicts_with_all = ["deadline", "laggards", "pace", "compromised", "cert"])]
    abort: bool,
    /// A root certificate of your own, PEM; or an intermediate below the present root, followed by
    /// what leads from it to that, which then signs while trust and tokens stay
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key, PKCS#8 in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Do not wait until it is finished
    #[arg(long, short)]
    detach: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Go on until the rotation is finished
    #[arg(long, short)]
    watch: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `GET /waxseal/v1/ca`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    rotating: bool,
    signer: String,
    signer_trouble: Option<Trouble>,
    root_digest: String,
    target_digest: Option<String>,
    root_expires_at: Option<String>,
    deadline: Option<String>,
    laggards: String,
    compromised: bool,
    nodes_total: usize,
    nodes_done: usize,
    waits_for: Option<String>,
    estimated_end: Option<String>,
    open_issuers: Vec<OpenIssuer>,
    nodes: Vec<Node>,
}

/// A former issuer below the root whose certificates count still.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OpenIssuer {
    digest: String,
    was_target: bool,
    compromised: bool,
    closes_at: Option<String>,
    kept_open_by: Vec<String>,
}

impl OpenIssuer {
    fn line(&self) -> String {
        let what = match (self.was_target, self.compromised) {
            (true, _) => "a root that was given up",
            (false, true) => "a compromised issuer",
            (false, false) => "a former issuer",
        };
        let end = match &self.closes_at {
            Some(at) => format!(" until {}, or", shown(at)),
            None => String::new(),
        };
        let ids: Vec<_> = self.kept_open_by.iter().map(|id| shown(id)).collect();
        let held_by = match ids.is_empty() {
            true => "the leader has looked".to_owned(),
            false => format!("these have renewed: {}", ids.join(" ")),
        };
        let digest = shown(&self.digest);
        format!("Certificates of {what} ({digest}) count{end} until {held_by}")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Trouble {
    since: String,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Node {
    id: String,
    hostname: String,
    role: String,
    kind: String,
    contact: String,
    progress: String,
    reason: String,
    since: Option<String>,
}

pub(crate) async fn run(client: &Client, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Rotate(args) => rotate(client, *args).await,
        Verb::Status(args) => status(client, &args).await,
    }
}

async fn rotate(client: &Client, args: RotateArgs) -> Result<(), Failure> {
    if args.plan {
        return plan(client, args.format).await;
    }
    if args.abort {
        client.post_empty(&format!("{ROUTE}/abort")).await?;
        return output::line(
            "the present root stays; nodes that had renewed are asked back, see `waxseal ca status`",
        );
    }
    let mut body = json!({ "running": args.running, "compromised": args.compromised });
    if let Some(deadline) = args.deadline {
        body["deadline_secs"] = json!(deadline.as_secs());
    }
    if let Some(laggards) = args.laggards {
        body["laggards"] = json!(match laggards {
            Laggards::Wait => "wait",
            Laggards::Quarantine => "quarantine",
            Laggards::Evict => "evict",
        });
    }
    if let Some(pace) = args.pace {
        body["pace"] = json!(pace);
    }
    if let (Some(cert), Some(key)) = (&args.cert, &args.key) {
        body["cert"] = json!(pem(cert)?.as_str());
        body["key"] = json!(pem(key)?.as_str());
    }
    client
        .post_quietly(&format!("{ROUTE}/rotate"), &body)
        .await?;
    if args.detach {
        return output::line("the rotation runs; `waxseal ca status --watch` shows how far it is");
    }
    watch(client).await
}

/// A text that is wiped on drop, as one of them is a key.
fn pem(path: &std::path::Path) -> Result<zeroize::Zeroizing<String>, Failure> {
    use std::io::Read;
    let refused = |error: std::io::Error| {
        Failure::refused(format!("{} cannot be read: {error}", path.display()))
    };
    let mut text = zeroize::Zeroizing::new(String::new());
    let file = std::fs::File::open(path).map_err(refused)?;
    file.take(MAX_PEM_BYTES)
        .read_to_string(&mut text)
        .map_err(refused)?;
    Ok(text)
}

async fn plan(client: &Client, format: Format) -> Result<(), Failure> {
    let raw: Value = client.get(ROUTE).await?;
    if format == Format::Json {
        return output::json(&raw);
    }
    let status: Status = typed(raw)?;
    let trouble = |node: &&Node| node.contact != "here" || node.progress == "silent";
    let hindered = status.nodes.iter().filter(trouble).count();
    output::line(format!(
        "{} node(s) would renew, {hindered} of them cannot now",
        status.nodes.len()
    ))?;
    let mut table = Table::new(&["ID", "HOSTNAME", "ROLE", "KIND", "NOW", "SINCE", "PROBLEM"]);
    for node in &status.nodes {
        table.row([
            node.id.clone(),
            node.hostname.clone(),
            node.role.clone(),
            node.kind.clone(),
            node.contact.clone(),
            node.since.clone().unwrap_or_default(),
            node.reason.clone(),
        ]);
    }
    table.print()
}

async fn status(client: &Client, args: &StatusArgs) -> Result<(), Failure> {
    if args.watch {
        return watch(client).await;
    }
    let raw: Value = client.get(ROUTE).await?;
    if args.format == Format::Json {
        return output::json(&raw);
    }
    show(&typed(raw)?)
}

fn show(status: &Status) -> Result<(), Failure> {
    output::line(format!("Root: {}", shown(&status.root_digest)))?;
    if let Some(end) = &status.root_expires_at {
        output::line(format!("Expires: {}", shown(end)))?;
    }
    output::line(format!("Signer: {}", shown(&status.signer)))?;
    if let Some(trouble) = &status.signer_trouble {
        output::line(format!(
            "Trouble: no certificates are signed since {}: {}; nodes go on with what they have",
            shown(&trouble.since),
            shown(&trouble.error)
        ))?;
    }
    for issuer in &status.open_issuers {
        output::line(issuer.line())?;
    }
    if !status.rotating {
        output::line("No rotation runs")?;
        if status.nodes_done == status.nodes_total {
            return Ok(());
        }
        // After an abort, or while another issuer takes over below the same root.
        output::line(format!("Renewed: {}", status.bar()))?;
        return not_done(status);
    }
    let target = status.target_digest.as_deref().unwrap_or_default();
    output::line(format!("Rotates to: {}", shown(target)))?;
    output::line(format!("Renewed: {}", status.bar()))?;
    let deadline = status.deadline.as_deref().unwrap_or("none");
    output::line(format!(
        "Deadline: {} ({})",
        shown(deadline),
        shown(&status.laggards)
    ))?;
    if status.compromised {
        output::line("The present root counts as compromised")?;
    }
    if let Some(end) = &status.estimated_end {
        output::line(format!("Estimated end: {}", shown(end)))?;
    }
    if let Some(wait) = &status.waits_for {
        output::line(format!("Waits for: {}", shown(wait)))?;
    }
    not_done(status)
}

/// The nodes that hold no certificate of who signs now, and why.
fn not_done(status: &Status) -> Result<(), Failure> {
    let mut table = Table::new(&["ID", "HOSTNAME", "ROLE", "PROGRESS", "SINCE", "REASON"]);
    for node in status.nodes.iter().filter(|node| node.progress != "done") {
        table.row([
            node.id.clone(),
            node.hostname.clone(),
            node.role.clone(),
            node.progress.clone(),
            node.since.clone().unwrap_or_default(),
            node.reason.clone(),
        ]);
    }
    table.print()
}

/// Prints each step forward until no rotation runs.
async fn watch(client: &Client) -> Result<(), Failure> {
    let mut last = String::new();
    loop {
        let status: Status = client.get(ROUTE).await?;
        if !status.rotating {
            return output::line(format!("trusted root: {}", shown(&status.root_digest)));
        }
        let line = status.line();
        if line != last {
            output::line(&line)?;
            last = line;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Status {
    fn bar(&self) -> String {
        let filled = match self.nodes_total {
            0 => 0,
            all => BAR * self.nodes_done.min(all) / all,
        };
        format!(
            "[{}{}] {}/{}",
            "#".repeat(filled),
            ".".repeat(BAR - filled),
            self.nodes_done,
            self.nodes_total
        )
    }

    fn line(&self) -> String {
        match &self.waits_for {
            Some(wait) => format!("{} waits for {}", self.bar(), shown(wait)),
            None => self.bar(),
        }
    }
}

/// A whole number with its unit: s, m, h or d.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let secs = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return Err("say a number with its unit, as 90s, 10m or 2h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "say a number with its unit, as 90s, 10m or 2h".to_owned())?;
    let secs = number.checked_mul(secs).ok_or("that is too long")?;
    Ok(Duration::from_secs(secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        for bad in [
            "",
            "5",
            "m",
            "-5m",
            "5 m",
            "1.5h",
            "99999999999999999999s",
            "5µ",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
    }

    #[test]
    fn the_bar_fills_with_the_nodes() {
        let bar = |done, all| {
            let status = Status {
                nodes_done: done,
                nodes_total: all,
                ..Status::default()
            };
            status.bar()
        };
        assert_eq!(bar(0, 0), format!("[{}] 0/0", ".".repeat(BAR)));
        assert_eq!(bar(3, 3), format!("[{}] 3/3", "#".repeat(BAR)));
        let half = BAR / 2;
        assert_eq!(
            bar(1, 2),
            format!("[{}{}] 1/2", "#".repeat(half), ".".repeat(half))
        );
    }
}
