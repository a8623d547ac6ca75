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
pub mod decap;
pub mod directors;
pub mod drain;
pub mod error;
pub mod files;
pub mod ledger;
pub mod link;
pub mod netlink;
pub mod netns;
pub mod nexthops;
pub mod packet;
pub mod plan;
pub mod programs;
pub mod reload;
pub mod report;
pub mod router;
pub mod sandbox;
pub mod servers;
mod session;
pub mod shared;
pub mod switch;
mod sys;
pub mod topology;
pub mod transfers;
pub mod witness;

pub use args::LabArgs;
pub use decap::DecapArgs;
pub use error::Error;
pub use session::Lab;

use std::process::ExitCode;

/// `guideway lab`. To be called before the program starts threads.
pub fn main(args: &LabArgs) -> ExitCode {
    finish("lab", session::run(args))
}

/// `guideway decap`. To be called before the program starts threads.
pub fn decap_main(args: &DecapArgs) -> ExitCode {
    finish("decap", decap::run(args).map(|()| 0))
}

/// Says what went wrong in one line: exit code 2 for flags, 1 for the rest.
fn finish(command: &str, done: Result<u8, Error>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("guideway {command}: {e}");
            ExitCode::from(if matches!(e, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}
