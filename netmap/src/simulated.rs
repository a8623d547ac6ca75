//! A netmap in ordinary memory: the kernel's side of an interface or a pipe, for tests on machines without the module.
//!
//! Fence. The memory is laid out from netmap's documentation (the comments and structures of `net/netmap.h`), with numbers and arithmetic of its
//! own: nothing here goes through the code that it tests. Like the kernel it looks at a ring only when the ring is synced; with
//! [`Simulated::set_manual`] it looks on request, from any thread, like a kernel that breaks the contract.
//!
//! ```
//! use netmap_rings::simulated::Simulated;
//!
//! let network = Simulated::interface(1, 256);
//! let mut port = network.open("netmap:sim0")?;
//! network.inject(0, b"a frame of sixty bytes would be usual");
//! port.sync_rx()?;
//! assert_eq!(port.rings().rx[0].batch(64)?.len(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![allow(unsafe_code)]

mod state;

pub use state::{RingKind, RingWord, SlotWords};

use crate::device::{Events, Kernel, Ready};
use crate::error::OpenError;
use crate::memory::Region;
use crate::name::{Kind, PortName, Rings};
use crate::port::Port;
use state::State;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::any::Any;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// The memory, shared by both sides.
struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: plain memory; the accesses are up to the two sides.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    fn new(len: usize) -> Block {
        let layout = Layout::from_size_align(len.max(PAGE), PAGE).unwrap_or(Layout::new::<u8>());
        // SAFETY: the size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Block { start, layout }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody has it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

struct Shared {
    state: Mutex<State>,
    woken: Condvar,
    region: Arc<Region>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that failed elsewhere has left the state as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel, and what lies beyond it: the wire and the host's network stack, or the other end of a pipe.
#[derive(Clone)]
pub struct Simulated(Arc<Shared>);

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Simulated")
    }
}

impl Simulated {
    /// An interface `sim0` with so many pairs of rings, a pair to the host, and so many slots in each.
    pub fn interface(rings: u16, slots: u32) -> Simulated {
        Simulated::new(State::interface(rings, slots))
    }

    /// A pipe, whose ends are `sim{1` and `sim}1`.
    pub fn pipe(slots: u32) -> Simulated {
        Simulated::new(State::pipe(slots))
    }

