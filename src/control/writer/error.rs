//! Reasons for which the writer refuses a configuration.

use std::net::IpAddr;
use std::time::Duration;

/// A range that was given up a short time ago would go to another backend, and with it the transfers that still live there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool.{pool}: backend {backend} cannot have tid_range {}-{}: ports {}-{} belonged to {former} ({former_address}), whose transfers may live for \
     another {} s; wait so long, choose another range, or lower `retire` in [director] (now {} s)",
    range.0, range.1, former_range.0, former_range.1, left.as_secs().max(1), retire.as_secs()
)]
pub struct RangeHeld {
    /// Who would get the range.
    pub backend: String,
    /// In which pool.
    pub pool: String,
    /// The range in the file.
    pub range: (u16, u16),
    /// Who had it.
    pub former: String,
    /// Address of who had it.
    pub former_address: IpAddr,
    /// What it had.
    pub former_range: (u16, u16),
    /// For how long it is still held.
    pub left: Duration,
    /// `[director] retire`
    pub retire: Duration,
}

/// Why a configuration was refused. The tables that were built last stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A range that was given up a short time ago would go to another backend.
    #[error(transparent)]
    RangeHeld(Box<RangeHeld>),
    /// More backends within half a day than there are numbers.
    #[error(
        "no backend number is free: 65,535 are in use or rest for 12 h after their backend was removed; restart the director to free them"
    )]
    IdsExhausted,
    /// The director has no address of the backend's family.
    #[error("backend {backend} has address {address}, but [director] address has none of that family to send GRE from")]
    Family {
        /// Which backend.
        backend: String,
        /// Its address.
        address: IpAddr,
    },
    /// A VIP names a pool that is not there.
    #[error("vip {vip}: pool `{pool}` is not in the file")]
    Pool {
        /// Which VIP.
        vip: IpAddr,
        /// The name that it gives.
        pool: String,
    },
    /// The Maglev table over the directors of the fleet cannot be built.
    #[error("director.fleet: {reason}")]
    Fleet {
        /// Why.
        reason: String,
    },
    /// The Maglev table cannot be built.
    #[error("pool.{pool}: {reason}")]
    Table {
        /// Which pool.
        pool: String,
        /// Why.
        reason: String,
    },
}
