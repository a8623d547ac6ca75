//! The configuration: the TOML file, checked, with defaults filled in.
//!
//! Values of these types are consistent: names are unique, pools exist, ranges are disjoint, and table sizes are prime.
//!
//! [`read`] turns text into a [`Config`] in two passes. The first pass reads each section by itself (`director`, `vip`, `pool`,
//! `neighbour`) with `reader`, which knows keys, types and lines. The second pass (`validate`, `warnings`) compares sections with each
//! other. Neither pass stops at an error, so the operator sees all errors at once.
//!
//! [`keys`] lists the keys of every section.
//!
//! A health controller has its own file: [`health`].

mod announce;
mod api;
mod check;
mod config;
mod difference;
mod director;
mod document;
pub mod duration;
mod export;
mod file_kind;
pub mod health;
mod health_check;
pub mod host_checks;
mod intent;
pub mod keys;
mod load;
mod neighbour;
mod pool;
mod problem;
mod read_intent;
pub mod reader;
mod reload;
mod request_policy;
pub mod secret_file;
mod sections;
mod service;
pub mod size;
pub mod store;
mod summary;
mod syntax;
#[cfg(test)]
mod tests;
pub mod text;
mod validate;
mod vip;
mod warnings;

pub use announce::Announce;
pub use api::{ApiListen, Tls};
pub use check::print_report;
pub use check::{check_command, check_secrets};
pub use config::Config;
pub use director::{Director, Io, NetmapPorts, duration_within, key as fleet_key, parse_key as parse_fleet_key};
pub use document::{Checked, LoadError, load_with, read_kind};
pub use file_kind::FileKind;
pub use health_check::{Check, Expect, Probe, TftpProbe};
pub use intent::Intent;
pub use load::{load, read};
pub use neighbour::Neighbour;
pub use pool::{Backend, Pool};
pub use problem::{Problem, Severity};
pub use read_intent::{read_embedded_intent, read_intent};
pub use request_policy::RequestPolicy;
pub use sections::{pools, tables};
pub use service::Service;
pub use store::{Etcd, Store, read_store};
pub use vip::Vip;

pub use guideway_dataplane::tables::{Addresses, Admission, Echo, HashKey, Unmatched, Writes};
