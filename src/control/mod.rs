//! Control: the one writer of tables, the kernel's neighbours, and the control socket. Only the writer builds what workers read.

pub mod neighbour;
pub mod next_hops;
pub mod writer;

pub use next_hops::{Link, NextHops, Unresolved};
pub use writer::{Known, Refused, State, Writer};
