//! The lab: real TFTP clients fetch real files from real servers through a router and directors, on one machine, leaving nothing behind.
//!
//! | module | is |
//! |---|---|
//! | [`args`], [`plan`] | what is asked for; who is where |
//! | [`sandbox`] | the namespaces that hold everything, and take it away |
//! | [`netns`], [`netlink`], [`topology`], [`switch`] | hosts and links |
//! | [`packet`], [`nexthops`], [`link`], [`ledger`], [`router`] | the test router: ECMP and GRE, a bad link, and what was seen of transfers |
//! | [`decap`], [`servers`], [`backends`] | backends |
//! | [`directors`], [`reload`], [`drain`], [`shared`] | directors; what they share with servers that take over |
//! | [`files`], [`clients`], [`transfers`] | what is fetched, and by whom |
//! | [`witness`], [`capture`], [`report`] | what was seen |
//! | [`chaos`] | scripts of trouble in mid-transfer, and a verdict on every transfer |

pub mod args;
pub mod backends;
pub mod capture;
pub mod chaos;
pub mod clients;
pub mod directors;
pub mod drain;
pub mod files;
pub mod ledger;
pub mod link;
pub mod nexthops;
pub mod plan;
pub mod reload;
pub mod report;
pub mod router;
pub mod sandbox;
mod session;
pub mod shared;
pub mod switch;
mod sys;
pub mod topology;
pub mod transfers;
pub mod witness;

pub use args::LabArgs;
pub use session::Lab;

use clap::Parser;
use guideway_host::error::Error;
use std::process::ExitCode;

/// Real TFTP clients fetch real files through a router and directors, all on this machine
#[derive(Debug, Parser)]
#[command(name = "guideway-lab", version)]
struct Cli {
    #[command(flatten)]
    args: LabArgs,
}

/// Runs the program with the arguments of the process. To be called before it starts threads. Exit codes: 0 done, 1 failed, 2 bad usage.
pub fn main() -> ExitCode {
    match session::run(&Cli::parse().args) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("guideway-lab: {e}");
            ExitCode::from(if matches!(e, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
