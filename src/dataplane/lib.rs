//! The packet path and its tables. No operating system, no configuration files.
//!
//! | module | is |
//! |---|---|
//! | [`maglev`] | the Maglev table |
//! | [`flow`] | the flow table |
//! | [`tables`] | the immutable snapshot that workers read |
//! | [`counters`] | received = transmitted + to host + held + dropped |
//! | [`path`] | bytes, tables, time → verdict |
//! | [`poll`] | one poll of a worker: io, path, io |
//! | [`steer`] | one receive queue for several workers |

pub mod counters;
pub mod flow;
pub mod maglev;
pub mod path;
pub mod poll;
pub mod steer;
pub mod tables;
