//! The intent: VIPs and pools that operators want, independent of any one director. It is in a director's file, or in a store that
//! directors share.

use super::duration::human;
use super::text::port_range_text;
use super::{Backend, Check, Config, HashKey, Io, Pool, Probe, Service, Vip};
use guideway_hash::{FleetKey, KeyId};
use serde_json::{Value, json};
use std::net::IpAddr;

/// VIPs and pools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Intent {
    /// `[[vip]]`
    pub vips: Vec<Vip>,
    /// `[[pool]]`
    pub pools: Vec<Pool>,
    /// `active_key`: id of the key that the directors use; default: the key of their files.
    pub active_key: Option<KeyId>,
}

impl Intent {
    /// Returns the document that [`Intent::from_json`] reads, with every default written out.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "vip": self.vips.iter().map(Vip::to_json).collect::<Vec<_>>(),
            "pool": self.pools.iter().map(Pool::to_json).collect::<Vec<_>>(),
        });
        if let (Some(id), Some(document)) = (self.active_key, document.as_object_mut()) {
            document.insert("active_key".to_owned(), json!(id.to_string()));
        }
        document
    }

    /// Returns the VIP that a tftp check of `pool` reads from: the VIP of the check, or that of the first tftp service that uses the pool.
    pub fn vip_of_check(&self, pool: &Pool) -> Option<IpAddr> {
        let named = match pool.check.as_ref().map(|check| &check.probe) {
            Some(Probe::Tftp(probe)) => probe.vip,
            _ => None,
        };
        let tftp = |vip: &&Vip| vip.pool == pool.name && matches!(vip.service, Service::Tftp { .. });
        named.or_else(|| self.vips.iter().find(tftp).map(|vip| vip.address))
    }

    /// Returns what `after` leaves unserved that this intent serves, a sentence each: operators confirm such a change.
    pub fn unserved_after(&self, after: &Intent) -> Vec<String> {
        let takes_requests = |pool: &Pool| pool.backends.iter().any(|backend| backend.weight > 0 && !backend.drain);
        let mut unserved = Vec::new();
        if !self.vips.is_empty() && after.vips.is_empty() {
            unserved.push("no VIP is left".to_owned());
        }
        if !self.pools.is_empty() && after.pools.is_empty() {
            unserved.push("no pool is left".to_owned());
        }
        let emptied = after.pools.iter().filter(|pool| !takes_requests(pool) && self.pool(&pool.name).is_some_and(takes_requests));
        unserved.extend(emptied.map(|pool| format!("pool {} is left without a backend for new requests", pool.name)));
        unserved
    }

    /// Returns the pool with this name.
    pub fn pool(&self, name: &str) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl Config {
    /// Returns the key in use, or `None` when the director does not have the key that `active_key` names.
    pub fn active_key(&self) -> Option<FleetKey> {
        let Some(wanted) = self.active_key else { return Some(self.director.key) };
        self.director.keys().find(|key| key.id() == wanted)
    }

    /// Returns the intent of the file.
    pub fn intent(&self) -> Intent {
        Intent { vips: self.vips.clone(), pools: self.pools.clone(), active_key: self.active_key }
    }

    /// Returns the parts of the intent that this director cannot serve. A file that holds both is checked for this when it is read.
    pub fn conflicts(&self) -> Vec<String> {
        let own = |address: IpAddr| self.director.address.contains(address);
        let site = |address: &IpAddr| self.director.remote_site.contains(address);
        let remote_sites = self.vips.iter().map(|vip| vip.address).filter(site).map(|address| (format!("vip {address}"), address));
        let remote_sites = remote_sites.chain(self.pools.iter().flat_map(|pool| {
            let backends = pool.backends.iter().filter(|backend| site(&backend.address));
            backends.map(|backend| (format!("pool.{}.backends.{}", pool.name, backend.name), backend.address))
        }));
        let remote_sites =
            remote_sites.map(|(place, address)| format!("{place}: {address} is an address of a director of the remote site"));
        let fleet = self.vips.iter().filter(|vip| self.director.fleet.contains(&vip.address));
        let fleet = fleet.map(|vip| format!("vip {0}: {0} is an address of a director of the fleet", vip.address));
        let vips = self.vips.iter().filter(|vip| own(vip.address));
        let vips =
            vips.map(|vip| format!("vip {}: is the director's own address; a VIP must not be the address of a machine", vip.address));
        let backends = self.pools.iter().flat_map(|pool| pool.backends.iter().map(move |backend| (pool, backend)));
        let copies = matches!(self.director.io, Io::AfPacket { .. });
        let backends = backends.filter(|(_, backend)| copies && own(backend.address)).map(|(pool, backend)| {
            format!(
                "pool.{}.backends.{}: {} is an address of this director; a server of its own host needs io \"af_xdp\" or \"netmap\"",
                pool.name, backend.name, backend.address
            )
        });
        let key = self.active_key.filter(|_| self.active_key().is_none()).map(|id| {
            let known: Vec<String> = self.director.keys().map(|key| key.id().to_string()).collect();
            format!("active_key: this director has no key {id}; it has {}. Add it as `next_key` and reload", known.join(" and "))
        });
        vips.chain(backends).chain(remote_sites).chain(fleet).chain(key).collect()
    }

    /// Returns the same director with another intent.
    pub fn with_intent(&self, intent: &Intent) -> Config {
        Config {
            active_key: intent.active_key,
            announce: self.announce.clone(),
            vips: intent.vips.clone(),
            pools: intent.pools.clone(),
            director: self.director.clone(),
            neighbours: self.neighbours.clone(),
            store: self.store.clone(),
            api: self.api.clone(),
        }
    }
}

impl Vip {
    /// Returns one element of `[[vip]]`.
    pub fn to_json(&self) -> Value {
        let mut document = json!({
            "address": self.address,
            "service": self.service.to_json(),
            "pool": self.pool,
            "idle": human(self.idle),
            "paused": self.paused,
        });
        if let (Service::Tftp { .. }, Some(document)) = (&self.service, document.as_object_mut()) {
            document.extend(self.request_policy.to_json());
        }
        document
    }
}

impl Service {
    fn to_json(&self) -> Value {
        let ports = |ports: &[(u16, u16)]| -> Vec<Value> {
            ports.iter().map(|range| if range.0 == range.1 { json!(range.0) } else { json!(port_range_text(*range)) }).collect()
        };
        match self {
            Service::Tftp { key: HashKey::Flow } => json!({"protocol": "tftp", "key": "flow"}),
            Service::Tftp { key: HashKey::Client } => json!({"protocol": "tftp", "key": "client"}),
            Service::Udp { ports: list } => json!({"protocol": "udp", "ports": ports(list)}),
            Service::Tcp { ports: list } => json!({"protocol": "tcp", "ports": ports(list)}),
        }
    }
}

impl Pool {
    /// Returns one element of `[[pool]]`.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "table_size": self.table_size,
            "takeover": self.takeover,
            "check": self.check.as_ref().map(Check::to_json),
            "backends": self.backends.iter().map(Backend::to_json).collect::<Vec<_>>(),
        })
    }
}

impl Backend {
    /// Returns one element of `backends`.
    pub fn to_json(&self) -> Value {
        let mut document = json!({"name": self.name, "address": self.address, "weight": self.weight, "drain": self.drain});
        if let (Some(range), Some(document)) = (self.tid_range, document.as_object_mut()) {
            document.insert("tid_range".to_owned(), json!(port_range_text(range)));
        }
        document
    }
}
