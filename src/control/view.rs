//! The tables of the moment as documents: VIPs, backends, what a director says of itself.

use super::board::Announced;
use super::{Known, NextHops, Suspect, neighbour::mac};
use guideway_dataplane::tables::Snapshot;
use guideway_hash::KeyId;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// What changes with a reload or a neighbour.
#[derive(Clone, Debug)]
pub struct View {
    /// What the workers read.
    pub snapshot: Arc<Snapshot>,
    /// Address of each of the snapshot's services.
    pub vips: Vec<IpAddr>,
    /// The key that is used, and all that are known.
    pub keys: (Option<KeyId>, Vec<KeyId>),
    /// The backends, retired ones too.
    pub backends: Vec<Known>,
    /// What is known of the way to them.
    pub hops: NextHops,
}

impl View {
    /// Of each pool that a service uses, the fingerprint of its Maglev table.
    pub(super) fn fingerprints(&self) -> Map<String, Value> {
        let pools = self.snapshot.services.iter().map(|service| &service.pool);
        pools.map(|pool| (pool.name.to_string(), json!(format!("{:016x}", pool.maglev.fingerprint())))).collect()
    }

    pub(super) fn vips(&self, announced: Option<&Announced>) -> Vec<Value> {
        let vip = |(address, service): (&IpAddr, &guideway_dataplane::tables::Service)| {
            json!({
                "vip": address,
                "service": service.label,
                "pool": &*service.pool.name,
                "fingerprint": format!("{:016x}", service.pool.maglev.fingerprint()),
                "announced": announced.map(|all| all.get(address).is_some_and(Result::is_ok)),
                "not_announced_because": announced.and_then(|all| all.get(address)?.as_ref().err()),
            })
        };
        self.vips.iter().zip(&self.snapshot.services).map(vip).collect()
    }

    pub(super) fn backends(&self, suspects: &[Suspect]) -> Vec<Value> {
        self.backends.iter().map(|known| self.backend(known, suspects)).collect()
    }

    /// The directors of the other site, and the way to them.
    pub(super) fn other_site(&self) -> Vec<Value> {
        let directors = self.snapshot.sites.iter().filter_map(|id| self.snapshot.backend(*id));
        let director = |address: IpAddr| {
            let hop = self.hops.status(address);
            json!({
                "address": address,
                "neighbour": hop.as_ref().map_or_else(|_| "unresolved".to_owned(), |hop| mac(hop.mac)),
                "unresolved_because": hop.err().map(|why| why.to_string()),
            })
        };
        directors.map(|site| director(site.address)).collect()
    }

    /// What is known of one backend.
    pub fn backend(&self, known: &Known, suspects: &[Suspect]) -> Value {
        let hop = self.hops.status(known.address);
        let suspect = suspects.iter().find(|suspect| (&*suspect.pool, &*suspect.backend) == (&*known.pool, &*known.name));
        json!({
            "name": &*known.name,
            "pool": &*known.pool,
            "address": known.address,
            "weight": known.weight,
            "state": known.state.name(),
            "neighbour": hop.as_ref().map_or_else(|_| "unresolved".to_owned(), |hop| mac(hop.mac)),
            "unresolved_because": hop.err().map(|why| why.to_string()),
            "suspected_because": suspect.map(|suspect| &*suspect.because),
        })
    }
}
