//! TFTP: the wire types, a framework for servers, and the engine that runs them.
//!
//! A server is a [`Handler`] that turns requests into [`Content`]. The engine does the rest: options, windows, time-outs,
//! thousands of transfers on one thread. Whoever knows fbtftp finds `get_handler` as [`Handler::open`], `ResponseData` as
//! [`Content`], and both statistics callbacks in [`Observer`].
//!
//! A server that makes each machine's configuration, whole:
//!
//! ```
//! use guideway::tftp::{Bytes, Config, Handler, Observer, Opening, Refusal, Request, Server, TransferReport};
//! use std::sync::Arc;
//!
//! struct Greeter;
//!
//! impl Handler for Greeter {
//!     fn open(&self, request: &Request<'_>) -> Opening {
//!         match request.name().strip_suffix(".cfg") {
//!             Some(machine) => Opening::content(Bytes::new(format!("hello {machine}\n").into_bytes())),
//!             None => Opening::refuse(Refusal::not_found()),
//!         }
//!     }
//! }
//!
//! struct Log;
//!
//! impl Observer for Log {
//!     fn transfer(&self, report: &TransferReport<'_>) {
//!         println!("{} {} {} bytes", report.client, report.outcome.name(), report.bytes_sent);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::listen("127.0.0.1:0".parse()?);
//! let server = Server::bind(config, Arc::new(Greeter), Arc::new(Log))?.start()?;
//! # let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
//! # client.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
//! # client.send_to(b"\0\x01m1.cfg\0octet\0", server.addresses()[0])?;
//! # let mut packet = [0; 600];
//! # let (len, tid) = client.recv_from(&mut packet)?;
//! # assert_eq!(&packet[..len], b"\0\x03\0\x01hello m1\n");
//! # client.send_to(b"\0\x04\0\x01", tid)?;
//! server.stop()?;
//! # Ok(())
//! # }
//! ```
//!
//! | module | is |
//! |---|---|
//! | [`packet`], [`options`] | what is on the wire, and what is negotiated |
//! | [`content`], [`netascii`] | bytes to be sent, and their translation |
//! | [`handler`], [`directory`], [`handlers`] | who opens them; the one that serves files, and the others, chosen by rules |
//! | [`config`] | the file of a server |
//! | [`transfer`], [`upload`], [`order`] | one read and one write as state machines without I/O; the order of blocks that come |
//! | [`writable`] | the directory that writes go to, when there is one |
//! | [`takeover`] | what servers tell one another, so that one goes on where another died |
//! | [`report`] | reports and counters |
//! | [`engine`] | event loops |
//! | [`daemon`], [`status`] | the process around them, and what it tells of itself |
//! | [`client`], [`swarm`] | one client, and thousands of them |

pub mod client;
pub mod config;
pub mod content;
pub mod daemon;
pub mod directory;
pub mod engine;
pub mod handler;
pub mod handlers;
pub mod netascii;
pub mod options;
pub mod order;
pub mod packet;
pub mod report;
pub mod status;
pub mod swarm;
pub mod takeover;
#[cfg(test)]
pub(crate) mod testing;
pub mod transfer;
pub mod upload;
pub mod writable;

pub use content::{Bytes, Content, Lent, Version};
pub use engine::{Config, Running, Server, Tid, TunnelConfig};
pub use handler::{Handler, Opened, Opening, Refusal, Request};
pub use report::{Counter, Observer, Outcome, Statistics, Totals, TransferReport};
