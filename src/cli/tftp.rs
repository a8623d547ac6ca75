//! `guideway tftp`: a client, and a swarm of thousands of clients.

mod get;
mod options;
mod put;
mod swarm;
#[cfg(test)]
mod tests;

use clap::Subcommand;

/// Fetch or send a file by TFTP, or simulate thousands of clients
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway tftp get tftp://192.0.2.69/boot/vmlinuz -o vmlinuz")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Get(get::Args),
    Put(put::Args),
    Swarm(swarm::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    match &args.command {
        Command::Get(args) => get::run(args),
        Command::Put(args) => put::run(args),
        Command::Swarm(args) => swarm::run(args),
    }
}
