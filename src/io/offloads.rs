//! Which offloads of an interface an io cannot live with, what they do to packets, and the command that mends it.
//!
//! A card or driver that does work for the host changes frames before an io sees them, or expects to change them after. The director warns at its start, and
//! `guideway check --host` shows the same.

use netmap_rings::offloads_on;

/// The io that shall use the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::af_packet`]
    AfPacket,
    /// [`crate::af_xdp`]; `generic` behind the driver.
    AfXdp {
        /// Whether the filter runs behind the driver, which has put packets together before.
        generic: bool,
    },
    /// [`crate::netmap`]
    Netmap,
}

/// An offload that is on and should not be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name, as `ethtool -K` takes it.
    pub offload: &'static str,
    /// What it does to packets.
    pub effect: &'static str,
}

const SUPER_FRAMES: &str = "puts packets together; those longer than the MTU are lost (`super_frame`, `no_buffer`)";
const LOST_TAGS: &str = "takes VLAN tags off, so that tagged packets leave without their tag";
const UNSEEN: &str = "leaves work to the card that netmap does not have done";

/// Returns the offloads of `interface` that harm this kind of io. An interface that ethtool does not know has none.
pub fn examine(interface: &str, kind: Kind) -> Vec<Finding> {
    let on = offloads_on(interface).unwrap_or_default();
    let effect = |offload: &'static str| {
        let effect = match (kind, offload) {
            (Kind::Netmap, "rxvlan") => LOST_TAGS,
            (Kind::Netmap, _) => UNSEEN,
            (Kind::AfPacket | Kind::AfXdp { generic: true }, "gro" | "lro") | (Kind::AfXdp { .. }, "lro") => SUPER_FRAMES,
            (Kind::AfXdp { .. }, "rxvlan") if has_vlans(interface) => LOST_TAGS,
            _ => return None,
        };
        Some(Finding { offload, effect })
    };
    on.into_iter().filter_map(effect).collect()
}

/// Returns the command that mends all of these; empty without any.
pub fn fix(interface: &str, findings: &[Finding]) -> String {
    let off: String = findings.iter().map(|finding| format!(" {} off", finding.offload)).collect();
    if off.is_empty() { off } else { format!("ethtool -K {interface}{off}") }
}

/// Returns whether VLAN interfaces are on top of `interface`. The kernel lists them in columns: name, id, interface below.
fn has_vlans(interface: &str) -> bool {
    let vlans = std::fs::read_to_string("/proc/thread-self/net/vlan/config").unwrap_or_default();
    vlans.lines().any(|line| line.split('|').nth(2).is_some_and(|below| below.trim() == interface))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, run, veth};

    #[test]
    fn what_harms_an_io_is_found_and_the_command_mends_it() {
        testing::in_namespace(|| {
            veth(1, 1500);
            run("ethtool", "-K guide0 gro on");
            for (kind, expected) in [
                (Kind::AfPacket, vec!["gro"]),
                (Kind::AfXdp { generic: true }, vec!["gro"]),
                (Kind::AfXdp { generic: false }, vec![]),
                (Kind::Netmap, vec!["tx", "sg", "tso", "gso", "gro", "rxvlan", "txvlan"]),
            ] {
                let found = examine("guide0", kind);
                assert_eq!(found.iter().map(|finding| finding.offload).collect::<Vec<_>>(), expected, "{kind:?}");
                assert!(found.iter().all(|finding| !finding.effect.is_empty()));
                let fix = fix("guide0", &found);
                if let Some(arguments) = fix.strip_prefix("ethtool ") {
                    run("ethtool", arguments);
                }
                assert_eq!(examine("guide0", kind), [], "{fix}");
                run("ethtool", "-K guide0 gro on");
            }
        });
        assert_eq!(examine("no-such-if", Kind::Netmap), []);
    }
}
