//! `[director]`: turns the table into a [`Director`].

use super::duration;
use super::reader::{Field, Located, Table};
use super::text;
use super::{Addresses, Echo, Unmatched};
use guideway_hash::FleetKey;
use ipnet::{IpNet, Ipv4Net};
use netmap_rings::PortName;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// `[director]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Director {
    /// 1–63 characters of `a-z A-Z 0-9 - _ .`
    pub name: String,
    /// Address that receives GRE from routers, and source of GRE to backends. At least one of the two families.
    pub address: Addresses,
    /// Sources of GRE to backends over IPv4 instead of `address`, one for each client, so that routers and network cards spread the packets: /8–/31.
    pub source_prefix: Option<Ipv4Net>,
    /// The fleet's hash key.
    pub key: FleetKey,
    /// The next key of the fleet, known before it is used.
    pub next_key: Option<FleetKey>,
    /// Source and destination of packets.
    pub io: Io,
    /// Prefixes that GRE is accepted from.
    pub routers: Vec<IpNet>,
    /// Directors of the remote site, at most 256. They get packets that no local backend can take, and may send us such packets.
    pub remote_site: Vec<IpAddr>,
    /// All directors of the fleet, this one among them, at most 256; empty when they are not configured. They divide datagrams in fragments among them.
    pub fleet: Vec<IpAddr>,
    /// The control socket.
    pub socket: PathBuf,
    /// Address that serves metrics to Prometheus; none by default.
    pub metrics: Option<SocketAddr>,
    /// Action for GRE to an address that is not a VIP.
    pub unmatched: Unmatched,
    /// Action for echo requests to a VIP.
    pub icmp_echo: Echo,
    /// Capacity of each worker's flow table, 1,024–67,108,864 flows; default 1,048,576.
    pub flows: usize,
    /// Time for which a backend that was removed from the file keeps its TID range and its flows; default 10 min.
    pub retire: Duration,
    /// Firewall mark by which the kernel routes the director's GRE, where rules depend on one.
    pub mark: Option<u32>,
    /// Number of workers that one steering thread spreads packets over, 2–64. The default, 0, means one worker for each receive queue.
    pub steering: usize,
}

impl Director {
    /// Returns the keys that this director has.
    pub fn keys(&self) -> impl Iterator<Item = FleetKey> {
        std::iter::once(self.key).chain(self.next_key)
    }
}

/// `[director] io`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Io {
    /// Captures in and out, for `guideway replay` only.
    Pcap {
        /// Our link-layer address in the capture.
        mac: [u8; 6],
        /// MTU towards the backends in bytes, 1,280–9,216; default 1500.
        mtu: u16,
    },
    /// AF_XDP sockets, one for each receive queue.
    AfXdp {
        /// Name of the interface.
        interface: String,
        /// CPUs that the workers are pinned to, in the order of the queues. Empty: workers are spread over the CPUs that the process may
        /// use.
        cpus: Vec<usize>,
    },
    /// netmap rings, a worker for each receive ring.
    Netmap {
        /// Name of the interface.
        interface: String,
        /// Netmap ports that replace the interface's own rings.
        netmap_ports: Option<NetmapPorts>,
        /// As for `AfXdp`.
        cpus: Vec<usize>,
    },
    /// A ring-mapped AF_PACKET socket for each worker.
    AfPacket {
        /// Name of the interface.
        interface: String,
        /// Number of workers, 1–64; default 1. Several workers share the packets by hash.
        workers: usize,
        /// As for `AfXdp`.
        cpus: Vec<usize>,
    },
}

impl Io {
    /// Name of the interface, if there is one.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Io::Pcap { .. } => None,
            Io::AfXdp { interface, .. } | Io::Netmap { interface, .. } | Io::AfPacket { interface, .. } => Some(interface),
        }
    }
}

/// Two netmap ports that replace the rings of an interface, which keeps its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetmapPorts {
    /// Port that packets enter and leave by: a port of a VALE switch, the end of a pipe, another interface.
    pub rings: PortName,
    /// Port that leads to the interface's own stack: the other end of a veth pair.
    pub host_rings: PortName,
}

const FLOWS: usize = 1 << 20;
const RETIRE: Duration = Duration::from_secs(600);
const RETIRE_LIMITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// Lengths of `source_prefix`: at least two sources, and no more than a private network has.
const SOURCE_PREFIX_LENGTHS: RangeInclusive<u8> = 8..=31;
/// Maximum number of directors in `remote_site` and in `fleet`.
const MAX_DIRECTORS: usize = 256;
/// Highest CPU number in an affinity mask of the usual size.
const MAX_CPU: i64 = 1023;

