//! Captures in, captures out: `guideway replay` runs the real path on files.
//!
//! Reads pcap (microseconds or nanoseconds, either byte order) and pcapng; writes pcap. Time is the capture's.

use super::{BATCH, BatchHandler, Io, PollResult};
use guideway_packet::frame::{Frame, HEADROOM};
use guideway_packet::time::Time;
use guideway_packet::verdict::Verdict;
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};
use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Frames of one batch lie at most so far apart in the capture, so that one reading of time serves them all.
const BATCH_SPAN: Duration = Duration::from_micros(100);
/// Longest frame written; longer than any that can be read, plus what a header grows by.
const SNAPLEN: u32 = 0x80000;

/// Why a capture cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened, read or made.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is no capture, or damaged.
    #[error("{path}: {what}; a capture in pcap or pcapng format is expected")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The capture's frames are not Ethernet.
    #[error("{path}: its link type is {found:?}; only Ethernet (link type 1) can be replayed")]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The link type that it has.
        found: DataLink,
    },
}

/// A capture to read frames from.
enum CaptureReader {
    Pcap(PcapReader<File>, TsResolution),
    PcapNg(Box<PcapNgReader<File>>),
}

/// A capture in, a capture out.
pub struct Pcap {
    input: PathBuf,
    source: CaptureReader,
    out: PcapWriter<BufWriter<File>>,
    /// Frames of the batch, each in a buffer with headroom; the buffers are used again.
    batch: Vec<(Duration, Vec<u8>)>,
    /// A frame already read that belongs to the next batch.
    lookahead: bool,
    /// Frames read so far.
    read: u64,
    now: Duration,
    /// Time of the last frame handed to the caller: what it sends after a batch is written with it, so that times do not go back.
    latest: Duration,
}

impl std::fmt::Debug for Pcap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pcap").field("input", &self.input).field("read", &self.read).finish_non_exhaustive()
    }
}

impl Pcap {
    /// Opens `input` for reading and makes `output` anew.
    pub fn open(input: &Path, output: &Path) -> Result<Pcap, Error> {
        let source = open_source(input)?;
        let file = File::create(output).map_err(|source| Error::File { path: output.into(), source })?;
        let ts_resolution = match &source {
            CaptureReader::Pcap(_, resolution) => *resolution,
            CaptureReader::PcapNg(_) => TsResolution::NanoSecond,
        };
        let header = PcapHeader { snaplen: SNAPLEN, datalink: DataLink::ETHERNET, ts_resolution, ..PcapHeader::default() };
        let out = PcapWriter::with_header(BufWriter::new(file), header)
            .map_err(|e| Error::Format { path: output.into(), what: error_text(&e) })?;
        let batch = (0..=BATCH).map(|_| (Duration::ZERO, Vec::new())).collect();
        Ok(Pcap { input: input.into(), source, out, batch, lookahead: false, read: 0, now: Duration::ZERO, latest: Duration::ZERO })
    }

    /// Frames read so far.
    pub fn frames_read(&self) -> u64 {
        self.read
    }

