//! Frames in, verdict and frames out: fixtures that read as sentences.

mod balance;
mod draining;
mod entropy;
mod equivalence;
pub(crate) mod fixture;
mod fleet;
mod forward;
mod fragments;
mod hostile;
mod icmp;
mod keepalive;
mod mtu;
mod reasons;
mod remote_site;
mod steering;
mod steering_hash;
mod successors;
mod workers;
