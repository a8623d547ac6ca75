//! Warnings: what a valid configuration cannot guarantee, or does other than its author may expect.

use super::Io;
use super::reader::Reader;
use super::sections::Sections;
use super::text::abbreviate_list;
use super::{Probe, director, pool, vip};
use std::collections::HashSet;
use std::net::IpAddr;

/// Reports every warning that depends on more than one key.
pub(super) fn check(reader: &Reader, sections: &Sections<'_, '_>) {
    routers(reader, sections);
    for pool in &sections.pools {
        empty_pool(reader, pool, no_backend_outcome(&sections.director));
        floor_blocks_remote_site(reader, pool, &sections.director);
        check_without_store(pool, sections);
        vips_without_check(pool, sections);
    }
    unused_pools(reader, sections);
    missing_tid_ranges(reader, sections);
    neighbours(reader, sections);
}

fn routers(reader: &Reader, sections: &Sections<'_, '_>) {
    let raw = &sections.director;
    if raw.director.as_ref().is_some_and(|d| d.routers.is_empty() && d.remote_site.is_empty()) {
        reader.warning(
            &sections.routers,
            "is empty: the director refuses all GRE and accepts plain ingress only; add the prefixes of your routers, such as \
             [\"10.0.0.0/24\"]",
        );
    }
    let own = |address: IpAddr| raw.addresses.iter().any(|own| own.value == address);
    let mut backends = sections.pools.iter().flat_map(|pool| &pool.backends).filter_map(|backend| backend.address.as_ref());
    let local_server = backends.find(|address| own(address.value));
    for router in &raw.routers {
        let (prefix, meant) = (router.value, router.value.trunc());
        if prefix.prefix_len() == 0 {
            router.field.warning("accepts GRE from every address; name only the prefixes of your routers");
        } else if prefix != meant {
            router.field.warning(format!("has bits beyond its prefix length; {meant} is used"));
        }
        if let Some(server) = local_server
            && prefix.prefix_len() > 0
            && prefix.prefix_len() < prefix.max_prefix_len()
        {
            router.field.warning(format!(
                "must hold no health controller and no other director: the GRE of these is for the server {} of this host, and from \
                 `routers` it would be balanced to any server; name each router by its own address",
                server.value
            ));
        }
        if raw.director.is_some() && !raw.addresses.iter().any(|a| a.value.is_ipv4() == prefix.addr().is_ipv4()) {
            let family = if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            router.field.warning(format!("cannot send GRE to this director: director.address has no {family} address"));
        }
    }
}

fn empty_pool(reader: &Reader, pool: &pool::RawPool<'_, '_>, no_backend_outcome: &str) {
    if !pool.complete {
        return;
    }
    if pool.backends.is_empty() {
        reader.warning(&pool.list, format!("is empty: every packet for this pool {no_backend_outcome}"));
    } else if pool.takes_no_new_flows() {
        reader.warning(
            &pool.list,
            format!("all have weight 0 or `drain = true`: no new flow gets a backend, and every packet of a new flow {no_backend_outcome}"),
        );
    }
}

/// Reports pools whose floor keeps backends up, so that nothing goes to the remote site.
fn floor_blocks_remote_site(reader: &Reader, pool: &pool::RawPool<'_, '_>, raw: &director::RawDirector<'_, '_>) {
    let check = pool.check.as_ref().and_then(|raw| raw.check.as_ref());
    let floor = check.map_or(0, |check| check.min_healthy);
    if floor > 0 && !raw.remote_site.is_empty() && !pool.backends.is_empty() {
        let message = format!(
            "has a check with min_healthy = {floor} (default 50): this percentage of its backends never counts as down, so requests never go to director.remote_site, even when all backends are down; set min_healthy = 0 in the check"
        );
        reader.warning(&pool.location, message);
    }
}

/// Reports checks of a director that no health controller can reach.
fn check_without_store(pool: &pool::RawPool<'_, '_>, sections: &Sections<'_, '_>) {
    let Some(check) = pool.check.as_ref().filter(|_| sections.director.director.is_some() && sections.store.is_none()) else { return };
    check.field.warning(
        "has no effect on this director: without [store] no health controller can tell it what it sees, and every backend counts as up; \
         move the pools into a store (guideway store import)",
    );
}