/// The raw values of `[director]`.
#[derive(Default)]
pub(super) struct RawDirector<'r, 't> {
    /// Present if the whole section is valid.
    pub(super) director: Option<Director>,
    /// Valid elements of `address`.
    pub(super) addresses: Vec<Located<'r, 't, IpAddr>>,
    /// `source_prefix`, if it is valid.
    pub(super) source_prefix: Option<Located<'r, 't, Ipv4Net>>,
    /// Valid elements of `routers`.
    pub(super) routers: Vec<Located<'r, 't, IpNet>>,
    /// Valid elements of `remote_site`.
    pub(super) remote_site: Vec<Located<'r, 't, IpAddr>>,
    /// The field `fleet` and its elements, if it is given and all are valid.
    pub(super) fleet: Option<(Field<'r, 't>, Vec<Located<'r, 't, IpAddr>>)>,
    /// The io, if it is valid.
    pub(super) io: Option<Io>,
}

/// Reads `[director]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawDirector<'r, 't> {
    let name = table.required("name", "name = \"d1\"").and_then(|f| f.parse("a name in quotes", text::name)).map(|s| s.value);
    let (address, addresses) = table.required("address", "address = \"10.0.1.11\"").map(address).unwrap_or_default();
    let source_prefix = table.optional("source_prefix").map_or(Some(None), |f| source_prefix(&f, address).map(Some));
    let key = table.required("key", "key = \"…\" with 32 hex digits (openssl rand -hex 16)").and_then(key);
    let next_key = table.optional("next_key").map_or(Some(None), |f| self::key(f).map(Some));
    let io = table.required("io", "io = { kind = \"af_xdp\", interface = \"eth0\" }").and_then(|f| io(&f));
    let routers = table.optional("routers").map_or(Some(Vec::new()), |f| routers(&f));
    let remote_site = table.optional("remote_site").map_or(Some(Vec::new()), |f| directors(&f, "[\"10.9.1.11\"]"));
    let fleet = table.optional("fleet").map_or(Some(None), |f| directors(&f, "[\"10.0.1.11\", \"10.0.1.12\"]").map(|all| Some((f, all))));
    let socket = match table.optional("socket") {
        Some(field) => field.parse("a path in quotes", text::socket_path).map(|s| s.value),
        None => name.as_ref().map(|name| text::default_socket(name)),
    };
    let metrics = match table.optional("metrics") {
        Some(field) => field.parse("an address with a port in quotes", text::socket_address).map(|s| Some(s.value)),
        None => Some(None),
    };
    let unmatched = table
        .optional("unmatched")
        .map_or(Some(Unmatched::default()), |f| f.choice(&[("host", Unmatched::Host), ("drop", Unmatched::Drop)]));
    let icmp_echo = table
        .optional("icmp_echo")
        .map_or(Some(Echo::default()), |f| f.choice(&[("forward", Echo::Forward), ("answer", Echo::Answer), ("drop", Echo::Drop)]));
    let flows = table.optional("flows").map_or(Some(FLOWS), |f| f.integer("a number of flows", 1024..=67_108_864));
    let retire = table.optional("retire").map_or(Some(RETIRE), |f| duration_within(f, RETIRE_LIMITS));
    let steering = table.optional("steering").map_or(Some(0), |f| steering(&f, io.as_ref()));
    let mark = table.optional("mark").map_or(Some(None), |f| f.integer("a firewall mark", 1..=u32::MAX.into()).map(Some));
    table.finish();

    let prefixes = routers.as_ref().map(|r| r.iter().map(|s| s.value.trunc()).collect());
    let remote_sites = remote_site.as_ref().map(|remote_sites| remote_sites.iter().map(|located| located.value).collect());
    let fleet_addresses = fleet.as_ref().map(|fleet| fleet.iter().flat_map(|(_, all)| all).map(|located| located.value).collect());
    let director = || {
        Some(Director {
            name: name?,
            address: address?,
            source_prefix: source_prefix.as_ref()?.as_ref().map(|located| located.value),
            key: key?,
            next_key: next_key?,
            io: io.clone()?,
            routers: prefixes?,
            remote_site: remote_sites?,
            fleet: fleet_addresses?,
            socket: socket?,
            metrics: metrics?,
            unmatched: unmatched?,
            icmp_echo: icmp_echo?,
            flows: flows?,
            retire: retire?,
            steering: steering?,
            mark: mark?,
        })
    };
    let remote_site = remote_site.clone().unwrap_or_default();
    let director = director();
    RawDirector {
        director,
        addresses,
        source_prefix: source_prefix.flatten(),
        routers: routers.unwrap_or_default(),
        remote_site,
        fleet: fleet.clone().flatten(),
        io: io.clone(),
    }
}

/// Reads a duration within limits.
pub fn duration_within(field: Field<'_, '_>, limits: RangeInclusive<Duration>) -> Option<Duration> {
    let within = |text: &str| {
        let value = duration::parse(text).map_err(|e| e.to_string())?;
        let (least, most) = (duration::human(*limits.start()), duration::human(*limits.end()));
        limits.contains(&value).then_some(value).ok_or_else(|| format!("is out of range; allowed: {least} to {most}"))
    };
    field.parse("a duration in quotes, such as \"60s\"", within).map(|s| s.value)
}

