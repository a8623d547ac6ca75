//! The commands. Each file is one: its arguments, and what it does with them.

pub mod explain;
pub mod replay;
pub mod table;

mod common;
