//! Next hops of the configuration's addresses, and the wait for their resolution.

use guideway_config::Config;
use guideway_control::neighbour::{Neighbours, NextHopTargets, RouteKey};
use guideway_control::{NextHops, Unresolved};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Time for neighbour resolution before the first packet.
pub(super) const START_RESOLVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns the addresses of the VIPs.
pub(super) fn vips(config: &Config) -> BTreeSet<IpAddr> {
    config.vips.iter().map(|vip| vip.address).collect()
}

/// Returns the addresses that need next hops: backends, remote site and fleet of `config`, and the `also` addresses.
pub(super) fn targets(config: &Config, also: BTreeSet<IpAddr>) -> NextHopTargets {
    let mut addresses = also;
    addresses.extend(config.pools.iter().flat_map(|pool| &pool.backends).map(|backend| backend.address));
    addresses.extend(&config.director.remote_site);
    addresses.extend(config.director.fleet.iter().filter(|address| !config.director.address.contains(**address)));
    NextHopTargets {
        addresses,
        static_entries: config.neighbours.iter().map(|n| (n.address, n.mac)).collect(),
        vips: vips(config),
        source_prefix: config.director.source_prefix,
    }
}

/// Returns what the director's GRE has by which the kernel may route it.
pub(super) fn route_key(config: &Config) -> RouteKey {
    RouteKey { address: config.director.address, mark: config.director.mark }
}

/// Waits until every one of `backends` is resolved or unreachable, so that its first packets are not lost. Gives up after `timeout`.
pub(super) async fn wait_resolved(neighbours: &mut Neighbours, backends: &BTreeSet<IpAddr>, timeout: Duration) {
    let waiting =
        |hops: &NextHops, backend: &IpAddr| matches!(hops.status(*backend), Err(Unresolved::NotLookedUp | Unresolved::Pending(_)));
    let all = neighbours.hops.wait_for(|hops| !backends.iter().any(|backend| waiting(hops, backend)));
    if tokio::time::timeout(timeout, all).await.is_err() {
        tracing::info!("some neighbours of backends not resolved yet; continuing");
    }
}
