//! The one writer: from a configuration and the next hops to the snapshot that workers read. Nothing else builds tables.
//!
//! A backend keeps its number for as long as (pool, name, address) stay. One that is no longer in the file is *retired*: for
//! `[director] retire` it keeps number, next hop and TID range, so that its transfers end in peace, but it is no member of the Maglev
//! table and gets nothing new.

mod entry;
mod error;
mod registry;
#[cfg(test)]
mod tests;

pub use entry::{BackendEntry, BackendState};
pub use error::{ApplyError, RangeHeld};

use super::next_hops::NextHops;
use guideway_config::{Config, Service as Kinds, Vip};
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{
    Backend, BackendId, Fleet, Member, Pool, PrefixSet, RequestPolicy, Service, ServiceKind, Snapshot, Successors, TidMap, VipTable,
};
use guideway_hash::{ClientHasher, FleetKey};
use guideway_packet::time::Time;
use guideway_packet::wire::l4::{TCP, UDP};
use guideway_store::{Health, Observation, PoolHealth};
use ipnet::IpNet;
use registry::{Members, Registry};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Builds snapshots, and remembers what must stay the same from one to the next.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    generation: u64,
    registry: Registry,
    pools: HashMap<String, BuiltPool>,
    tables_built: u64,
    /// Addresses of directors that the store knows.
    present: Vec<IpAddr>,
    owners: Option<BuiltOwners>,
}

/// The Maglev table over directors, and what it was built from.
#[derive(Clone, Debug)]
struct BuiltOwners {
    key: FleetKey,
    directors: Vec<IpAddr>,
    table: Arc<Table>,
}

/// A pool and what it was built from.
#[derive(Clone, Debug)]
struct BuiltPool {
    key: FleetKey,
    size: u32,
    members: Vec<(String, u16)>,
    ranges: Vec<((u16, u16), BackendId)>,
    /// Ranges of backends that are down and whose successors continue their transfers.
    orphaned_ranges: Vec<((u16, u16), BackendId)>,
    former: Vec<(Arc<str>, BackendId)>,
    pool: Arc<Pool>,
}

impl Writer {
    /// A writer that has built nothing yet.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// The snapshot of `config` without any health, one generation after the last one.
    ///
    /// # Errors
    /// As [`Writer::apply_state`].
    pub fn apply(&mut self, config: &Config, hops: &NextHops, now: Time) -> Result<Snapshot, ApplyError> {
        self.apply_state(config, self.generation + 1, &Health::default(), hops, now)
    }

    /// The snapshot of `config`, which is that of the cluster state's `generation`, and of the health of its backends. Tables that did not change are those of
    /// the snapshot before.
    ///
    /// # Errors
    /// Says why `config` cannot follow what was there before; then nothing changes.
    pub fn apply_state(
        &mut self,
        config: &Config,
        generation: u64,
        health: &Health,
        hops: &NextHops,
        now: Time,
    ) -> Result<Snapshot, ApplyError> {
        let key = config.active_key().unwrap_or(config.director.key);
        let mut registry = self.registry.clone();
        let directors = self.directors(config);
        let own = |address: &IpAddr| config.director.address.contains(*address);
        let others: Vec<IpAddr> = directors.iter().copied().filter(|address| !own(address)).collect();
        registry.update(config, &others, health, now)?;
        registry.mark_unreachable(hops);
        let backends = backends(&registry, config, key.packet_hasher().clients, hops)?;
        let mut pools = HashMap::with_capacity(config.pools.len());
        let members = registry.by_pool();
        for pool in &config.pools {
            let none = Members::default();
            let members = members.get(pool.name.as_str()).unwrap_or(&none);
            pools.insert(pool.name.clone(), build(pool, key, members, health.get(&pool.name).map(|h| &**h), self.pools.get(&pool.name))?);
        }
        let mut vips = VipTable::default();
        let mut services = Vec::with_capacity(config.vips.len());
        for vip in &config.vips {
            let Some(built_pool) = pools.get(&vip.pool) else {
                return Err(ApplyError::Pool { vip: vip.address, pool: vip.pool.clone() });
            };
            let id = u16::try_from(services.len()).map_err(|_| ApplyError::IdsExhausted)?;
            match &vip.service {
                Kinds::Tftp { .. } => vips.add_tftp(vip.address, id),
                Kinds::Udp { ports } => vips.add_ports(vip.address, UDP, ports, id),
                Kinds::Tcp { ports } => vips.add_ports(vip.address, TCP, ports, id),
            }
            services.push(service(vip, built_pool.pool.clone(), !config.director.remote_site.is_empty()));
        }
        let kept = |(name, built_pool): &(&String, &BuiltPool)| {
            self.pools.get(*name).is_some_and(|before| Arc::ptr_eq(&before.pool.maglev, &built_pool.pool.maglev))
        };
        self.tables_built += pools.iter().filter(|pool| !kept(pool)).count() as u64;
        let remote_site_directors = registry.remote_site_directors();
        let fleet = self.fleet(key, directors, &registry)?;
        let local_server = registry.backend_at(|address| config.director.address.contains(address));
        self.registry = registry;
        self.pools = pools;
        self.generation = generation;
        let remote_site_addresses: Vec<IpNet> = config.director.remote_site.iter().copied().map(IpNet::from).collect();
        Ok(Snapshot {
            generation,
            mac: hops.link.mac,
            mtu: hops.link.mtu,
            address: config.director.address,
            routers: PrefixSet::new(
                &[&config.director.routers[..], &remote_site_addresses, &others.iter().copied().map(IpNet::from).collect::<Vec<_>>()]
                    .concat(),
            ),
            unmatched: config.director.unmatched,
            icmp_echo: config.director.icmp_echo,
            vips,
            services,
            internal_addresses: internal_addresses(config, &backends),
            remote_site_directors,
            remote_site_addresses: PrefixSet::new(&remote_site_addresses),
            fleet,
            local_server,
            backends,
            hash: key.packet_hasher(),
        })
    }

