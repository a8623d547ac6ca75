//! Ports: opening them by name, their rings, and waiting for them.

use crate::device::{self, Device, Events, Kernel, MAX_PORTS, Ready};
use crate::error::OpenError;
use crate::memory::Region;
use crate::name::{PortName, Rings};
use crate::raw::{Direction, Interface};
use crate::rx::RxRing;
use crate::tx::TxRing;
use std::io::{ErrorKind, Result};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How a port is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Open a network interface although offloads are on that netmap does not do (default: refuse).
    pub ignore_offloads: bool,
}

/// An open port. Its rings are there for as long as it is.
///
/// Ports that live in one memory region share one mapping, which holds on to the first of them: that port is free for others only when the last
/// port of its region is dropped.
#[derive(Debug)]
pub struct Port {
    name: PortName,
    // Each ring holds on to the kernel's side, too: rings may change places with those of another port.
    tx: Vec<TxRing>,
    rx: Vec<RxRing>,
    host_tx: Vec<TxRing>,
    host_rx: Vec<RxRing>,
    there: (u32, u32),
    region: Arc<Region>,
    kernel: Arc<dyn Kernel>,
}

/// The rings of a port, all at once: frames move from one to another. Those that were not opened are not there.
#[derive(Debug)]
pub struct PortRings<'p> {
    /// To the card, the switch or the pipe.
    pub tx: &'p mut [TxRing],
    /// From the card, the switch or the pipe.
    pub rx: &'p mut [RxRing],
    /// To the host's network stack.
    pub host_tx: &'p mut [TxRing],
    /// From the host's network stack: what it would have sent by the card.
    pub host_rx: &'p mut [RxRing],
}

impl Port {
    /// Opens a port by its name, as [`PortName`] reads it. No other program, and no other port of this one, has the same rings meanwhile.
    ///
    /// # Errors
    /// Say what to do about it.
    pub fn open(name: &str) -> std::result::Result<Port, OpenError> {
        Port::open_with(&name.parse()?, Options::default())
    }

    /// Opens a port.
    ///
    /// # Errors
    /// Say what to do about it.
    pub fn open_with(name: &PortName, options: Options) -> std::result::Result<Port, OpenError> {
        let bound = Device::bind(name, options.ignore_offloads)?;
        Port::attach(name.clone(), &bound.region, bound.offset, Box::new(bound.device))
    }

    /// The port whose interface structure lies at `offset`.
    pub(crate) fn attach(
        name: PortName,
        region: &Arc<Region>,
        offset: usize,
        kernel: Box<dyn Kernel>,
    ) -> std::result::Result<Port, OpenError> {
        let wrong = |what| OpenError::Layout { name: name.as_str().to_owned(), what };
        let kernel: Arc<dyn Kernel> = kernel.into();
        let interface = Interface::at(region, &kernel, offset).map_err(wrong)?;
        let there = interface.counts();
        let none = 0..0;
        let (tx, rx, host_tx, host_rx) = match name.rings() {
            Rings::All => (0..there.tx, 0..there.rx, none.clone(), none),
            Rings::One(ring) => (u32::from(ring)..u32::from(ring) + 1, u32::from(ring)..u32::from(ring) + 1, none.clone(), none),
            Rings::Host => (none.clone(), none, 0..there.host_tx, 0..there.host_rx),
            Rings::AllAndHost => (0..there.tx, 0..there.rx, 0..there.host_tx, 0..there.host_rx),
        };
        if tx.end > there.tx || rx.end > there.rx || (tx.is_empty() && rx.is_empty() && host_tx.is_empty() && host_rx.is_empty()) {
            return Err(wrong("the interface has fewer rings than were bound"));
        }
        // The list has all transmit rings, those to the host, all receive rings, those from the host.
        let received = there.tx + there.host_tx;
        let transmit = |place| TxRing::new(interface.ring(place, Direction::Transmit)?);
        let receive = |place| RxRing::new(interface.ring(place, Direction::Receive)?);
        let tx = tx.map(transmit).collect::<std::result::Result<_, _>>().map_err(wrong)?;
        let host_tx = host_tx.map(|ring| transmit(there.tx + ring)).collect::<std::result::Result<_, _>>().map_err(wrong)?;
        let rx = rx.map(|ring| receive(received + ring)).collect::<std::result::Result<_, _>>().map_err(wrong)?;
        let host_rx = host_rx.map(|ring| receive(received + there.rx + ring)).collect::<std::result::Result<_, _>>().map_err(wrong)?;
        let there = (there.tx, there.rx);
        Ok(Port { tx, rx, host_tx, host_rx, there, region: Arc::clone(region), kernel, name })
    }

