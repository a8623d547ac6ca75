//! Fence for the frame memory of an AF_XDP socket, and the books of whose each chunk is.
//!
//! The memory is cut into chunks of equal size, and each has one owner. Every step is checked against the books, in release builds too: an
//! address that comes back from the kernel is taken only if it lies in a chunk that is lent, a chunk is lent only if it is ours. So no chunk is
//! ever used twice, whatever the kernel says, and references into distinct chunks never overlap.
#![allow(unsafe_code)]

use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_sys::Mapping;
use std::io::{Error, ErrorKind, Result};

/// A chunk's number.
pub type Chunk = u32;

/// A frame as the kernel handed it over: its chunk, where it starts there, its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The chunk.
    pub chunk: Chunk,
    /// First byte of the frame in the chunk.
    pub start: u32,
    /// Bytes of the frame.
    pub len: u32,
}

/// Whose a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Ours, empty, and on the list of spare ones.
    Spare,
    /// Ours, with a received frame.
    Received,
    /// As `Received`, and a reference to its bytes exists.
    Shown,
    /// The kernel's: its address stands in a ring that the kernel reads.
    Lent,
}

/// The frame memory.
#[derive(Debug)]
pub struct Umem {
    map: Mapping,
    chunk_size: u32,
    owner: Vec<Owner>,
    spare: Vec<Chunk>,
}

impl Umem {
    /// Memory for `chunks` chunks of `chunk_size` bytes, a power of two.
    pub fn new(chunks: u32, chunk_size: u32) -> Result<Umem> {
        let map = Mapping::anonymous(chunks as usize * chunk_size as usize)?;
        Ok(Umem { map, chunk_size, owner: vec![Owner::Spare; chunks as usize], spare: (0..chunks).rev().collect() })
    }

    /// What the kernel is told of it.
    pub fn registration(&self) -> libc::xdp_umem_reg {
        libc::xdp_umem_reg {
            addr: self.map.start().as_ptr() as u64,
            len: self.map.len() as u64,
            chunk_size: self.chunk_size,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        }
    }

    /// How many chunks are ours and hold nothing.
    pub fn spare(&self) -> usize {
        self.spare.len()
    }

    /// How many chunks the kernel has.
    #[cfg(test)]
    pub fn lent(&self) -> usize {
        self.owner.iter().filter(|owner| **owner == Owner::Lent).count()
    }

    /// An empty chunk, lent to the kernel from now on: the address to put into the fill ring.
    pub fn lend_spare(&mut self) -> Option<u64> {
        let chunk = self.spare.pop()?;
        self.pass(chunk, Owner::Spare, Owner::Lent)?;
        Some(u64::from(chunk) * u64::from(self.chunk_size))
    }

    /// Copies a frame into an empty chunk and lends that: what to put into the transmit ring. `None` without a spare chunk, or for a frame that
    /// does not fit one.
    pub fn lend_copy(&mut self, frame: &[u8]) -> Option<libc::xdp_desc> {
        if frame.len() > self.chunk_size as usize {
            return None;
        }
        let address = self.lend_spare()?;
        // SAFETY: the chunk was spare, so nobody else has it, and the frame fits it; the kernel does not read it before it is published.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), self.map.start().as_ptr().add(address as usize), frame.len()) };
        Some(libc::xdp_desc { addr: address, len: frame.len() as u32, options: 0 })
    }

    /// Lends a chunk that was received: what to put into the transmit ring. `None`, and the chunk is spare, when `place` leaves the chunk.
    pub fn lend(&mut self, place: Place) -> Option<libc::xdp_desc> {
        if place.start.checked_add(place.len).is_none_or(|end| end > self.chunk_size) {
            self.release(place.chunk);
            return None;
        }
        self.pass(place.chunk, Owner::Received, Owner::Lent)?;
        Some(libc::xdp_desc {
            addr: u64::from(place.chunk) * u64::from(self.chunk_size) + u64::from(place.start),
            len: place.len,
            options: 0,
        })
    }

    /// Makes a chunk that was received spare again.
    pub fn release(&mut self, chunk: Chunk) {
        if self.pass(chunk, Owner::Received, Owner::Spare).is_some() {
            self.spare.push(chunk);
        }
    }

    /// Changes the owner of a chunk; `None`, and nothing changed, when it is not `from`'s.
    fn pass(&mut self, chunk: Chunk, from: Owner, to: Owner) -> Option<()> {
        let owner = self.owner.get_mut(chunk as usize).filter(|owner| **owner == from)?;
        *owner = to;
        Some(())
    }

    /// Takes back the chunk of an address that has come out of the completion ring, as spare.
    pub fn complete(&mut self, address: u64) -> Result<()> {
        let chunk = self.take_back(address, Owner::Spare)?;
        self.spare.push(chunk);
        Ok(())
    }

