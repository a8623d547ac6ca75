//! Compares the sections: pools exist, addresses are not used twice, and services of one VIP do not claim the same ports.

use super::pool::{self, overlaps};
use super::reader::Reader;
use super::sections::Sections;
use super::service::ClaimedPorts;
use super::text::{did_you_mean, port_range_text};
use super::{Io, Probe, Service};
use super::{announce, neighbour, vip};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Maximum number of backends in all pools. The packet path numbers them with 16 bits and reserves numbers for retired ones.
const MAX_BACKENDS: usize = 65_000;
const TFTP: u16 = 69;

/// Pools by name; the first one of each name.
pub(super) type Pools<'a, 'r, 't> = BTreeMap<&'a str, &'a pool::RawPool<'r, 't>>;

/// Reports every contradiction between sections.
pub(super) fn check(reader: &Reader, sections: &Sections<'_, '_>) {
    let pools = pools_by_name(sections);
    backend_count(reader, sections);
    backend_addresses(sections);
    source_prefix(sections);
    vip_addresses(sections);
    remote_site(sections);
    fleet(sections);
    pools_exist(sections, &pools);
    checks_have_vips(sections);
    let mut by_address: BTreeMap<IpAddr, Vec<&vip::RawVip<'_, '_>>> = BTreeMap::new();
    for vip in &sections.vips {
        if let Some(address) = &vip.address {
            by_address.entry(address.value).or_default().push(vip);
        }
    }
    for vips in by_address.values() {
        single_tftp_service(vips);
        port_conflicts(vips);
        udp_port_in_tid_range(vips, &pools);
    }
    neighbour::unique(&sections.neighbours);
    if let Some(announce) = &sections.announce {
        announce::check(announce, &sections.director);
    }
    store_excludes_inline(reader, sections);
}

/// Reports VIPs and pools in a file with a store: they are in one of the two.
fn store_excludes_inline(reader: &Reader, sections: &Sections<'_, '_>) {
    let Some(store) = &sections.store else { return };
    let line = reader.line_of(store);
    let first = [sections.vips.first().map(|vip| &vip.location), sections.pools.first().map(|pool| &pool.location)];
    for location in first.into_iter().flatten() {
        reader.error(
            location,
            format!(
                "conflicts with [store] (line {line}), which holds the VIPs and pools. Import them once with `guideway store import --config FILE`, then remove every [[vip]] and [[pool]] from this file"
            ),
        );
    }
}

fn pools_by_name<'a, 'r, 't>(sections: &'a Sections<'r, 't>) -> Pools<'a, 'r, 't> {
    let mut pools = Pools::new();
    for pool in &sections.pools {
        let Some(name) = &pool.name else { continue };
        match pools.get(name.value.as_str()).and_then(|p| p.name.as_ref()) {
            Some(first) => {
                name.field.error(format!("is also the name of the pool in line {}; give each pool its own name", first.field.line()));
            }
            None => {
                pools.insert(&name.value, pool);
            }
        }
    }
    pools
}

fn backend_count(reader: &Reader, sections: &Sections<'_, '_>) {
    let total: usize = sections.pools.iter().map(|p| p.backends.len()).sum();
    let mut count = 0;
    for pool in &sections.pools {
        count += pool.backends.len();
        if count > MAX_BACKENDS {
            reader.error(&pool.list, format!("raises the total to {total} backends; at most {MAX_BACKENDS} are allowed in all pools"));
            return;
        }
    }
}

/// Reports sources of GRE that other hosts have. Replies and ICMP errors would go there.
fn source_prefix(sections: &Sections<'_, '_>) {
    let Some(prefix) = &sections.director.source_prefix else { return };
    let backends =
        sections.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| Some(("a backend", backend.address.as_ref()?)));
    let vips = sections.vips.iter().filter_map(|vip| Some(("a VIP", vip.address.as_ref()?)));
    let remote = sections.director.remote_site.iter().map(|address| ("a director of the remote site", address));
    let inside = |address: &IpAddr| matches!(address, IpAddr::V4(address) if prefix.value.contains(address));
    if let Some((owner, address)) = backends.chain(vips).chain(remote).find(|(_, address)| inside(&address.value)) {
        let message = format!(
            "contains {}, the address of {owner} (line {}); choose a prefix that only this director has",
            address.value,
            address.field.line()
        );
        prefix.field.error(message);
    }
}

