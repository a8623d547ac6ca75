//! Guideway: a Maglev consistent-hash load balancer for TFTP and UDP fleets.
//!
//! Read the modules in this order; each uses only those above it (a test holds that).
//!
//! | module | is |
//! |---|---|
//! | [`verdict`], [`frame`], [`time`] | the words that everything shares: what becomes of a packet, its bytes, its time |
//! | [`wire`] | checked views of headers |
//! | [`hash`], `maglev`, `flow` | keyed hashes, the Maglev table, the flow table |
//! | [`tables`] | the snapshot that workers read: VIPs, services, pools, backends |
//! | [`path`] | the packet path: bytes, tables, time → verdict |
//! | [`io`] | how packets get in and out |
//! | [`config`] | the TOML file, checked |
//! | [`control`] | the one writer of tables, neighbours, the control socket |
//! | [`director`] | workers and the daemon around them |
//! | [`lab`] | namespaces in which real clients fetch real files |
//! | [`tftp`] | TFTP packets, a framework for servers and its engine |
//! | [`cli`] | the commands |

pub mod cli;
pub mod config;
pub mod control;
pub mod control_client;
pub mod counters;
pub mod director;
pub mod flow;
pub mod frame;
pub mod hash;
pub mod io;
pub mod lab;
pub mod maglev;
pub mod path;
pub mod tables;
pub mod tftp;
pub mod time;
pub mod turn;
pub mod verdict;
pub mod wire;
