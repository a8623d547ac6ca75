//! `guideway check`: is a configuration, of a director, a TFTP server or a health controller, good, and what does it not promise?

use guideway_config::{self as config, Kind};
use std::path::PathBuf;

/// Check a configuration: every error, what it cannot promise, and what it names that is not on this host
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: it can be used; 2: it cannot.\n\nExample:\n  guideway check --config /etc/guideway/director.toml")]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    // A file that cannot be read is told of by any of them.
    let text = std::fs::read_to_string(&args.config).unwrap_or_default();
    let check = match Kind::of_text(&text) {
        Some(Kind::Health) => config::health::check_health_command,
        Some(Kind::Server) => guideway_tftpd::config::check_command,
        Some(Kind::Director) | None => config::check_command,
    };
    check(&args.config, args.json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}
