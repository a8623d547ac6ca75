//! The lab: real TFTP clients fetch real files from real servers through a router and directors, on one machine, leaving nothing behind.
//!
//! | module | is |
//! |---|---|
//! | [`args`], [`plan`] | the flags; who is where |
//! | [`sandbox`] | the namespaces that hold everything, and take it away |
//! | [`topology`], [`vale_switch`] | hosts and links |
//! | [`nexthops`], [`link`], [`transfer_log`], [`router`] | the test router: ECMP and GRE, a bad link, and what was seen of transfers |
//! | [`backends`] | backends |
//! | [`configuration`], [`directors`], [`reload`], [`drain`], [`cluster_store`] | directors; the store that they share with servers that take over |
//! | [`files`], [`clients`], [`transfers`] | what is fetched, and by whom |
//! | [`traffic_monitor`], [`capture`], [`report`] | what was seen |
//! | [`lab`], [`chaos`] | a lab that is up; scripts of trouble in mid-transfer, and a verdict on every transfer |

pub mod args;
pub mod backends;
pub mod capture;
pub mod chaos;
pub mod clients;
pub mod cluster_store;
pub mod configuration;
pub mod directors;
pub mod drain;
pub mod files;
mod interrupt;
pub mod lab;
pub mod link;
pub mod nexthops;
pub mod plan;
pub mod reload;
pub mod report;
pub mod router;
pub mod sandbox;
mod session;
mod sys;
pub mod topology;
pub mod traffic_monitor;
pub mod transfer_log;
pub mod transfers;
pub mod vale_switch;

pub use args::LabArgs;
pub use lab::Lab;

use clap::{CommandFactory, Parser};
use guideway_host::error::Error;
use std::process::ExitCode;

/// Real TFTP clients fetch real files through a router and directors, all on this machine
#[derive(Debug, Parser)]
#[command(name = "guideway-lab", version)]
struct Cli {
    #[command(flatten)]
    args: LabArgs,
    /// Print the manual page
    #[arg(long, hide = true, exclusive = true)]
    man: bool,
}

/// The program's flags, for those who document or check them.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program with the arguments of the process. To be called before it starts threads. Exit codes: 0 done, 1 failed, 2 bad usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.man {
        return match clap_mangen::Man::new(command()).render(&mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    match session::run(&cli.args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("guideway-lab: {e}");
            ExitCode::from(if matches!(e, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