    /// Sets the addresses of the directors that the store knows, one of each, this one's among them. They count unless the file names the fleet.
    /// Returns whether that changes anything for this director with `config`.
    pub fn set_present(&mut self, present: Vec<IpAddr>, config: &Config) -> bool {
        let before = self.directors(config);
        self.present = present;
        self.directors(config) != before
    }

    /// The directors of the fleet, sorted; empty when this one is alone.
    fn directors(&self, config: &Config) -> Vec<IpAddr> {
        let named = &config.director.fleet;
        let mut directors = if named.is_empty() { self.present.clone() } else { named.clone() };
        directors.retain(|address| config.director.address.same_family(*address).is_some());
        directors.sort_unstable();
        directors.dedup();
        let own = directors.iter().any(|address| config.director.address.contains(*address));
        if own && directors.len() > 1 { directors } else { Vec::new() }
    }

    fn fleet(&mut self, key: FleetKey, directors: Vec<IpAddr>, registry: &Registry) -> Result<Fleet, ApplyError> {
        if directors.is_empty() {
            self.owners = None;
            return Ok(Fleet::default());
        }
        let ids: Vec<_> = directors.iter().map(|address| (*address, registry.fleet_director(*address))).collect();
        let table = match &self.owners {
            Some(built) if built.key == key && built.directors == directors => built.table.clone(),
            _ => {
                let refused = |e: guideway_dataplane::maglev::Error| ApplyError::Fleet { reason: e.to_string() };
                Arc::new(Fleet::build_table(&key, &directors).map_err(refused)?)
            }
        };
        self.owners = Some(BuiltOwners { key, directors, table: table.clone() });
        Ok(Fleet::new(table, &ids))
    }

    /// Addresses whose next hops are needed: those of all backends, retired ones too, and of directors of the remote site and the fleet.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.registry.entries.keys().map(|identity| identity.address).collect()
    }

    /// Returns whether the last snapshot knows which backends cannot be reached.
    pub fn knows_unreachable(&self, hops: &NextHops) -> bool {
        self.registry.is_marked(hops)
    }

    /// Maglev tables that were built since this writer, or the one it is a copy of, began.
    pub fn tables_built(&self) -> u64 {
        self.tables_built
    }

    /// When [`Writer::apply`] has to be called again although nothing changed: a retirement ends.
    pub fn expiry(&self) -> Option<Time> {
        self.registry.expiry()
    }

    /// Every backend that has a number, by pool and name.
    pub fn backends(&self) -> impl Iterator<Item = BackendEntry> {
        self.registry.entries.iter().filter(|(identity, _)| !identity.is_director()).map(|(identity, entry)| BackendEntry {
            id: entry.id,
            name: identity.name.clone(),
            pool: identity.pool.clone(),
            address: identity.address,
            weight: entry.weight,
            state: entry.state(),
        })
    }
}

fn backends(registry: &Registry, config: &Config, hasher: ClientHasher, hops: &NextHops) -> Result<Vec<Option<Backend>>, ApplyError> {
    let mut backends = vec![None; registry.len()];
    for (identity, entry) in &registry.entries {
        let backend = config.director.address.same_family(identity.address).and_then(|source| {
            let (name, pool) = (identity.name.clone(), identity.pool.clone());
            let mut backend = Backend::new(name, pool, hops.link.mac, source, identity.address, hops.get(identity.address))?;
            // Directors accept GRE from the directors that they know.
            backend.spread(hasher, config.director.source_prefix.filter(|_| !identity.is_director()));
            backend.down = entry.health == Observation::Down || entry.unreachable;
            backend.draining = !matches!(entry.state(), BackendState::Active | BackendState::Slow);
            Some(backend)
        });
        if backend.is_none() && entry.retired.is_none() && !identity.is_director() {
            return Err(ApplyError::Family { backend: identity.name.to_string(), address: identity.address });
        }
        backends[usize::from(entry.id)] = backend;
    }
    Ok(backends)
}

