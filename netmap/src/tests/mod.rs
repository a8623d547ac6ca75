//! Tests of the rings: one conformance test for every pair of ports, a kernel that lies, a kernel in another thread, and the real one.

mod batches;
mod concurrent_kernel;
mod conformance;
mod faulty_kernel;
mod kernel;

use crate::{Port, RxRing, TxRing};

/// Fewer rounds where an interpreter runs them.
const ROUNDS: usize = if cfg!(miri) { 3 } else { 200 };

/// A frame that says its number, of so many bytes.
fn frame(number: u32, len: usize) -> Vec<u8> {
    let mut frame: Vec<u8> = (0..len).map(|at| (at as u32 ^ number) as u8).collect();
    frame[..4].copy_from_slice(&number.to_be_bytes());
    frame
}

fn tx(port: &mut Port) -> &mut TxRing {
    &mut port.rings().tx[0]
}

fn rx(port: &mut Port) -> &mut RxRing {
    &mut port.rings().rx[0]
}
