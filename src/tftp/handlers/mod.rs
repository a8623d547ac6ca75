//! Ready-made handlers, and what chooses and chains them.
//!
//! | module | is |
//! |---|---|
//! | [`http`] | files of an HTTP origin, through a cache on the disk |
//! | [`template`] | boot configuration that is made for each machine, from templates and an inventory |
//! | [`exec`], [`hook`] | logic in any language: a program, or an HTTP service |
//! | [`decision`] | what such logic may decide |
//! | [`rules`] | which handlers serve which file to whom; remapping, access |
//! | [`limits`] | how much a client gets |
//! | [`chain`] | the first handler that has a file serves it |
//! | [`name`] | names of files from clients, made safe |
//! | [`background`] | threads for what waits |

pub mod background;
pub mod chain;
pub mod client;
pub mod decision;
pub mod exec;
pub mod hook;
pub mod http;
pub mod limits;
pub mod name;
mod owned;
pub mod rules;
pub mod template;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
pub mod testing_origin;
