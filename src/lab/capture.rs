//! What the router sent to the directors, as a capture: for `guideway replay`, and for load that looks like real transfers.

use super::plan::ROUTER_MAC;
use super::sys;
use super::topology::ROUTER_FABRIC;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_packet::wire::gre;
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, TsResolution};
use socket2::{SockFilter, Socket};
use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// Most bytes of a capture: enough for half a million acknowledgements, too little to fill a disk.
pub const MAX_BYTES: u64 = 64 << 20;
/// Longest frame, in bytes.
const SNAPLEN: u32 = 2048;
/// Requested receive buffer in bytes, for frames that arrive while the file is written.
const BUFFER: usize = 8 << 20;
/// How late the end may be noticed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A capture that is being written.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, Error>>,
}

impl Capture {
    /// Captures in the router's namespace to `file`, which is made anew. Times are those at which a frame was read, some microseconds late.
    ///
    /// # Errors
    /// When the file cannot be made, or the socket.
    pub fn start(router: &Namespace, file: &Path, ipv6: bool) -> Result<Self, Error> {
        let named = || format!("writing the capture {}", file.display());
        let file = File::create(file).with_context(named)?;
        let header =
            PcapHeader { snaplen: SNAPLEN, datalink: DataLink::ETHERNET, ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() };
        let out = PcapWriter::with_header(BufWriter::new(file), header).with_context(named)?;
        let socket = router.run(|| {
            let socket = sys::packet_socket(Netlink::open()?.index(ROUTER_FABRIC)?).with_context(|| "capturing".to_owned())?;
            socket.attach_filter(&gre_filter(ipv6)).with_context(|| "filtering the capture".to_owned())?;
            // As much as the system allows.
            let _best_effort = socket.set_recv_buffer_size(BUFFER);
            socket.set_read_timeout(Some(POLL_INTERVAL)).with_context(|| "capturing".to_owned())?;
            Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = router.thread("capture", move || capture_loop(socket, out, &stopped))?;
        Ok(Capture { stop, thread })
    }

    /// Ends it; how many frames were written.
    ///
    /// # Errors
    /// When the file could not be written.
    pub fn finish(self) -> Result<u64, Error> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| Error::failed("capturing", "the thread panicked"))?
    }
}

/// Lets through what has GRE in it. Opcodes as in linux/bpf_common.h: load a byte, compare, return.
fn gre_filter(ipv6: bool) -> [SockFilter; 4] {
    let protocol = if ipv6 { 14 + 6 } else { 14 + 9 };
    [
        SockFilter::new(0x30, 0, 0, protocol),
        SockFilter::new(0x15, 0, 1, u32::from(gre::PROTOCOL)),
        SockFilter::new(0x06, 0, 0, SNAPLEN),
        SockFilter::new(0x06, 0, 0, 0),
    ]
}

fn capture_loop(mut socket: Socket, mut out: PcapWriter<BufWriter<File>>, stop: &AtomicBool) -> Result<u64, Error> {
    let context = || "writing the capture".to_owned();
    let (mut buffer, mut frames, mut bytes) = ([0u8; SNAPLEN as usize], 0, 0);
    loop {
        let stopped = stop.load(Ordering::Acquire);
        match socket.read(&mut buffer) {
            Ok(len) => {
                let frame = &buffer[..len];
                if frame.get(6..12) == Some(&ROUTER_MAC[..]) && bytes + frame.len() as u64 <= MAX_BYTES {
                    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                    out.write_packet(&PcapPacket::new(now, len as u32, frame)).with_context(context)?;
                    frames += 1;
                    bytes += frame.len() as u64;
                }
            }
            // What had come before the end has been read.
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && stopped => break,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(e) => return Err(Error::failed("capturing", e)),
        }
    }
    out.into_writer().flush().with_context(context)?;
    Ok(frames)
}
