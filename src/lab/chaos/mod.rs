//! Chaos: scripts that kill, cut, stop and change things while real clients fetch, and a verdict on every transfer.
//!
//! | module | is |
//! |---|---|
//! | [`script`], [`parse`], [`random`] | what a script says, how it is read, and one made by chance |
//! | [`network`] | carries events out on the hosts of a lab |
//! | `run` | runs transfers and events side by side |
//! | `storm`, `fairness` | thousands of clients at once, and what each network got |
//! | `pauses` | how long which clients waited |
//! | `memory` | what directors and servers hold, early and late |
//! | [`script_report`] | what became of every transfer, and whether the script allows it |
//!
//! A script is a text file, a fact or an event in a line; `#` begins a comment. `src/lab/scripts/` has one for every promise.
//!
//! ```text
//! event kill -9 one of 4 Guideway backends
//! takeover on
//! client curl atftp guideway
//! full transfers 200            # counts with --full only
//! allowed 0                     # or: transfers-of t1
//! at 40% kill t1                # when 40 % of all bytes are there; also: at 2.5s, at 40% done (transfers)
//! after 300ms down t1           # since the step before; as health checks would say it
//! also reshuffle                # at the same time
//! ```

mod fairness;
mod memory;
pub mod network;
pub mod parse;
mod pauses;
pub mod random;
mod run;
pub mod script;
pub mod script_report;
mod storm;
#[cfg(test)]
mod tests;

pub(super) use run::{prepare, run};
