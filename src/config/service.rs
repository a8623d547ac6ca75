//! `[[vip]] service`: from a word or a table to [`Service`].

use super::reader::{Field, Table};
use super::text;
use super::{Key, Service};

const WANTED: &str = "\"tftp\", or a table such as { protocol = \"udp\", ports = [53] }";

/// A range of ports of a service, and where it is written.
#[derive(Clone)]
pub(super) struct Claim<'r, 't> {
    /// First and last port.
    pub(super) ports: (u16, u16),
    /// The element of the list.
    pub(super) field: Field<'r, 't>,
}

/// Reads a service; its claims are there even if other parts of it are wrong.
pub(super) fn read<'r, 't>(field: &Field<'r, 't>) -> (Option<Service>, Vec<Claim<'r, 't>>) {
    if field.is_table() {
        return field.table(WANTED).map(from_table).unwrap_or_default();
    }
    match field.as_text() {
        None => field.wrong_type(WANTED),
        Some("tftp") => return (Some(Service::Tftp { key: Key::default() }), Vec::new()),
        Some(word @ ("udp" | "tcp")) => field.error(format!("lacks its ports; write {{ protocol = \"{word}\", ports = [53] }}")),
        Some(word) => field.error(format!("is no service{} Allowed: {WANTED}", stop_or(text::did_you_mean(word, ["tftp"])))),
    }
    (None, Vec::new())
}

fn stop_or(hint: String) -> String {
    if hint.is_empty() { ".".to_owned() } else { hint }
}

#[derive(Clone, Copy)]
enum Protocol {
    Tftp,
    Udp,
    Tcp,
}

fn from_table<'r, 't>(mut table: Table<'r, 't>) -> (Option<Service>, Vec<Claim<'r, 't>>) {
    let words = [("tftp", Protocol::Tftp), ("udp", Protocol::Udp), ("tcp", Protocol::Tcp)];
    let Some(protocol) = table.required("protocol", "protocol = \"udp\"").and_then(|f| f.choice(&words)) else {
        return (None, Vec::new());
    };
    if matches!(protocol, Protocol::Tftp) {
        let key = table.optional("key").map_or(Some(Key::default()), |f| f.choice(&[("flow", Key::Flow), ("client", Key::Client)]));
        if let Some(ports) = table.optional("ports") {
            ports.error("is not for a tftp service, which has port 69 and every port from 1024 on; remove it");
        }
        table.finish();
        return (key.map(|key| Service::Tftp { key }), Vec::new());
    }
    if let Some(key) = table.optional("key") {
        key.error("is only for a tftp service; udp and tcp choose by both addresses and both ports; remove it");
    }
    let (ports, claims) = table.required("ports", "ports = [53, \"8000-8100\"]").map(|f| ports(&f)).unwrap_or_default();
    table.finish();
    let service = ports.map(|ports| if matches!(protocol, Protocol::Udp) { Service::Udp { ports } } else { Service::Tcp { ports } });
    (service, claims)
}

/// The ports sorted and merged, and each range as it is written.
fn ports<'r, 't>(field: &Field<'r, 't>) -> (Option<Vec<(u16, u16)>>, Vec<Claim<'r, 't>>) {
    let Some(items) = field.items("a list of ports and ranges, such as [53, \"8000-8100\"]") else { return Default::default() };
    if items.is_empty() {
        field.error("is an empty list; name at least one port, such as [53]");
    }
    let count = items.len();
    let mut claims: Vec<_> = items.into_iter().filter_map(|f| Some(Claim { ports: range(&f, 1)?, field: f })).collect();
    let good = count > 0 && claims.len() == count;
    claims.sort_by_key(|c| c.ports);
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for claim in &claims {
        let (first, last) = claim.ports;
        match merged.last_mut() {
            Some(before) if first <= before.1 => {
                claim.field.warning("names ports that this list has already");
                before.1 = before.1.max(last);
            }
            Some(before) if u32::from(first) == u32::from(before.1) + 1 => before.1 = last,
            _ => merged.push((first, last)),
        }
    }
    (good.then_some(merged), claims)
}

/// A port as an integer, or a range of ports as a string; all at least `lowest`.
pub(super) fn range(field: &Field<'_, '_>, lowest: u16) -> Option<(u16, u16)> {
    if field.is_integer() {
        return field.integer("a port", i64::from(lowest)..=65535).map(|port| (port, port));
    }
    let wanted = "a port, or a range of ports in quotes such as \"20000-20999\"";
    field.clone().parse(wanted, |t| text::port_range(t, lowest)).map(|s| s.value)
}
