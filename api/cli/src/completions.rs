//! `waxseal completions`.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{failure::Failure, output};

/// Print a shell's completions
#[derive(Debug, clap::Args)]
#[command(after_help = "For example: waxseal completions bash >/etc/bash_completion.d/waxseal")]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut crate::args::Args::command(),
        "waxseal",
        &mut script,
    );
    output::raw(&script)
}
