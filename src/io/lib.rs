//! How packets get in and out: one small trait, and kinds of it that can be stacked.
//!
//! A turn receives a batch in place, lets the caller decide over it, and carries out every verdict: the received buffer itself is
//! transmitted or released, without a copy of ours. The frames cannot outlive the turn, so that rings shared with a kernel stay
//! behind safe code.

pub mod af_packet;
pub mod af_xdp;
mod checksum;
#[cfg(test)]
pub mod conformance;
pub mod fault;
pub mod interface;
mod loopback;
pub mod memory;
pub mod netmap;
pub mod offloads;
pub mod outputs;
pub mod pcap;
#[cfg(test)]
mod testing;

pub use guideway_packet::io::{BATCH, BatchHandler, Io, PollResult};
