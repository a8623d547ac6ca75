//! The current tables, and their documents: VIPs, backends, next hops.

use super::{BackendEntry, BackendState, NextHops, Suspect, neighbour::link_layer};
use guideway_api::backend::BackendSummary;
use guideway_api::status::{KeyIds, RemoteDirector};
use guideway_api::vip::AnnouncedVip;
use guideway_config::Pool;
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{Service, Snapshot};
use guideway_hash::KeyId;
use guideway_store::{Health, Observed};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Each VIP of a director that announces by BGP; an `Err` says why a VIP is not announced.
pub type Announced = BTreeMap<IpAddr, Result<(), String>>;

/// The state that changes with a reload or a neighbour.
#[derive(Clone, Debug)]
pub struct View {
    /// The tables that workers read.
    pub snapshot: Arc<Snapshot>,
    /// Address of each of the snapshot's services.
    pub vips: Vec<IpAddr>,
    /// The key in use, and all known keys.
    pub keys: (Option<KeyId>, Vec<KeyId>),
    /// The backends, retired ones included.
    pub backends: Vec<BackendEntry>,
    /// Their next hops.
    pub hops: NextHops,
    /// Health of the pools that have a check.
    pub checked: CheckedHealth,
}

/// What is known of the backends of checked pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedHealth {
    /// Whether a pool has a check.
    pub any: bool,
    /// By pool and name of the backend: why nobody knows whether it works.
    pub unknown: BTreeMap<(String, String), String>,
}

impl CheckedHealth {
    /// Returns it for these pools.
    pub fn of(pools: &[Pool], health: &Health) -> CheckedHealth {
        let mut checked = CheckedHealth::default();
        for pool in pools.iter().filter(|pool| pool.check.is_some()) {
            checked.any = true;
            for backend in &pool.backends {
                if let Some(why) = unknown_because(health.get(&pool.name).and_then(|health| health.backends.get(&backend.name))) {
                    checked.unknown.insert((pool.name.clone(), backend.name.clone()), why);
                }
            }
        }
        checked
    }
}

/// Returns why it is not known whether a backend of a checked pool works.
pub(super) fn unknown_because(observed: Option<&Observed>) -> Option<String> {
    match observed {
        None => Some("no health controller has checked it yet".to_owned()),
        Some(observed) => observed.unknown.then(|| observed.why.clone()),
    }
}

impl View {
    /// Returns the fingerprint of the Maglev table of each pool that a service uses.
    pub(super) fn fingerprints(&self) -> BTreeMap<String, String> {
        let pools = self.snapshot.services.iter().map(|service| &service.pool);
        pools.map(|pool| (pool.name.to_string(), fingerprint(&pool.maglev))).collect()
    }

    /// Returns the ids of the keys.
    pub(super) fn key_ids(&self) -> KeyIds {
        KeyIds { active: self.keys.0.map(|id| id.to_string()), known: self.keys.1.iter().map(ToString::to_string).collect() }
    }

    pub(super) fn vips(&self, announced: Option<&Announced>) -> Vec<AnnouncedVip> {
        let vip = |(address, service): (&IpAddr, &Service)| AnnouncedVip {
            vip: *address,
            service: service.label.clone(),
            pool: service.pool.name.to_string(),
            fingerprint: fingerprint(&service.pool.maglev),
            announced: announced.map(|all| all.get(address).is_some_and(Result::is_ok)),
            not_announced_because: announced.and_then(|all| all.get(address)?.as_ref().err().cloned()),
        };
        self.vips.iter().zip(&self.snapshot.services).map(vip).collect()
    }

    pub(super) fn backends(&self, suspected: &[Suspect]) -> Vec<BackendSummary> {
        self.backends.iter().map(|backend| self.backend(backend, suspected)).collect()
    }

    /// Returns the directors of the remote site with their next hops.
    pub(super) fn remote_site(&self) -> Vec<RemoteDirector> {
        let directors = self.snapshot.remote_site_directors.iter().filter_map(|id| self.snapshot.backend(*id));
        let director = |address: IpAddr| {
            let (neighbour, unresolved_because) = self.neighbour(address);
            RemoteDirector { address, neighbour, unresolved_because }
        };
        directors.map(|site| director(site.address)).collect()
    }

    /// Returns a backend with its next hop.
    pub fn backend(&self, backend: &BackendEntry, suspected: &[Suspect]) -> BackendSummary {
        let (neighbour, unresolved_because) = self.neighbour(backend.address);
        let suspect = suspected.iter().find(|suspect| (&*suspect.pool, &*suspect.backend) == (&*backend.pool, &*backend.name));
        BackendSummary {
            name: backend.name.to_string(),
            pool: backend.pool.to_string(),
            address: backend.address,
            weight: backend.weight,
            state: backend.state.into(),
            neighbour,
            unresolved_because,
            suspected_because: suspect.map(|suspect| suspect.reason.clone()),
            unknown_because: match backend.state {
                BackendState::Retired => None,
                _ => self.checked.unknown.get(&(backend.pool.to_string(), backend.name.to_string())).cloned(),
            },
        }
    }

    /// Returns the link-layer address of a next hop as documents show it, and why it is not known.
    pub(super) fn neighbour(&self, address: IpAddr) -> (String, Option<String>) {
        match self.hops.status(address) {
            Ok(hop) => (link_layer(&hop), None),
            Err(why) => ("unresolved".to_owned(), Some(why.to_string())),
        }
    }
}

/// Returns the fingerprint of a Maglev table as documents show it.
pub(super) fn fingerprint(table: &Table) -> String {
    format!("{:016x}", table.fingerprint())
}
