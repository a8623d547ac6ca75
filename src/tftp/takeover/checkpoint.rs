//! Checkpoint: the state of a transfer that another server needs to continue it.

use super::codec::{Reader, Writer};
use crate::content::Version;
use crate::options::{MAX_WINDOW, Terms};
use crate::rollover::Rollover;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Longest request in a checkpoint, so that a checkpoint is one unfragmented datagram.
pub const MAX_REQUEST: usize = 1024;

/// Identifies a transfer among all servers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// The destination address of the client's request.
    pub vip: IpAddr,
    /// The client. Never a link-local address, whose interface differs on another server.
    pub client: SocketAddr,
    /// The source port of answers; it identifies the owner.
    pub tid: u16,
}

/// State of a transfer on its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The transfer.
    pub id: Id,
    /// Distinguishes successive transfers with the same id.
    pub serial: u64,
    /// Whether options were negotiated.
    pub oack: bool,
    /// Whether the client has answered. Only then is the checkpoint never evicted for others.
    pub established: bool,
    /// The negotiated terms.
    pub terms: Terms,
    /// Bytes of the content.
    pub size: u64,
    /// Tag of the content.
    pub version: Version,
    /// The last acknowledged block, counted from 1 without wrapping.
    pub acked: u64,
    /// The request as received.
    pub request: Box<[u8]>,
}

impl Id {
    pub(super) fn write(&self, to: &mut Writer<'_>) {
        to.address(self.vip).address(self.client.ip()).u16(self.client.port()).u16(self.tid);
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Option<Id> {
        let (vip, client) = (from.address()?, from.address()?);
        Some(Id { vip, client: SocketAddr::new(client, from.u16()?), tid: from.u16()? })
    }
}

const OACK: u8 = 1;
const ESTABLISHED: u8 = 2;
const ROLLOVER_ONE: u8 = 4;

impl Checkpoint {
    /// Appends the checkpoint.
    pub fn write(&self, to: &mut Writer<'_>) {
        self.id.write(to);
        to.u64(self.serial);
        let one = self.terms.rollover == Rollover::One;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        to.u8(flag(self.oack, OACK) | flag(self.established, ESTABLISHED) | flag(one, ROLLOVER_ONE));
        let timeout = self.terms.timeout.map_or(0, |timeout| u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX));
        to.u16(self.terms.blksize).u16(self.terms.window).u32(timeout).u64(self.size).bytes(&self.version.0).u64(self.acked);
        to.text(&self.request);
    }

    /// Reads a checkpoint; `None` if it is malformed or has impossible values.
    pub fn read(from: &mut Reader<'_>) -> Option<Checkpoint> {
        let (id, serial) = (Id::read(from)?, from.u64()?);
        let flags = from.u8()?;
        let (blksize, window, timeout) = (from.u16()?, from.u16()?, from.u32()?);
        let (size, version, acked) = (from.u64()?, from.array()?, from.u64()?);
        let request = from.text()?;
        let sane = blksize >= 8 && (1..=MAX_WINDOW).contains(&window) && request.len() <= MAX_REQUEST;
        // Offsets and numbers of blocks that are computed from these values must not overflow.
        let sane = sane && size < 1 << 60 && acked <= size / u64::from(blksize.max(1)) + 1;
        let terms = Terms {
            blksize,
            window,
            timeout: (timeout > 0).then(|| Duration::from_micros(u64::from(timeout))),
            rollover: if flags & ROLLOVER_ONE == 0 { Rollover::Zero } else { Rollover::One },
        };
        let (oack, established) = (flags & OACK != 0, flags & ESTABLISHED != 0);
        sane.then(|| Checkpoint { id, serial, oack, established, terms, size, version: Version(version), acked, request: request.into() })
    }

    /// Returns the block that an ACK of this number acknowledges; `None` if the number may be an old one.
    pub fn acknowledged(&self, number: u16) -> Option<u64> {
        self.terms.rollover.acknowledged(self.acked, self.terms.window, number, self.last())
    }

    /// Returns the number of the last block.
    pub fn last(&self) -> u64 {
        self.size / u64::from(self.terms.blksize.max(1)) + 1
    }
}

#[cfg(test)]
pub(super) fn sample(port: u16) -> Checkpoint {
    Checkpoint {
        id: Id { vip: [192, 0, 2, 69].into(), client: SocketAddr::from(([198, 51, 100, (port >> 8) as u8], port)), tid: 20_001 },
        serial: 7,
        oack: true,
        established: false,
        terms: Terms { blksize: 1428, window: 4, timeout: Some(Duration::from_secs(3)), rollover: Rollover::Zero },
        size: 1 << 30,
        version: Version([9; 16]),
        acked: 70_000,
        request: (*b"\0\x01image\0octet\0").into(),
    }
}
