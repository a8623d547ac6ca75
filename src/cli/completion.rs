//! `guideway completion`: the script by which a shell completes our commands.

use super::DONE;
use super::common::failed;
use clap_complete::Shell;
use std::io::{ErrorKind, Write};

/// Print a script by which a shell completes the commands and flags of guideway
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway completion bash > /etc/bash_completion.d/guideway")]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: &Args, cli: &mut clap::Command) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, cli, "guideway", &mut script);
    match std::io::stdout().lock().write_all(&script) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => failed(&format!("cannot write to standard output: {error}")),
        _ => DONE,
    }
}