/// Reports VIPs of a pool that its tftp check does not read from: a backend without such a VIP would count as up.
fn vips_without_check(pool: &pool::RawPool<'_, '_>, sections: &Sections<'_, '_>) {
    let (Some(raw), Some(name)) = (&pool.check, &pool.name) else { return };
    if raw.vip.is_some() || !raw.check.as_ref().is_some_and(|check| matches!(check.probe, Probe::Tftp(_))) {
        return;
    }
    let uses = |vip: &&vip::RawVip<'_, '_>| vip.is_tftp() && vip.pool.as_ref().is_some_and(|pool| pool.value == name.value);
    let vips: Vec<String> = sections.vips.iter().filter(uses).filter_map(|vip| Some(vip.address.as_ref()?.value.to_string())).collect();
    if let [checked, others @ ..] = vips.as_slice()
        && !others.is_empty()
    {
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        raw.field.warning(format!(
            "reads from {checked} only; backends that do not serve {} count as up; set `vip` to say that this is meant",
            abbreviate_list(&others)
        ));
    }
}

/// Describes the outcome of packets that no backend takes. Pools in a store are read without the director.
fn no_backend_outcome(raw: &director::RawDirector<'_, '_>) -> &'static str {
    match &raw.director {
        Some(director) if director.remote_site.is_empty() => "is dropped with reason no_backend",
        Some(_) => "goes to the remote site",
        None => "is dropped with reason no_backend, or goes to the remote site if the director has one",
    }
}

fn unused_pools(reader: &Reader, sections: &Sections<'_, '_>) {
    if sections.store.is_some() {
        return;
    }
    if sections.vips.is_empty() && sections.director.director.is_some() {
        reader.warning(&sections.no_vip, "is missing: a director without a VIP forwards nothing");
        return;
    }
    if sections.vips.iter().any(|v| v.pool.is_none()) {
        return;
    }
    let used: HashSet<&str> = sections.vips.iter().filter_map(|v| v.pool.as_ref()).map(|p| p.value.as_str()).collect();
    let tftp: HashSet<&str> =
        sections.vips.iter().filter(|v| v.is_tftp()).filter_map(|v| v.pool.as_ref()).map(|p| p.value.as_str()).collect();
    let all_known = sections.vips.iter().all(|v| v.service.is_some());
    for (pool, name) in sections.pools.iter().filter_map(|p| Some((p, p.name.as_ref()?))) {
        if !used.contains(name.value.as_str()) {
            reader.warning(&pool.location, "is used by no [[vip]]");
        } else if all_known
            && !tftp.contains(name.value.as_str())
            && let Some(range) = pool.backends.iter().find_map(|b| b.tid_range.as_ref())
        {
            range.field.warning("has no effect: no tftp service uses this pool, and only TFTP transfers have TIDs");
        }
    }
}

/// Reports pools without TID ranges. With them, an acknowledgement reaches the backend of its request while that backend is alive.
fn missing_tid_ranges(reader: &Reader, sections: &Sections<'_, '_>) {
    for vip in sections.vips.iter().filter(|v| v.is_tftp()) {
        let Some(name) = &vip.pool else { continue };
        let pool = sections.pools.iter().find(|p| p.name.as_ref().is_some_and(|n| n.value == name.value));
        let Some(pool) = pool.filter(|p| p.without_ranges() && !p.backends.is_empty()) else { continue };
        let line = reader.line_of(&pool.location);
        name.field.warning(format!(
            "has no TID ranges (line {line}), so a running transfer may move to another server. When backends, weights or health change, or when routers then send its packets to another director, the Maglev table may choose another server, unless the flow table of that director has the flow. Requests that a server leaves unanswered are not sent to another server, because another director could not know where their transfers are. This applies to servers on random ports and to single-port servers. To keep transfers on their servers, give every backend a tid_range and its server the same ports (in.tftpd --port-range, dnsmasq --tftp-port-range)"
        ));
    }
}

fn neighbours(reader: &Reader, sections: &Sections<'_, '_>) {
    let Some(io) = &sections.director.io else { return };
    if !matches!(io, Io::Pcap { .. }) {
        if let Some(first) = sections.neighbours.first() {
            reader.warning(
                &first.location,
                "overrides the kernel's entry for this address and is never updated; static neighbours are for replay and tests",
            );
        }
        return;
    }
    if sections.neighbours.iter().any(|n| n.address.is_none()) {
        return;
    }
    let known: HashSet<IpAddr> = sections.neighbours.iter().filter_map(|n| n.address.as_ref()).map(|a| a.value).collect();
    for pool in &sections.pools {
        let unknown = pool.backends.iter().filter(|b| b.address.as_ref().is_some_and(|a| !known.contains(&a.value)));
        let names: Vec<_> = unknown.map(|b| b.display_name()).collect();
        if !names.is_empty() {
            let message = format!(
                "of these have no [[neighbour]], and io pcap has no other source of link-layer addresses: packets for {} are dropped with \
                 reason neighbour_unresolved",
                abbreviate_list(&names)
            );
            reader.warning(&pool.list, format!("{} {message}", names.len()));
        }
    }
}
