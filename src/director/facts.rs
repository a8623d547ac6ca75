//! Keeps the io in step with facts of its interface that are compiled into it: MAC address, receive queues, slaves of a bond.

use super::control::Control;
use super::host_problems;
use guideway_io::interface::Interface;
use guideway_io::offloads;

impl Control<'_> {
    /// Renews what has changed, and warns of offloads that were switched on.
    pub(super) fn examine_interface(&mut self) {
        self.renew_io();
        let found = offloads::examine(&self.interface.name, self.offload_kind);
        for finding in found.iter().filter(|finding| !self.offloads.contains(finding)) {
            let fix = offloads::fix(&self.interface.name, &[*finding]);
            tracing::warn!(interface = %self.interface.name, offload = finding.offload, effect = finding.effect, %fix, "an offload changes packets");
        }
        host_problems::offloads_found(&self.interface, &found, self.status.host_problems());
        self.offloads = found;
    }

    /// Renews what has changed. If that fails, all VIPs are withdrawn until it succeeds: packets are lost or go to the host.
    pub(super) fn renew_io(&mut self) {
        let trouble = match self.filter.renew() {
            Ok(None) => None,
            Ok(Some(changed)) => {
                tracing::info!(interface = %self.interface.name, changed, "io renewed, because its interface has changed");
                None
            }
            // The watcher of neighbours knows, and ends the director.
            Err(_) if Interface::by_index(self.interface.index).is_err() => return,
            Err(why) => Some(why.to_string()),
        };
        if trouble == self.io_trouble {
            return;
        }
        match &trouble {
            Some(why) => {
                tracing::error!(interface = %self.interface.name, reason = %why, "io not renewed after a change of its interface: VIPs are withdrawn")
            }
            None => tracing::info!(interface = %self.interface.name, "io receives all packets again"),
        }
        self.status.set_io_trouble(trouble.clone());
        self.io_trouble = trouble;
        self.update_status();
    }
}