/// Reads one address, or a list of at most one of each family. Returns both together, and each valid one.
pub(super) fn address<'r, 't>(field: Field<'r, 't>) -> (Option<Addresses>, Vec<Located<'r, 't, IpAddr>>) {
    const WANTED: &str = "an address in quotes, or a list of at most one IPv4 and one IPv6 address";
    let items = if field.is_list() { field.items(WANTED).unwrap_or_default() } else { vec![field.clone()] };
    if items.is_empty() {
        field.error("is an empty list; give one IPv4 address, one IPv6 address, or one of each");
    }
    let count = items.len();
    let located: Vec<_> = items.into_iter().filter_map(|item| item.parse(WANTED, text::unicast)).collect();
    let mut addresses = Addresses { v4: None, v6: None };
    let mut good = count > 0 && located.len() == count;
    for located in &located {
        if addresses.same_family(located.value).is_some() {
            let family = if located.value.is_ipv4() { "IPv4" } else { "IPv6" };
            located.field.error(format!("is a second {family} address; a director has at most one IPv4 and one IPv6 address"));
            good = false;
            continue;
        }
        match located.value {
            IpAddr::V4(a) => addresses.v4 = Some(a),
            IpAddr::V6(a) => addresses.v6 = Some(a),
        }
    }
    (good.then_some(addresses), located)
}

/// Reads a prefix of IPv4 sources. Only GRE over IPv4 needs it.
fn source_prefix<'r, 't>(field: &Field<'r, 't>, address: Option<Addresses>) -> Option<Located<'r, 't, Ipv4Net>> {
    let read = |text: &str| match text::prefix(text)? {
        IpNet::V6(_) => Err("is an IPv6 prefix; GRE over IPv6 needs none, because its flow label differs by client".to_owned()),
        IpNet::V4(prefix) if !SOURCE_PREFIX_LENGTHS.contains(&prefix.prefix_len()) => Err(format!(
            "has length {}; allowed: /{} to /{}, such as /28 for 16 sources",
            prefix.prefix_len(),
            SOURCE_PREFIX_LENGTHS.start(),
            SOURCE_PREFIX_LENGTHS.end()
        )),
        IpNet::V4(prefix) if prefix != prefix.trunc() => Err(format!("has bits beyond its prefix length; write {}", prefix.trunc())),
        IpNet::V4(prefix) => Ok(prefix),
    };
    let prefix = field.clone().parse("an IPv4 prefix in quotes, such as \"10.0.1.16/28\"", read)?;
    if address.is_some_and(|address| address.v4.is_none()) {
        field.error("has no effect: director.address has no IPv4 address, so no GRE leaves over IPv4; remove this key or add the address");
        return None;
    }
    Some(prefix)
}

/// Reads the fleet's key. Its value is never shown.
pub fn key(field: Field<'_, '_>) -> Option<FleetKey> {
    field.secret().parse("32 hex digits in quotes", parse_key).map(|s| s.value)
}

/// Parses the fleet's key from its digits.
pub fn parse_key(text: &str) -> Result<FleetKey, String> {
    let length = text.chars().count();
    if length != 32 {
        return Err(format!("has {length} characters; write 32 hex digits (16 bytes), the same on every director of the fleet"));
    }
    let wrong = || "has a character that is not a hex digit; write 32 of 0-9 and a-f".to_owned();
    let digits: Vec<u32> = text.chars().map(|c| c.to_digit(16)).collect::<Option<_>>().ok_or_else(wrong)?;
    let mut bytes = [0u8; 16];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |sum, digit| sum * 16 + u8::try_from(*digit).unwrap_or(0));
    }
    Ok(FleetKey::new(bytes))
}

fn io(field: &Field<'_, '_>) -> Option<Io> {
    let mut table = field.table("a table such as { kind = \"af_xdp\", interface = \"eth0\" }")?;
    let io = match table.required("kind", "kind = \"af_xdp\"").and_then(|f| kind(&f))? {
        IoKind::Pcap => {
            let mac =
                table.required("mac", "mac = \"02:00:00:00:01:11\"").and_then(|f| f.parse("a link-layer address in quotes", text::mac));
            let mtu = table.optional("mtu").map_or(Some(1500), |f| f.integer("bytes", 1280..=9216));
            mac.zip(mtu).map(|(mac, mtu)| Io::Pcap { mac: mac.value, mtu })
        }
        IoKind::AfXdp => {
            let (interface, cpus) = (interface(&mut table), cpus(&mut table));
            interface.zip(cpus).map(|(interface, cpus)| Io::AfXdp { interface, cpus })
        }
        IoKind::Netmap => {
            let (interface, cpus, netmap_ports) = (interface(&mut table), cpus(&mut table), netmap_ports(&mut table));
            interface.zip(cpus).zip(netmap_ports).map(|((interface, cpus), netmap_ports)| Io::Netmap { interface, netmap_ports, cpus })
        }
        IoKind::AfPacket => {
            let (interface, cpus) = (interface(&mut table), cpus(&mut table));
            let workers = table.optional("workers").map_or(Some(1), |f| f.integer("a number of workers", 1..=64));
            interface.zip(cpus).zip(workers).map(|((interface, cpus), workers)| Io::AfPacket { interface, workers, cpus })
        }
    };
    table.finish();
    io
}

