//! The health controller: checks every backend of every pool with a `check`, and publishes the results to the store. Packets never pass
//! through it; when it dies, the last health stays.
//!
//! | module | task |
//! |---|---|
//! | [`state_machine`] | one backend: rise and fall, dampening, slow start; no I/O |
//! | [`floor`] | one pool: `min_healthy` |
//! | [`tftp_check`] | the tftp check as a state machine; no I/O |
//! | [`outcome`] | the result of a check |
//! | [`controller`] | all pools: due checks, consequences of results, publication; no I/O |
//! | [`probe`] | makes checks: GRE, UDP, TCP, HTTP, ICMP, programs |
//! | [`engine`] | the loop: due checks, results, the store |
//! | [`daemon`], [`once`] | the process around it; a single round for operators |

pub mod controller;
pub mod daemon;
pub mod engine;
pub mod floor;
pub mod once;
pub mod outcome;
pub mod probe;
pub mod state_machine;
pub mod tftp_check;
