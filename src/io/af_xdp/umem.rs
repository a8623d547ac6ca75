//! Fence for the frame memory (UMEM) of an AF_XDP socket. It tracks the owner of each chunk.
//!
//! The memory is divided into chunks of equal size, and each has one owner. Every step checks the owner, in release builds too: an address that
//! comes back from the kernel is accepted only if the kernel owns its chunk, and a chunk is submitted only if it is ours. So no chunk is ever used
//! twice, whatever the kernel does, and references into distinct chunks never overlap.
#![allow(unsafe_code)]

use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_sys::Mapping;
use std::io::{Error, ErrorKind, Result};

/// A chunk's number.
pub type Chunk = u32;

/// A frame as the kernel handed it over: its chunk, where it starts there, its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameLocation {
    /// The chunk.
    pub chunk: Chunk,
    /// First byte of the frame in the chunk.
    pub start: u32,
    /// Bytes of the frame.
    pub len: u32,
}

/// The owner of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Ours, empty, and in the free list.
    Free,
    /// Ours, with a received frame.
    Received,
    /// As `Received`, and a reference to its bytes exists.
    Borrowed,
    /// The kernel's: its address stands in a ring that the kernel reads.
    Kernel,
}

/// The frame memory.
#[derive(Debug)]
pub struct Umem {
    map: Mapping,
    chunk_size: u32,
    owner: Vec<Owner>,
    free: Vec<Chunk>,
}

impl Umem {
    /// Memory for `chunks` chunks of `chunk_size` bytes, a power of two.
    pub fn new(chunks: u32, chunk_size: u32) -> Result<Umem> {
        let map = Mapping::anonymous(chunks as usize * chunk_size as usize)?;
        Ok(Umem { map, chunk_size, owner: vec![Owner::Free; chunks as usize], free: (0..chunks).rev().collect() })
    }

    /// The registration of the memory with the kernel.
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

    /// Returns the number of free chunks.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Returns the number of chunks that the kernel owns.
    #[cfg(test)]
    pub fn kernel_owned(&self) -> usize {
        self.owner.iter().filter(|owner| **owner == Owner::Kernel).count()
    }

    /// Gives a free chunk to the kernel. Returns the address to put into the fill ring.
    pub fn submit_free(&mut self) -> Option<u64> {
        let chunk = self.free.pop()?;
        self.transfer(chunk, Owner::Free, Owner::Kernel)?;
        Some(u64::from(chunk) * u64::from(self.chunk_size))
    }

    /// Copies a frame into a free chunk and gives that to the kernel. Returns the descriptor to put into the transmit ring, or `None` if no chunk is
    /// free or the frame is too long.
    pub fn submit_copy(&mut self, frame: &[u8]) -> Option<libc::xdp_desc> {
        if frame.len() > self.chunk_size as usize {
            return None;
        }
        let address = self.submit_free()?;
        // SAFETY: the chunk was free, so nothing else refers to it, and the frame fits it; the kernel does not read it before it is published.
        unsafe { std::ptr::copy_nonoverlapping(frame.as_ptr(), self.map.start().as_ptr().add(address as usize), frame.len()) };
        Some(libc::xdp_desc { addr: address, len: frame.len() as u32, options: 0 })
    }

    /// Gives a received chunk to the kernel. Returns the descriptor to put into the transmit ring. If `place` exceeds the chunk, returns `None` and frees it.
    pub fn submit(&mut self, place: FrameLocation) -> Option<libc::xdp_desc> {
        if place.start.checked_add(place.len).is_none_or(|end| end > self.chunk_size) {
            self.release(place.chunk);
            return None;
        }
        self.transfer(place.chunk, Owner::Received, Owner::Kernel)?;
        Some(libc::xdp_desc {
            addr: u64::from(place.chunk) * u64::from(self.chunk_size) + u64::from(place.start),
            len: place.len,
            options: 0,
        })
    }

    /// Frees a received chunk.
    pub fn release(&mut self, chunk: Chunk) {
        if self.transfer(chunk, Owner::Received, Owner::Free).is_some() {
            self.free.push(chunk);
        }
    }

    /// Changes the owner of a chunk. Returns `None` and changes nothing if `from` does not own it.
    fn transfer(&mut self, chunk: Chunk, from: Owner, to: Owner) -> Option<()> {
        let owner = self.owner.get_mut(chunk as usize).filter(|owner| **owner == from)?;
        *owner = to;
        Some(())
    }

    /// Frees the chunk of an address from the completion ring.
    pub fn complete(&mut self, address: u64) -> Result<()> {
        let chunk = self.take_back(address, Owner::Free)?;
        self.free.push(chunk);
        Ok(())
    }

