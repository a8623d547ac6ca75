//! The commands of the program. Each is a file with its arguments and a function that runs it and returns the exit code.
//!
//! Exit codes: 0 success, 1 failure, 2 bad usage or configuration.

mod backends;
mod check;
mod common;
mod completion;
mod decap;
mod director;
mod drain;
mod events;
mod exit;
mod explain;
#[cfg(test)]
mod fixture;
mod health;
mod help;
mod history;
mod init;
mod log_limit;
mod logging;
mod maintenance;
mod man;
mod origin;
mod plan;
mod print;
mod reference;
mod reload;
mod replay;
mod set;
mod status;
mod store;
mod table;
mod target;
mod tftp;
mod tftpd;
mod time;

pub use exit::{BAD_USAGE, DONE, FAILED};

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// A Maglev load balancer for TFTP and other UDP services
#[derive(Debug, Parser)]
#[command(
    name = "guideway",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  guideway check --config /etc/guideway/director.toml\n  guideway help config director"
)]
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
    Init(init::Args),
    Status(status::Args),
    Reload(reload::Args),
    Maintenance(maintenance::Args),
    Backends(backends::Args),
    Drain(drain::Args),
    Undrain(drain::UndrainArgs),
    Set(set::Args),
    History(history::Args),
    Rollback(history::RollbackArgs),
    Events(events::Args),
    Replay(replay::Args),
    Explain(explain::Args),
    Table(table::Args),
    Store(store::Args),
    Completion(completion::Args),
    Help(help::Args),
    Man(man::Args),
    Tftp(tftp::Args),
    Decap(decap::DecapArgs),
}

/// The program's commands and flags, for those who document or check them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let code = match Cli::parse().command {
        Command::Director(args) => director::run(&args),
        Command::Tftpd(args) => tftpd::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Maintenance(args) => maintenance::run(&args),
        Command::Backends(args) => backends::run(&args),
        Command::Drain(args) => drain::run(&args),
        Command::Undrain(args) => drain::undrain(&args),
        Command::Set(args) => set::run(&args),
        Command::History(args) => history::run(&args),
        Command::Rollback(args) => history::rollback(&args),
        Command::Events(args) => events::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Table(args) => table::run(&args),
        Command::Store(args) => store::run(&args),
        Command::Completion(args) => completion::run(&args, &mut command()),
        Command::Help(args) => help::run(&args, command()),
        Command::Man(args) => man::run(&args, command()),
        Command::Tftp(args) => tftp::run(&args),
        Command::Decap(args) => decap::main(&args),
    };
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_consistent_and_every_help_ends_with_an_example() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        // clap's own `help` below a command repeats all of them.
        let real = |c: &&clap::Command| c.get_name() != "help";
        let below = cli.get_subcommands().flat_map(|c| c.get_subcommands().filter(real).chain([c]));
        for command in below.chain([&cli]) {
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let last = after.rsplit("\n\n").next().unwrap_or_default();
            assert!(last.starts_with("Example") && last.contains("guideway "), "{}: {last}", command.get_name());
        }
    }
}
