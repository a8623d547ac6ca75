//! A TFTP client: state machines without I/O, and a driver that runs one of them over a socket.
//!
//! [`Read`] and [`Write`] are transfers as pure state machines: datagrams and time in, datagrams and data out. [`exchange`] runs one over a
//! socket; the swarm (`tftp::swarm`) runs thousands.

pub mod exchange;
pub mod options;
pub mod output;
mod read;
pub mod target;
mod transfer;
mod write;

#[cfg(test)]
mod tests;

pub use crate::rto::{Dally, Timing};
pub use options::{BadOack, NegotiatedOptions, RequestOption};
pub use read::Read;
pub use transfer::{Counters, Failure, TransferPlan};
pub use write::Write;
