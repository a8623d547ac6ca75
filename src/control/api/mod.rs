//! The HTTP interface of a running director, version 1: over its Unix socket, and over TCP where `[api]` says so.
//!
//! [`operations`] is the one list of operations: the routes, the checks of every request ([`request`]) and the OpenAPI document are made from it.

mod change;
mod commit;
pub mod credentials;
mod error;
mod history;
pub mod openapi;
pub mod operation;
pub mod operations;
mod plan;
mod read;
pub mod request;
mod router;
mod serve;
mod settings;
mod state;
mod stream;
pub mod tcp;
mod write_timeout;

pub use router::router;
pub use serve::serve;
pub use state::{Api, DryRun, ReloadRequest};