fn backend_addresses(sections: &Sections<'_, '_>) {
    let ours = &sections.director.addresses;
    for address in sections.pools.iter().flat_map(|p| &p.backends).filter_map(|b| b.address.as_ref()) {
        // With AF_PACKET the kernel sees every packet too: the server would get GRE of routers and of other directors beside the director.
        let copies = matches!(sections.director.io, Some(Io::AfPacket { .. }));
        if let Some(own) = ours.iter().find(|own| own.value == address.value).filter(|_| copies) {
            address.field.error(format!(
                "is an address of this director (line {}): a server of its own host needs io \"af_xdp\" or \"netmap\", for with \"af_packet\" \
                 the host gets a copy of every packet",
                own.field.line()
            ));
        }
        // Without the full list of the director's addresses, an error might be wrong.
        if sections.director.director.is_some() && !ours.iter().any(|own| own.value.is_ipv4() == address.value.is_ipv4()) {
            let family = if address.value.is_ipv4() { "IPv4" } else { "IPv6" };
            address.field.error(format!("is an {family} address, but director.address has no {family} address to send from; add one"));
        }
    }
}

/// Reports addresses of `remote_site` that belong to this director, a backend or a VIP.
fn remote_site(sections: &Sections<'_, '_>) {
    let ours = &sections.director.addresses;
    for site in &sections.director.remote_site {
        let address = site.value;
        if let Some(own) = ours.iter().find(|own| own.value == address) {
            site.field.error(format!(
                "is an address of this director (line {}); directors of the remote site must be other machines",
                own.field.line()
            ));
        } else if sections.director.director.is_some() && !ours.iter().any(|own| own.value.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            site.field.error(format!("is an {family} address, but director.address has no {family} address to send from; add one"));
        }
        let backends = sections.pools.iter().flat_map(|pool| &pool.backends);
        if let Some(backend) = backends.into_iter().find(|backend| backend.address.as_ref().is_some_and(|a| a.value == address)) {
            let line = backend.address.as_ref().map_or(0, |a| a.field.line());
            site.field.error(format!(
                "is the address of backend {} (line {line}); name directors of the remote site only",
                backend.display_name()
            ));
        }
        if let Some(vip) = sections.vips.iter().filter_map(|vip| vip.address.as_ref()).find(|vip| vip.value == address) {
            site.field.error(format!("is a VIP (line {}); name the directors' own addresses", vip.field.line()));
        }
    }
}

/// Reports a `fleet` without this director, and addresses in it that this director cannot reach or that belong to somebody else.
fn fleet(sections: &Sections<'_, '_>) {
    let (ours, Some((field, fleet))) = (&sections.director.addresses, &sections.director.fleet) else { return };
    let own: Vec<_> = fleet.iter().filter(|located| ours.iter().any(|own| own.value == located.value)).collect();
    match own[..] {
        [] if !fleet.is_empty() => {
            let line = ours.first().map_or(0, |own| own.field.line());
            field.error(format!(
                "lacks this director (director.address, line {line}); name one address of every director, the same list on all"
            ));
        }
        [_, second, ..] => second.field.error("is a second address of this director; name one address of every director"),
        _ => {}
    }
    for located in fleet {
        let address = located.value;
        if sections.director.director.is_some() && !ours.iter().any(|own| own.value.is_ipv4() == address.is_ipv4()) {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            located.field.error(format!("is an {family} address, but director.address has no {family} address to send from; add one"));
        }
        if let Some(site) = sections.director.remote_site.iter().find(|site| site.value == address) {
            located.field.error(format!("is also in remote_site (line {}); the directors there are another fleet", site.field.line()));
        }
        if let Some(vip) = sections.vips.iter().filter_map(|vip| vip.address.as_ref()).find(|vip| vip.value == address) {
            located.field.error(format!("is a VIP (line {}); name the directors' own addresses", vip.field.line()));
        }
    }
}

fn vip_addresses(sections: &Sections<'_, '_>) {
    let mut backends: HashMap<IpAddr, (&str, usize)> = HashMap::new();
    for backend in sections.pools.iter().flat_map(|p| &p.backends) {
        if let Some(address) = &backend.address {
            backends.entry(address.value).or_insert_with(|| (backend.display_name(), address.field.line()));
        }
    }
    for address in sections.vips.iter().filter_map(|v| v.address.as_ref()) {
        if let Some(own) = sections.director.addresses.iter().find(|own| own.value == address.value) {
            let line = own.field.line();
            address.field.error(format!("is the director's own address (line {line}); a VIP must not be the address of a machine"));
        }
        if let Some((name, line)) = backends.get(&address.value) {
            address.field.error(format!("is the address of backend {name} (line {line}); a VIP must not be the address of a machine"));
        }
    }
}

fn pools_exist(sections: &Sections<'_, '_>, pools: &Pools<'_, '_, '_>) {
    for pool in sections.vips.iter().filter_map(|v| v.pool.as_ref()) {
        if !pools.contains_key(pool.value.as_str()) {
            let hint = did_you_mean(&pool.value, pools.keys().copied());
            let hint = if hint.is_empty() { "; write a [[pool]] of this name".to_owned() } else { hint };
            pool.field.error(format!("is not a pool of this file{hint}"));
        }
    }
}

