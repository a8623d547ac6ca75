//! `writes`, `clients` and `admission` of a `tftp` service: what of its clients' requests gets as far as a backend.

use super::reader::{Field, Spot, Table};
use super::text;
use guideway_dataplane::tables::{self, Admission, Routers, Writes};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// The most requests a second that a limit can name.
const LARGEST_RATE: i64 = 10_000_000;

/// What of the requests to a `tftp` service gets as far as a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// What becomes of write requests.
    pub writes: Writes,
    /// Whose requests are forwarded; `None`: everybody's.
    pub clients: Option<Vec<IpNet>>,
    /// How many requests are forwarded.
    pub admission: Admission,
}

fn admission_json(admission: &Admission) -> Value {
    let mut document = Map::new();
    for (key, rate) in [("per_vip", admission.per_vip), ("per_backend", admission.per_backend), ("per_prefix", admission.per_prefix)] {
        document.extend(rate.map(|rate| (key.to_owned(), json!(rate))));
    }
    document.insert("prefix_v4".to_owned(), json!(admission.prefix_v4));
    document.insert("prefix_v6".to_owned(), json!(admission.prefix_v6));
    Value::Object(document)
}

impl From<&Guard> for tables::Guard {
    fn from(guard: &Guard) -> tables::Guard {
        tables::Guard {
            writes: guard.writes == Writes::Forward,
            clients: guard.clients.as_deref().map(Routers::new),
            admission: guard.admission.limits().then_some(guard.admission),
        }
    }
}

impl Guard {
    /// The keys of `[[vip]]` that say this.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let mut document = Map::new();
        let writes = if self.writes == Writes::Forward { "forward" } else { "drop" };
        document.insert("writes".to_owned(), json!(writes));
        if let Some(clients) = &self.clients {
            document.insert("clients".to_owned(), json!(clients));
        }
        if self.admission.limits() {
            document.insert("admission".to_owned(), admission_json(&self.admission));
        }
        document
    }
}

/// Reads the keys of a `[[vip]]` at `address`, as far as that is known; `tftp` says whether its service is one, if that is known.
pub(super) fn read(table: &mut Table<'_, '_>, address: Option<IpAddr>, tftp: Option<bool>) -> Option<Guard> {
    let (writes, clients, admission) = (table.optional("writes"), table.optional("clients"), table.optional("admission"));
    if tftp == Some(false) {
        for field in [&writes, &clients, &admission].into_iter().flatten() {
            field.error("is only for a tftp service, whose requests a director knows; remove it");
        }
        return Some(Guard::default());
    }
    let writes = writes.map_or(Some(Writes::Drop), |f| f.choice(&[("drop", Writes::Drop), ("forward", Writes::Forward)]));
    let clients = clients.map_or(Some(None), |f| self::clients(&f, address).map(Some));
    let admission = admission.map_or(Some(Admission::default()), |f| self::admission(&f));
    Some(Guard { writes: writes?, clients: clients?, admission: admission? })
}

fn clients(field: &Field<'_, '_>, vip: Option<IpAddr>) -> Option<Vec<IpNet>> {
    let items = field.items("a list of prefixes such as [\"10.0.0.0/8\"]")?;
    if items.is_empty() {
        field.error("is an empty list, which no client is in; name their prefixes, or leave the key out to serve everybody");
        return None;
    }
    let count = items.len();
    let prefixes: Vec<Spot<'_, '_, IpNet>> = items.into_iter().filter_map(|f| f.parse("a prefix in quotes", text::prefix)).collect();
    if prefixes.len() < count {
        return None;
    }
    for prefix in prefixes.iter().filter(|prefix| prefix.value != prefix.value.trunc()) {
        prefix.field.warning(format!("has bits behind its prefix length; {} is used", prefix.value.trunc()));
    }
    let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    if let Some(vip) = vip.filter(|vip| prefixes.iter().all(|prefix| prefix.value.addr().is_ipv4() != vip.is_ipv4())) {
        field.error(format!("names no {} prefix, and only {} clients reach {vip}: nobody would be served", family(vip), family(vip)));
        return None;
    }
    Some(prefixes.iter().map(|prefix| prefix.value.trunc()).collect())
}

fn admission(field: &Field<'_, '_>) -> Option<Admission> {
    let mut table = field.table("a table such as { per_vip = 5000, per_backend = 500 }")?;
    let mut rate = |key| {
        let field = table.optional(key);
        field.map_or(Some(None), |f| f.integer("new requests a second", 1..=LARGEST_RATE).map(Some))
    };
    let (per_vip, per_backend, per_prefix) = (rate("per_vip"), rate("per_backend"), rate("per_prefix"));
    let mut bits = |key, default, range| table.optional(key).map_or(Some(default), |f| f.integer("a prefix length in bits", range));
    let default = Admission::default();
    let (prefix_v4, prefix_v6) = (bits("prefix_v4", default.prefix_v4, 8..=32), bits("prefix_v6", default.prefix_v6, 16..=128));
    table.finish();
    let admission =
        Admission { per_vip: per_vip?, per_backend: per_backend?, per_prefix: per_prefix?, prefix_v4: prefix_v4?, prefix_v6: prefix_v6? };
    if !admission.limits() {
        field.error("limits nothing; give at least one of per_vip, per_backend and per_prefix, in new requests a second");
        return None;
    }
    Some(admission)
}