    fn new(mut state: State) -> Simulated {
        let block = Arc::new(Block::new(state.size()));
        let (start, len) = (block.start, block.layout.size());
        // SAFETY: zeroed memory of that size, which the region keeps for as long as there is anything that reaches the state.
        unsafe { state.lay_out(start) };
        let owner: Arc<dyn Any + Send + Sync> = block;
        // SAFETY: aligned to a page; `state` touches slots and buffers that are the kernel's, and headers by atomics.
        let region = Arc::new(unsafe { Region::from_raw_parts(start, len, owner) });
        Simulated(Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new(), region }))
    }

    /// Opens a port, as `Port::open` would.
    ///
    /// # Errors
    /// Those of the kernel: no such interface or ring, or the rings are in use.
    pub fn open(&self, name: &str) -> Result<Port, OpenError> {
        self.open_named(&name.parse()?)
    }

    /// As [`Simulated::open`], for a name that is made already.
    ///
    /// # Errors
    /// As for [`Simulated::open`].
    pub fn open_named(&self, name: &PortName) -> Result<Port, OpenError> {
        let text = name.as_str().to_owned();
        let mut state = self.0.state();
        let rings = match (name.kind(), name.as_str(), name.rings()) {
            (Kind::Interface, "sim0", rings) => state.rings_of_interface(rings),
            (Kind::Pipe, "sim{1", _) => state.rings_of_pipe(0),
            (Kind::Pipe, "sim}1", _) => state.rings_of_pipe(1),
            _ => None,
        };
        let Some(rings) = rings.filter(|rings| !rings.is_empty()) else {
            return Err(match name.rings() {
                Rings::One(ring) if name.as_str() == "sim0" => OpenError::NoRing { name: text, ring, tx: state.pairs(), rx: state.pairs() },
                _ => OpenError::NoInterface { name: text },
            });
        };
        let Some(offset) = state.bind(&rings) else { return Err(OpenError::Busy { name: text }) };
        drop(state);
        Port::attach(name.clone(), &self.0.region, offset, Box::new(Handle { shared: Arc::clone(&self.0), rings }))
    }

    /// A frame comes in from the wire, for ring `ring`. One longer than a buffer takes several slots.
    pub fn inject(&self, ring: u16, frame: &[u8]) {
        self.0.state().inject(RingKind::Rx, ring, frame);
        self.0.woken.notify_all();
    }

    /// The next frame that has gone out to the wire, and the ring that it went by.
    pub fn take_transmitted(&self) -> Option<(u16, Vec<u8>)> {
        self.0.state().out.pop_front()
    }

    /// The host's network stack sends a frame.
    pub fn host_send(&self, frame: &[u8]) {
        self.0.state().inject(RingKind::HostRx, 0, frame);
        self.0.woken.notify_all();
    }

    /// The next frame that has come to the host's network stack.
    pub fn host_receive(&self) -> Option<Vec<u8>> {
        self.0.state().up.pop_front()
    }

    /// Whether the kernel looks only when [`Simulated::step`] is called, and syncs do nothing.
    pub fn set_manual(&self, manual: bool) {
        self.0.state().manual = manual;
    }

    /// Whether the kernel keeps what was transmitted, and says of none that it is sent.
    pub fn set_tx_stalled(&self, tx_stalled: bool) {
        self.0.state().tx_stalled = tx_stalled;
    }

    /// The kernel looks at all rings that are open.
    pub fn step(&self) {
        self.0.state().step_all();
        self.0.woken.notify_all();
    }

    /// Writes a word of a ring's header, as no kernel should.
    pub fn poke(&self, side: RingKind, ring: u16, word: RingWord, value: u32) {
        self.0.state().poke(side, ring, word, value);
    }

    /// Has all rings say that their buffers lie at `base`, as no kernel should.
    #[cfg(test)]
    pub(crate) fn move_buffers(&self, base: usize) {
        self.0.state().move_buffers(base);
    }

    /// Where the first ring starts, and where the slots of the last one end.
    #[cfg(test)]
    pub(crate) fn span(&self) -> (usize, usize) {
        self.0.state().span()
    }

    /// Reads a word of a ring's header.
    pub fn peek(&self, side: RingKind, ring: u16, word: RingWord) -> u32 {
        self.0.state().peek(side, ring, word)
    }

    /// Writes a slot, as no kernel should while the slot is not its own.
    pub fn poke_slot(&self, side: RingKind, ring: u16, slot: u32, words: SlotWords) {
        self.0.state().poke_slot(side, ring, slot, words);
    }

    /// Reads a slot.
    pub fn peek_slot(&self, side: RingKind, ring: u16, slot: u32) -> SlotWords {
        self.0.state().peek_slot(side, ring, slot)
    }

    /// Whether every buffer stands in exactly one slot: none is lost, none in two places.
    pub fn buffers_are_unique(&self) -> bool {
        self.0.state().buffers_are_unique()
    }
}

/// The kernel's side of one port.
struct Handle {
    shared: Arc<Shared>,
    rings: Vec<usize>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handle")
    }
}

impl Handle {
    fn sync(&self, transmit: bool) -> Ready {
        let mut state = self.shared.state();
        if !state.manual {
            for ring in &self.rings {
                state.step(*ring, transmit);
            }
        }
        let ready = state.ready(&self.rings, transmit);
        drop(state);
        self.shared.woken.notify_all();
        Ready { ready, failed: false }
    }
}

impl Kernel for Handle {
    fn sync_transmit(&self) -> std::io::Result<()> {
        self.sync(true);
        Ok(())
    }

    fn sync_receive(&self) -> std::io::Result<()> {
        self.sync(false);
        Ok(())
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn wait(&self, events: Events, timeout: Duration) -> std::io::Result<Ready> {
        let end = Instant::now() + timeout;
        loop {
            let sent = self.sync(true);
            let received = if events == Events::Transmit { Ready::default() } else { self.sync(false) };
            let ready = received.ready || (events != Events::Receive && sent.ready);
            let left = end.saturating_duration_since(Instant::now());
            if ready || left.is_zero() {
                return Ok(Ready { ready, failed: false });
            }
            let state = self.shared.state();
            if state.anything_to_receive() {
                // Perhaps for another port that is waited for together with this one.
                return Ok(Ready::default());
            }
            drop(self.shared.woken.wait_timeout(state, left));
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.state().release(&self.rings);
    }
}
