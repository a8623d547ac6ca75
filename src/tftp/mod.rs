//! TFTP: the wire types, a framework for servers, and the engine that runs them.

pub mod content;
pub mod directory;
pub mod engine;
pub mod handler;
pub mod handlers;
pub mod netascii;
pub mod options;
pub mod packet;
pub mod report;
pub mod transfer;