    /// Takes back what stands in a descriptor of the receive ring.
    pub fn receive(&mut self, desc: libc::xdp_desc) -> Result<Place> {
        let start = (desc.addr & u64::from(self.chunk_size - 1)) as u32;
        if start.checked_add(desc.len).is_none_or(|end| end > self.chunk_size) {
            return Err(nonsense(desc.addr));
        }
        Ok(Place { chunk: self.take_back(desc.addr, Owner::Received)?, start, len: desc.len })
    }

    fn take_back(&mut self, address: u64, owner: Owner) -> Result<Chunk> {
        let chunk = Chunk::try_from(address / u64::from(self.chunk_size)).map_err(|_| nonsense(address))?;
        self.pass(chunk, Owner::Lent, owner).ok_or_else(|| nonsense(address))?;
        Ok(chunk)
    }

    /// The frames at `places`, each in its whole chunk. Returns how many: it ends before a chunk that was not received, or stands there twice.
    pub fn frames<'u>(&'u mut self, places: &[Place], frames: &mut [Frame<'u>; BATCH]) -> usize {
        let size = self.chunk_size as usize;
        for (at, (place, frame)) in places.iter().zip(frames.iter_mut()).enumerate() {
            if self.pass(place.chunk, Owner::Received, Owner::Shown).is_none() {
                return at;
            }
            // SAFETY: the chunk lies in the mapping, is ours, and was not shown before, so this is its only reference; `self` stays mutably
            // borrowed for as long as the frame lives, so that nobody gets the chunk before.
            let chunk = unsafe { std::slice::from_raw_parts_mut(self.map.start().as_ptr().add(place.chunk as usize * size), size) };
            *frame = Frame::new(chunk, place.start as usize, place.len as usize);
        }
        places.len().min(BATCH)
    }

    /// Ends what `frames` began.
    pub fn frames_done(&mut self, places: &[Place]) {
        for place in places {
            self.pass(place.chunk, Owner::Shown, Owner::Received);
        }
    }
}

fn nonsense(address: u64) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the kernel handed back frame memory that it does not have (address {address:#x})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::frame::HEADROOM;

    fn desc(addr: u64, len: u32) -> libc::xdp_desc {
        libc::xdp_desc { addr, len, options: 0 }
    }

    #[test]
    fn a_chunk_goes_round_and_is_never_anywhere_twice() {
        let mut umem = Umem::new(4, 2048).unwrap();
        let address = umem.lend_spare().unwrap();
        assert_eq!((umem.spare(), umem.lent()), (3, 1));
        let place = umem.receive(desc(address + 256, 60)).unwrap();
        assert!(umem.receive(desc(address + 256, 60)).is_err(), "received twice");
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        assert_eq!(umem.frames(&[place, place], &mut frames), 1, "shown twice");
        assert!(frames[0].start() >= HEADROOM && frames[0].len() == 60);
        umem.frames_done(&[place]);
        let sent = umem.lend(Place { start: 200, len: 116, ..place }).unwrap();
        assert_eq!((sent.addr, sent.len), (address + 200, 116));
        assert!(umem.lend(place).is_none(), "lent twice");
        umem.release(place.chunk);
        assert_eq!(umem.spare(), 3, "what is lent is not made spare");
        umem.complete(address + 200).unwrap();
        assert!(umem.complete(address + 200).is_err(), "completed twice");
        assert_eq!((umem.spare(), umem.lent()), (4, 0));
    }

    #[test]
    fn nonsense_from_the_kernel_is_refused() {
        let mut umem = Umem::new(4, 2048).unwrap();
        while umem.lend_spare().is_some() {}
        for bad in [desc(4 * 2048, 60), desc(u64::MAX, 60), desc(2048 + 256, 1793), desc(0, u32::MAX)] {
            assert!(umem.receive(bad).is_err());
        }
        assert!(umem.complete(4 * 2048).is_err());
        assert_eq!(umem.lent(), 4);
        let place = umem.receive(desc(256, 60)).unwrap();
        assert!(umem.lend(Place { start: 2000, len: 49, ..place }).is_none());
        assert_eq!(umem.spare(), 1, "a frame that leaves its chunk is not sent, and its chunk is not lost");
    }

    #[test]
    fn own_frames_are_copied_into_spare_chunks() {
        let mut umem = Umem::new(1, 2048).unwrap();
        assert!(umem.lend_copy(&[0; 2049]).is_none());
        assert_eq!(umem.lend_copy(&[7; 60]).map(|d| d.len), Some(60));
        assert!(umem.lend_copy(&[7; 60]).is_none());
    }
}
