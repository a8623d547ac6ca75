//! The TFTP server as a daemon: its file, its control socket, its status.

pub mod config;
pub mod daemon;
pub mod status;
