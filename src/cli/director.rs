//! `guideway director`: the director daemon.

use super::{DONE, logging, print};
use guideway_director::{self as director, Error};
use std::path::PathBuf;

/// Run a director: take packets for the VIPs and forward them to backends
#[derive(Debug, clap::Args)]
#[command(
    after_help = "SIGHUP reloads the configuration; an invalid one is refused and changes nothing. SIGTERM and SIGINT end the director. A director that announces VIPs withdraws them first and forwards for `linger`; a second signal ends it at once.\n\n\
    io `netmap` needs netmap's kernel module, the interface's offloads off (the error says how), and write access to /dev/netmap.\n\n\
    Root is not needed with these capabilities: CAP_NET_RAW, and CAP_NET_ADMIN by which the kernel resolves the backends' addresses; with io af_xdp also CAP_BPF, and \
    CAP_IPC_LOCK or `ulimit -l unlimited` for its memory. [announce] needs /dev/net/tun. The control socket's directory must be writable. \
    `guideway check --host` says what is missing.\n\n\
    Example:\n  guideway director --config /etc/guideway/director.toml"
)]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    logging: logging::LogArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    if let Err(code) = logging::start(&args.logging) {
        return code;
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
