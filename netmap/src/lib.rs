//! Safe [netmap](https://github.com/luigirizzo/netmap) rings: batches of frames in place, and buffers that move between rings without a copy.
//!
//! netmap gives a program the rings of a network card, of a VALE switch or of a pipe in shared memory: the kernel hands over slots, each with a
//! buffer, and the program hands them back. This crate opens such ports by name and makes of the rings types that cannot be misused:
//!
//! * **Nothing in shared memory is believed.** Indices, lengths and buffer numbers are read once, atomically or volatile, and checked in release
//!   builds too. A kernel that says what cannot be gets a [`RingError`], or a frame counted in [`Dropped`]; never a panic or a stray access.
//! * **A buffer has one owner.** A batch borrows its ring; the bytes of a frame borrow the batch; when it is dropped its slots are the kernel's
//!   again. A book of all buffers in hand makes sure that no two references overlap, whatever the kernel says.
//! * **[`Batch::send`] is the zero-copy move**: the receive slot and the transmit slot exchange their buffers.
//!
//! # Example
//!
//! Echo every frame back to where it came from:
//!
//! ```no_run
//! use netmap_rings::{BATCH, Events, Port};
//! use std::time::Duration;
//!
//! let mut port = Port::open("netmap:eth0-0")?;
//! loop {
//!     // Sends what was handed over, and sleeps until frames come.
//!     Port::wait(&[&port], Events::Receive, Duration::from_secs(1))?;
//!     let rings = port.rings();
//!     let mut batch = rings.rx[0].batch(BATCH)?;
//!     for frame in 0..batch.len() {
//!         let Some(bytes) = batch.bytes(frame).filter(|bytes| bytes.len() >= 14) else { continue };
//!         let (to, from) = bytes.split_at_mut(6);
//!         to.swap_with_slice(&mut from[..6]);
//!         let len = bytes.len();
//!         // Without room the frame is dropped with the batch.
//!         batch.send(frame, &mut rings.tx[0], len)?;
//!     }
//! }
//! # #[allow(unreachable_code)]
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Names
//!
//! | name | opens |
//! |---|---|
//! | `netmap:eth0` | all rings of the card |
//! | `netmap:eth0-2` | the pair of rings number 2 |
//! | `netmap:eth0^` | the rings to and from the host's network stack |
//! | `netmap:eth0*` | all of both |
//! | `vale0:1` | port `1` of the VALE switch `vale0` |
//! | `netmap:x{1`, `netmap:x}1` | the two ends of pipe 1 |
//!
//! # Waiting and polling
//!
//! [`Port::wait`] is `poll(2)`: it syncs the rings and sleeps. Under load [`Port::sync_rx`] and [`Port::sync_tx`] sync without sleeping.
//! Frames handed to a [`TxRing`] go with the next of either.
//!
//! # What it needs
//!
//! Linux with netmap's module loaded, API version 14 or newer, and write access to `/dev/netmap`. Offloads of a network interface must be off;
//! opening it says which are on, and the `ethtool` line that switches them off. Frames in more than one buffer are dropped and counted: give
//! netmap buffers that hold an MTU (`buf_size`). The feature `simulated` adds a netmap in ordinary memory, for tests without all that.

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod cursor;
mod device;
mod error;
mod memory;
mod name;
mod offload;
mod port;
mod raw;
mod rx;
#[cfg(any(test, feature = "simulated"))]
pub mod simulated;
#[cfg(test)]
mod tests;
mod tx;

pub use device::{Events, Ready};
pub use error::{OpenError, RingError};
pub use memory::Region;
pub use name::{Kind, MAX_NAME_LEN, MAX_RING, NameError, PortName, Rings};
pub use offload::offloads_on;
pub use port::{Options, Port, PortRings};
pub use rx::{BATCH, Batch, Dropped, RxRing};
pub use tx::TxRing;
