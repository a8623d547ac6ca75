//! `guideway reload`: a running daemon reads its file again.

use super::common::{failed, print_result, query};
use super::status::{DaemonArgs, client};
use guideway_api::status::Reloaded;

/// Let a running director, health controller or TFTP server read its file again, with the certificates and tokens that it names; wait until that is done
///
/// A file that is refused changes nothing; every error is printed. SIGHUP does the same, without an answer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: the file is in force; 1: it was refused, or nobody answers.\n\n\
    Example:\n  guideway reload\n  guideway reload --config /etc/guideway/director.toml")]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    /// Why, for `guideway history` and the log (directors only)
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let client = match client(&args.daemon) {
        Ok(client) => client,
        Err(code) => return code,
    };
    let path = match &args.reason {
        Some(reason) => format!("/v1/reload?{}", query(&[("reason", reason)])),
        None => "/v1/reload".to_owned(),
    };
    match client.change::<Reloaded>("POST", &path, None) {
        Ok(reloaded) => print_result(&format!("reloaded: generation {}", reloaded.generation)),
        Err(error) => failed(&error.to_string()),
    }
}
