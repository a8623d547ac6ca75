//! A VALE switch before every director (`--io vale`): the director is one of its ports, the link to the fabric is another.
//!
//! ```text
//! fabric ── wire ══ vale0:fabric ┐
//!                          vale0 │ (in the kernel)
//!     director ══ vale0:director ┘
//!          └═══ stack ── eth0, the host's own addresses
//! ```
//!
//! The wire is joined to the switch by a thread of the lab, not by attaching it in the kernel: an attachment outlives whoever made it and
//! holds on to its namespace, and the lab must leave nothing behind, however it ends.

use super::sys;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use netmap_rings::{BATCH, Events, Port, RxRing, TxRing};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the director sends and receives by. (No port of a switch may be named like an interface of the host.)
pub const DIRECTOR: &str = "vale0:director";
/// What the wire is joined to.
const FABRIC: &str = "vale0:fabric";
/// The far end of the director's interface: what leads to the host's stack.
pub const STACK: &str = "stack";
/// The end of the link to the fabric.
pub const WIRE: &str = "wire";
/// Longest time until a switch that is no longer wanted ends.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The link of one director to the fabric, joined to its switch. Ends with this value.
#[derive(Debug)]
pub struct ValeLink {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), Error>>>,
}

impl ValeLink {
    /// Joins them on `host`, where [`WIRE`] and [`STACK`] are already.
    pub fn start(host: &Namespace) -> Result<Self, Error> {
        for interface in [WIRE, STACK] {
            Netlink::in_namespace(host, |n| n.set_up(interface, true))?;
            host.run(|| sys::segments_off(interface).with_context(|| format!("switching off offloads of {interface} on {}", host.name())))?;
        }
        let (wire, switch) = host.run(|| Ok((open(&format!("netmap:{WIRE}"))?, open(FABRIC)?)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let body = move || {
            forward_frames(wire, switch, &stopped).with_context(|| "passing frames between the fabric and a VALE switch".to_owned())
        };
        let thread = host.thread("switch", body)?;
        Ok(ValeLink { stop, thread: Some(thread) })
    }
}

impl Drop for ValeLink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Ok(Err(error))) = self.thread.take().map(JoinHandle::join) {
            eprintln!("guideway-lab: {error}");
        }
    }
}

fn open(port: &str) -> Result<Port, Error> {
    Port::open(port).with_context(|| format!("opening {port}"))
}

fn forward_frames(mut wire: Port, mut switch: Port, stop: &AtomicBool) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        Port::wait(&[&wire, &switch], Events::Receive, POLL_INTERVAL)?;
        let (wire, switch) = (wire.rings(), switch.rings());
        copy_frames(&mut wire.rx[0], &mut switch.tx[0])?;
        copy_frames(&mut switch.rx[0], &mut wire.tx[0])?;
    }
    Ok(())
}

/// Copies, for the two have memory of their own. What finds no room is lost, as on any full switch.
fn copy_frames(from: &mut RxRing, to: &mut TxRing) -> std::io::Result<()> {
    loop {
        let mut batch = from.batch(BATCH)?;
        for frame in 0..batch.len() {
            if let Some(bytes) = batch.bytes(frame) {
                to.send(bytes)?;
            }
        }
        if batch.len() < BATCH {
            return Ok(());
        }
    }
}
