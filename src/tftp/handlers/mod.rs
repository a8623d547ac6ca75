//! Ready-made handlers, and rules and chains that combine them.
//!
//! | Module | Contents |
//! |---|---|
//! | [`http`] | files of an HTTP origin, with a cache on disk |
//! | [`template`] | boot configuration rendered for each machine, from templates and an inventory |
//! | [`exec`], [`hook`] | decisions by a program or an HTTP service, in any language |
//! | [`decision`] | format of these decisions |
//! | [`rules`] | choice of the handler by file, client and VIP; renaming, access |
//! | [`replacement`] | new names, with the address of the client and other case |
//! | [`limits`] | rate and concurrency of each client |
//! | [`chain`] | handlers tried in order |

pub mod chain;
pub mod client;
mod concurrency;
pub mod decision;
pub mod exec;
pub mod hook;
pub mod http;
mod json;
pub mod limits;
pub mod replacement;
pub mod rules;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod testing_origin;
mod url_path;
