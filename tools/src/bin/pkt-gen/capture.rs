//! A capture as a source of frames: as it is, or numbered and wrapped anew.

use crate::tag::{self, Tag};
use crate::traffic::{FrameSource, write_tag};
use guideway_io::pcap::{Error, Pcap};
use guideway_packet::io::Io;
use guideway_packet::verdict::Verdict;
use guideway_packet::wire::build;
use guideway_packet::wire::ethernet::Ethernet;
use guideway_packet::wire::flow as packet;
use guideway_packet::wire::gre;
use guideway_packet::wire::l4::UDP;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Most bytes of frames that are kept in memory.
const MOST: usize = 1 << 30;

/// Why a capture cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] Error),
    /// It is damaged.
    #[error(transparent)]
    Damaged(#[from] std::io::Error),
    /// It has no frames that can be used.
    #[error("{0}: there is no frame in it that can be replayed")]
    Empty(PathBuf),
    /// It is too long.
    #[error("{0}: has more than 1 GiB of frames, which are all kept in memory; cut it (for example `editcap -r`)")]
    Long(PathBuf),
}

/// What is done to every frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rewrite {
    /// Puts a tag behind every UDP payload, so that the receiver can tell what was lost.
    pub number: bool,
    /// Link-layer addresses, source and destination.
    pub macs: [Option<[u8; 6]>; 2],
    /// Outer addresses, whatever the frame was wrapped in.
    pub gre: Option<[IpAddr; 2]>,
}

#[derive(Debug)]
struct Entry {
    /// After the first frame.
    at: Duration,
    end: usize,
    numbered: bool,
}

/// The frames of a capture, in memory.
#[derive(Debug)]
pub struct Capture {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    next: usize,
    round: u32,
    rounds: u32,
    speed: Option<f64>,
    frame: Vec<u8>,
    /// UDP packets in one piece, as the others cannot be numbered.
    pub numbered: usize,
    /// Frames left out: fragments and others that cannot be wrapped anew.
    pub skipped: usize,
}

impl Capture {
    /// Reads `file`, to be sent `rounds` times (0: without end). With a speed, frames are due at their times, so many times faster.
    pub fn read(file: &Path, rewrite: Rewrite, rounds: u32, speed: Option<f64>) -> Result<Capture, CaptureError> {
        let (mut bytes, mut entries, mut skipped, mut long) = (Vec::new(), Vec::new(), 0, false);
        let (mut pcap, mut first) = (Pcap::open(file, Path::new("/dev/null"))?, None);
        loop {
            let poll = pcap.poll(Duration::ZERO, &mut |now, frames| {
                let at = now - *first.get_or_insert(now);
                for frame in frames {
                    frame.verdict = Verdict::ToHost;
                    let Some((frame, numbered)) = rewrite_frame(frame.bytes(), rewrite) else {
                        skipped += 1;
                        continue;
                    };
                    long |= bytes.len() + frame.len() > MOST;
                    if !long {
                        bytes.extend(frame);
                        entries.push(Entry { at, end: bytes.len(), numbered });
                    }
                }
            })?;
            if long {
                return Err(CaptureError::Long(file.into()));
            }
            if poll.end {
                break;
            }
        }
        if entries.is_empty() {
            return Err(CaptureError::Empty(file.into()));
        }
        let numbered = entries.iter().filter(|entry| entry.numbered).count();
        Ok(Capture { bytes, entries, next: 0, round: 0, rounds, speed, frame: Vec::new(), numbered, skipped })
    }

    /// Frames of one round.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Time from the first frame to the last.
    pub fn duration(&self) -> Duration {
        self.entries.last().map_or(Duration::ZERO, |entry| entry.at)
    }
}

impl FrameSource for Capture {
    fn next_frame(&mut self, seq: u64, now: u64) -> Option<&[u8]> {
        if self.next == self.entries.len() {
            self.next = 0;
            self.round += 1;
        }
        if self.rounds > 0 && self.round >= self.rounds {
            return None;
        }
        let start = self.next.checked_sub(1).map_or(0, |before| self.entries[before].end);
        let entry = &self.entries[self.next];
        self.frame.clear();
        self.frame.extend_from_slice(&self.bytes[start..entry.end]);
        if entry.numbered {
            write_tag(&mut self.frame, seq, now);
        }
        Some(&self.frame)
    }

    fn sent(&mut self) {
        self.next += 1;
    }

    fn due(&self) -> Option<Duration> {
        let speed = self.speed?;
        // One more round begins when the last frame is out, without a pause.
        let (round, next) = if self.next == self.entries.len() { (self.round + 1, 0) } else { (self.round, self.next) };
        Some((self.duration() * round + self.entries[next].at).div_f64(speed))
    }
}

