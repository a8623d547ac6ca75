//! The TFTP server as a daemon: configuration file, control socket, status.

pub mod config;
pub mod daemon;
mod error;
mod hunting;
mod listen;
mod log;
mod observer;
mod reload;
pub mod reports;
pub mod status;
pub mod transfer_metrics;
