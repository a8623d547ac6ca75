//! `[director]`: from the table to [`Director`].

use super::duration;
use super::reader::{Field, Spot, Table};
use super::text;
use super::{Addresses, Detour, Director, Echo, Io, Unmatched};
use guideway_hash::FleetKey;
use ipnet::IpNet;
use netmap_rings::PortName;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

const FLOWS: usize = 1 << 20;
const RETIRE: Duration = Duration::from_secs(600);
const RETIRE_LIMITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);
/// Directors in `other_site`.
const MOST_SITES: usize = 256;
/// Highest CPU number that an affinity mask of the usual size can name.
const LAST_CPU: i64 = 1023;

/// What was read of `[director]`.
#[derive(Default)]
pub(super) struct Draft<'r, 't> {
    /// Present if the whole section is good.
    pub(super) director: Option<Director>,
    /// What could be read of `address`.
    pub(super) addresses: Vec<Spot<'r, 't, IpAddr>>,
    /// What could be read of `routers`.
    pub(super) routers: Vec<Spot<'r, 't, IpNet>>,
    /// What could be read of `other_site`.
    pub(super) other_site: Vec<Spot<'r, 't, IpAddr>>,
    /// The kind of io, as far as it is known.
    pub(super) io: Option<Io>,
}

/// Reads `[director]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> Draft<'r, 't> {
    let name = table.required("name", "name = \"d1\"").and_then(|f| f.parse("a name in quotes", text::name)).map(|s| s.value);
    let (address, addresses) = table.required("address", "address = \"10.0.1.11\"").map(address).unwrap_or_default();
    let key = table.required("key", "key = \"…\" with 32 hex digits (openssl rand -hex 16)").and_then(key);
    let next_key = table.optional("next_key").map_or(Some(None), |f| self::key(f).map(Some));
    let io = table.required("io", "io = { kind = \"af_xdp\", interface = \"eth0\" }").and_then(|f| io(&f));
    let routers = table.optional("routers").map_or(Some(Vec::new()), |f| routers(&f));
    let other_site = table.optional("other_site").map_or(Some(Vec::new()), |f| other_site(&f));
    let socket = match table.optional("socket") {
        Some(field) => field.parse("a path in quotes", text::socket_path).map(|s| s.value),
        None => name.as_ref().map(|name| text::socket_of(name)),
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
    table.finish();

    let prefixes = routers.as_ref().map(|r| r.iter().map(|s| s.value.trunc()).collect());
    let sites = other_site.as_ref().map(|sites| sites.iter().map(|spot| spot.value).collect());
    let director = || {
        Some(Director {
            name: name?,
            address: address?,
            key: key?,
            next_key: next_key?,
            io: io.clone()?,
            routers: prefixes?,
            other_site: sites?,
            socket: socket?,
            metrics: metrics?,
            unmatched: unmatched?,
            icmp_echo: icmp_echo?,
            flows: flows?,
            retire: retire?,
            steering: steering?,
        })
    };
    let other_site = other_site.clone().unwrap_or_default();
    Draft { director: director(), addresses, routers: routers.unwrap_or_default(), other_site, io: io.clone() }
}

/// A duration within limits.
pub fn duration_within(field: Field<'_, '_>, limits: RangeInclusive<Duration>) -> Option<Duration> {
    let within = |text: &str| {
        let value = duration::parse(text).map_err(|e| e.to_string())?;
        let (least, most) = (duration::human(*limits.start()), duration::human(*limits.end()));
        limits.contains(&value).then_some(value).ok_or_else(|| format!("is outside of what is allowed: {least} to {most}"))
    };
    field.parse("a duration in quotes, such as \"60s\"", within).map(|s| s.value)
}

/// One address, or a list of at most one of each family: together, and each as far as it could be read.
pub(super) fn address<'r, 't>(field: Field<'r, 't>) -> (Option<Addresses>, Vec<Spot<'r, 't, IpAddr>>) {
    const WANTED: &str = "an address in quotes, or a list of at most one IPv4 and one IPv6 address";
    let items = if field.is_list() { field.items(WANTED).unwrap_or_default() } else { vec![field.clone()] };
    if items.is_empty() {
        field.error("is an empty list; give one IPv4 address, one IPv6 address, or one of each");
    }
    let count = items.len();
    let spots: Vec<_> = items.into_iter().filter_map(|item| item.parse(WANTED, text::unicast)).collect();
    let mut addresses = Addresses { v4: None, v6: None };
    let mut good = count > 0 && spots.len() == count;
    for spot in &spots {
        if addresses.same_family(spot.value).is_some() {
            let family = if spot.value.is_ipv4() { "IPv4" } else { "IPv6" };
            spot.field.error(format!("is a second {family} address; a director has at most one IPv4 and one IPv6 address"));
            good = false;
            continue;
        }
        match spot.value {
            IpAddr::V4(a) => addresses.v4 = Some(a),
            IpAddr::V6(a) => addresses.v6 = Some(a),
        }
    }
    (good.then_some(addresses), spots)
}

/// The fleet's key. What was written is never shown.
pub fn key(field: Field<'_, '_>) -> Option<FleetKey> {
    field.secret().parse("32 hex digits in quotes", key_of).map(|s| s.value)
}

