//! `guideway check`: checks the configuration of a director, a TFTP server or a health controller.

use guideway_config::{self as config, FileKind};
use std::path::PathBuf;

/// Check a configuration: print every error and warning, and names that do not exist on this host
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
    // Each of them reports an unreadable file.
    let text = std::fs::read_to_string(&args.config).unwrap_or_default();
    let check = match FileKind::of_text(&text) {
        Some(FileKind::Health) => config::health::check_health_command,
        Some(FileKind::Server) => guideway_tftpd::config::check_command,
        Some(FileKind::Director) | None => config::check_command,
    };
    check(&args.config, args.json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}
