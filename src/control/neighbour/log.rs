//! Log lines about next hops: one for each backend, or one for each cause where many backends share it.

use crate::{NextHops, Unresolved};
use guideway_config::text::mac_text;
use guideway_dataplane::tables::NextHop;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Up to so many backends of one cause have a line each.
const MAX_EACH: usize = 3;

/// The cause of lines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Cause {
    Resolved { mac: [u8; 6], mtu: u16 },
    Pending,
    Unreachable(String),
}

/// Logs what changed.
pub(super) fn changes(before: &NextHops, now: &NextHops) {
    for (cause, backends) in by_cause(before, now) {
        match backends.as_slice() {
            several if several.len() > MAX_EACH => several_backends(&cause, several),
            few => few.iter().for_each(|backend| one_backend(&cause, *backend)),
        }
    }
}

fn by_cause(before: &NextHops, now: &NextHops) -> BTreeMap<Cause, Vec<IpAddr>> {
    let mut causes: BTreeMap<Cause, Vec<IpAddr>> = BTreeMap::new();
    for (address, hop) in now.hops.iter().filter(|(address, hop)| before.hops.get(address) != Some(hop)) {
        causes.entry(cause(hop)).or_default().push(*address);
    }
    causes
}

fn cause(hop: &Result<NextHop, Unresolved>) -> Cause {
    match hop {
        Ok(hop) => Cause::Resolved { mac: hop.mac, mtu: hop.mtu },
        Err(Unresolved::Pending(_) | Unresolved::NotLookedUp) => Cause::Pending,
        Err(why) => Cause::Unreachable(why.to_string()),
    }
}

fn one_backend(cause: &Cause, backend: IpAddr) {
    match cause {
        Cause::Resolved { mac, mtu } => tracing::info!(%backend, mac = %mac_text(*mac), mtu, "backend resolved"),
        Cause::Pending => tracing::debug!(%backend, "backend not resolved yet"),
        Cause::Unreachable(why) => tracing::warn!(%backend, "backend {backend} cannot be reached: {why}"),
    }
}

fn several_backends(cause: &Cause, backends: &[IpAddr]) {
    let (count, first) = (backends.len(), backends.first().copied().unwrap_or(IpAddr::from([0; 4])));
    match cause {
        Cause::Resolved { mac, mtu } => tracing::info!(backends = count, %first, mac = %mac_text(*mac), mtu, "backends resolved"),
        Cause::Pending => tracing::debug!(backends = count, %first, "backends not resolved yet"),
        Cause::Unreachable(why) => tracing::warn!(backends = count, %first, "{count} backends cannot be reached: {why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Link;

    #[test]
    fn backends_behind_one_gateway_have_one_line() {
        let gateway: IpAddr = "10.0.1.1".parse().unwrap();
        let hops = |hop: Result<NextHop, Unresolved>| NextHops {
            link: Link { mac: [2; 6], mtu: 1500 },
            hops: (0..5000u32).map(|n| (IpAddr::V4((0x0a01_0000 + n).into()), hop.clone())).collect(),
            missing_addresses: Vec::new(),
            refused: None,
        };
        let up = || hops(Ok(NextHop { mac: [2, 0, 0, 0, 1, 1], mtu: 1500, output: None }));
        let lost = || hops(Err(Unresolved::Unresponsive(gateway)));
        assert_eq!(by_cause(&up(), &up()), BTreeMap::new());
        for (before, now) in [(up(), lost()), (lost(), up())] {
            let causes = by_cause(&before, &now);
            assert_eq!(causes.values().map(Vec::len).collect::<Vec<_>>(), [5000], "a flap is two lines");
        }
        let mut mixed = lost();
        mixed.hops.insert("10.0.2.1".parse().unwrap(), Err(Unresolved::NoRoute));
        assert_eq!(by_cause(&up(), &mixed).values().map(Vec::len).collect::<Vec<_>>(), [5000, 1], "each cause has its own");
    }
}
