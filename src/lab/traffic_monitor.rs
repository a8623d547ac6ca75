//! Who served what: sees the read requests that reach each backend, on the backends' ports of the fabric.
//!
//! Counting on the wire is true for every kind of server and of decapsulation, and each transfer of the lab asks for a name of its own.

use super::sys;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_packet::wire::flow as packet;
use guideway_packet::wire::gre;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockFilter, Socket};
use std::collections::HashMap;
use std::io::Read;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

/// For each requested file name, the backend that the last request reached.
#[derive(Clone, Debug, Default)]
pub struct TrafficMonitor(Arc<Mutex<HashMap<String, String>>>);

impl TrafficMonitor {
    /// The backend that the last request for `file` reached.
    pub fn backend_of(&self, file: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(file).cloned()
    }

    /// Returns how many names were requested from `backend`.
    pub fn requests_to(&self, backend: &str) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().filter(|b| *b == backend).count() as u64
    }

    fn record(&self, file: String, backend: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(file, backend.to_owned());
    }
}

/// Where the requests to a backend can be seen.
#[derive(Clone, Debug)]
pub struct Port {
    /// The backend's name.
    pub backend: String,
    /// The host that has the interface.
    pub host: Namespace,
    /// The interface.
    pub interface: String,
}

/// Watches these interfaces, by a thread on the host `fabric`.
pub fn watch(fabric: &Namespace, ports: &[Port], ipv6: bool) -> Result<TrafficMonitor, Error> {
    let monitor = TrafficMonitor::default();
    let recorder = monitor.clone();
    let open = |port: &Port| {
        port.host.run(|| {
            let index = Netlink::open()?.index(&port.interface)?;
            let socket = sys::packet_socket(index).with_context(|| format!("watching the port of {}", port.backend))?;
            socket.attach_filter(&request_size_filter(ipv6)).with_context(|| "filtering a socket".to_owned())?;
            socket.set_nonblocking(true).with_context(|| "setting up a socket".to_owned())?;
            Ok((port.backend.clone(), socket))
        })
    };
    let sockets = ports.iter().map(open).collect::<Result<Vec<(String, Socket)>, Error>>()?;
    fabric.thread("traffic-monitor", move || monitor_loop(sockets, &recorder))?;
    Ok(monitor)
}

/// Lets through frames that are longer than an acknowledgement in GRE and no longer than any request (RFC 2347: 512 bytes), because
/// a copy of every DATA would cost as much as the transfer. Opcodes as in linux/bpf_common.h: load the length, compare, return.
fn request_size_filter(ipv6: bool) -> [SockFilter; 5] {
    let ip = if ipv6 { 40 } else { 20 };
    let headers = 14 + ip + 4 + ip + 8;
    [
        SockFilter::new(0x80, 0, 0, 0),
        SockFilter::new(0x25, 0, 1, headers + 4),
        SockFilter::new(0x25, 0, 1, headers + 512),
        SockFilter::new(0x06, 0, 0, 0),
        SockFilter::new(0x06, 0, 0, 2048),
    ]
}

fn monitor_loop(mut sockets: Vec<(String, Socket)>, monitor: &TrafficMonitor) -> Result<(), Error> {
    let mut buffer = vec![0u8; 2048];
    loop {
        let ready: Vec<bool> = {
            let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|(_, s)| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
            poll(&mut fds, PollTimeout::NONE).with_context(|| "waiting for requests".to_owned())?;
            fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
        };
        for (name, socket) in sockets.iter_mut().zip(ready).filter(|(_, ready)| *ready).map(|(s, _)| s) {
            while let Ok(length) = socket.read(&mut buffer) {
                if let Some(file) = request_in_frame(&buffer[..length]) {
                    monitor.record(file, name);
                }
            }
        }
    }
}

/// The file that an Ethernet frame with a read request in GRE asks for.
fn request_in_frame(frame: &[u8]) -> Option<String> {
    let outer = frame.get(14..)?;
    let flow = packet::flow(outer)?;
    if flow.protocol != gre::PROTOCOL {
        return None;
    }
    let inner = packet::strip_gre(outer.get(flow.payload..)?).ok()?;
    packet::read_request(inner).map(|(_, _, file)| file)
}
