//! Warnings: what a good configuration nevertheless cannot promise, or does other than its author may expect.

use super::Io;
use super::load::Sections;
use super::reader::Reader;
use super::text::some_of;
use super::{director, pool};
use std::collections::HashSet;
use std::net::IpAddr;

/// Notes every warning that needs more than one key to see.
pub(super) fn check(reader: &Reader, sections: &Sections<'_, '_>) {
    routers(reader, sections);
    for pool in &sections.pools {
        pool_alone(reader, pool, fate(&sections.director));
        held_up(reader, pool, &sections.director);
    }
    pools_used(reader, sections);
    transfers_may_move(reader, sections);
    neighbours(reader, sections);
}

fn routers(reader: &Reader, sections: &Sections<'_, '_>) {
    let draft = &sections.director;
    if draft.director.as_ref().is_some_and(|d| d.routers.is_empty() && d.other_site.is_empty()) {
        reader.warning(
            &sections.routers,
            "names no router, so GRE from anywhere is refused and only plain ingress is served; write the prefixes of your routers, such as \
             [\"10.0.0.0/24\"]",
        );
    }
    for router in &draft.routers {
        let (prefix, meant) = (router.value, router.value.trunc());
        if prefix.prefix_len() == 0 {
            router.field.warning("believes GRE from every address there is; name only the prefixes of your routers");
        } else if prefix != meant {
            router.field.warning(format!("has bits behind its prefix length; {meant} is used"));
        }
        if draft.director.is_some() && !draft.addresses.iter().any(|a| a.value.is_ipv4() == prefix.addr().is_ipv4()) {
            let family = if prefix.addr().is_ipv4() { "IPv4" } else { "IPv6" };
            router.field.warning(format!("can send us nothing: director.address has no {family} address for its GRE to go to"));
        }
    }
}

fn pool_alone(reader: &Reader, pool: &pool::Draft<'_, '_>, fate: &str) {
    if !pool.complete {
        return;
    }
    if pool.backends.is_empty() {
        reader.warning(&pool.list, format!("is empty: every packet for this pool {fate}"));
    } else if pool.gets_nothing() {
        reader.warning(
            &pool.list,
            format!("all have weight 0 or `drain = true`: no new flow finds a backend, and every packet of one {fate}"),
        );
    }
}

/// A floor of backends that never count as down leaves nothing for the other site.
fn held_up(reader: &Reader, pool: &pool::Draft<'_, '_>, draft: &director::Draft<'_, '_>) {
    let check = pool.check.as_ref().and_then(|draft| draft.check.as_ref());
    let floor = check.map_or(0, |check| check.min_healthy);
    if floor > 0 && !draft.other_site.is_empty() && !pool.backends.is_empty() {
        let message = format!(
            "has a check with min_healthy = {floor} (50 unless it says otherwise): so many per cent of its backends never count as down, so its \
             requests do not go to director.other_site even when all of them are; write min_healthy = 0 into its check"
        );
        reader.warning(&pool.here, message);
    }
}

/// What becomes of packets that no backend takes. Pools in a store are read without the director.
fn fate(draft: &director::Draft<'_, '_>) -> &'static str {
    match &draft.director {
        Some(director) if director.other_site.is_empty() => "is dropped with reason no_backend",
        Some(_) => "goes to the other site",
        None => "is dropped with reason no_backend, or goes to the other site where the director has one",
    }
}

fn pools_used(reader: &Reader, sections: &Sections<'_, '_>) {
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
            reader.warning(&pool.here, "is used by no [[vip]]");
        } else if all_known
            && !tftp.contains(name.value.as_str())
            && let Some(range) = pool.backends.iter().find_map(|b| b.tid_range.as_ref())
        {
            range.field.warning("means nothing here: no tftp service uses this pool, and only transfers have TIDs");
        }
    }
}

/// The promise that needs TID ranges: an acknowledgement reaches the backend of its request while that backend lives.
fn transfers_may_move(reader: &Reader, sections: &Sections<'_, '_>) {
    for vip in sections.vips.iter().filter(|v| v.is_tftp()) {
        let Some(name) = &vip.pool else { continue };
        let pool = sections.pools.iter().find(|p| p.name.as_ref().is_some_and(|n| n.value == name.value));
        let Some(pool) = pool.filter(|p| p.without_ranges() && !p.backends.is_empty()) else { continue };
        let line = reader.line_of(&pool.here);
        name.field.warning(format!(
            "has no TID ranges (line {line}), so it is not promised that a running transfer stays with its server: when backends, weights or \
             health change, or when routers send its packets to another director after such a change, the table may choose another server for \
             them, unless the flow table of the director that they reach knows the flow. This holds for servers on random ports and for \
             single-port servers alike. Give every backend a tid_range and its server the same ports (in.tftpd --port-range, dnsmasq \
             --tftp-port-range) and transfers stay"
        ));
    }
}

fn neighbours(reader: &Reader, sections: &Sections<'_, '_>) {
    let Some(io) = &sections.director.io else { return };
    if !matches!(io, Io::Pcap { .. }) {
        if let Some(first) = sections.neighbours.first() {
            reader.warning(
                &first.here,
                "is used before what the kernel knows of this address, and is not kept up to date; static neighbours are meant for replay and tests",
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
        let names: Vec<_> = unknown.map(|b| b.called()).collect();
        if !names.is_empty() {
            let message = format!(
                "of these have no [[neighbour]], and with io pcap nobody else knows their link-layer address: packets for {} are dropped with \
                 reason neighbour_unresolved",
                some_of(&names)
            );
            reader.warning(&pool.list, format!("{} {message}", names.len()));
        }
    }
}
