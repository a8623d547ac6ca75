//! The TFTP server as a daemon: configuration file, control socket, status.

pub mod config;
pub mod daemon;
mod log;
pub mod status;
