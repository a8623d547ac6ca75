//! The `guideway` program.

use clap::{Parser, Subcommand};
use guideway::cli;
use std::process::ExitCode;

/// A Maglev load balancer for TFTP and UDP fleets.
#[derive(Debug, Parser)]
#[command(name = "guideway", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Replay(cli::replay::Args),
    Explain(cli::explain::Args),
    Table(cli::table::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Replay(args) => cli::replay::run(args),
        Command::Explain(args) => cli::explain::run(args),
        Command::Table(args) => cli::table::run(args),
    }
}
