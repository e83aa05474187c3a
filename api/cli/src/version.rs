//! `waxseal version`.

use serde::{Deserialize, Serialize};

use crate::{
    client::Client,
    failure::Failure,
    output::{self, Format, Pairs},
};

/// Show the versions of this command and of the daemon
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// `GET /version`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Server {
    version: String,
    #[serde(default)]
    api_version: String,
    #[serde(default, rename = "MinAPIVersion")]
    min_api_version: String,
    #[serde(default)]
    kernel_version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Both<'a> {
    client: &'a str,
    server: Option<&'a Server>,
}

/// The client's version is shown also when no daemon answers, which is a failure still.
pub(crate) async fn run(client: &Client, args: Args) -> Result<(), Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let server = client.get::<Server>("/version").await;
    match args.format {
        Format::Json => output::json(&Both {
            client: ours,
            server: server.as_ref().ok(),
        })?,
        Format::Table => {
            let mut pairs = Pairs::default();
            pairs.add("Client", ours);
            if let Ok(server) = &server {
                pairs
                    .add("Daemon", &server.version)
                    .add(
                        "API",
                        format!(
                            "{} (from {} on)",
                            server.api_version, server.min_api_version
                        ),
                    )
                    .add("Kernel", &server.kernel_version);
            }
            pairs.print()?;
        }
    }
    server.map(drop)
}
