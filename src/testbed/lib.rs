//! Shared by tests and the lab: third-party programs, found and started, and parsers of daemons' output.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

pub mod exposition;
pub mod programs;
pub mod servers;
pub mod site;
pub mod wait;
