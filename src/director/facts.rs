//! Keeps the io in step with facts of its interface that are compiled into it: MAC address, receive queues, slaves of a bond.

use super::control::Control;
use super::host_problems;
use guideway_io::interface::Interface;
use guideway_io::offloads;

impl Control<'_> {
    /// Renews what has changed, and shows offloads that are on.
    pub(super) fn examine_interface(&mut self) {
        self.renew_io();
        let found = offloads::examine(&self.interface.name, self.offload_kind);
        host_problems::offloads_found(&self.interface, &found, self.status.host_problems());
    }

    /// Renews what has changed. If that fails, all VIPs are withdrawn until it succeeds: packets are lost or go to the host.
    pub(super) fn renew_io(&mut self) {
        // Without it, the watcher of neighbours knows, and ends the director.
        let Ok(interface) = Interface::by_index(self.interface.index) else { return };
        let trouble = match self.filter.renew() {
            Ok(changed) => {
                if let Some(changed) = changed {
                    tracing::info!(interface = %interface.name, changed, "io renewed, because its interface has changed");
                }
                (interface.mtu > self.max_mtu).then(|| {
                    format!(
                        "interface `{0}` has MTU {1}, but the io was opened with buffers for at most {2}: lower it (`ip link set {0} mtu {2}`), or restart the director",
                        interface.name, interface.mtu, self.max_mtu
                    )
                })
            }
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
