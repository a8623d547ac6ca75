//! `writes`, `clients` and `admission` of a `tftp` service: which requests of clients reach a backend.

use super::reader::{Field, Located, Table};
use super::text;
use guideway_dataplane::tables::{self, Admission, PrefixSet, Writes};
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use std::net::IpAddr;

/// Maximum rate of a limit, in requests a second.
const MAX_RATE: i64 = 10_000_000;

/// Decides which requests to a `tftp` service reach a backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestPolicy {
    /// Action for write requests.
    pub writes: Writes,
    /// Clients whose requests are forwarded; `None`: all.
    pub clients: Option<Vec<IpNet>>,
    /// Limits on the rate of requests.
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

impl From<&RequestPolicy> for tables::RequestPolicy {
    fn from(request_policy: &RequestPolicy) -> tables::RequestPolicy {
        tables::RequestPolicy {
            writes: request_policy.writes == Writes::Forward,
            clients: request_policy.clients.as_deref().map(PrefixSet::new),
            admission: request_policy.admission.limits().then_some(request_policy.admission),
        }
    }
}

impl RequestPolicy {
    /// Returns these values as keys of `[[vip]]`.
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

/// Reads the keys of a `[[vip]]` at `address`, if that is known; `tftp` is whether the service is `tftp`, if that is known.
pub(super) fn read(table: &mut Table<'_, '_>, address: Option<IpAddr>, tftp: Option<bool>) -> Option<RequestPolicy> {
    let (writes, clients, admission) = (table.optional("writes"), table.optional("clients"), table.optional("admission"));
    if tftp == Some(false) {
        for field in [&writes, &clients, &admission].into_iter().flatten() {
            field.error("is only for a tftp service; remove it");
        }
        return Some(RequestPolicy::default());
    }
    let writes = writes.map_or(Some(Writes::Drop), |f| f.choice(&[("drop", Writes::Drop), ("forward", Writes::Forward)]));
    let clients = clients.map_or(Some(None), |f| self::clients(&f, address).map(Some));
    let admission = admission.map_or(Some(Admission::default()), |f| self::admission(&f));
    Some(RequestPolicy { writes: writes?, clients: clients?, admission: admission? })
}

fn clients(field: &Field<'_, '_>, vip: Option<IpAddr>) -> Option<Vec<IpNet>> {
    let items = field.items("a list of prefixes such as [\"10.0.0.0/8\"]")?;
    if items.is_empty() {
        field.error("is an empty list, which matches no client; name prefixes, or remove the key to serve all clients");
        return None;
    }
    let count = items.len();
    let prefixes: Vec<Located<'_, '_, IpNet>> = items.into_iter().filter_map(|f| f.parse("a prefix in quotes", text::prefix)).collect();
    if prefixes.len() < count {
        return None;
    }
    for prefix in prefixes.iter().filter(|prefix| prefix.value != prefix.value.trunc()) {
        prefix.field.warning(format!("has bits beyond its prefix length; {} is used", prefix.value.trunc()));
    }
    let family = |address: IpAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
    if let Some(vip) = vip.filter(|vip| prefixes.iter().all(|prefix| prefix.value.addr().is_ipv4() != vip.is_ipv4())) {
        field.error(format!(
            "names no {} prefix, and only {} clients reach {vip}: no client would be served; add one",
            family(vip),
            family(vip)
        ));
        return None;
    }
    Some(prefixes.iter().map(|prefix| prefix.value.trunc()).collect())
}

fn admission(field: &Field<'_, '_>) -> Option<Admission> {
    let mut table = field.table("a table such as { per_vip = 5000, per_backend = 500 }")?;
    let mut rate = |key| {
        let field = table.optional(key);
        field.map_or(Some(None), |f| f.integer("new requests a second", 1..=MAX_RATE).map(Some))
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
