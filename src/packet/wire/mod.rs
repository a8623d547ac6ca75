//! Checked views of headers: each has one constructor that takes untrusted bytes, and cannot fail or panic after it.
//!
//! Fields are read through `pnet::packet` views. Where a view of pnet is not fit for hostile bytes, the module says so.

pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod gre;
pub mod icmp;
pub mod ip;
pub mod l4;
