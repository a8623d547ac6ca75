//! What `-i` names: an interface by one of the kinds of io, a file, or memory.

use guideway_io::af_packet::{self, AfPacket};
use guideway_io::af_xdp::{self, AfXdp, FilterHandle};
use guideway_io::interface::{self, Interface};
use guideway_io::memory::Memory;
use guideway_io::netmap::{self, Netmap};
use guideway_io::pcap::{self, Pcap};
use guideway_packet::frame::Frame;
use guideway_packet::io::{BatchHandler, Io, PollResult};
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use netmap_rings::{NameError, PortName};
use nix::time::{ClockId, clock_gettime};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use std::fs::File;
use std::io::BufWriter;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Longest frame of the memory io, in bytes.
const LONGEST: usize = 65_536;
/// Frames that memory holds between its two ends.
const MEMORY: usize = 1024;

/// `-i`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSpec {
    /// AF_XDP on an interface.
    AfXdp(String),
    /// AF_PACKET on an interface.
    AfPacket(String),
    /// netmap's rings: a card, a VALE port, a pipe.
    Netmap(PortName),
    /// A capture: written by a sender, read by a receiver.
    Pcap(PathBuf),
    /// What is sent is received.
    Memory,
}

impl FromStr for PortSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<PortSpec, String> {
        match text.split_once(':') {
            Some(("af_xdp", name)) => Ok(PortSpec::AfXdp(name.to_owned())),
            Some(("af_packet", name)) => Ok(PortSpec::AfPacket(name.to_owned())),
            Some(("pcap", file)) if !file.is_empty() => Ok(PortSpec::Pcap(file.into())),
            Some((kind, _)) if kind == "netmap" || kind.starts_with("vale") => {
                text.parse().map(PortSpec::Netmap).map_err(|e: NameError| e.to_string())
            }
            None if text == "memory" => Ok(PortSpec::Memory),
            None if !text.is_empty() => Ok(PortSpec::AfXdp(text.to_owned())),
            _ => Err("is none of af_xdp:IF, af_packet:IF, netmap:IF, valeN:PORT, pcap:FILE and memory".to_owned()),
        }
    }
}

