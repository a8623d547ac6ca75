//! What every daemon has: a control socket and its client, metrics, and a word with systemd.

pub mod client;
pub mod metrics;
pub mod socket;
pub mod systemd;
