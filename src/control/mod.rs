//! Control: the one writer of tables, the kernel's neighbours, and the control socket. Only the writer builds what workers read.

pub mod api;
pub mod board;
pub mod metrics;
pub mod neighbour;
pub mod next_hops;
pub mod socket;
pub mod suspects;
pub mod writer;

pub use api::{Api, Trial};
pub use board::{Board, Facts, Reloads, Shown, Stored, View};
pub use next_hops::{Link, NextHops, Unresolved};
pub use socket::ControlSocket;
pub use suspects::{Suspect, Suspects};
pub use writer::{Known, Refused, State, Writer};
