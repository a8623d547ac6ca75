//! One transfer by a blocking loop, as lean as a client can be: what is measured is the server.

use crate::batch::{Blocks, Gro};
use guideway_tftp::packet::{Options, Packet, put_request};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// What to fetch, and how.
#[derive(Clone, Debug)]
pub struct FetchSpec<'a> {
    /// The server.
    pub server: SocketAddr,
    /// The file.
    pub file: &'a str,
    /// Block size to ask for.
    pub blksize: u16,
    /// Window to ask for; 1 does not ask.
    pub window: u16,
    /// Whether the client takes the segments of a window together (UDP_GRO).
    pub gro: bool,
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
    /// Bytes.
    pub bytes: usize,
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

/// Fetches a file into `content`, which must have room for it and for a window more; how much it was is in the result.
///
/// # Errors
/// Those of sockets, an ERROR of the server, a file that is too large, and the time limit.
pub fn fetch(spec: &FetchSpec<'_>, content: &mut [u8]) -> io::Result<Fetched> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    set_receive_buffer(&socket)?;
    let (since, before) = (Instant::now(), thread_cpu());
    let mut fetched = ask(spec, &socket, content, since)?;
    if spec.gro {
        setsockopt(&socket, sockopt::UdpGroSegment, &true)?;
        receive_gro(spec, &socket, content, since, &mut fetched)?;
        (fetched.took, fetched.cpu) = (since.elapsed(), thread_cpu().saturating_sub(before));
        return Ok(fetched);
    }
    let send = |block: u64| socket.send(&[0, 4, (block >> 8) as u8, block as u8]).map(drop);
    send(fetched.blocks)?;
    let size = usize::from(fetched.blksize);
    let mut blocks = Blocks::new(usize::from(fetched.window));
    let mut in_window = 0;
    while fetched.bytes as u64 == fetched.blocks * size as u64 {
        let room = content.get_mut(fetched.bytes..).unwrap_or_default();
        let got = match blocks.receive(socket.as_fd(), room, size) {
            Ok(0) => return Err(io::Error::other("the file is larger than it should be")),
            Ok(got) => got,
            Err(e) if !is_timeout(&e) => return Err(e),
            Err(_) if since.elapsed() > spec.limit => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {
                fetched.resends += 1;
                in_window = 0;
                send(fetched.blocks)?;
                0
            }
        };
        let mut taken = 0;
        for index in 0..got {
            let Some(([0, 3, high, low], length)) = blocks.get(index) else {
                if matches!(blocks.get(index), Some(([0, 5, ..], _))) {
                    return Err(io::Error::other("it ended the transfer with an ERROR"));
                }
                continue;
            };
            if u16::from_be_bytes([high, low]) != (fetched.blocks + 1) as u16 {
                continue;
            }
            if taken < index {
                room.copy_within(index * size..index * size + length, taken * size);
            }
            (taken, in_window) = (taken + 1, in_window + 1);
            fetched.blocks += 1;
            fetched.bytes += length;
            if length < size || in_window == fetched.window {
                in_window = 0;
                send(fetched.blocks)?;
            }
            if length < size {
                break;
            }
        }
    }
    fetched.took = since.elapsed();
    fetched.cpu = thread_cpu().saturating_sub(before);
    Ok(fetched)
}

/// Receives what follows the first answer, on a socket that takes segments together.
fn receive_gro(spec: &FetchSpec<'_>, socket: &UdpSocket, content: &mut [u8], since: Instant, fetched: &mut Fetched) -> io::Result<()> {
    let send = |block: u64| socket.send(&[0, 4, (block >> 8) as u8, block as u8]).map(drop);
    send(fetched.blocks)?;
    let size = usize::from(fetched.blksize);
    let mut gro = Gro::new(usize::from(fetched.window));
    let mut in_window = 0;
    while fetched.bytes as u64 == fetched.blocks * size as u64 {
        let got = match gro.receive(socket.as_fd()) {
            Ok(got) => got,
            Err(e) if !is_timeout(&e) => return Err(e),
            Err(_) if since.elapsed() > spec.limit => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {
                (fetched.resends, in_window) = (fetched.resends + 1, 0);
                send(fetched.blocks)?;
                0
            }
        };
        for datagram in (0..got).flat_map(|index| gro.get(index)) {
            let (high, low, data) = match datagram {
                [0, 3, high, low, data @ ..] => (*high, *low, data),
                [0, 5, ..] => return Err(io::Error::other("it ended the transfer with an ERROR")),
                _ => continue,
            };
            if u16::from_be_bytes([high, low]) != (fetched.blocks + 1) as u16 {
                continue;
            }
            let room = content.get_mut(fetched.bytes..fetched.bytes + data.len());
            room.ok_or_else(|| io::Error::other("the file is larger than it should be"))?.copy_from_slice(data);
            in_window += 1;
            fetched.blocks += 1;
            fetched.bytes += data.len();
            if data.len() < size || in_window == fetched.window {
                in_window = 0;
                send(fetched.blocks)?;
            }
            if data.len() < size {
                break;
            }
        }
    }
    Ok(())
}

/// Sends the request until it is answered, and connects the socket to the port that answers: from then on the kernel checks the TID, and
/// looks up no route for each packet.
fn ask(spec: &FetchSpec<'_>, socket: &UdpSocket, content: &mut [u8], since: Instant) -> io::Result<Fetched> {
    let mut buffer = [0; 1024];
    let request = request(spec.file, spec.blksize, spec.window);
    let mut fetched = Fetched { blksize: 512, window: 1, ..Fetched::default() };
    let (length, from) = loop {
        socket.send_to(&request, spec.server)?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from.ip() == spec.server.ip() => break (length, from),
            Err(e) if !is_timeout(&e) => return Err(e),
            _ if since.elapsed() > spec.limit => return Err(io::ErrorKind::TimedOut.into()),
            _ => fetched.resends += 1,
        }
    };
    socket.connect(from)?;
    match Packet::parse(&buffer[..length]) {
        Ok(Packet::Oack(options)) => (fetched.blksize, fetched.window) = granted(options),
        Ok(Packet::Data { block: 1, data }) => {
            let room = content.get_mut(..data.len()).ok_or_else(|| io::Error::other("the file is larger than it should be"))?;
            room.copy_from_slice(data);
            (fetched.blocks, fetched.bytes) = (1, data.len());
        }
        other => return Err(io::Error::other(format!("it answers {other:?}"))),
    }
    Ok(fetched)
}

/// Makes a socket's buffer so large that nothing is lost in it, beyond the machine's limit if that is permitted.
pub fn set_receive_buffer(socket: &UdpSocket) -> io::Result<()> {
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
