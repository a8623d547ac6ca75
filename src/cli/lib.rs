//! The commands of the one program. Each is a file: its arguments, and a function that runs it and gives the exit code.
//!
//! Exit codes: 0 done, 1 failed, 2 bad usage or configuration.

mod backends;
mod check;
mod common;
mod completion;
mod decap;
mod director;
mod drain;
mod events;
mod explain;
mod health;
mod logging;
mod plan;
mod print;
mod replay;
mod running;
mod set;
mod status;
mod store;
mod table;
#[cfg(test)]
mod testing;
mod tftp;
mod tftpd;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Done.
pub const DONE: u8 = 0;
/// Failed.
pub const FAILED: u8 = 1;
/// Bad usage or configuration.
pub const BAD_USAGE: u8 = 2;

/// A Maglev load balancer for TFTP and other UDP fleets
#[derive(Debug, Parser)]
#[command(name = "guideway", version, after_help = "Example:\n  guideway check --config /etc/guideway/director.toml")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Director(director::Args),
    Tftpd(tftpd::Args),
    Health(health::Args),
    Check(check::Args),
    Status(status::Args),
    Backends(backends::Args),
    Drain(drain::Args),
    Undrain(drain::UndrainArgs),
    Set(set::Args),
    Events(events::Args),
    Replay(replay::Args),
    Explain(explain::Args),
    Table(table::Args),
    Store(store::Args),
    Completion(completion::Args),
    Tftp(tftp::Args),
    Decap(decap::DecapArgs),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Director(args) => director::run(&args),
        Command::Tftpd(args) => tftpd::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Undrain(args) => drain::undrain(&args),
        Command::Set(args) => set::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Table(args) => table::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Completion(args) => completion::run(&args, &mut Cli::command()),
        Command::Tftp(args) => tftp::run(&args),
        Command::Decap(args) => decap::main(&args),
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent_and_every_help_ends_with_an_example() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        // clap's own `help` repeats them all.
        let real = |c: &&clap::Command| c.get_name() != "help";
        let below = cli.get_subcommands().filter(real).flat_map(|c| c.get_subcommands().filter(real).chain([c]));
        for command in below.chain([&cli]) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let last = after.rsplit("\n\n").next().unwrap_or_default();
            assert!(last.starts_with("Example") && last.contains("guideway "), "{}: {last}", command.get_name());
        }
    }
}
