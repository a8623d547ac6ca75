//! What another server must know of a transfer to go on with it.

use super::wire::{Reader, Writer};
use crate::content::Version;
use crate::options::{MAX_WINDOW, Rollover, Terms};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The longest request that a note holds: a note is one datagram that no path cuts.
pub const LONGEST_REQUEST: usize = 1024;

/// Names a transfer among all servers of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// The address that the client asked.
    pub vip: IpAddr,
    /// The client. Never one that is told apart by an interface (a link-local one): another server has other interfaces.
    pub client: SocketAddr,
    /// The port that the client is answered from; it names the owner.
    pub tid: u16,
}

/// A transfer as its server saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Which.
    pub id: Id,
    /// Which of the transfers that had this name one after the other.
    pub serial: u64,
    /// Whether options were negotiated.
    pub oack: bool,
    /// Whether the client has answered. A note that says so is kept for certain, one that does not only as long as there is room.
    pub heard: bool,
    /// What was negotiated.
    pub terms: Terms,
    /// Bytes of the content.
    pub size: u64,
    /// Tag of the content.
    pub version: Version,
    /// All blocks up to this one are acknowledged, counted from 1 without wrapping.
    pub acked: u64,
    /// The request as it came.
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
const HEARD: u8 = 2;
const ROLLOVER_ONE: u8 = 4;

impl Note {
    /// Appends it.
    pub fn write(&self, to: &mut Writer<'_>) {
        self.id.write(to);
        to.u64(self.serial);
        let one = self.terms.rollover == Rollover::One;
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        to.u8(flag(self.oack, OACK) | flag(self.heard, HEARD) | flag(one, ROLLOVER_ONE));
        let timeout = self.terms.timeout.map_or(0, |timeout| u32::try_from(timeout.as_micros()).unwrap_or(u32::MAX));
        to.u16(self.terms.blksize).u16(self.terms.window).u32(timeout).u64(self.size).bytes(&self.version.0).u64(self.acked);
        to.text(&self.request);
    }

    /// Reads one; nothing when it is none, or says what no server says.
    pub fn read(from: &mut Reader<'_>) -> Option<Note> {
        let (id, serial) = (Id::read(from)?, from.u64()?);
        let flags = from.u8()?;
        let (blksize, window, timeout) = (from.u16()?, from.u16()?, from.u32()?);
        let (size, version, acked) = (from.u64()?, from.array()?, from.u64()?);
        let request = from.text()?;
        let sane = blksize >= 8 && (1..=MAX_WINDOW).contains(&window) && request.len() <= LONGEST_REQUEST;
        // Whoever computes a block's offset or its number from these must not overflow.
        let sane = sane && size < 1 << 60 && acked <= size / u64::from(blksize.max(1)) + 1;
        let terms = Terms {
            blksize,
            window,
            timeout: (timeout > 0).then(|| Duration::from_micros(u64::from(timeout))),
            rollover: if flags & ROLLOVER_ONE == 0 { Rollover::Zero } else { Rollover::One },
        };
        let (oack, heard) = (flags & OACK != 0, flags & HEARD != 0);
        sane.then(|| Note { id, serial, oack, heard, terms, size, version: Version(version), acked, request: request.into() })
    }

    /// The number of the last block.
    pub fn last(&self) -> u64 {
        self.size / u64::from(self.terms.blksize.max(1)) + 1
    }
}

#[cfg(test)]
pub fn sample(port: u16) -> Note {
    Note {
        id: Id { vip: [192, 0, 2, 69].into(), client: SocketAddr::from(([198, 51, 100, (port >> 8) as u8], port)), tid: 20_001 },
        serial: 7,
        oack: true,
        heard: false,
        terms: Terms { blksize: 1428, window: 4, timeout: Some(Duration::from_secs(3)), rollover: Rollover::Zero },
        size: 1 << 30,
        version: Version([9; 16]),
        acked: 70_000,
        request: (*b"\0\x01image\0octet\0").into(),
    }
}
