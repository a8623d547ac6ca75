//! Frames in, verdict and frames out: fixtures that read as sentences.

mod balance;
mod forward;
mod fragments;
mod heirs;
mod hostile;
mod icmp;
mod lingering;
mod mtu;
mod reasons;
mod sites;
mod spread;
mod steering;
mod ways;
pub(crate) mod world;
