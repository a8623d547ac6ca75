//! Fence for the receive ring that an AF_PACKET socket shares with the kernel (TPACKET_V2).
//!
//! A slot belongs either to the kernel or to us; its status word says to whom. References into a slot are only made while it is ours, and the
//! borrow of the ring keeps it ours for as long as they live.
#![allow(unsafe_code)]

use crate::checksum::{self, Checksum};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::io::BATCH;
use guideway_packet::loss::{Loss, Losses};
use guideway_packet::wire::layout::ethernet;
use guideway_packet::wire::write::put16;
use guideway_sys::{self as sys, Mapping};
use std::io::Result;
use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the frame's buffer begins in a slot: after the header of the slot and the address that stands behind it.
const BUFFER: usize = (size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT)) + size_of::<libc::sockaddr_ll>();
/// A VLAN tag that the kernel took off and we put back.
const TAG: usize = ethernet::TAG_LEN;
/// What we ask the kernel to leave free. It adds some bytes of its own, which we do not count on.
const RESERVE: usize = (HEADROOM + TAG).next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Memory of one ring in bytes, with frames of the usual MTU: 4,096 slots of 2 KiB.
const RING: usize = 8 << 20;
const BLOCK: usize = 64 << 10;

/// A ring of slots of equal size.
#[derive(Debug)]
pub struct Ring {
    map: Mapping,
    slot: usize,
    slots: usize,
    next: usize,
    held: usize,
    /// What was in the ring and cannot be shown.
    losses: Losses,
    finished: u64,
}

impl Ring {
    /// Sets the ring up on a packet socket that is not bound yet, for IP packets of at most `mtu` bytes.
    pub fn new(fd: BorrowedFd<'_>, mtu: u32) -> Result<Ring> {
        let slot = slot_size(mtu);
        let block = BLOCK.max(slot);
        let req = libc::tpacket_req {
            tp_block_size: block as u32,
            tp_block_nr: (RING / block) as u32,
            tp_frame_size: slot as u32,
            tp_frame_nr: (RING / slot) as u32,
        };
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RESERVE, &(RESERVE as u32))?;
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &req)?;
        let map = Mapping::shared(fd, RING, 0)?;
        Ok(Ring { map, slot, slots: RING / slot, next: 0, held: 0, losses: Losses::default(), finished: 0 })
    }

    fn slot(&self, ahead: usize) -> *mut u8 {
        let index = (self.next + ahead) % self.slots;
        // SAFETY: `index < slots`, and `slots × slot` is the length of the mapping.
        unsafe { self.map.start().as_ptr().add(index * self.slot) }
    }

    fn status(&self, ahead: usize) -> &AtomicU32 {
        let at = offset_of!(libc::tpacket2_hdr, tp_status);
        // SAFETY: within the slot and aligned (slots are page-aligned fractions); both sides access it only as an atomic word, and the mapping
        // outlives the reference, which borrows `self`.
        unsafe { AtomicU32::from_ptr(self.slot(ahead).add(at).cast()) }
    }

    /// What was in the ring and could not be shown.
    pub fn losses(&self) -> Losses {
        self.losses
    }

    /// How many checksums were finished that a local sender had left to its card.
    pub fn finished_checksums(&self) -> u64 {
        self.finished
    }

    /// Takes the frames that are there, at most a batch, into the front of `frames`; returns how many slots were taken, and how many frames are shown. They stay
    /// ours until `release`.
    pub fn receive<'r>(&'r mut self, frames: &mut [Frame<'r>; BATCH]) -> (usize, usize) {
        let mut count = 0;
        while count < BATCH.min(self.slots) && self.status(count).load(Ordering::Acquire) & libc::TP_STATUS_USER != 0 {
            count += 1;
        }
        self.held = count;
        let mut shown = 0;
        let (mut losses, mut finished) = (self.losses, self.finished);
        for ahead in 0..count {
            let slot = self.slot(ahead);
            // SAFETY: the status word said that the slot is ours, so the kernel writes none of it until `release`. The header and the buffer
            // behind it do not overlap, the slots of one batch are distinct, and `self` stays mutably borrowed for as long as the frame lives.
            let (header, buffer) = unsafe {
                let buffer = std::slice::from_raw_parts_mut(slot.add(BUFFER), self.slot - BUFFER);
                (slot.cast::<libc::tpacket2_hdr>().read(), buffer)
            };
            let mut frame = place(&header, buffer);
            // The rest of a longer frame is lost: only GRO and the like make frames longer than the MTU for which the ring is made.
            if header.tp_snaplen < header.tp_len {
                losses.add(Loss::SuperFrame, 1);
                continue;
            }
            if header.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0 {
                match checksum::finish(frame.bytes_mut()) {
                    Checksum::Finished => finished += 1,
                    Checksum::Right => (),
                    Checksum::Other => {
                        losses.add(Loss::UnfinishedChecksum, 1);
                        continue;
                    }
                }
            }
            frames[shown] = frame;
            shown += 1;
        }
        (self.losses, self.finished) = (losses, finished);
        (count, shown)
    }

    /// Gives the slots of the last `receive` back to the kernel.
    pub fn release(&mut self) {
        for ahead in 0..self.held {
            self.status(ahead).store(libc::TP_STATUS_KERNEL, Ordering::Release);
        }
        self.next = (self.next + self.held) % self.slots;
        self.held = 0;
    }
}

