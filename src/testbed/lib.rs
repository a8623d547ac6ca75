//! What tests and the lab share: programs of others, found and started, and readers of what daemons say.
#![allow(clippy::unwrap_used, clippy::panic, clippy::missing_panics_doc)]

pub mod exposition;
pub mod programs;
pub mod servers;
pub mod site;
