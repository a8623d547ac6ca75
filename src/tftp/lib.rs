//! TFTP: the wire types, a framework for servers, and the engine that runs them.
//!
//! A server is a [`Handler`] that turns requests into [`Content`]. The engine does the rest: options, windows, time-outs,
//! thousands of transfers on one thread.
//!
//! A server that makes each machine's configuration, whole:
//!
//! ```
//! use crate::{Bytes, Config, Handler, Observer, Opening, Refusal, Request, Server, TransferReport};
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
//! Whoever knows fbtftp finds:
//!
//! | fbtftp | here |
//! |---|---|
//! | `BaseServer(address, port, retries, timeout, …)` | [`Config`]: `listen`, `pace` (its time-outs adapt), and limits that fbtftp does not have |
//! | `BaseServer.get_handler(server_addr, peer, path, options)` | [`Handler::open`] with a [`Request`]: `vip` and `tid`, `client`, `file`, `options` and `mode` |
//! | `get_handler` that returns `None` | [`Refusal::silent`] |
//! | `BaseHandler.get_response_data()`, in a process of its own | what [`Handler::open`] gives: [`Opening::content`], [`Opening::job`] for what blocks, [`Opening::later`] for a future |
//! | an exception there (`FileNotFoundError`, others) | [`Refusal::not_found`], [`Refusal::access`], [`Refusal::new`] with any code and text |
//! | `ResponseData.read(n)`, `size()`, `close()` | [`Content::poll_read_at`], [`Content::size`], `Drop` |
//! | `StringResponseData` | [`Bytes`] |
//! | `session_stats_callback(stats)` | [`Observer::transfer`] with a [`TransferReport`] |
//! | `stats.peer`, `stats.server_addr`, `stats.file_path` | `client`; `vip` and `tid`; `file` |
//! | `stats.options_in`, `options_acked` and `options`, `blksize` | `options` and `mode`; `acknowledged`; `terms` |
//! | `stats.error` | [`TransferReport::error`]: code and text; `outcome` says more |
//! | `stats.start_time`, `duration()` | [`TransferReport::began`], `duration`, and `opening` until the first answer |
//! | `stats.packets_sent`, `packets_acked`, `bytes_sent`, `retransmits` | `packets_sent`, `acks`, `bytes_sent`, `repeated`; besides `timeouts`, `acks_ignored`, `blocks_acknowledged`, `round_trip`, `size`, `version` … |
//! | `server_stats_callback(stats)`, `stats_interval_seconds` | [`Observer::server`] with [`Statistics`], [`Observer::interval`] |
//! | `stats.server_addr`, `interval` | [`Running::addresses`], [`Observer::interval`] |
//! | `stats.start_time`, `duration()` | [`Statistics::uptime`] |
//! | `get_all_counters()`, `get_counter(name)` | [`Statistics::totals`], [`Totals::iter`], [`Totals::get`] |
//! | `get_and_reset_all_counters()`, `get_and_reset_counter(name)` | [`Statistics::take`], [`Statistics::take_one`] |
//! | `reset_counter(name)`, `reset_all_counters()` | the same, what they give left unused |
//! | `process_count`, the only counter of its own | `started`; besides those of [`Counter::ALL`] |
//! | `increment_counter(name)`, `set_counter(name, value)` for counters of one's own | fields of one's own [`Observer`] or [`Handler`]; they may be one value |
//! | `run()`, `close()` | [`Server::start`], [`Running::stop`] |
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
pub mod content;
pub mod directory;
pub mod engine;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handler;
pub mod handlers;
pub mod netascii;
pub mod options;
pub mod order;
pub mod packet;
pub mod report;
pub mod swarm;
pub mod takeover;
#[cfg(test)]
pub mod testing;
pub mod transfer;
pub mod upload;
pub mod writable;

pub use content::{Bytes, Content, Lent, Version};
pub use engine::{Config, Running, Server, Tid, TunnelConfig};
pub use handler::{Handler, Opened, Opening, Refusal, Request};
pub use report::{Counter, Observer, Outcome, Statistics, Totals, TransferReport};
