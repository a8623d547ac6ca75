//! Why netmap cannot be used, and what to do about it.

use crate::interface;
use netmap_rings::OpenError;

/// Why an interface cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface itself.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// One of its ports.
    #[error("io `netmap`: {0}")]
    Open(#[from] OpenError),
    /// Its name is none that netmap takes.
    #[error("io `netmap`: {0}")]
    Name(#[from] netmap_rings::NameError),
    /// Other interfaces receive for it.
    #[error("io `netmap`: `{bond}` is a bond, whose packets come by its slaves: use io `af_xdp`, which opens these, or `af_packet`")]
    Bond {
        /// Name of the bond.
        bond: String,
    },
    /// Frames do not fit a buffer.
    #[error(
        "interface `{interface}` has MTU {mtu}: with netmap's buffers of {buffer} bytes io `netmap` can do at most {most}; lower it \
         (`ip link set {interface} mtu {most}`) or give netmap larger buffers (/sys/module/netmap/parameters/buf_size)"
    )]
    Mtu {
        /// Name of the interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// Bytes of a buffer.
        buffer: usize,
        /// The largest that works.
        most: usize,
    },
}