/// Reads the number of workers behind a steering thread. One thread receives all packets, so further sockets would get none.
fn steering(field: &Field<'_, '_>, io: Option<&Io>) -> Option<usize> {
    let steering = field.integer("a number of workers", 2..=64)?;
    if let Some(Io::AfPacket { workers: workers @ 2.., .. }) = io {
        field.error(format!("conflicts with io.workers = {workers}; steering creates the workers: remove `workers`"));
        return None;
    }
    if matches!(io, Some(Io::Pcap { .. })) {
        field.error("conflicts with io.kind = \"pcap\"; a replay has one worker: remove `steering`");
        return None;
    }
    Some(steering)
}

#[derive(Clone, Copy)]
enum IoKind {
    Pcap,
    AfXdp,
    Netmap,
    AfPacket,
}

fn kind(field: &Field<'_, '_>) -> Option<IoKind> {
    field.choice(&[("af_xdp", IoKind::AfXdp), ("af_packet", IoKind::AfPacket), ("netmap", IoKind::Netmap), ("pcap", IoKind::Pcap)])
}

/// Reads `rings` and `host_rings`: both or neither.
fn netmap_ports(table: &mut Table<'_, '_>) -> Option<Option<NetmapPorts>> {
    let (rings, host_rings) = (table.optional("rings"), table.optional("host_rings"));
    let given = match (rings, host_rings) {
        (None, None) => return Some(None),
        (Some(rings), Some(host_rings)) => (rings, host_rings),
        (Some(alone), None) => {
            alone.error("needs `host_rings`, the netmap port that leads to the interface's own stack: give both or neither");
            return None;
        }
        (None, Some(alone)) => {
            alone.error("needs `rings`, the netmap port that packets enter and leave by: give both or neither");
            return None;
        }
    };
    let name = |field: Field<'_, '_>| {
        let named = |text: &str| text.parse::<PortName>().map_err(|error| format!("is not a netmap port: {error}"));
        field.parse("the name of a netmap port in quotes, such as \"vale0:1\"", named).map(|s| s.value)
    };
    let (rings, host_rings) = (name(given.0), name(given.1));
    Some(Some(NetmapPorts { rings: rings?, host_rings: host_rings? }))
}

fn interface(table: &mut Table<'_, '_>) -> Option<String> {
    let field = table.required("interface", "interface = \"eth0\"")?;
    field.parse("the name of an interface in quotes", text::interface).map(|s| s.value)
}

fn cpus(table: &mut Table<'_, '_>) -> Option<Vec<usize>> {
    let Some(field) = table.optional("cpus") else { return Some(Vec::new()) };
    let items = field.items("a list of CPU numbers, such as [2, 3]")?;
    let read: Vec<_> = items.iter().map(|f| f.integer("a CPU number", 0..=MAX_CPU)).collect();
    read.into_iter().collect()
}

fn routers<'r, 't>(field: &Field<'r, 't>) -> Option<Vec<Located<'r, 't, IpNet>>> {
    let items = field.items("a list of prefixes and addresses, such as [\"10.0.0.0/24\"]")?;
    let read: Vec<_> = items.into_iter().map(|f| f.parse("a prefix or an address in quotes", text::prefix)).collect();
    read.into_iter().collect()
}

/// Reads addresses of directors, each once.
fn directors<'r, 't>(field: &Field<'r, 't>, example: &str) -> Option<Vec<Located<'r, 't, IpAddr>>> {
    let items = field.items(&format!("a list of addresses, such as {example}"))?;
    if items.len() > MAX_DIRECTORS {
        field.error(format!("names {} addresses; at most {MAX_DIRECTORS} are allowed", items.len()));
        return None;
    }
    let read: Option<Vec<_>> = items.into_iter().map(|f| f.parse("an address in quotes", text::unicast)).collect();
    let read: Vec<Located<'r, 't, IpAddr>> = read?;
    for (at, located) in read.iter().enumerate() {
        if read[..at].iter().any(|before| before.value == located.value) {
            located.field.error("is in this list twice; remove one of them");
            return None;
        }
    }
    Some(read)
}