/// Why it cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// AF_XDP.
    #[error(transparent)]
    AfXdp(#[from] af_xdp::Error),
    /// AF_PACKET.
    #[error(transparent)]
    AfPacket(#[from] af_packet::Error),
    /// netmap.
    #[error(transparent)]
    Netmap(#[from] netmap::Error),
    /// A capture.
    #[error(transparent)]
    Pcap(#[from] pcap::Error),
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
    /// Several queues.
    #[error("network interface `{0}` has {1} receive queues, and pkt-gen serves one: `ethtool -L {0} combined 1`, or af_packet:{0}")]
    Queues(String, usize),
}

/// An open io.
pub struct Port {
    /// Its way in and out.
    pub io: Box<dyn Io>,
    /// The link-layer address, if it has one.
    pub mac: Option<[u8; 6]>,
    _filter: Option<FilterHandle>,
}

impl Port {
    /// Opens `name` to send. What af_xdp receives is what goes to `take`; all other kinds receive everything.
    pub fn open(name: &PortSpec, take: &[IpAddr], reads: bool) -> Result<Port, Error> {
        let wrap = |io: Box<dyn Io>, mac| Port { io, mac, _filter: None };
        match name {
            PortSpec::AfXdp(name) => {
                let found = Interface::by_name(name)?;
                let (filter, mut sockets) = AfXdp::open(name, af_xdp::Options::default())?;
                filter.set_vips(take)?;
                match sockets.pop() {
                    Some(io) if sockets.is_empty() => Ok(Port { io: Box::new(io), mac: Some(found.mac), _filter: Some(filter) }),
                    _ => Err(Error::Queues(name.clone(), sockets.len() + 1)),
                }
            }
            PortSpec::AfPacket(name) => {
                let found = Interface::by_name(name)?;
                let io = AfPacket::open(name, 1)?.pop().ok_or(af_packet::Error::Workers(0))?;
                Ok(wrap(Box::new(io), Some(found.mac)))
            }
            PortSpec::Netmap(name) => {
                let port = netmap_rings::Port::open_with(name, netmap_rings::Options::default()).map_err(netmap::Error::from)?;
                let found = Interface::by_name(base_interface(&name.to_string())).ok();
                let mac = found.as_ref().map(|found| found.mac);
                // What is no interface of the kernel has no MTU; buffers are made for Ethernet's.
                let other =
                    Interface { name: name.to_string(), index: 0, mac: [0; 6], mtu: 1500, rx_queues: 1, max_rx_queues: 1, tx_queues: 1 };
                Ok(wrap(Box::new(Netmap::new(port, None, &found.unwrap_or(other))?), mac))
            }
            PortSpec::Pcap(file) if reads => Ok(wrap(Box::new(Pcap::open(file, Path::new("/dev/null"))?), None)),
            PortSpec::Pcap(file) => Ok(wrap(Box::new(PcapSink::new(file).map_err(|e| Error::File(file.clone(), e))?), None)),
            PortSpec::Memory => Ok(wrap(Box::new(Loopback::new()), None)),
        }
    }
}

/// The interface in the name of a netmap port: `netmap:eth0-2` is a ring of `eth0`.
fn base_interface(name: &str) -> &str {
    let name = name.strip_prefix("netmap:").unwrap_or(name);
    name.split(['-', '^', '*', '{', '}', '/', '@']).next().unwrap_or(name)
}

/// The monotonic clock, in nanoseconds.
pub fn now() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

/// Memory whose two ends are joined.
struct Loopback {
    memory: Memory,
}

impl Loopback {
    fn new() -> Loopback {
        Loopback { memory: Memory::new(LONGEST) }
    }
}

impl Io for Loopback {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        if self.memory.waiting() == 0 {
            // Nobody else can send here: nothing will come before the caller does something.
            std::thread::sleep(wait);
        }
        let poll = self.memory.poll(Duration::ZERO, work)?;
        while let Some(frame) = self.memory.pop() {
            self.memory.push(&frame);
        }
        self.memory.clear();
        Ok(poll)
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        let room = self.memory.waiting() < MEMORY;
        if room {
            self.memory.push(frame);
        }
        Ok(room)
    }

    fn now(&self) -> Time {
        Time(now())
    }
}

/// A capture that is written.
pub struct PcapSink {
    out: PcapWriter<BufWriter<File>>,
}

impl PcapSink {
    /// Makes `file` anew.
    pub fn new(file: &Path) -> std::io::Result<PcapSink> {
        let header = PcapHeader { datalink: DataLink::ETHERNET, ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() };
        let out = PcapWriter::with_header(BufWriter::new(File::create(file)?), header).map_err(std::io::Error::other)?;
        Ok(PcapSink { out })
    }

    /// Adds a frame with its time.
    pub fn write(&mut self, at: Duration, frame: &[u8]) -> std::io::Result<()> {
        let packet = PcapPacket::new(at, u32::try_from(frame.len()).unwrap_or(u32::MAX), frame);
        self.out.write_packet(&packet).map(drop).map_err(std::io::Error::other)
    }

    /// Writes out what is still buffered.
    #[cfg(test)]
    pub fn finish(self) -> std::io::Result<()> {
        use std::io::Write;
        self.out.into_writer().flush()
    }
}

impl Io for PcapSink {
    fn poll(&mut self, _: Duration, _: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        Ok(PollResult::default())
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.write(Duration::from_nanos(now()), frame).map(|()| true)
    }

    fn now(&self) -> Time {
        Time(now())
    }
}

/// What becomes of a received frame that is not sent back. The host is not to have it: some kinds would hand it over.
pub const RELEASED: Verdict = Verdict::Drop(Reason::NotVip);

/// Lets go of received frames.
pub fn release(frames: &mut [Frame<'_>]) {
    frames.iter_mut().for_each(|frame| frame.verdict = RELEASED);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, name) in [
            ("af_xdp:eth0", PortSpec::AfXdp("eth0".into())),
            ("eth0", PortSpec::AfXdp("eth0".into())),
            ("af_packet:eth0", PortSpec::AfPacket("eth0".into())),
            ("pcap:a:b.pcap", PortSpec::Pcap("a:b.pcap".into())),
            ("memory", PortSpec::Memory),
            ("netmap:eth0-2", PortSpec::Netmap("netmap:eth0-2".parse().unwrap())),
            ("vale0:1", PortSpec::Netmap("vale0:1".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(name));
        }
        for bad in ["", "pcap:", "netmap:x{", "dpdk:0"] {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad}");
        }
        assert_eq!(["netmap:eth0-2", "netmap:eth0^", "vale0:1"].map(base_interface), ["eth0", "eth0", "vale0:1"]);
    }
}
