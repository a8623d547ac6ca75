//! A host's network: namespaces, links, addresses, routes and TUN devices.

pub mod cpus;
pub mod error;
pub mod netlink;
pub mod netns;
pub mod tun;
pub mod vip;