/// Reports tftp checks without a VIP of a tftp service.
fn checks_have_vips(sections: &Sections<'_, '_>) {
    for pool in &sections.pools {
        let Some(raw) = pool.check.as_ref() else { continue };
        if !raw.check.as_ref().is_some_and(|check| matches!(check.probe, Probe::Tftp(_))) {
            continue;
        }
        let name = pool.name.as_ref().map_or("", |name| name.value.as_str());
        let uses = |vip: &&vip::RawVip<'_, '_>| vip.is_tftp() && vip.pool.as_ref().is_some_and(|pool| pool.value == name);
        let mut vips = sections.vips.iter().filter(uses).filter_map(|vip| Some(vip.address.as_ref()?.value));
        match &raw.vip {
            Some(named) if !vips.any(|vip| vip == named.value) => {
                named.field.error("cannot be used by the check: no tftp service at this address uses the pool");
            }
            None if vips.next().is_none() => {
                raw.field.error("has no VIP to read from: no tftp service uses the pool; add a [[vip]] for it")
            }
            _ => {}
        }
    }
}

fn single_tftp_service(vips: &[&vip::RawVip<'_, '_>]) {
    let mut services = vips.iter().filter(|v| v.is_tftp()).filter_map(|v| v.service.as_ref());
    let Some(first) = services.next() else { return };
    for service in services {
        service.field.error(format!("is a second tftp service of this VIP; the first is in line {}", first.field.line()));
    }
}

/// Reports services of one VIP that claim the same port of the same protocol.
fn port_conflicts(vips: &[&vip::RawVip<'_, '_>]) {
    for udp in [true, false] {
        let service = |vip: &vip::RawVip<'_, '_>| match vip.service.as_ref().map(|s| &s.value) {
            Some(Service::Udp { ports }) if udp => ports.clone(),
            Some(Service::Tcp { ports }) if !udp => ports.clone(),
            _ => Vec::new(),
        };
        let mut ranges: Vec<_> = vips.iter().flat_map(|v| service(v).into_iter().map(move |r| (r, *v))).collect();
        ranges.sort_by_key(|(range, _)| *range);
        for (at, other) in overlaps(&ranges.iter().map(|(range, _)| *range).collect::<Vec<_>>()) {
            let (Some((one, a)), Some((two, b))) = (ranges.get(at), ranges.get(other)) else { continue };
            let (Some(a), Some(b)) = (&a.service, &b.service) else { continue };
            let (later, earlier) = if b.field.is_before(&a.field) { (a, b) } else { (b, a) };
            let both = port_range_text((one.0.max(two.0), one.1.min(two.1)));
            let protocol = if udp { "udp" } else { "tcp" };
            later.field.error(format!(
                "claims {protocol} port {both}, which the service in line {} of the same VIP already has; give each port to one service",
                earlier.field.line()
            ));
        }
    }
}

/// Reports exact udp ports that transfers need: such a port wins over the tftp service.
fn udp_port_in_tid_range(vips: &[&vip::RawVip<'_, '_>], pools: &Pools<'_, '_, '_>) {
    let Some(tftp) = vips.iter().find(|v| v.is_tftp()) else { return };
    let line = tftp.service.as_ref().map_or(0, |s| s.field.line());
    let pool = tftp.pool.as_ref().and_then(|p| pools.get(p.value.as_str()));
    let mut ranges: Vec<_> =
        pool.iter().flat_map(|p| &p.backends).filter_map(|b| Some((b.tid_range.as_ref()?.value, b.display_name()))).collect();
    ranges.sort_unstable();
    let udp = |v: &&&vip::RawVip<'_, '_>| matches!(v.service.as_ref().map(|s| &s.value), Some(Service::Udp { .. }));
    for ClaimedPorts { ports: (first, last), field } in vips.iter().filter(udp).flat_map(|v| &v.claimed_ports) {
        if (*first..=*last).contains(&TFTP) {
            field.error(format!(
                "takes udp port 69, which the tftp service of the same VIP (line {line}) needs for its requests: an exact port wins, and no \
                 transfer could start; use another port or another VIP"
            ));
        }
        // Finds the last range that starts within or below the claim. Ranges are disjoint; otherwise there is an error already.
        let below = ranges.partition_point(|((start, _), _)| start <= last);
        if let Some((range, name)) = below.checked_sub(1).and_then(|i| ranges.get(i)).filter(|((_, end), _)| end >= first) {
            field.error(format!(
                "lies in the TID range {} of {name}, whose transfers reach the same VIP (line {line}): an exact port wins and would take their \
                 packets; use ports outside of all TID ranges of the pool, or another VIP",
                port_range_text(*range)
            ));
        } else if *last >= 1024 && pool.is_some_and(|p| p.without_ranges() && !p.backends.is_empty()) {
            field.warning(format!(
                "takes packets of the tftp service (line {line}) when a server chooses this port for a transfer: its pool has no TID ranges to prevent that"
            ));
        }
    }
}
