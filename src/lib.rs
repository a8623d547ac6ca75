//! Guideway: a Maglev consistent-hash load balancer for TFTP and UDP fleets.
//!
//! Read the modules in this order; each uses only those above it (a test holds that).
//!
//! | module | is |
//! |---|---|
//! | [`verdict`], [`time`], [`frame`] | the words that everything shares: what becomes of a packet, its time, its bytes |
//! | [`wire`] | checked views of headers, and a builder of packets |
//! | [`hash`], [`maglev`], [`heirs`], [`flow`] | keyed hashes, the Maglev table, who goes on with a dead server's transfers, the flow table |
//! | [`config`] | the TOML file, checked |
//! | [`tables`] | the snapshot that workers read: VIPs, services, pools, backends |
//! | [`counters`] | what became of packets, counted once each |
//! | [`io`] | how packets get in and out |
//! | [`path`] | the packet path: bytes, tables, time → verdict |
//! | [`turn`] | one turn of a worker: io, path, io |
//! | [`steer`] | one receive queue for several workers |
//! | [`metrics`], [`systemd`] | numbers for Prometheus; sockets from systemd, and telling it that we are ready |
//! | [`tls`] | whom we believe and who we are, for https |
//! | [`store`] | the set that directors share: what is wanted, and how the backends do |
//! | [`control`] | the one writer of tables, neighbours, the API |
//! | [`announce`] | VIPs as routes in a kernel table, for BIRD to export |
//! | [`director`] | workers and the daemon around them, its control socket |
//! | [`control_client`] | asks a director or a server over its control socket |
//! | [`tftp`] | a framework for TFTP servers, the server, a client and thousands of them |
//! | [`health`] | the health controller: checks backends, publishes what it sees |
//! | [`lab`] | namespaces in which real clients fetch real files |
//! | [`cli`] | the commands |

/// The README's examples are compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct Readme;

pub mod announce;
pub mod cli;
pub mod config;
pub mod control;
pub mod control_client;
pub mod counters;
pub mod director;
pub mod flow;
pub mod frame;
pub mod hash;
pub mod health;
pub mod heirs;
pub mod io;
pub mod lab;
pub mod maglev;
pub mod metrics;
pub mod path;
pub mod steer;
pub mod store;
pub mod systemd;
pub mod tables;
pub mod tftp;
pub mod time;
pub mod tls;
pub mod turn;
pub mod verdict;
pub mod wire;