    /// Takes back the chunk of a descriptor from the receive ring.
    pub fn receive(&mut self, desc: libc::xdp_desc) -> Result<FrameLocation> {
        let start = (desc.addr & u64::from(self.chunk_size - 1)) as u32;
        if start.checked_add(desc.len).is_none_or(|end| end > self.chunk_size) {
            return Err(invalid_address(desc.addr));
        }
        Ok(FrameLocation { chunk: self.take_back(desc.addr, Owner::Received)?, start, len: desc.len })
    }

    fn take_back(&mut self, address: u64, owner: Owner) -> Result<Chunk> {
        let chunk = Chunk::try_from(address / u64::from(self.chunk_size)).map_err(|_| invalid_address(address))?;
        self.transfer(chunk, Owner::Kernel, owner).ok_or_else(|| invalid_address(address))?;
        Ok(chunk)
    }

    /// Writes the frames at `locations` into `frames`, each with its whole chunk. Returns how many: it stops at a chunk that was not received or that appears twice.
    pub fn frames<'u>(&'u mut self, locations: &[FrameLocation], frames: &mut [Frame<'u>; BATCH]) -> usize {
        let size = self.chunk_size as usize;
        for (at, (place, frame)) in locations.iter().zip(frames.iter_mut()).enumerate() {
            if self.transfer(place.chunk, Owner::Received, Owner::Borrowed).is_none() {
                return at;
            }
            // SAFETY: the chunk lies in the mapping, is ours, and was not borrowed before, so this is its only reference; `self` stays mutably
            // borrowed for as long as the frame lives, so that no other reference to the chunk can be made.
            let chunk = unsafe { std::slice::from_raw_parts_mut(self.map.start().as_ptr().add(place.chunk as usize * size), size) };
            *frame = Frame::new(chunk, place.start as usize, place.len as usize);
        }
        locations.len().min(BATCH)
    }

    /// Ends the borrow of the chunks that `frames` gave out.
    pub fn frames_done(&mut self, locations: &[FrameLocation]) {
        for place in locations {
            self.transfer(place.chunk, Owner::Borrowed, Owner::Received);
        }
    }
}

fn invalid_address(address: u64) -> Error {
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
        let address = umem.submit_free().unwrap();
        assert_eq!((umem.free(), umem.kernel_owned()), (3, 1));
        let place = umem.receive(desc(address + 256, 60)).unwrap();
        assert!(umem.receive(desc(address + 256, 60)).is_err(), "received twice");
        let mut frames: [Frame<'_>; BATCH] = std::array::from_fn(|_| Frame::new(&mut [], 0, 0));
        assert_eq!(umem.frames(&[place, place], &mut frames), 1, "borrowed twice");
        assert!(frames[0].start() >= HEADROOM && frames[0].len() == 60);
        umem.frames_done(&[place]);
        let sent = umem.submit(FrameLocation { start: 200, len: 116, ..place }).unwrap();
        assert_eq!((sent.addr, sent.len), (address + 200, 116));
        assert!(umem.submit(place).is_none(), "submitted twice");
        umem.release(place.chunk);
        assert_eq!(umem.free(), 3, "a chunk of the kernel is not freed");
        umem.complete(address + 200).unwrap();
        assert!(umem.complete(address + 200).is_err(), "completed twice");
        assert_eq!((umem.free(), umem.kernel_owned()), (4, 0));
    }

    #[test]
    fn nonsense_from_the_kernel_is_refused() {
        let mut umem = Umem::new(4, 2048).unwrap();
        while umem.submit_free().is_some() {}
        for bad in [desc(4 * 2048, 60), desc(u64::MAX, 60), desc(2048 + 256, 1793), desc(0, u32::MAX)] {
            assert!(umem.receive(bad).is_err());
        }
        assert!(umem.complete(4 * 2048).is_err());
        assert_eq!(umem.kernel_owned(), 4);
        let place = umem.receive(desc(256, 60)).unwrap();
        assert!(umem.submit(FrameLocation { start: 2000, len: 49, ..place }).is_none());
        assert_eq!(umem.free(), 1, "a frame that leaves its chunk is not sent, and its chunk is not lost");
    }

    #[test]
    fn own_frames_are_copied_into_free_chunks() {
        let mut umem = Umem::new(1, 2048).unwrap();
        assert!(umem.submit_copy(&[0; 2049]).is_none());
        assert_eq!(umem.submit_copy(&[7; 60]).map(|d| d.len), Some(60));
        assert!(umem.submit_copy(&[7; 60]).is_none());
    }
}