/// The fleet's key from its digits.
pub fn key_of(text: &str) -> Result<FleetKey, String> {
    let length = text.chars().count();
    if length != 32 {
        return Err(format!("has {length} characters; 32 hex digits (16 bytes) are wanted, the same on every director of the fleet"));
    }
    let wrong = || "has a character that is no hex digit; 32 of 0-9 and a-f are wanted".to_owned();
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
        Kind::Pcap => {
            let mac =
                table.required("mac", "mac = \"02:00:00:00:01:11\"").and_then(|f| f.parse("a link-layer address in quotes", text::mac));
            let mtu = table.optional("mtu").map_or(Some(1500), |f| f.integer("bytes", 1280..=9216));
            mac.zip(mtu).map(|(mac, mtu)| Io::Pcap { mac: mac.value, mtu })
        }
        Kind::AfXdp => {
            let (interface, cpus) = (interface(&mut table), cpus(&mut table));
            interface.zip(cpus).map(|(interface, cpus)| Io::AfXdp { interface, cpus })
        }
        Kind::Netmap => {
            let (interface, cpus, detour) = (interface(&mut table), cpus(&mut table), detour(&mut table));
            interface.zip(cpus).zip(detour).map(|((interface, cpus), detour)| Io::Netmap { interface, detour, cpus })
        }
        Kind::AfPacket => {
            let (interface, cpus) = (interface(&mut table), cpus(&mut table));
            let workers = table.optional("workers").map_or(Some(1), |f| f.integer("a number of workers", 1..=64));
            interface.zip(cpus).zip(workers).map(|((interface, cpus), workers)| Io::AfPacket { interface, workers, cpus })
        }
    };
    table.finish();
    io
}

/// Workers behind a steering thread. One thread steers, so it takes all that comes: several sockets would be left without.
fn steering(field: &Field<'_, '_>, io: Option<&Io>) -> Option<usize> {
    let steering = field.integer("a number of workers", 2..=64)?;
    if let Some(Io::AfPacket { workers: workers @ 2.., .. }) = io {
        field.error(format!("stands beside io.workers = {workers}; steering makes the workers itself: leave `workers` out"));
        return None;
    }
    if matches!(io, Some(Io::Pcap { .. })) {
        field.error("stands beside io.kind = \"pcap\"; a replay has one worker: leave `steering` out");
        return None;
    }
    Some(steering)
}

#[derive(Clone, Copy)]
enum Kind {
    Pcap,
    AfXdp,
    Netmap,
    AfPacket,
}

fn kind(field: &Field<'_, '_>) -> Option<Kind> {
    field.choice(&[("af_xdp", Kind::AfXdp), ("af_packet", Kind::AfPacket), ("netmap", Kind::Netmap), ("pcap", Kind::Pcap)])
}

/// `rings` and `host_rings`: both or neither.
fn detour(table: &mut Table<'_, '_>) -> Option<Option<Detour>> {
    let (rings, host_rings) = (table.optional("rings"), table.optional("host_rings"));
    let given = match (rings, host_rings) {
        (None, None) => return Some(None),
        (Some(rings), Some(host_rings)) => (rings, host_rings),
        (Some(alone), None) => {
            alone.error("stands without `host_rings`, the netmap port by which the interface's own stack is reached: give both or neither");
            return None;
        }
        (None, Some(alone)) => {
            alone.error("stands without `rings`, the netmap port by which packets come and go: give both or neither");
            return None;
        }
    };
    let name = |field: Field<'_, '_>| {
        let named = |text: &str| text.parse::<PortName>().map_err(|error| format!("is no netmap port: {error}"));
        field.parse("the name of a netmap port in quotes, such as \"vale0:1\"", named).map(|s| s.value)
    };
    let (rings, host_rings) = (name(given.0), name(given.1));
    Some(Some(Detour { rings: rings?, host_rings: host_rings? }))
}

fn interface(table: &mut Table<'_, '_>) -> Option<String> {
    let field = table.required("interface", "interface = \"eth0\"")?;
    field.parse("the name of an interface in quotes", text::interface).map(|s| s.value)
}

fn cpus(table: &mut Table<'_, '_>) -> Option<Vec<usize>> {
    let Some(field) = table.optional("cpus") else { return Some(Vec::new()) };
    let items = field.items("a list of CPU numbers, such as [2, 3]")?;
    let read: Vec<_> = items.iter().map(|f| f.integer("a CPU number", 0..=LAST_CPU)).collect();
    read.into_iter().collect()
}

fn routers<'r, 't>(field: &Field<'r, 't>) -> Option<Vec<Spot<'r, 't, IpNet>>> {
    let items = field.items("a list of prefixes and addresses, such as [\"10.0.0.0/24\"]")?;
    let read: Vec<_> = items.into_iter().map(|f| f.parse("a prefix or an address in quotes", text::prefix)).collect();
    read.into_iter().collect()
}

/// Addresses of directors of the other site, each once.
fn other_site<'r, 't>(field: &Field<'r, 't>) -> Option<Vec<Spot<'r, 't, IpAddr>>> {
    let items = field.items("a list of addresses, such as [\"10.9.1.11\"]")?;
    if items.len() > MOST_SITES {
        field.error(format!("names {} addresses; at most {MOST_SITES} are allowed", items.len()));
        return None;
    }
    let read: Option<Vec<_>> = items.into_iter().map(|f| f.parse("an address in quotes", text::unicast)).collect();
    let read: Vec<Spot<'r, 't, IpAddr>> = read?;
    for (at, spot) in read.iter().enumerate() {
        if read[..at].iter().any(|before| before.value == spot.value) {
            spot.field.error("stands in this list twice");
            return None;
        }
    }
    Some(read)
}
