//! The health controller: checks every backend of every pool that has a `check`, and publishes what it saw to the store. It is never in the
//! packets' way; when it dies, the last set stands.
//!
//! | module | is |
//! |---|---|
//! | [`machine`] | one backend: rise and fall, dampening, slow start; no I/O |
//! | [`floor`] | one pool: `min_healthy` |
//! | [`read`] | the tftp check as a state machine; no I/O |
//! | [`outcome`] | what came of a check |
//! | [`controller`] | all pools: what is due, what follows from outcomes, what is to be published; no I/O |
//! | [`probe`] | makes checks: GRE, UDP, TCP, HTTP, ICMP, programs |
//! | [`engine`] | the loop: due checks, outcomes, the store |
//! | [`daemon`], [`once`] | the process around it; a single round for people |

pub mod controller;
pub mod daemon;
pub mod engine;
pub mod floor;
pub mod machine;
pub mod once;
pub mod outcome;
pub mod probe;
pub mod read;
