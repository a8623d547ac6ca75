//! One transfer by a blocking loop, as lean as a client can be: what is measured is the server.

use crate::batch::Inbox;
use guideway::tftp::packet::{Options, Packet, put_ack, put_request};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What to fetch, and how.
#[derive(Clone, Debug)]
pub struct Want<'a> {
    /// The server.
    pub server: SocketAddr,
    /// The file.
    pub file: &'a str,
    /// Block size to ask for.
    pub blksize: u16,
    /// Window to ask for; 1 does not ask.
    pub window: u16,
    /// When to give up.
    pub limit: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// From the request to the last block.
    pub took: Duration,
    /// Block size that was granted.
    pub blksize: u16,
    /// Window that was granted.
    pub window: u16,
    /// Blocks.
    pub blocks: u64,
    /// Packets that had to be sent again.
    pub resends: u64,
    /// CPU time of the client.
    pub cpu: Duration,
}

/// The time a client waits before it repeats itself.
pub const TIMEOUT: Duration = Duration::from_secs(1);

/// Writes a request for a file with these options.
pub fn request(file: &str, blksize: u16, window: u16) -> Vec<u8> {
    let (blksize, window) = (blksize.to_string(), (window > 1).then(|| window.to_string()));
    let options = [(&b"blksize"[..], blksize.as_bytes())];
    let window = window.as_ref().map(|w| (&b"windowsize"[..], w.as_bytes()));
    let mut bytes = Vec::new();
    put_request(&mut bytes, false, file.as_bytes(), b"octet", options.into_iter().chain(window));
    bytes
}

/// Block size and window of an OACK; what it does not mention has its default.
pub fn granted(options: Options<'_>) -> (u16, u16) {
    let number = |name| options.get(name).and_then(|v| std::str::from_utf8(v).ok()).and_then(|v| v.parse().ok());
    (number("blksize").unwrap_or(512), number("windowsize").unwrap_or(1))
}

/// Fetches a file into `content`, which should have room for it.
///
/// # Errors
/// Those of sockets, an ERROR of the server, and the time limit.
pub fn fetch(want: &Want<'_>, content: &mut Vec<u8>) -> io::Result<Fetched> {
    content.clear();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    roomy(&socket)?;
    let mut buffer = vec![0; 66_000];
    let request = request(want.file, want.blksize, want.window);
    let mut fetched = Fetched { blksize: 512, window: 1, ..Fetched::default() };
    let (since, before) = (Instant::now(), thread_cpu());
    let (length, from) = loop {
        socket.send_to(&request, want.server)?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from.ip() == want.server.ip() => break (length, from),
            Err(e) if !is_timeout(&e) => return Err(e),
            _ if since.elapsed() > want.limit => return Err(io::ErrorKind::TimedOut.into()),
            _ => fetched.resends += 1,
        }
    };
    // From now on the kernel checks the TID, and looks up no route for each packet.
    socket.connect(from)?;
    let mut last = 0u64;
    let mut first = None;
    match Packet::parse(&buffer[..length]) {
        Ok(Packet::Oack(options)) => (fetched.blksize, fetched.window) = granted(options),
        Ok(Packet::Data { block: 1, data }) => {
            content.extend_from_slice(data);
            first = Some(data.len() < 512);
            last = 1;
        }
        other => return Err(io::Error::other(format!("it answers {other:?}"))),
    }
    let mut ack = Vec::with_capacity(4);
    let mut send = |block: u64| {
        ack.clear();
        put_ack(&mut ack, block as u16);
        socket.send(&ack).map(drop)
    };
    send(last)?;
    let size = usize::from(fetched.blksize) + 4;
    let mut inbox = Inbox::new(usize::from(fetched.window), size);
    let (mut in_window, mut over) = (0, first == Some(true));
    while !over {
        let got = match inbox.receive(socket.as_fd()) {
            Ok(got) => got,
            Err(e) if !is_timeout(&e) => return Err(e),
            Err(_) if since.elapsed() > want.limit => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {
                fetched.resends += 1;
                in_window = 0;
                send(last)?;
                0
            }
        };
        for index in 0..got {
            let bytes = inbox.get(index).bytes;
            let Some((&[0, 3, high, low], data)) = bytes.split_first_chunk() else {
                if bytes.starts_with(&[0, 5]) {
                    return Err(io::Error::other("it ended the transfer with an ERROR"));
                }
                continue;
            };
            if u16::from_be_bytes([high, low]) != (last + 1) as u16 {
                continue;
            }
            content.extend_from_slice(data);
            last += 1;
            in_window += 1;
            over = data.len() < usize::from(fetched.blksize);
            if over || in_window == fetched.window {
                in_window = 0;
                send(last)?;
            }
        }
    }
    fetched.took = since.elapsed();
    fetched.cpu = thread_cpu().saturating_sub(before);
    fetched.blocks = last;
    Ok(fetched)
}

/// Makes a socket's buffer so large that nothing is lost in it, beyond the machine's limit if that is permitted.
pub fn roomy(socket: &UdpSocket) -> io::Result<()> {
    const BYTES: usize = 256 << 20;
    setsockopt(socket, sockopt::RcvBufForce, &BYTES).or_else(|_| setsockopt(socket, sockopt::RcvBuf, &BYTES)).map_err(Into::into)
}

/// CPU time of this thread.
pub fn thread_cpu() -> Duration {
    let micros = getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |u| u.user_time().num_microseconds() + u.system_time().num_microseconds());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Whether a read timed out, or a signal broke it off.
pub fn is_timeout(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
