//! The flags.

use crate::port::PortSpec;
use crate::traffic::Shape;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Send, receive and replay packets; find the rate that something forwards without loss.
///
/// Every datagram carries a number and the time at which it was sent, so that a receiver knows what was lost, came twice or late, and
/// how long it took. Flags that mean the same are named as in netmap's pkt-gen. Progress goes to stderr, the result to stdout. Exit code
/// 0: done; 1: failed, or for bisect: no rate is without loss; 2: bad flags.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    version,
    name = "pkt-gen",
    after_help = "Examples:
  tools/pkt-gen -f tx -i af_packet:eth1 -D 02:00:00:00:01:11 -s 198.51.100.10 -d 192.0.2.53:53 --gre 10.0.0.1,10.0.1.11 -R 100k -n 1M
  tools/pkt-gen -f rx -i eth2 --take 10.0.2.21,10.0.2.22 -W --json
  tools/pkt-gen -f tx -i eth1 -P lab.pcap --speed 10            # a capture, ten times faster than it was
  tools/pkt-gen --lab-bisect -P lab.pcap                        # through a director in namespaces of its own, until loss"
)]
pub struct Args {
    /// What packets go through: af_xdp:IF (or IF alone), af_packet:IF, netmap:IF, vale0:PORT, pcap:FILE, memory (sent is received)
    #[arg(
        short,
        long = "interface",
        value_name = "PORT",
        required_unless_present = "lab_bisect",
        default_value_if("lab_bisect", "true", "memory")
    )]
    pub interface: Option<PortSpec>,
    /// What to do
    #[arg(short, long, value_enum, default_value_t = Function::Rx)]
    pub function: Function,
    /// Frames to send or receive, with k, M or G; 0 for no end
    #[arg(short = 'n', value_name = "COUNT", default_value = "0", value_parser = number)]
    pub count: u64,
    /// Frames sent at once, 1–4096
    #[arg(short, long, value_name = "FRAMES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub burst: u16,
    /// Bytes of a frame without its checksum (default: 60, or as many as it takes)
    #[arg(short, long = "len", value_name = "BYTES", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=9018))]
    pub len: u16,
    /// Frames a second, with k, M or G (default: as fast as it goes)
    #[arg(short = 'R', long, value_name = "RATE", value_parser = rate)]
    pub rate: Option<f64>,
    /// Sending: at most so many frames on their way; the next one is sent when one of them has come back to the same port. What did not come within
    /// 200 ms is lost
    #[arg(long, value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub window: Option<u32>,
    /// Seconds to wait before the first frame
    #[arg(short = 'w', long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=120))]
    pub wait: u8,
    /// Receiving: end when nothing has come for a second after the first frame
    #[arg(short = 'W')]
    pub exit_when_idle: bool,
    /// CPU to run on
    #[arg(short = 'a', value_name = "CPU")]
    pub cpu: Option<usize>,
    /// Milliseconds between lines of progress; 0 for none
    #[arg(short = 'T', value_name = "MS", default_value_t = 1000)]
    pub report: u64,
    /// Source address of the first flow, with or without a port
    #[arg(short, long, value_name = "ADDRESS[:PORT]", default_value = "198.51.100.10", value_parser = |text: &str| socket(text, 10_000))]
    pub source: SocketAddr,
    /// Destination address, with or without a port
    #[arg(short, long, value_name = "ADDRESS[:PORT]", default_value = "192.0.2.69", value_parser = |text: &str| socket(text, 53))]
    pub destination: SocketAddr,
    /// Link-layer source (default: the interface's)
    #[arg(short = 'S', value_name = "MAC", value_parser = mac)]
    pub source_mac: Option<[u8; 6]>,
    /// Link-layer destination (default: broadcast, or what the capture has)
    #[arg(short = 'D', value_name = "MAC", value_parser = mac)]
    pub destination_mac: Option<[u8; 6]>,
    /// Frames come from this capture
    #[arg(short = 'P', value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// With -P: at the times of the capture, so many times faster (default: as fast as it goes, or -R)
    #[arg(long, value_name = "FACTOR", requires = "pcap", conflicts_with = "rate", value_parser = factor)]
    pub speed: Option<f64>,
    /// With -P: how often, 0 for no end
    #[arg(long, value_name = "TIMES", requires = "pcap", default_value_t = 1)]
    pub rounds: u32,
    /// With -P: put a number and the time behind every UDP payload
    #[arg(long, requires = "pcap")]
    pub number: bool,
    /// Wrap every packet in GRE with these outer addresses
    #[arg(long, value_name = "FROM,TO", value_parser = pair)]
    pub gre: Option<Pair>,
    /// What the datagrams look like
    #[arg(long, value_enum, default_value_t = Shape::Udp)]
    pub shape: Shape,
    /// Flows: ports of the source, then further addresses
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    pub flows: u32,
    /// Destination addresses, one behind the other, taken in turn by flow
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub destinations: u32,
    /// Skew of Zipf's law by which a flow is chosen; 0: all alike
    #[arg(long, value_name = "SKEW", default_value_t = 0.0, value_parser = skew)]
    pub zipf: f64,
    /// With --shape tftp: requests among the frames, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub requests: u8,
    /// Server ports of acknowledgements
    #[arg(long, value_name = "FIRST-LAST", default_value = "20000-20999", value_parser = range)]
    pub tids: (u16, u16),
    /// With af_xdp: receive what goes to these addresses
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    pub take: Vec<IpAddr>,
    /// What chance starts from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub search: SearchArgs,
}

