//! `guideway director`: the daemon.

use super::{DONE, print};
use crate::director::{self, Error};
use clap::ValueEnum;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// Run a director: take packets for the VIPs and forward them to backends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGHUP reads the configuration again; a bad one is refused and changes nothing. SIGTERM and SIGINT end the director.\n\n\
    Instead of root these capabilities do: CAP_NET_RAW for af_packet; CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF for af_xdp, with CAP_IPC_LOCK or \
    `ulimit -l unlimited` for its memory. The control socket's directory must be writable.\n\n\
    Example:\n  guideway director --config /etc/guideway/director.toml"
)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How log lines look
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter like `guideway::control=debug`; default: RUST_LOG, else info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if let Err(why) = log(args) {
        print::error(format_args!("--log-level: {why}; allowed are error, warn, info, debug, trace, or target=level"));
        return super::BAD_USAGE;
    }
    match director::run(&args.config) {
        Ok(()) => DONE,
        Err(Error::Config { file, problems }) => {
            problems.iter().for_each(|problem| print::error(problem.in_file(&file)));
            super::BAD_USAGE
        }
        Err(error) => {
            tracing::error!("{error}");
            error.exit_code()
        }
    }
}

fn log(args: &Args) -> Result<(), String> {
    let filter = match &args.log_level {
        Some(level) => EnvFilter::try_new(level).map_err(|e| e.to_string())?,
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    let set = match args.log_format {
        LogFormat::Human => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|e| e.to_string())
}
