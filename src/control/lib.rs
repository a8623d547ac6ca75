//! Control: the one writer of tables, the kernel's neighbours, and the control socket. Only the writer builds what workers read.

pub mod api;
pub mod board;
pub mod changes;
pub mod events;
pub mod explained;
pub mod metrics;
pub mod neighbour;
pub mod next_hops;
pub mod suspects;
pub mod view;
pub mod writer;

pub use api::{Api, Trial};
pub use board::{Announced, Board, Facts, QUIET, Reloads, Running, Shown, Stored};
pub use next_hops::{Link, NextHops, Unresolved};
pub use suspects::{Suspect, Suspects};
pub use view::View;
pub use writer::{Known, Refused, State, Writer};
