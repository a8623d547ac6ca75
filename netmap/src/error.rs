//! What can go wrong, and what to do about it.

use crate::name::{MAX_NAME_LEN, NameError};

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name itself.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `/dev/netmap` is missing.
    #[error(
        "there is no /dev/netmap: load netmap's kernel module (`modprobe netmap`), built for this very kernel from https://github.com/luigirizzo/netmap"
    )]
    NoModule,
    /// `/dev/netmap` may not be opened.
    #[error("no permission for /dev/netmap: run as root, or let a group in (`chgrp netmap /dev/netmap && chmod 660 /dev/netmap`)")]
    Permission,
    /// The module is older or newer than what is spoken here.
    #[error(
        "the netmap module does not speak API version {ours}: it is too old; build a newer one from https://github.com/luigirizzo/netmap"
    )]
    Version {
        /// The version of this crate.
        ours: u32,
    },
    /// There is no such interface.
    #[error("there is no network interface `{name}` in this network namespace (see `ip link`), or netmap cannot drive it")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// The interface has fewer rings.
    #[error("`{name}` has no ring {ring}: it has {tx} to transmit and {rx} to receive, counted from 0 (see `ethtool -l {name}`)")]
    NoRing {
        /// Name of the port.
        name: String,
        /// The requested ring.
        ring: u16,
        /// Transmit rings that it has.
        tx: u16,
        /// Receive rings that it has.
        rx: u16,
    },
    /// Somebody has these rings already.
    #[error("rings of `{name}` are in use: end the other program on it, or another port of this one; a port is opened exclusively")]
    Busy {
        /// Name of the port.
        name: String,
    },
    /// The interface leaves work to the card that netmap does not do.
    #[error("`{interface}` has offloads on ({on}): frames would come and go unfinished; run `{fix}`")]
    Offloads {
        /// Name of the interface.
        interface: String,
        /// Their names, as ethtool says them.
        on: String,
        /// The line that mends it.
        fix: String,
    },
    /// The kernel or the region has no memory left.
    #[error(
        "no memory for the rings of `{name}`: raise netmap's pools (`/sys/module/netmap/parameters/buf_num`, `ring_num`, `ring_size`), or \
         give the interface shorter or fewer rings (`ethtool -G`, `ethtool -L`)"
    )]
    Memory {
        /// Name of the port.
        name: String,
    },
    /// The port has no rings of this kind, or the module was built without them.
    #[error(
        "`{name}`: this netmap module or port does not support that. Pipes, VALE switches and host rings are options of the module, and no port of a switch may have the name of a network interface"
    )]
    Unsupported {
        /// Name of the port.
        name: String,
    },
    /// The kernel's number for the name is beyond what it has room for.
    #[error("the kernel has no room for `{name}`: at most {MAX_NAME_LEN} bytes")]
    NoRoomForName {
        /// Name of the port.
        name: String,
    },
    /// What the kernel laid out does not hold together.
    #[error("`{name}`: the shared memory is not laid out as netmap documents it: {what}")]
    Layout {
        /// Name of the port.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Any other refusal.
    #[error("`{name}`: cannot {what}: {error}")]
    Kernel {
        /// Name of the port.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
}

/// Shared memory that says what cannot be, or a call that cannot be done. A ring that has said so once is of no more use: open the port anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// `tail` lies outside the ring.
    #[error("netmap: the ring's tail is {tail}, and it has {slots} slots")]
    Tail {
        /// What it says.
        tail: u32,
        /// Slots that there are.
        slots: u32,
    },
    /// `tail` has moved backwards: slots that were ours have been taken back.
    #[error("netmap: the ring's tail went backwards, from {before} to {tail}")]
    Backwards {
        /// What it said before.
        before: u32,
        /// What it says.
        tail: u32,
    },
    /// `head` or `cur`, which only we write, has changed: the kernel has reset the ring.
    #[error("netmap: head and cur of the ring are {head} and {cur} where {ours} was written: the ring was reset")]
    Reset {
        /// What `head` says.
        head: u32,
        /// What `cur` says.
        cur: u32,
        /// What was written.
        ours: u32,
    },
    /// A transmit slot holds no buffer that can be ours.
    #[error("netmap: transmit slot {slot} holds buffer {buffer}, which cannot be")]
    Buffer {
        /// Number of the slot.
        slot: u32,
        /// Number of the buffer.
        buffer: u32,
    },
    /// The frame does not fit a buffer.
    #[error("netmap: a frame of {len} bytes does not fit a buffer of {room}")]
    TooLong {
        /// Bytes of the frame.
        len: usize,
        /// Bytes of a buffer.
        room: usize,
    },
    /// The rings' memory is not the same.
    #[error("netmap: the two rings live in different memory regions: copy the frame, a buffer cannot move")]
    OtherRegion,
    /// The entry of the batch has been given away already, or never was.
    #[error("netmap: entry {0} of the batch is not there, or has been sent already")]
    AlreadySent(usize),
}

impl From<RingError> for std::io::Error {
    fn from(error: RingError) -> std::io::Error {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}
