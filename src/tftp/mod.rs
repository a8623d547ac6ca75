//! TFTP: the wire types, a framework for servers, and the engine that runs them.

pub mod client;
pub mod packet;
pub mod swarm;
#[cfg(test)]
pub(crate) mod testing;