/// Flags of the search for a rate.
#[derive(Clone, Debug, clap::Args)]
pub struct SearchArgs {
    /// bisect: the first rate
    #[arg(long, value_name = "RATE", default_value = "10k", value_parser = rate)]
    pub start: f64,
    /// bisect: the highest rate
    #[arg(long, value_name = "RATE", default_value = "20M", value_parser = rate)]
    pub max_rate: f64,
    /// bisect: share of frames that may be lost
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub loss: f64,
    /// bisect: how near to the rate that loses, as a share of it
    #[arg(long, value_name = "SHARE", default_value_t = 0.02, value_parser = share)]
    pub precision: f64,
    /// bisect: seconds of one trial
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = factor)]
    pub trial: f64,
    /// bisect: a rate counts as losing, or as too much for the sender, after so many trials of it
    #[arg(long, value_name = "TIMES", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=20))]
    pub tries: u8,
    /// bisect through a director on a veth pair, in namespaces that are gone afterwards; needs root. Addresses are those of
    /// `guideway-lab`, whose captures can be replayed with -P
    #[arg(long)]
    pub lab_bisect: bool,
    /// The director of --lab-bisect
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/guideway")]
    pub guideway: PathBuf,
    /// The io of that director: af_xdp or af_packet
    #[arg(long, value_name = "KIND", default_value = "af_xdp", value_parser = ["af_xdp", "af_packet"])]
    pub director_io: String,
    /// Workers that it steers to; 0: one worker, without steering
    #[arg(long, value_name = "WORKERS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=64))]
    pub steering: u8,
}

/// `-f`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Function {
    /// Send
    Tx,
    /// Receive
    Rx,
    /// Send one, wait for its answer, and so on
    Ping,
    /// Send back what comes
    Pong,
    /// Send and receive at increasing rates, until the highest without loss is found
    Bisect,
}

/// Two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair(pub [IpAddr; 2]);

/// A number with or without k, M, G.
fn number(text: &str) -> Result<u64, String> {
    rate_of(text)
        .filter(|n| n.fract() == 0.0 && *n <= 1e15)
        .map(|n| n as u64)
        .ok_or_else(|| "is no number, such as 1000, 10k or 1M".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    rate_of(text).filter(|n| (1.0..=1e9).contains(n)).ok_or_else(|| "is no rate, such as 1000, 10k or 1.5M; 1 to 1G".to_owned())
}

fn rate_of(text: &str) -> Option<f64> {
    let (number, factor) = match text.strip_suffix(['k', 'K', 'M', 'G']) {
        Some(number) => (
            number,
            if text.ends_with('M') {
                1e6
            } else if text.ends_with('G') {
                1e9
            } else {
                1e3
            },
        ),
        None => (text, 1.0),
    };
    number.parse::<f64>().ok().map(|n| n * factor).filter(|n| n.is_finite() && *n >= 0.0)
}

fn factor(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.001..=100_000.0).contains(n)).ok_or_else(|| "is no number from 0.001 to 100000".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.0..1.0).contains(n)).ok_or_else(|| "is no share, from 0 to below 1".to_owned())
}

fn skew(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|n| (0.0..=10.0).contains(n)).ok_or_else(|| "is no skew, from 0 to 10".to_owned())
}

fn socket(text: &str, port: u16) -> Result<SocketAddr, String> {
    let alone = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, port));
    alone.or_else(|_| text.parse()).map_err(|_| "is no address, such as 192.0.2.69, 192.0.2.53:53 or [2001:db8::1]:53".to_owned())
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() == 2)).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| "is no link-layer address, such as 02:00:00:00:01:11".to_owned())
}

fn pair(text: &str) -> Result<Pair, String> {
    let both = text.split_once(',').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
    both.map(Pair).ok_or_else(|| "are no two addresses, such as 10.0.0.1,10.0.1.11".to_owned())
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let both = text.split_once('-').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    both.filter(|(a, b)| a <= b && *a >= 1024).ok_or_else(|| "is no range of ports from 1024 to 65535, such as 20000-20999".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_flags_are_well_formed_and_accept_human_readable_values() {
        Args::command().debug_assert();
        let args = Args::try_parse_from(
            "pkt-gen -i eth0 -f tx -n 2M -R 1.5k -d [2001:db8::1]:69 -D 02:00:00:00:01:11 --gre 10.0.0.1,10.0.0.2".split(' '),
        );
        let args = args.unwrap();
        assert_eq!((args.count, args.rate, args.destination.port(), args.source.port()), (2_000_000, Some(1500.0), 69, 10_000));
        assert_eq!(
            (args.destination_mac, args.gre),
            (Some([2, 0, 0, 0, 1, 0x11]), Some(Pair([[10, 0, 0, 1].into(), [10, 0, 0, 2].into()])))
        );
        for bad in [
            "-f tx",
            "-i eth0 -n 1.5",
            "-i eth0 -R 0",
            "-i eth0 -D 2:0:0:0:0:0",
            "-i eth0 --speed 2",
            "-i eth0 --tids 69-70",
            "-i eth0 -f nothing",
        ] {
            assert!(Args::try_parse_from(format!("pkt-gen {bad}").split(' ')).is_err(), "{bad}");
        }
        assert!(Args::try_parse_from(["pkt-gen", "--lab-bisect"]).is_ok());
    }
}
