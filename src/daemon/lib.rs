//! Parts that every daemon has: a control socket and its client, metrics, and the systemd protocols.

pub mod client;
pub mod connections;
pub mod histogram;
pub mod metrics;
pub mod socket;
pub mod systemd;