/// A pool's tables; those that were there before as far as nothing changed.
fn build(
    pool: &guideway_config::Pool,
    key: FleetKey,
    known: &Members<'_>,
    health: Option<&PoolHealth>,
    before: Option<&BuiltPool>,
) -> Result<BuiltPool, ApplyError> {
    let mut sorted: Vec<_> = pool.backends.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let unreachable = known.unreachable();
    let members: Vec<(String, u16)> = sorted
        .iter()
        .map(|b| match (b.drain || unreachable.contains(&(b.name.as_str(), b.address)), health) {
            (true, _) => (b.name.clone(), 0),
            (false, None) => (b.name.clone(), b.weight),
            (false, Some(health)) => (b.name.clone(), health.of(&b.name).weight(b.weight)),
        })
        .collect();
    // A pool whose backends no longer have ranges forgets those that were given up: its servers now answer from any port, also from these. One that
    // lost its last backend stays what it was, for that one's transfers.
    let by_range = match pool.backends.first() {
        Some(backend) => backend.tid_range.is_some(),
        None => before.is_some_and(|before| before.pool.tid.is_some()),
    };
    let ranges = if by_range { known.ranges() } else { Vec::new() };
    let ranged = !ranges.is_empty();
    let down = if pool.takeover { known.down() } else { HashSet::new() };
    let (orphaned_ranges, ranges): (Vec<_>, Vec<_>) = ranges.into_iter().partition(|(_, id)| down.contains(id));
    let ids_by_identity = known.ids();
    let ids: Vec<BackendId> = sorted.iter().filter_map(|b| ids_by_identity.get(&(b.name.as_str(), b.address)).copied()).collect();

    let same_table = before.filter(|b| b.key == key && b.size == pool.table_size && b.members == members);
    let same_ranges = before.filter(|b| b.ranges == ranges && b.pool.tid.is_some() == ranged);
    let former = known.former();
    let same_successors = before.filter(|b| {
        let takeover = b.pool.successors.takeover == pool.takeover;
        takeover
            && b.key == key
            && b.members == members
            && b.pool.members == ids
            && b.orphaned_ranges == orphaned_ranges
            && b.former == former
    });
    if let (Some(before), Some(_), Some(_)) = (same_table, same_ranges, same_successors) {
        return Ok(before.clone());
    }
    let maglev = match same_table {
        Some(before) => before.pool.maglev.clone(),
        None => {
            let named: Vec<(&str, u16)> = members.iter().map(|(name, weight)| (name.as_str(), *weight)).collect();
            let refused = |e: guideway_dataplane::maglev::Error| ApplyError::Table { pool: pool.name.clone(), reason: e.to_string() };
            Arc::new(Table::build(&key, pool.table_size, &named).map_err(refused)?)
        }
    };
    let tid = match same_ranges {
        Some(before) => before.pool.tid.clone(),
        None => ranged.then(|| Arc::new(TidMap::new(ranges.iter().copied()))),
    };
    let name = known.pool().unwrap_or_else(|| pool.name.as_str().into());
    let successors = match same_successors {
        Some(before) => before.pool.successors.clone(),
        None => {
            let open = members.iter().zip(&ids).map(|((name, weight), id)| (name.as_str(), Member { id: *id, accepts_new: *weight > 0 }));
            let former = former.iter().map(|(name, id)| (&**name, *id));
            Arc::new(Successors::new(key, pool.takeover, &open.collect::<Vec<_>>(), former, &orphaned_ranges))
        }
    };
    let built_pool = Pool { name, maglev, members: ids, tid, successors };
    Ok(BuiltPool { key, size: pool.table_size, members, ranges, orphaned_ranges, former, pool: Arc::new(built_pool) })
}

fn service(vip: &Vip, pool: Arc<Pool>, has_remote_site: bool) -> Service {
    let kind = match &vip.service {
        Kinds::Tftp { key } => ServiceKind::Tftp(*key),
        Kinds::Udp { .. } | Kinds::Tcp { .. } => ServiceKind::Flow,
    };
    Service {
        label: vip.service.label(),
        kind,
        pool,
        idle: u16::try_from(vip.idle.as_secs()).unwrap_or(u16::MAX),
        paused: vip.paused,
        has_remote_site,
        request_policy: Arc::new(RequestPolicy::from(&vip.request_policy)),
    }
}

/// Addresses that no client has.
fn internal_addresses(config: &Config, backends: &[Option<Backend>]) -> PrefixSet {
    let own = config.director.address;
    let own = own.v4.map(IpAddr::V4).into_iter().chain(own.v6.map(IpAddr::V6));
    let all: Vec<IpNet> = own.chain(backends.iter().flatten().map(|backend| backend.address)).map(IpNet::from).collect();
    PrefixSet::new(&all)
}