/// A frame with what `rewrite` asks for, and whether it has a tag at its end. `None` for one that cannot be had so.
fn rewrite_frame(frame: &[u8], rewrite: Rewrite) -> Option<(Vec<u8>, bool)> {
    let Rewrite { number, macs: [from, to], gre: wanted } = rewrite;
    let ethernet = Ethernet::parse(frame).ok()?;
    let source = <[u8; 6]>::try_from(frame.get(6..12)?).ok()?;
    let (from, to) = (from.unwrap_or(source), to.unwrap_or(ethernet.destination));
    if !number && wanted.is_none() {
        let mut same = frame.to_vec();
        same[..12].copy_from_slice(&[to, from].concat());
        return Some((same, false));
    }
    let packet = &frame[ethernet.len..];
    let outer = packet::flow(packet)?;
    let had_gre = outer.protocol == gre::PROTOCOL;
    let inner = if had_gre { packet::strip_gre(packet.get(outer.payload..)?).ok()? } else { packet };
    let flow = packet::flow(inner)?;
    let (client, server) = flow.ports.filter(|_| flow.protocol == UDP)?;
    let udp = inner.get(flow.payload..)?;
    let len = usize::from(u16::from_be_bytes([*udp.get(4)?, *udp.get(5)?]));
    let tag = if number { &Tag { seq: 0, sent: 0 }.bytes()[..] } else { &[] };
    let payload = [udp.get(8..len)?, tag].concat();
    let packet = build::udp(SocketAddr::new(flow.source, client), SocketAddr::new(flow.destination, server), &payload);
    let packet = match (wanted, had_gre) {
        (Some([from, to]), _) => packet.gre(from, to),
        (None, true) => packet.gre(outer.source, outer.destination),
        (None, false) => packet,
    };
    Some((packet.frame(from, to), number && payload.len() >= tag::LEN))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::PcapSink;

    fn acknowledgement(n: u16) -> build::Packet {
        let [high, low] = n.to_be_bytes();
        build::udp("198.51.100.10:2000".parse().unwrap(), "192.0.2.69:20001".parse().unwrap(), &[0, 4, high, low])
    }

    fn file(name: &str, frames: &[Vec<u8>]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pkt-gen-{}-{name}.pcap", std::process::id()));
        let mut sink = PcapSink::new(&path).unwrap();
        for (n, frame) in frames.iter().enumerate() {
            sink.write(Duration::from_millis(5 * n as u64), frame).unwrap();
        }
        sink.finish().unwrap();
        path
    }

    #[test]
    fn frames_are_sent_as_they_are_or_numbered_and_wrapped_anew() {
        let routers = ["10.0.0.1".parse().unwrap(), "10.0.1.12".parse().unwrap()];
        let wrapped = |n| acknowledgement(n).gre(routers[0], routers[1]).frame([2; 6], [4; 6]);
        let frames =
            vec![wrapped(1), acknowledgement(2).frame([2; 6], [4; 6]), acknowledgement(3).fragments(1, 8)[0].frame([2; 6], [4; 6])];
        let path = file("rewrite", &frames);
        let mut same = Capture::read(&path, Rewrite::default(), 2, Some(2.0)).unwrap();
        let mut seen = Vec::new();
        while let Some(frame) = same.next_frame(9, 9).map(<[u8]>::to_vec) {
            seen.push((same.due().unwrap().as_micros(), frame));
            same.sent();
        }
        assert_eq!(seen.iter().map(|(_, frame)| frame).collect::<Vec<_>>(), [&frames[..], &frames[..]].concat().iter().collect::<Vec<_>>());
        assert_eq!(seen.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 2500, 5000, 5000, 7500, 10_000]);

        let to = ["10.0.0.9".parse().unwrap(), "10.0.1.99".parse().unwrap()];
        let rewrite = Rewrite { number: true, macs: [None, Some([6; 6])], gre: Some(to) };
        let mut numbered = Capture::read(&path, rewrite, 1, None).unwrap();
        assert_eq!((numbered.len(), numbered.numbered, numbered.skipped), (2, 2, 1), "a fragment cannot be numbered");
        for n in 1..=2u16 {
            let frame = numbered.next_frame(u64::from(n) + 40, 5).unwrap().to_vec();
            assert_eq!(Tag::in_frame(&frame), Some(Tag { seq: u32::from(n) + 40, sent: 5 }));
            let outer = packet::flow(&frame[14..]).unwrap();
            assert_eq!((frame[..6].to_vec(), [outer.source, outer.destination]), (vec![6; 6], to));
            let inner = packet::strip_gre(&frame[34..]).unwrap();
            assert_eq!(inner[28..32], acknowledgement(n).bytes()[28..32]);
            numbered.sent();
        }
        assert!(numbered.next_frame(0, 0).is_none());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_capture_without_frames_is_refused() {
        let path = file("empty", &[]);
        assert!(matches!(Capture::read(&path, Rewrite::default(), 1, None), Err(CaptureError::Empty(_))));
        std::fs::remove_file(path).unwrap();
        assert!(matches!(Capture::read(Path::new("/nonexistent"), Rewrite::default(), 1, None), Err(CaptureError::Read(_))));
    }
}
