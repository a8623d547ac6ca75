//! A scenario: a sentence, a configuration, frames in, frames out, and the counters that changed.

use super::language::{Input, inputs};
use super::render::render;
use super::run::{BOOT, pcap, replay_with};
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use std::time::Duration;

/// A scenario as its file tells it.
pub struct Scenario {
    /// Everything before `out`.
    head: String,
    configs: Vec<String>,
    pcapng: bool,
    /// Backends that are down, as POOL/BACKEND.
    down: Vec<String>,
    inputs: Vec<Input>,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Scenario {
        let head = text.split_once("\nout\n").map_or(text, |(head, _)| head);
        let (about, _) = head.split_once("\nin\n").expect("frames in");
        let mut configs = vec![BOOT.to_owned()];
        let (mut pcapng, mut down) = (false, Vec::new());
        for line in about.lines().skip(1).filter(|l| !l.trim().is_empty()) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "director" => configs[0] = replaced(&configs[0], "[director]\n", &format!("[director]\n{rest}\n")),
                "vip" => configs[0] = with_key(&configs[0], rest),
                "takeover" => {
                    configs[0] = replaced(&configs[0], &format!("name = \"{rest}\"\n"), &format!("name = \"{rest}\"\ntakeover = true\n"))
                }
                "down" => down.push(rest.to_owned()),
                "also" => configs.push(with_backend(&configs[0], rest)),
                "format" => pcapng = rest == "pcapng",
                other => panic!("{other} is no line before the frames"),
            }
        }
        Scenario { head: head.trim_end().to_owned(), configs, pcapng, down, inputs: inputs(text) }
    }

    /// Runs it, and gives the whole file as it should be.
    pub fn run(&self) -> String {
        let capture = if self.pcapng { pcapng(&self.inputs) } else { pcap(&self.inputs, DataLink::ETHERNET) };
        let mut seen = self.configs.iter().map(|config| {
            let dir = tempfile::tempdir().unwrap();
            let done = replay_with(dir.path(), config, &capture, &self.down);
            assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
            let sum = ["transmitted", "to_host", "held"].iter().map(|name| done.counter(name)).sum::<u64>() + done.dropped();
            assert_eq!(done.counter("received"), sum, "the counters balance");
            assert_eq!(done.frames.len() as u64, done.counter("transmitted") + done.counter("originated"));
            let out: String = render(&done.frames, &self.inputs).iter().map(|line| format!("  {line}\n")).collect();
            let counters: String = done.counters.iter().filter(|c| c.1 > 0).map(|(name, n)| format!("  {name} {n}\n")).collect();
            format!("out\n{out}counters\n{counters}")
        });
        let first = seen.next().unwrap();
        for other in seen {
            assert_eq!(other, first, "the other set of backends makes no difference");
        }
        format!("{}\n{first}", self.head)
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// `ADDRESS key = value`: the configuration with another key of that tftp service.
fn with_key(config: &str, words: &str) -> String {
    let (address, key) = words.split_once(' ').unwrap();
    let vip = format!("[[vip]]\naddress = \"{address}\"\nservice = \"tftp\"\n");
    replaced(config, &vip, &format!("{vip}{key}\n"))
}

/// `pool { name = …, … }`: the configuration with another backend in that pool.
fn with_backend(config: &str, words: &str) -> String {
    let (pool, backend) = words.split_once(' ').unwrap();
    let list = format!("name = \"{pool}\"\nbackends = [");
    replaced(config, &list, &format!("{list}\n  {backend},"))
}

/// A capture of two interfaces in turn, one of microseconds and one of nanoseconds.
pub fn pcapng(inputs: &[Input]) -> Vec<u8> {
    pcapng_of(inputs, vec![InterfaceDescriptionOption::IfTsResol(9)])
}

/// The same with other options of the second interface.
pub fn pcapng_of(inputs: &[Input], second: Vec<InterfaceDescriptionOption<'_>>) -> Vec<u8> {
    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    for options in [vec![], second] {
        writer.write_pcapng_block(InterfaceDescriptionBlock { linktype: DataLink::ETHERNET, snaplen: 0, options }).unwrap();
    }
    for (n, input) in inputs.iter().enumerate() {
        // The writer writes the count of the interface's own unit.
        let ticks = if n % 2 == 0 { input.time.as_micros() } else { input.time.as_nanos() };
        let packet = EnhancedPacketBlock {
            interface_id: n as u32 % 2,
            timestamp: Duration::from_nanos(u64::try_from(ticks).unwrap_or(u64::MAX)),
            original_len: input.frame.len() as u32,
            data: input.frame.as_slice().into(),
            options: vec![],
        };
        writer.write_pcapng_block(packet).unwrap();
    }
    writer.into_inner()
}