    /// Reads the next frame into buffer `at`; `false` at the end of the capture.
    fn read(&mut self, at: usize) -> io::Result<bool> {
        let (time, bytes) = &mut self.batch[at];
        let fill = |data: &[u8]| {
            bytes.clear();
            bytes.resize(HEADROOM, 0);
            bytes.extend_from_slice(data);
        };
        let result = match &mut self.source {
            CaptureReader::Pcap(reader, resolution) => next_pcap(reader, *resolution, fill),
            CaptureReader::PcapNg(reader) => next_pcapng(reader, fill),
        };
        match result {
            Ok(Some(stamp)) => {
                *time = stamp;
                self.read += 1;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(what) => {
                let what = format!("{}: after frame {}: {what}", self.input.display(), self.read);
                Err(io::Error::new(io::ErrorKind::InvalidData, what))
            }
        }
    }

    fn write(&mut self, time: Duration, frame: &[u8]) -> io::Result<()> {
        let frac = match self.out.ts_resolution() {
            TsResolution::MicroSecond => time.subsec_micros(),
            TsResolution::NanoSecond => time.subsec_nanos(),
        };
        let len = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let packet =
            RawPcapPacket { ts_sec: time.as_secs() as u32, ts_frac: frac, incl_len: len, orig_len: len, data: Cow::Borrowed(frame) };
        self.out.write_raw_packet(&packet).map(|_| ()).map_err(|e| io::Error::other(error_text(&e)))
    }

    /// Writes out what is still buffered. To be called at the end, for its error.
    pub fn finish(self) -> io::Result<()> {
        self.out.into_writer().flush()
    }
}

impl Io for Pcap {
    fn poll(&mut self, _: Duration, work: &mut BatchHandler<'_>) -> io::Result<PollResult> {
        let mut count = usize::from(std::mem::take(&mut self.lookahead));
        let mut end = false;
        let mut failure = None;
        while count <= BATCH {
            match self.read(count) {
                Ok(true) => count += 1,
                Ok(false) => end = true,
                Err(error) => failure = Some(error),
            }
            if end || failure.is_some() || self.batch[count - 1].0.saturating_sub(self.batch[0].0) > BATCH_SPAN {
                break;
            }
        }
        let last_is_lookahead = count > 1 && (count > BATCH || self.batch[count - 1].0.saturating_sub(self.batch[0].0) > BATCH_SPAN);
        let taken = count - usize::from(last_is_lookahead);
        if taken > 0 {
            // A capture may go back in time; the path's time does not.
            self.now = self.now.max(self.batch[0].0);
            self.latest = self.batch[taken - 1].0;
            let now = self.now();
            let mut batch = std::mem::take(&mut self.batch);
            let mut frames: Vec<Frame<'_>> = batch[..taken]
                .iter_mut()
                .map(|(_, bytes)| {
                    let len = bytes.len() - HEADROOM;
                    Frame::new(bytes, HEADROOM, len)
                })
                .collect();
            work(now, &mut frames);
            let out: Vec<(usize, usize)> =
                frames.iter().map(|f| if f.verdict == Verdict::Transmit { (f.start(), f.len()) } else { (0, 0) }).collect();
            let mut written = out.iter().zip(&batch).filter(|((_, len), _)| *len > 0);
            let result: io::Result<()> =
                written.try_for_each(|((start, len), (time, bytes))| self.write(*time, &bytes[*start..start + len]));
            if last_is_lookahead {
                batch.swap(0, taken);
                self.lookahead = true;
            }
            self.batch = batch;
            result?;
        }
        match failure {
            Some(error) if taken == 0 => Err(error),
            // What was read before the damage counts; the next turn meets the damage again.
            _ => Ok(PollResult { received: taken, transmit_full: 0, end: end && !self.lookahead }),
        }
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<bool> {
        self.write(self.latest, frame).map(|()| true)
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Opens a capture of either format, recognised by its first bytes.
fn open_source(path: &Path) -> Result<CaptureReader, Error> {
    let file_error = |source| Error::File { path: path.into(), source };
    let mut file = File::open(path).map_err(file_error)?;
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic).map_err(file_error)?;
    file.seek(SeekFrom::Start(0)).map_err(file_error)?;
    let format = |what| Error::Format { path: path.into(), what };
    if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
        return PcapNgReader::new(file).map(|reader| CaptureReader::PcapNg(Box::new(reader))).map_err(|e| format(error_text(&e)));
    }
    let known = [[0xa1, 0xb2, 0xc3, 0xd4], [0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d], [0x4d, 0x3c, 0xb2, 0xa1]];
    if !known.iter().any(|k| magic == k) {
        return Err(format(format!("it starts with the bytes {magic:02x?}")));
    }
    let reader = PcapReader::new(file).map_err(|e| format(error_text(&e)))?;
    let header = reader.header();
    if header.datalink != DataLink::ETHERNET {
        return Err(Error::LinkType { path: path.into(), found: header.datalink });
    }
    Ok(CaptureReader::Pcap(reader, header.ts_resolution))
}

/// Time of the next frame of a pcap file, its bytes given to `fill`; `None` at the end.
fn next_pcap(reader: &mut PcapReader<File>, resolution: TsResolution, fill: impl FnOnce(&[u8])) -> Result<Option<Duration>, String> {
    // The checked form refuses frames longer than the file's own snaplen, which real captures have.
    let Some(packet) = reader.next_raw_packet() else { return Ok(None) };
    let packet = packet.map_err(|e| error_text(&e))?;
    fill(&packet.data);
    let unit = match resolution {
        TsResolution::MicroSecond => 1000,
        TsResolution::NanoSecond => 1,
    };
    Ok(Some(Duration::from_secs(packet.ts_sec.into()) + Duration::from_nanos(u64::from(packet.ts_frac) * unit)))
}

/// The same for a pcapng file. Blocks that hold no frame are passed over.
fn next_pcapng(reader: &mut PcapNgReader<File>, fill: impl FnOnce(&[u8])) -> Result<Option<Duration>, String> {
    loop {
        let (interface, ticks, data) = match reader.next_block() {
            None => return Ok(None),
            Some(Err(e)) => return Err(error_text(&e)),
            // The reader gives the raw count of the interface's time unit as if it were nanoseconds.
            Some(Ok(Block::EnhancedPacket(packet))) => (packet.interface_id, packet.timestamp.as_nanos(), packet.data.into_owned()),
            Some(Ok(Block::SimplePacket(packet))) => (0, 0, packet.data.into_owned()),
            Some(Ok(_)) => continue,
        };
        let interface = reader.interfaces().get(interface as usize).ok_or_else(|| format!("no interface number {interface}"))?;
        if interface.linktype != DataLink::ETHERNET {
            return Err(format!("the link type of an interface is {:?}; only Ethernet (link type 1) can be replayed", interface.linktype));
        }
        let resolution = interface.options.iter().find_map(|option| match option {
            InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
            _ => None,
        });
        fill(&data);
        return Ok(Some(ticks_to_time(ticks, resolution.unwrap_or(6))));
    }
}

/// Time from a count of units: 10⁻ⁿ seconds, or 2⁻ⁿ with the high bit set (pcapng, `if_tsresol`).
fn ticks_to_time(ticks: u128, resolution: u8) -> Duration {
    let exponent = u32::from(resolution & 0x7f);
    let per_second = if resolution & 0x80 != 0 { 1u128.checked_shl(exponent) } else { 10u128.checked_pow(exponent) };
    let Some(per_second) = per_second else { return Duration::ZERO };
    let (seconds, rest) = (ticks / per_second, ticks % per_second);
    let nanos = rest.checked_mul(1_000_000_000).map_or(0, |n| n / per_second);
    Duration::new(u64::try_from(seconds).unwrap_or(u64::MAX), nanos as u32)
}

/// An error of the reader as one human-readable line.
fn error_text(error: &PcapError) -> String {
    match error {
        PcapError::IoError(e) if e.kind() == io::ErrorKind::UnexpectedEof => "the file ends in the middle of a record".into(),
        PcapError::IoError(e) => e.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_units_of_pcapng_become_nanoseconds() {
        assert_eq!(ticks_to_time(1_500_000, 6), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(1_500_000_000, 9), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(3 << 9, 0x80 | 10), Duration::from_millis(1500));
        assert_eq!(ticks_to_time(u128::MAX, 0x7f), Duration::ZERO);
    }

    fn capture(dir: &Path, stamps: &[u64]) -> PathBuf {
        let path = dir.join("in.pcap");
        let header = PcapHeader { datalink: DataLink::ETHERNET, ts_resolution: TsResolution::MicroSecond, ..PcapHeader::default() };
        let mut writer = PcapWriter::with_header(File::create(&path).unwrap(), header).unwrap();
        for (n, micros) in stamps.iter().enumerate() {
            let data = vec![n as u8; 60 + n];
            let len = data.len() as u32;
            let (ts_sec, ts_frac) = ((micros / 1_000_000) as u32, (micros % 1_000_000) as u32);
            writer.write_raw_packet(&RawPcapPacket { ts_sec, ts_frac, incl_len: len, orig_len: len, data: data.into() }).unwrap();
        }
        path
    }

    /// Time in µs and number of frames of every batch, time in µs and bytes of every frame written, and what went wrong.
    type Through = (Vec<(u64, usize)>, Vec<(u64, Vec<u8>)>, Option<String>);

    /// Runs a capture through, transmitting all.
    fn through(input: &Path, dir: &Path) -> Through {
        let output = dir.join("out.pcap");
        let mut pcap = Pcap::open(input, &output).unwrap();
        let mut batches = Vec::new();
        let failure = loop {
            let poll = pcap.poll(Duration::ZERO, &mut |now, frames| {
                batches.push((now.0 / 1000, frames.len()));
                frames.iter_mut().for_each(|f| f.verdict = Verdict::Transmit);
            });
            match poll {
                Ok(poll) if poll.end => break None,
                Ok(_) => {}
                Err(error) => break Some(error.to_string()),
            }
        };
        pcap.finish().unwrap();
        let mut reader = PcapReader::new(File::open(output).unwrap()).unwrap();
        let mut written = Vec::new();
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet.unwrap();
            written.push((u64::from(packet.ts_sec) * 1_000_000 + u64::from(packet.ts_frac), packet.data.to_vec()));
        }
        (batches, written, failure)
    }

    #[test]
    fn every_frame_comes_once_in_order_with_its_time_and_time_never_goes_back() {
        let dir = tempfile::tempdir().unwrap();
        let stamps: Vec<u64> = (0..150).map(|n| 5_000_000 + n / 3).chain([9_000_000, 8_000_000, 9_000_050, 9_500_000]).collect();
        let (batches, written, failure) = through(&capture(dir.path(), &stamps), dir.path());
        assert_eq!(failure, None);
        assert_eq!(written, stamps.iter().enumerate().map(|(n, t)| (*t, vec![n as u8; 60 + n])).collect::<Vec<_>>());
        assert_eq!(batches.iter().map(|b| b.1).sum::<usize>(), stamps.len());
        assert!(batches.iter().all(|b| b.1 <= BATCH) && batches.windows(2).all(|w| w[0].0 <= w[1].0), "{batches:?}");
        assert_eq!(batches.last(), Some(&(9_500_000, 1)));
    }

    #[test]
    fn a_capture_cut_off_gives_what_is_whole_and_then_says_where() {
        let dir = tempfile::tempdir().unwrap();
        let input = capture(dir.path(), &[1, 2, 3]);
        let len = std::fs::metadata(&input).unwrap().len();
        File::options().write(true).open(&input).unwrap().set_len(len - 10).unwrap();
        let (_, written, failure) = through(&input, dir.path());
        assert_eq!(written.len(), 2);
        let failure = failure.unwrap();
        assert!(failure.contains("after frame 2: the file ends in the middle of a record"), "{failure}");
    }

    #[test]
    fn what_is_no_capture_of_ethernet_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let refused = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Pcap::open(&path, &dir.path().join("out")).unwrap_err().to_string()
        };
        assert!(refused(b"").contains("starts with the bytes []"));
        assert!(refused(b"hello, this is no capture").contains("a capture in pcap or pcapng format is expected"));
        let mut header = Vec::new();
        PcapWriter::with_header(&mut header, PcapHeader { datalink: DataLink::RAW, ..PcapHeader::default() }).unwrap();
        assert!(refused(&header).contains("only Ethernet"));
        assert!(Pcap::open(Path::new("/nonexistent"), &path).unwrap_err().to_string().contains("/nonexistent"));
    }
}
