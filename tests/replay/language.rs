//! Frames as people write them: `0.000 gre 10.0.0.1 > 10.0.1.11 | udp 198.51.100.7:2070 > 192.0.2.69:69 | rrq pxelinux.0`.
//!
//! A line is a time in seconds and layers from the outside in, with `|` between them. `README.md` beside this lists the words.

use guideway_packet::wire::build::{self, GreFields, Packet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::{FromStr, SplitWhitespace};
use std::time::Duration;

pub const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];

/// A frame that goes in.
#[derive(Clone, Debug)]
pub struct Input {
    pub time: Duration,
    pub frame: Vec<u8>,
    /// Where the client's packet stands in it.
    pub inner: Range<usize>,
}

/// The frames that go into a scenario.
pub fn inputs(scenario: &str) -> Vec<Input> {
    let (_, rest) = scenario.split_once("\nin\n").expect("frames in");
    let frames = rest.split_once("\nout\n").map_or(rest, |(frames, _)| frames);
    frames.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(input).collect()
}

/// Every scenario beside this file: its path and its text.
pub fn scenarios() -> Vec<(PathBuf, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "scenario"));
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// Reads a line.
pub fn input(line: &str) -> Input {
    let (time, layers) = line.trim().split_once(' ').unwrap_or_else(|| panic!("no time: {line}"));
    let mut layers: Vec<&str> = layers.split('|').map(str::trim).collect();
    let mut spoil: Vec<SplitWhitespace<'_>> = Vec::new();
    while let Some(last) = layers.last().filter(|l| ["cut ", "spoil ", "pad "].iter().any(|word| l.starts_with(word))) {
        spoil.insert(0, last.split_whitespace());
        layers.pop();
    }
    let (mut vlan, mut to) = (None, DIRECTOR_MAC);
    if let Some(words) = layers[0].strip_prefix("link ") {
        let mut words = words.split_whitespace();
        while let Some(word) = words.next() {
            match word {
                "vlan" => vlan = Some(value(&mut words)),
                "to" => to = mac(words.next().unwrap()),
                other => panic!("a link has no {other}"),
            }
        }
        layers.remove(0);
    }
    let outer = packet(&layers);
    let mut inner = if layers[0].starts_with("gre ") { packet(&layers[1..]).bytes().len() } else { outer.bytes().len() };
    let mut frame = match vlan {
        Some(vlan) => outer.tagged_frame(ROUTER_MAC, to, vlan),
        None => outer.frame(ROUTER_MAC, to),
    };
    inner = frame.len() - inner;
    let inner = inner..frame.len();
    for mut words in spoil {
        let (word, number) = (words.next().unwrap(), value::<usize>(&mut words));
        match word {
            "cut" => frame.truncate(number),
            "pad" => frame.resize(frame.len() + number, 0xee),
            _ => frame[number] ^= 0xff,
        }
    }
    Input { time: Duration::from_secs_f64(time.parse().unwrap()), frame, inner }
}

fn value<T: FromStr>(words: &mut SplitWhitespace<'_>) -> T {
    let word = words.next().unwrap_or_else(|| panic!("a value is missing"));
    word.parse().unwrap_or_else(|_| panic!("{word} is no value here"))
}

/// A link-layer address.
pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The packet whose outermost header is the first of `layers`.
fn packet(layers: &[&str]) -> Packet {
    let (head, rest) = layers.split_first().expect("a packet");
    let mut words = head.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let (from, arrow, to) = (words.next().unwrap(), words.next(), words.next().unwrap());
    assert_eq!(arrow, Some(">"), "{head}");
    let ip = |text: &str| text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text} is no address"));
    let socket = |text: &str| text.parse::<SocketAddr>().unwrap_or_else(|_| panic!("{text} is no address and port"));
    let made = match kind {
        "gre" => return gre(ip(from), ip(to), words, rest),
        "udp" => build::udp(socket(from), socket(to), &payload(rest)),
        "tcp" => build::tcp(socket(from), socket(to), 2, &payload(rest)),
        "icmp" => build::icmp(ip(from), ip(to), value(&mut words), value(&mut words), &payload(rest)),
        "ip" => build::ip(ip(from), ip(to), value(&mut words), &payload(rest)),
        other => panic!("{other} is no kind of packet"),
    };
    with(made, words)
}

fn gre(from: IpAddr, to: IpAddr, words: SplitWhitespace<'_>, rest: &[&str]) -> Packet {
    let (mut fields, mut others) = (GreFields::default(), Vec::new());
    let mut left = words;
    while let Some(word) = left.next() {
        match word {
            "checksum" => fields.checksum = true,
            "key" => fields.key = Some(value(&mut left)),
            "sequence" => fields.sequence = Some(value(&mut left)),
            other => others.push(other),
        }
    }
    let others = others.join(" ");
    with(packet(rest).gre_with(from, to, fields), others.split_whitespace())
}

/// Payload is special about a header.
fn with(mut packet: Packet, mut words: SplitWhitespace<'_>) -> Packet {
    while let Some(word) = words.next() {
        packet = match word {
            "ttl" => packet.ttl(value(&mut words)),
            "tos" => packet.tos(value(&mut words)),
            "df" => packet.df(),
            "options" => packet.options(&hex(words.next().unwrap())),
            "extension" => packet.extension(value(&mut words), &hex(words.next().unwrap())),
            // "piece 2 of 64 id 7": the second of the pieces of 64 bytes.
            "piece" => {
                let (number, _, size, _, id): (usize, String, usize, String, u32) =
                    (value(&mut words), value(&mut words), value(&mut words), value(&mut words), value(&mut words));
                packet.fragments(id, size).swap_remove(number - 1)
            }
            other => panic!("a header has no {other}"),
        };
    }
    packet
}

/// Payload follows the last header.
fn payload(layers: &[&str]) -> Vec<u8> {
    let Some(first) = layers.first() else { return Vec::new() };
    let mut words = first.split_whitespace();
    let request = |opcode, name: &str| [&[0, opcode], name.as_bytes(), b"\0octet\0"].concat();
    let block = |opcode: u8, number: u16| [&[0, opcode][..], &number.to_be_bytes()].concat();
    match words.next().unwrap_or_default() {
        "rrq" => request(1, words.next().unwrap()),
        "wrq" => request(2, words.next().unwrap()),
        // "data 1 512": the first block, of 512 bytes that count up from its number.
        "data" => {
            let (number, len): (u16, usize) = (value(&mut words), value(&mut words));
            block(3, number).into_iter().chain((0..len).map(|n| ((n + usize::from(number)) % 251) as u8)).collect()
        }
        "ack" => block(4, value(&mut words)),
        "error" => [&block(5, value(&mut words))[..], b"no\0"].concat(),
        "oack" => b"\0\x06blksize\x001428\0".to_vec(),
        "raw" => hex(words.next().unwrap_or_default()),
        "text" => words.collect::<Vec<_>>().join(" ").into_bytes(),
        // The packet that an ICMP error quotes.
        _ => [&[0; 4], packet(layers).bytes()].concat(),
    }
}
