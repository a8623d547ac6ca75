//! A TFTP client: state machines without I/O, and what drives one of them with a socket.
//!
//! [`Read`] and [`Write`] are transfers as pure state machines: datagrams and time in, datagrams and data out. [`exchange`] runs one over a
//! socket; the swarm (`tftp::swarm`) runs thousands.

pub mod block;
pub mod exchange;
pub mod netascii;
pub mod options;
pub mod output;
mod read;
pub mod rto;
pub mod target;
mod transfer;
mod write;

#[cfg(test)]
mod tests;

pub use options::{Agreed, Ask, BadOack};
pub use read::Read;
pub use rto::{Dally, Timing};
pub use transfer::{Counters, Failure, Plan};
pub use write::Write;
