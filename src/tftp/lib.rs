//! TFTP: the wire types, a framework for servers, and the engine that runs them.
//!
//! A server is a [`Handler`] that turns requests into [`Content`]. The engine does the rest: options, windows, time-outs,
//! thousands of transfers on one thread. Handlers are asynchronous and run on Tokio, never on that thread; they may block where they say so.
//!
//! A complete server that generates the configuration of each machine:
//!
//! ```
//! use guideway_tftp::{Config, Content, Handler, Observer, Opened, Refusal, Request, Server, TransferReport};
//! use std::time::Duration;
//!
//! struct Greeter;
//!
//! impl Handler for Greeter {
//!     async fn open(&self, request: Request) -> Result<Content, Refusal> {
//!         let name = request.name();
//!         let machine = name.strip_suffix(".cfg").ok_or_else(Refusal::not_found)?;
//!         // A database, another service, a file: whatever is asked here, other clients do not wait.
//!         tokio::time::sleep(Duration::from_millis(1)).await;
//!         Ok(format!("hello {machine}\n").into())
//!     }
//! }
//!
//! struct Log;
//!
//! impl Observer for Log {
//!     fn finished(&self, report: &TransferReport) {
//!         println!("{} {} {} bytes", report.client, report.outcome.name(), report.bytes_sent);
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Runtime::new()?.block_on(async {
//! let config = Config::listen("127.0.0.1:0".parse()?);
//! let running = Server::bind(config, Greeter, Log)?.start()?;
//! # let client = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
//! # client.send_to(b"\0\x01m1.cfg\0octet\0", running.addresses()[0]).await?;
//! # let mut packet = [0; 600];
//! # let (len, tid) = tokio::time::timeout(Duration::from_secs(5), client.recv_from(&mut packet)).await??;
//! # assert_eq!(&packet[..len], b"\0\x03\0\x01hello m1\n");
//! # client.send_to(b"\0\x04\0\x01", tid).await?;
//! running.shutdown(Duration::from_secs(10)).await?; // or Server::serve().await, without an end
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! | Content | From |
//! |---|---|
//! | [`Content::bytes`], `.into()` | bytes and strings |
//! | [`Content::file`] | an open file, also on a file system that may hang |
//! | [`Content::reader`], [`Content::stream`] | an `AsyncRead`, a `Stream`, of known or unknown length |
//! | [`Content::random_access`] | a [`ReadAt`], which may block |
//!
//! A plain closure becomes a handler by [`handler_fn`], one that blocks by [`blocking`]; a closure that returns a future is one. Uploads go to
//! [`Handler::store`].
//!
//! For users of fbtftp:
//!
//! | fbtftp | This crate |
//! |---|---|
//! | `BaseServer(address, port, retries, timeout, …)` | [`Config`]: `listen`, `retransmission` (its time-outs adapt), and limits that fbtftp does not have |
//! | `BaseServer.get_handler(server_addr, peer, path, options)` | [`Handler::open`] with a [`Request`]: `vip` and `tid`, `client`, `file()`, `options()` and `mode` |
//! | `get_handler` that returns `None` | [`Refusal::silent`] |
//! | `BaseHandler.get_response_data()`, in its own process | result of [`Handler::open`], which is asynchronous; [`blocking`] for blocking work |
//! | an exception in it (`FileNotFoundError`, others) | [`Refusal::not_found`], [`Refusal::access`], [`Refusal::new`] with any code and text |
//! | `ResponseData.read(n)`, `size()`, `close()` | [`ReadAt`], `AsyncRead` or `Stream`; `Drop` |
//! | `StringResponseData` | [`Content::bytes`] |
//! | `session_stats_callback(stats)` | [`Observer::finished`] with a [`TransferReport`] |
//! | `stats.peer`, `stats.server_addr`, `stats.file_path` | `client`; `vip` and `tid`; `file()` |
//! | `stats.options_in`, `options_acked` and `options`, `blksize` | `options()` and `mode`; `acknowledged()`; `terms` |
//! | `stats.error` | [`TransferReport::error`]: code and text; `outcome` has more detail |
//! | `stats.start_time`, `duration()` | [`TransferReport::started_at`], `duration`, and `opening` until the first answer |
//! | `stats.packets_sent`, `packets_acked`, `bytes_sent`, `retransmits` | `packets_sent`, `acks`, `bytes_sent`, `retransmitted`; also `timeouts`, `acks_ignored`, `blocks_acknowledged`, `round_trip`, `size`, `version` … |
//! | `server_stats_callback(stats)`, `stats_interval_seconds` | [`Observer::server`] with [`Statistics`], [`Observer::interval`] |
//! | `stats.server_addr`, `interval` | [`Running::addresses`], [`Observer::interval`] |
//! | `stats.start_time`, `duration()` | [`Statistics::uptime`] |
//! | `get_all_counters()`, `get_counter(name)` | [`Statistics::totals`], [`Totals::iter`], [`Totals::get`] |
//! | `get_and_reset_all_counters()`, `get_and_reset_counter(name)` | [`Statistics::take`], [`Statistics::take_one`] |
//! | `reset_counter(name)`, `reset_all_counters()` | the same, with the result ignored |
//! | `process_count`, its only predefined counter | `started`; also those of [`Counter::ALL`] |
//! | `increment_counter(name)`, `set_counter(name, value)` for custom counters | fields of your [`Observer`] or [`Handler`]; one value may implement both |
//! | `run()`, `close()` | [`Server::serve`] or [`Server::start`]; [`Running::shutdown`] lets transfers end, [`Running::stop`] does not |
//!
//! | Module | Feature | Holds |
//! |---|---|---|
//! | [`packet`], [`options`], [`rollover`], [`receive_window`] | | packets, negotiation of options, block numbers, order of received blocks |
//! | [`netascii`] | | the translation of text |
//! | [`rto`] | `server` or `client` | the retransmission time-out of the receiving side |
//! | [`content`] | `server` | bytes to send |
//! | [`name`] | `server` | normalized file names of clients |
//! | [`handler`], [`request`], [`directory`] | `server` | the interface that opens content; the handler that serves files |
//! | [`transfer`], [`upload`] | `server` | one read and one write as state machines without I/O |
//! | [`writable`] | `server` | the directory that clients may write to |
//! | [`takeover`] | `server` | the protocol between servers that take over each other's transfers |
//! | [`report`] | `server` | reports and counters |
//! | [`engine`] | `server` | event loops |
//! | [`http`] | `http` | the same content by HTTP |
//! | [`handlers`] | `handlers` | other handlers, chosen by rules |
//! | [`client`] | `client` | one client |
//! | [`swarm`] | `swarm` | thousands of clients |

#[cfg(feature = "client")]
pub mod client;
#[cfg(any(feature = "handlers", feature = "http"))]
mod client_prefix;
#[cfg(feature = "server")]
pub mod content;
#[cfg(feature = "server")]
mod counters;
#[cfg(feature = "server")]
pub mod directory;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(all(feature = "server", any(test, fuzzing)))]
pub mod fuzz;
#[cfg(feature = "server")]
pub mod handler;
#[cfg(feature = "handlers")]
pub mod handlers;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "server")]
pub mod name;
pub mod netascii;
pub mod options;
#[cfg(feature = "server")]
mod outcome;
pub mod packet;
pub mod receive_window;
#[cfg(feature = "server")]
pub mod report;
#[cfg(feature = "server")]
pub mod request;
pub mod rollover;
#[cfg(feature = "server")]
mod root;
#[cfg(any(feature = "client", feature = "server"))]
pub mod rto;
#[cfg(feature = "swarm")]
pub mod swarm;
#[cfg(feature = "server")]
pub mod takeover;
#[cfg(feature = "server")]
pub mod transfer;
#[cfg(feature = "server")]
pub mod upload;
#[cfg(feature = "server")]
pub mod writable;

#[cfg(feature = "server")]
pub use content::{Bytes, Content, ReadAt, Version};
#[cfg(feature = "server")]
pub use engine::{Config, Running, Server, ServerHandle, Tid, TunnelConfig};
#[cfg(feature = "server")]
pub use handler::{Accepted, Destination, Handler, Opened, Refusal, SharedHandler, blocking, handler_fn, named};
#[cfg(feature = "server")]
pub use report::{Counter, Observer, Outcome, Statistics, Totals, TransferReport};
#[cfg(feature = "server")]
pub use request::{Protocol, Request};