/// Bytes of a slot: a power of two, so that slots fill blocks and pages.
fn slot_size(mtu: u32) -> usize {
    // What the kernel puts before the IP header (`tpacket_rcv`): its header and address, at least 16 bytes for the link layer, the reserve.
    let before = (BUFFER + 16).next_multiple_of(libc::TPACKET_ALIGNMENT) + RESERVE;
    (before + mtu.min(65_535) as usize).next_power_of_two().max(2048)
}

/// The frame that a slot's header describes; with its VLAN tag put back where the kernel (or the card) took it off.
fn place<'b>(header: &libc::tpacket2_hdr, buffer: &'b mut [u8]) -> Frame<'b> {
    let mut start = usize::from(header.tp_mac).saturating_sub(BUFFER);
    let mut len = header.tp_snaplen as usize;
    if header.tp_status & libc::TP_STATUS_VLAN_VALID != 0 && start >= TAG && start + ethernet::ETHERTYPE <= buffer.len() {
        let tpid = if header.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0 { header.tp_vlan_tpid } else { ethernet::VLAN };
        buffer.copy_within(start..start + ethernet::ETHERTYPE, start - TAG);
        start -= TAG;
        len += TAG;
        put16(buffer, start + ethernet::ETHERTYPE, tpid);
        put16(buffer, start + ethernet::ETHERTYPE + 2, header.tp_vlan_tci);
    }
    Frame::new(buffer, start, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(status: u32, mac: u16, len: u32) -> libc::tpacket2_hdr {
        libc::tpacket2_hdr {
            tp_status: status,
            tp_len: len,
            tp_snaplen: len,
            tp_mac: mac,
            tp_net: mac + 14,
            tp_sec: 0,
            tp_nsec: 0,
            tp_vlan_tci: 0x2007,
            tp_vlan_tpid: 0x88a8,
            tp_padding: [0; 4],
        }
    }

    #[test]
    fn a_tag_that_was_taken_off_comes_back() {
        let tags = [
            (libc::TP_STATUS_VLAN_VALID, [0x81, 0x00, 0x20, 0x07]),
            (libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID, [0x88, 0xa8, 0x20, 0x07]),
        ];
        for (status, tag) in tags {
            let mut buffer: Vec<u8> = (0..200).collect();
            let frame = place(&header(status, BUFFER as u16 + 80, 60), &mut buffer);
            let want = [(80..92).collect(), tag.to_vec(), (92..140).collect::<Vec<u8>>()].concat();
            assert_eq!((frame.bytes(), frame.start()), (&want[..], 76));
        }
    }

    #[test]
    fn a_slot_header_that_makes_no_sense_stays_within_its_slot() {
        let mut buffer = [0u8; 100];
        assert_eq!(place(&header(libc::TP_STATUS_VLAN_VALID, 0, 60), &mut buffer).len(), 60, "no room for the tag");
        assert!(place(&header(0, u16::MAX - 14, u32::MAX), &mut buffer).is_empty());
        assert!(place(&header(libc::TP_STATUS_VLAN_VALID, BUFFER as u16 + 95, 60), &mut buffer).len() <= 5);
    }

    #[test]
    fn slots_hold_the_mtu_and_the_headroom() {
        assert_eq!([slot_size(1280), slot_size(1500), slot_size(9000), slot_size(u32::MAX)], [2048, 2048, 16384, 131_072]);
    }
}
