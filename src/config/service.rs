//! `[[vip]] service`: turns a word or a table into a [`Service`].

use super::HashKey;
use super::reader::{Field, Table};
use super::text;

/// `[[vip]] service`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// `"tftp"`: UDP port 69 and every port from 1024 on.
    Tftp {
        /// Input of the hash that chooses a backend.
        key: HashKey,
    },
    /// UDP on these ports (sorted, disjoint, inclusive ranges of 1–65535).
    Udp {
        /// Inclusive ranges.
        ports: Vec<(u16, u16)>,
    },
    /// TCP on these ports.
    Tcp {
        /// Inclusive ranges.
        ports: Vec<(u16, u16)>,
    },
}

impl Service {
    /// Returns the service for operators and JSON: `tftp`, `udp/53,8000-8100`.
    pub fn label(&self) -> String {
        let ports = |protocol, ports: &[(u16, u16)]| {
            let ports: Vec<_> = ports.iter().map(|range| text::port_range_text(*range)).collect();
            format!("{protocol}/{}", ports.join(","))
        };
        match self {
            Service::Tftp { .. } => "tftp".to_owned(),
            Service::Udp { ports: list } => ports("udp", list),
            Service::Tcp { ports: list } => ports("tcp", list),
        }
    }
}

const WANTED: &str = "\"tftp\", or a table such as { protocol = \"udp\", ports = [53] }";

/// A range of ports of a service, and its location.
#[derive(Clone)]
pub(super) struct ClaimedPorts<'r, 't> {
    /// First and last port.
    pub(super) ports: (u16, u16),
    /// The element of the list.
    pub(super) field: Field<'r, 't>,
}

/// Reads a service; returns its claimed ports even if other parts are invalid.
pub(super) fn read<'r, 't>(field: &Field<'r, 't>) -> (Option<Service>, Vec<ClaimedPorts<'r, 't>>) {
    if field.is_table() {
        return field.table(WANTED).map(from_table).unwrap_or_default();
    }
    match field.as_text() {
        None => field.wrong_type(WANTED),
        Some("tftp") => return (Some(Service::Tftp { key: HashKey::default() }), Vec::new()),
        Some(word @ ("udp" | "tcp")) => field.error(format!("has no ports; write {{ protocol = \"{word}\", ports = [53] }}")),
        Some(word) => field.error(format!("is not a service{} Allowed: {WANTED}", hint_or_period(text::did_you_mean(word, ["tftp"])))),
    }
    (None, Vec::new())
}

fn hint_or_period(hint: String) -> String {
    if hint.is_empty() { ".".to_owned() } else { hint }
}

#[derive(Clone, Copy)]
enum Protocol {
    Tftp,
    Udp,
    Tcp,
}

fn from_table<'r, 't>(mut table: Table<'r, 't>) -> (Option<Service>, Vec<ClaimedPorts<'r, 't>>) {
    let protocols = [("tftp", Protocol::Tftp), ("udp", Protocol::Udp), ("tcp", Protocol::Tcp)];
    let Some(protocol) = table.required("protocol", "protocol = \"udp\"").and_then(|f| f.choice(&protocols)) else {
        return (None, Vec::new());
    };
    if matches!(protocol, Protocol::Tftp) {
        let key =
            table.optional("key").map_or(Some(HashKey::default()), |f| f.choice(&[("flow", HashKey::Flow), ("client", HashKey::Client)]));
        if let Some(ports) = table.misplaced("ports") {
            ports.error("is not for a tftp service, which has port 69 and every port from 1024 on; remove it");
        }
        table.finish();
        return (key.map(|key| Service::Tftp { key }), Vec::new());
    }
    if let Some(key) = table.misplaced("key") {
        key.error("is only for a tftp service; udp and tcp choose by both addresses and both ports; remove it");
    }
    let (ports, claimed_ports) = table.required("ports", "ports = [53, \"8000-8100\"]").map(|f| ports(&f)).unwrap_or_default();
    table.finish();
    let service = ports.map(|ports| if matches!(protocol, Protocol::Udp) { Service::Udp { ports } } else { Service::Tcp { ports } });
    (service, claimed_ports)
}

/// Returns the ports sorted and merged, and each range as written.
fn ports<'r, 't>(field: &Field<'r, 't>) -> (Option<Vec<(u16, u16)>>, Vec<ClaimedPorts<'r, 't>>) {
    let Some(items) = field.items("a list of ports and ranges, such as [53, \"8000-8100\"]") else { return Default::default() };
    if items.is_empty() {
        field.error("is an empty list; name at least one port, such as [53]");
    }
    let count = items.len();
    let mut claimed_ports: Vec<_> = items.into_iter().filter_map(|f| Some(ClaimedPorts { ports: range(&f, 1)?, field: f })).collect();
    let good = count > 0 && claimed_ports.len() == count;
    claimed_ports.sort_by_key(|c| c.ports);
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for claim in &claimed_ports {
        let (first, last) = claim.ports;
        match merged.last_mut() {
            Some(before) if first <= before.1 => {
                claim.field.warning("repeats ports of this list");
                before.1 = before.1.max(last);
            }
            Some(before) if u32::from(first) == u32::from(before.1) + 1 => before.1 = last,
            _ => merged.push((first, last)),
        }
    }
    (good.then_some(merged), claimed_ports)
}

/// Reads a port as an integer, or a range of ports as a string; all ports are at least `lowest`.
pub(super) fn range(field: &Field<'_, '_>, lowest: u16) -> Option<(u16, u16)> {
    if field.is_integer() {
        return field.integer("a port", i64::from(lowest)..=65535).map(|port| (port, port));
    }
    let wanted = "a port, or a range of ports in quotes such as \"20000-20999\"";
    field.clone().parse(wanted, |t| text::port_range(t, lowest)).map(|s| s.value)
}
