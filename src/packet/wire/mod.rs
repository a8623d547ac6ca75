//! Headers: one description, checked readers, and writers.
//!
//! | module | does |
//! |---|---|
//! | [`layout`] | says where each field stands; the XDP program is assembled from it |
//! | [`view`] | reads the fields of the fixed part of each header |
//! | [`ethernet`], [`ip`], [`gre`], [`l4`], [`icmp`] | read whole headers from untrusted bytes, with options and extensions, and name what is wrong |
//! | [`plain`] | reads an IP packet without options that is whole, for the fast path |
//! | [`flow`] | tells the flow of a packet, and takes off GRE |
//! | [`mod@write`], [`checksum`], [`build`] | write headers; build packets for tests |
//!
//! A reader cannot panic, and its value needs no further check.

pub mod build;
pub mod checksum;
pub mod ethernet;
pub mod flow;
pub mod gre;
pub mod icmp;
pub mod ip;
pub mod l4;
pub mod layout;
pub mod plain;
pub mod view;
pub mod write;
