//! TFTP: the wire types, a framework for servers, and the engine that runs them; a client, and thousands of them.

pub mod client;
pub mod content;
pub mod directory;
pub mod engine;
pub mod handler;
pub mod netascii;
pub mod options;
pub mod packet;
pub mod report;
pub mod swarm;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfer;