    /// Its name.
    pub fn name(&self) -> &PortName {
        &self.name
    }

    /// Transmit and receive rings that the card, the switch port or the pipe has in all, whichever of them were opened.
    pub fn ring_counts(&self) -> (u32, u32) {
        self.there
    }

    /// Where its rings and buffers live. Two ports with equal regions (`Arc::ptr_eq`) exchange buffers without a copy.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Its rings.
    pub fn rings(&mut self) -> PortRings<'_> {
        PortRings { tx: &mut self.tx, rx: &mut self.rx, host_tx: &mut self.host_tx, host_rx: &mut self.host_rx }
    }

    /// Has the kernel look at the transmit rings (`NIOCTXSYNC`): it sends what was handed over, and gives back what is sent.
    ///
    /// # Errors
    /// Those of the kernel; `EIO` when the interface is down or a ring stopped.
    pub fn sync_tx(&self) -> Result<()> {
        self.kernel.sync_transmit()
    }

    /// Has the kernel look at the receive rings (`NIOCRXSYNC`): it takes back what was dropped, and hands over what has come.
    ///
    /// # Errors
    /// As for [`Port::sync_tx`].
    pub fn sync_rx(&self) -> Result<()> {
        self.kernel.sync_receive()
    }

    /// The descriptor of `/dev/netmap`, for an event loop; none in a simulation. Polling it for input syncs all rings.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.kernel.descriptor()
    }

    /// Waits with `poll(2)` until one of at most 8 ports has what is wanted, at most `timeout`; with time 0 it only looks. The kernel looks at
    /// the rings of all of them on the way, so that no sync is needed besides. A signal ends the wait too.
    ///
    /// # Errors
    /// Those of the kernel, and `InvalidInput` for more than 8 ports.
    pub fn wait(ports: &[&Port], events: Events, timeout: Duration) -> Result<Ready> {
        if ports.len() > MAX_PORTS {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut descriptors = [None; MAX_PORTS];
        for (descriptor, port) in descriptors.iter_mut().zip(ports) {
            *descriptor = port.descriptor();
        }
        let Some(first) = descriptors[0] else {
            return wait_simulated(ports, events, timeout);
        };
        let mut known = [first; MAX_PORTS];
        let mut count = 0;
        for descriptor in descriptors.into_iter().flatten() {
            known[count] = descriptor;
            count += 1;
        }
        device::poll(&known[..count], events, timeout)
    }
}

/// Simulated ports have no descriptors. Those that wait together belong to one simulation, which wakes for any of them.
fn wait_simulated(ports: &[&Port], events: Events, timeout: Duration) -> Result<Ready> {
    let end = Instant::now() + timeout;
    loop {
        let mut ready = Ready::default();
        for port in ports {
            let found = port.kernel.wait(events, Duration::ZERO)?;
            ready = Ready { ready: ready.ready | found.ready, failed: ready.failed | found.failed };
        }
        let left = end.saturating_duration_since(Instant::now());
        match ports.first() {
            Some(first) if !ready.ready && !left.is_zero() => first.kernel.wait(events, left)?,
            _ => return Ok(ready),
        };
    }
}
