//! The current tables, and their documents: VIPs, backends, next hops.

use super::{BackendEntry, NextHops, Suspect, neighbour::mac};
use guideway_api::backend::BackendSummary;
use guideway_api::status::{KeyIds, RemoteDirector};
use guideway_api::vip::AnnouncedVip;
use guideway_dataplane::maglev::Table;
use guideway_dataplane::tables::{Service, Snapshot};
use guideway_hash::KeyId;
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
        }
    }

    /// Returns the link-layer address of a next hop as documents show it, and why it is not known.
    pub(super) fn neighbour(&self, address: IpAddr) -> (String, Option<String>) {
        match self.hops.status(address) {
            Ok(hop) => (mac(hop.mac), None),
            Err(why) => ("unresolved".to_owned(), Some(why.to_string())),
        }
    }
}

/// Returns the fingerprint of a Maglev table as documents show it.
pub(super) fn fingerprint(table: &Table) -> String {
    format!("{:016x}", table.fingerprint())
}
