//! The summary of a checked configuration, on one screen.

use super::duration::human;
use super::text::{abbreviate_list, mac_text, plural, port_range_text};
use super::{Addresses, Config, HashKey, Io, Pool, Service, Vip};
use std::io::{self, Write};

/// Number of VIPs and of pools that are listed; further ones are counted.
const ROWS: usize = 16;

/// Writes the summary of a configuration.
pub(super) fn write(config: &Config, out: &mut dyn Write) -> io::Result<()> {
    let director = &config.director;
    writeln!(out, "director {}", director.name)?;
    writeln!(out, "  address   {}", addresses(director.address))?;
    let steering = if director.steering > 0 { format!(", steered to {} workers", director.steering) } else { String::new() };
    writeln!(out, "  io        {}{steering}", io(&director.io))?;
    let routers: Vec<String> = director.routers.iter().map(ToString::to_string).collect();
    let routers: Vec<&str> = routers.iter().map(String::as_str).collect();
    writeln!(out, "  routers   {}", if routers.is_empty() { "none".to_owned() } else { abbreviate_list(&routers) })?;
    if !director.remote_site.is_empty() {
        let remote_sites: Vec<String> = director.remote_site.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "  sites     packets that no local backend takes go to {}",
            abbreviate_list(&remote_sites.iter().map(String::as_str).collect::<Vec<_>>())
        )?;
    }
    if !director.fleet.is_empty() {
        let fleet: Vec<String> = director.fleet.iter().map(ToString::to_string).collect();
        writeln!(out, "  fleet     {}", abbreviate_list(&fleet.iter().map(String::as_str).collect::<Vec<_>>()))?;
    }
    let ids: Vec<String> = director.keys().map(|key| key.id().to_string()).collect();
    let active = config.active_key().map_or_else(String::new, |key| key.id().to_string());
    let others: Vec<&str> = ids.iter().map(String::as_str).filter(|id| *id != active).collect();
    let others = if others.is_empty() { String::new() } else { format!(" (also known: {})", others.join(", ")) };
    writeln!(out, "  key       id {active}{others}")?;
    writeln!(out, "  socket    {}", director.socket.display())?;
    if let Some(metrics) = director.metrics {
        writeln!(out, "  metrics   http://{metrics}/metrics")?;
    }
    if let Some(announce) = &config.announce {
        let linger = human(announce.linger);
        writeln!(
            out,
            "  announce  in kernel table {} by {}, forwards for {linger} after a withdrawal",
            announce.table, announce.interface
        )?;
    }
    let neighbours = config.neighbours.len();
    if neighbours > 0 {
        writeln!(out, "  static    {neighbours} {}", plural(neighbours, "neighbour"))?;
    }
    if let Some(store) = &config.store {
        return writeln!(out, "  store     {}; holds the VIPs and pools", super::store::summary(store));
    }
    let mut vips: Vec<[String; 4]> = vec![["VIP", "service", "pool", "idle"].map(str::to_owned)];
    vips.extend(config.vips.iter().map(vip_row));
    table(out, &vips)?;
    let mut pools = vec![["pool", "table", "backends", "TID ranges"].map(str::to_owned)];
    pools.extend(config.pools.iter().map(pool_row));
    table(out, &pools)
}

fn vip_row(vip: &Vip) -> [String; 4] {
    let paused = if vip.paused { ", paused" } else { "" };
    [vip.address.to_string(), format!("{}{paused}", service(&vip.service)), vip.pool.clone(), human(vip.idle)]
}

fn pool_row(pool: &Pool) -> [String; 4] {
    let names: Vec<&str> = pool.backends.iter().map(|b| b.name.as_str()).collect();
    let backends = format!("{} ({})", names.len(), abbreviate_list(&names));
    let ranges = || pool.backends.iter().filter_map(|b| b.tid_range);
    let ranges = match (ranges().map(|r| r.0).min(), ranges().map(|r| r.1).max()) {
        (Some(first), Some(last)) => format!("within {}", port_range_text((first, last))),
        _ => "none".to_owned(),
    };
    [pool.name.clone(), pool.table_size.to_string(), backends, ranges]
}

fn table(out: &mut dyn Write, rows: &[[String; 4]]) -> io::Result<()> {
    let shown = rows.get(..rows.len().min(ROWS + 1)).unwrap_or_default();
    let width = |column: usize| shown.iter().filter_map(|r| r.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    writeln!(out)?;
    for [a, b, c, d] in shown {
        writeln!(out, "{a:<0$}  {b:<1$}  {c:<2$}  {d}", widths[0], widths[1], widths[2])?;
    }
    if rows.len() > shown.len() {
        writeln!(out, "and {} more", rows.len() - shown.len())?;
    }
    Ok(())
}

fn service(service: &Service) -> String {
    let list = |ports: &[(u16, u16)]| {
        let ports: Vec<String> = ports.iter().map(|p| port_range_text(*p)).collect();
        abbreviate_list(&ports.iter().map(String::as_str).collect::<Vec<_>>())
    };
    match service {
        Service::Tftp { key: HashKey::Flow } => "tftp".to_owned(),
        Service::Tftp { key: HashKey::Client } => "tftp by client".to_owned(),
        Service::Udp { ports } => format!("udp {}", list(ports)),
        Service::Tcp { ports } => format!("tcp {}", list(ports)),
    }
}

/// Formats the director's addresses.
pub(super) fn addresses(addresses: Addresses) -> String {
    let both = [addresses.v4.map(|a| a.to_string()), addresses.v6.map(|a| a.to_string())];
    both.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Formats the io.
pub(super) fn io(io: &Io) -> String {
    let on = |cpus: &[usize]| {
        let cpus: Vec<String> = cpus.iter().map(ToString::to_string).collect();
        if cpus.is_empty() { String::new() } else { format!(", CPUs {}", cpus.join(" ")) }
    };
    match io {
        Io::Pcap { mac, mtu } => format!("pcap, {}, MTU {mtu}", mac_text(*mac)),
        Io::AfXdp { interface, cpus } => format!("af_xdp on {interface}{}", on(cpus)),
        Io::Netmap { interface, netmap_ports, cpus } => {
            let through = netmap_ports.as_ref().map(|d| format!(" through {} and {}", d.rings, d.host_rings)).unwrap_or_default();
            format!("netmap on {interface}{through}{}", on(cpus))
        }
        Io::AfPacket { interface, workers, cpus } => {
            format!("af_packet on {interface}, {workers} {}{}", plural(*workers, "worker"), on(cpus))
        }
    }
}
