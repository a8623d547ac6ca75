//! Captures, and the shipped program run over them.

use super::language::Input;
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::{DataLink, TsResolution};
use std::fs::{File, read_to_string, write};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// The configuration of the scenarios.
pub const BOOT: &str = include_str!("boot.toml");

/// Payload `guideway replay` did.
pub struct ReplayOutput {
    pub code: Option<i32>,
    pub stderr: String,
    pub frames: Vec<(Duration, Vec<u8>)>,
    /// Names and values; reasons as `dropped.reason`. Empty when it wrote none.
    pub counters: Vec<(String, u64)>,
}

impl ReplayOutput {
    /// A counter; 0 when it is not there.
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.iter().find(|c| c.0 == name).map_or(0, |c| c.1)
    }

    /// The sum of all drops.
    pub fn dropped(&self) -> u64 {
        self.counters.iter().filter(|c| c.0.starts_with("dropped.")).map(|c| c.1).sum()
    }
}

/// Runs `guideway replay` with these arguments behind it.
pub fn guideway(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guideway"));
    command.current_dir(dir).arg("replay").args(args).output().unwrap()
}

/// Replays `capture` with `config`, in `dir`.
pub fn replay(dir: &Path, config: &str, capture: &[u8]) -> ReplayOutput {
    replay_with(dir, config, capture, &[])
}

/// The same while these backends are down.
pub fn replay_with(dir: &Path, config: &str, capture: &[u8], down: &[String]) -> ReplayOutput {
    write(dir.join("boot.toml"), config).unwrap();
    write(dir.join("in.pcap"), capture).unwrap();
    let mut args = vec!["--config", "boot.toml", "--in", "in.pcap", "--out", "out.pcap", "--counters", "counters.json"];
    down.iter().for_each(|backend| args.extend(["--down", backend]));
    let done = guideway(dir, &args);
    ReplayOutput {
        code: done.status.code(),
        stderr: String::from_utf8(done.stderr).unwrap(),
        frames: frames(&dir.join("out.pcap")),
        counters: counters(&dir.join("counters.json")),
    }
}

/// The frames of a capture; none when there is no file.
fn frames(path: &Path) -> Vec<(Duration, Vec<u8>)> {
    let Ok(file) = File::open(path) else { return Vec::new() };
    let mut reader = PcapReader::new(file).unwrap();
    let nanos = if reader.header().ts_resolution == TsResolution::NanoSecond { 1 } else { 1000 };
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_raw_packet() {
        let packet = packet.unwrap();
        frames.push((Duration::new(packet.ts_sec.into(), packet.ts_frac * nanos), packet.data.into_owned()));
    }
    frames
}

fn counters(path: &Path) -> Vec<(String, u64)> {
    let Ok(text) = read_to_string(path) else { return Vec::new() };
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut counters = Vec::new();
    for (name, value) in document.as_object().unwrap() {
        match value.as_object() {
            Some(reasons) => counters.extend(reasons.iter().map(|(reason, n)| (format!("{name}.{reason}"), n.as_u64().unwrap()))),
            None => counters.push((name.clone(), value.as_u64().unwrap())),
        }
    }
    counters
}

/// A capture of microseconds.
pub fn pcap(inputs: &[Input], datalink: DataLink) -> Vec<u8> {
    let header = PcapHeader { datalink, ts_resolution: TsResolution::MicroSecond, ..PcapHeader::default() };
    let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
    for input in inputs {
        let (ts_sec, ts_frac, len) = (input.time.as_secs() as u32, input.time.subsec_micros(), input.frame.len() as u32);
        let packet = RawPcapPacket { ts_sec, ts_frac, incl_len: len, orig_len: len, data: input.frame.as_slice().into() };
        writer.write_raw_packet(&packet).unwrap();
    }
    writer.into_writer()
}
