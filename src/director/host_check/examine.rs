//! The examinations, one function for each.

use super::Severity::{Error, Warning};
use super::permissions::{BPF, IPC_LOCK, NET_ADMIN, NET_RAW, SYS_ADMIN, has};
use super::{Finding, Host};
use guideway_config::Io;
use guideway_io::offloads;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// Bytes of a client's packet on an ordinary Ethernet.
const CLIENT_MTU: u32 = 1500;
/// Outer header and GRE.
const GRE_V4: u32 = 20 + 4;
const GRE_V6: u32 = 40 + 4;
/// Frame memory of an AF_XDP socket, at most, and room for maps and rings.
const QUEUE_MEMORY: u64 = 4096 * 4096 + (1 << 20);

impl Host<'_> {
    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        found.extend(self.link());
        found.extend(self.address());
        found.extend(self.vips());
        found.extend(self.backends());
        found.extend(self.mtu());
        found.extend(self.queues());
        found.extend(self.offloads());
        found.extend(self.capabilities());
        found.extend(self.memory_lock());
        found.extend(self.devices());
        found.extend(self.xdp());
        found.extend(self.kernel_settings());
        found
    }

    fn name(&self) -> &str {
        &self.interface.name
    }

    fn is_af_xdp(&self) -> bool {
        matches!(self.config.director.io, Io::AfXdp { .. })
    }

    fn link(&self) -> Option<Finding> {
        let message = format!("{} is switched off or has no carrier: nothing comes in", self.name());
        (!self.survey.up).then(|| Finding::new(Error, "link", message, format!("ip link set {} up", self.name())))
    }

    fn address(&self) -> Vec<Finding> {
        let finding = |address: &IpAddr| {
            let message = format!(
                "director.address {address} is on no interface of this host: routers cannot send GRE there, and their ICMP errors are lost"
            );
            Finding::new(Error, "address", message, format!("ip addr add {address} dev lo"))
        };
        self.survey.missing_addresses.iter().map(finding).collect()
    }

    /// Whether a server of this host is among the backends.
    fn has_local_server(&self) -> bool {
        let mut backends = self.config.pools.iter().flat_map(|pool| &pool.backends);
        backends.any(|backend| self.config.director.address.contains(backend.address))
    }

    /// A server of this host may have VIPs on it: the director takes their packets before the kernel does. But no more than one host of a link may
    /// answer ARP for them.
    fn arp(&self) -> Option<Finding> {
        let answers = |which: &str| (self.sysctl)(&format!("net/ipv4/conf/{which}/arp_ignore")).is_none_or(|value| value == "0");
        let vip = self.survey.local_vips.iter().find(|vip| vip.is_ipv4() && answers("all") && answers(self.name()))?;
        let message = format!(
            "{} answers ARP for the VIP {vip}, which is an address of this host: right for the one host that VRRP chose, wrong for all others",
            self.name()
        );
        Some(Finding::new(Warning, "arp", message, "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2"))
    }

    fn vips(&self) -> Vec<Finding> {
        if self.has_local_server() {
            return self.arp().into_iter().collect();
        }
        let finding = |vip: &IpAddr| {
            let message = format!("the VIP {vip} is an address of this host, so its own kernel answers for it beside the backends");
            Finding::new(Error, "vip_on_this_host", message, format!("ip addr show to {vip}  # and `ip addr del` there"))
        };
        self.survey.local_vips.iter().map(finding).collect()
    }

    /// Those that cannot be reached, together for each reason.
    fn backends(&self) -> Vec<Finding> {
        let all = self.survey.hops.hops.len();
        let mut reasons: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (address, hop) in &self.survey.hops.hops {
            if let Err(why) = hop
                && self.survey.hops.is_unreachable(*address)
            {
                reasons.entry(why.to_string()).or_default().push(*address);
            }
        }
        let unreachable: usize = reasons.values().map(Vec::len).sum();
        let severity = if unreachable == all { Error } else { Warning };
        let finding = |(why, addresses): (String, Vec<IpAddr>)| {
            let own = self.config.director.address.same_family(addresses[0]);
            let from = own.filter(|own| !self.survey.missing_addresses.contains(own)).map_or(String::new(), |own| format!(" from {own}"));
            let mark = self.config.director.mark.map_or(String::new(), |mark| format!(" mark {mark}"));
            let more = if addresses.len() > 1 { format!(" and {} more", addresses.len() - 1) } else { String::new() };
            let here = "; it is an address of this host, and a server of this host has director.address";
            let other_address = if why.contains("`local`") { here } else { "" };
            let message = format!("backend {}{more}: {why}{other_address}", addresses[0]);
            Finding::new(severity, "route_to_backend", message, format!("ip route get {}{from}{mark}", addresses[0]))
        };
        reasons.into_iter().map(finding).collect()
    }

    fn mtu(&self) -> Option<Finding> {
        let v6 = self.survey.hops.hops.keys().any(IpAddr::is_ipv6);
        let need = CLIENT_MTU + if v6 { GRE_V6 } else { GRE_V4 };
        (self.interface.mtu < need).then(|| {
            let message = format!(
                "{} has an MTU of {}: a client's packet of {CLIENT_MTU} bytes does not fit in GRE ({need} bytes), so that such packets are \
                 fragmented, or refused by ICMP; the switches need as much",
                self.name(),
                self.interface.mtu
            );
            Finding::new(Warning, "mtu_headroom", message, format!("ip link set {} mtu {need}", self.name()))
        })
    }

    fn queues(&self) -> Option<Finding> {
        let (queues, cpus, steering) = (self.interface.rx_queues, self.cpus, self.config.director.steering);
        if matches!(self.config.director.io, Io::AfPacket { .. } | Io::Pcap { .. }) {
            return None;
        }
        let netmap = matches!(self.config.director.io, Io::Netmap { .. });
        if steering > 0 {
            // The steering thread has a socket of AF_XDP for each queue.
            let message = format!("{} has {queues} receive queues, and with `steering` one thread receives from one", self.name());
            return (netmap && queues > 1)
                .then(|| Finding::new(Error, "receive_queues", message, format!("ethtool -L {} combined 1", self.name())));
        }
        if queues == 1 && cpus > 1 {
            let message =
                format!("{} has one receive queue, so that one worker does everything, and {} CPUs are idle", self.name(), cpus - 1);
            let command = format!("ethtool -L {} combined {cpus}  # or `steering = {}` in [director]", self.name(), cpus - 1);
            return Some(Finding::new(Warning, "receive_queues", message, command));
        }
        let routers = &self.config.director.routers;
        let few = !routers.is_empty() && routers.iter().all(|router| router.prefix_len() == router.max_prefix_len());
        (queues > 1 && few && routers.len() < queues as usize).then(|| {
            let message = format!(
                "{} has {queues} receive queues, and a card spreads GRE by its outer addresses only: of {} router(s) comes all in as many queues at most",
                self.name(),
                routers.len()
            );
            let one_queue = if netmap { format!("ethtool -L {} combined 1  # and ", self.name()) } else { "# ".to_owned() };
            let command = format!("{one_queue}`steering = {}` in [director]", queues.max(2));
            Finding::new(Warning, "receive_queues", message, command)
        })
    }

    fn offloads(&self) -> Option<Finding> {
        let (kind, severity) = match self.config.director.io {
            Io::AfPacket { .. } => (offloads::Kind::AfPacket, Warning),
            // Behind the driver or in it: known when the filter is attached.
            Io::AfXdp { .. } => (offloads::Kind::AfXdp { generic: false }, Warning),
            Io::Netmap { .. } => (offloads::Kind::Netmap, Error),
            Io::Pcap { .. } => return None,
        };
        let found = offloads::examine(self.name(), kind);
        let effects: Vec<String> = found.iter().map(|finding| format!("{} {}", finding.offload, finding.effect)).collect();
        let command = offloads::fix(self.name(), &found);
        (!found.is_empty()).then(|| Finding::new(severity, "offloads", format!("of {}: {}", self.name(), effects.join("; ")), command))
    }

    fn capabilities(&self) -> Option<Finding> {
        let mut needed = vec![(NET_ADMIN, "cap_net_admin"), (NET_RAW, "cap_net_raw")];
        if self.is_af_xdp() && !has(self.capabilities, SYS_ADMIN) {
            needed.push((BPF, "cap_bpf"));
        }
        let missing: Vec<&str> = needed.iter().filter(|(number, _)| !has(self.capabilities, *number)).map(|(_, name)| *name).collect();
        (!missing.is_empty()).then(|| {
            let all: Vec<&str> = needed.iter().map(|(_, name)| *name).collect();
            let message = format!("whoever runs this command has no {}", missing.join(", "));
            let command = format!("setcap {}+ep $(command -v guideway)  # in a unit of systemd: AmbientCapabilities=", all.join(","));
            Finding::new(Error, "capabilities", message, command)
        })
    }

    fn memory_lock(&self) -> Option<Finding> {
        let need = u64::from(self.interface.rx_queues) * QUEUE_MEMORY;
        (self.is_af_xdp() && !has(self.capabilities, IPC_LOCK) && self.locked_memory < need).then(|| {
            let message = format!("{} bytes of memory may be locked, and AF_XDP on {} needs {need}", self.locked_memory, self.name());
            Finding::new(Error, "memory_lock", message, "ulimit -l unlimited  # in a unit of systemd: LimitMEMLOCK=infinity")
        })
    }

    fn devices(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if matches!(self.config.director.io, Io::Netmap { .. }) && !(self.exists)(Path::new("/dev/netmap")) {
            found.push(Finding::new(Error, "netmap", "there is no /dev/netmap: netmap's module is not loaded", "modprobe netmap"));
        }
        if self.config.announce.is_some() && !(self.exists)(Path::new("/dev/net/tun")) {
            let message = "there is no /dev/net/tun, which [announce] needs";
            found.push(Finding::new(Error, "tun", message, "modprobe tun  # in a unit of systemd: DeviceAllow=/dev/net/tun rw"));
        }
        found
    }

    fn xdp(&self) -> Option<Finding> {
        let attached = self.survey.xdp_program.filter(|_| self.is_af_xdp() && !self.runs)?;
        let message = format!("an XDP program (id {attached}) is attached to {} already, and there is room for one", self.name());
        let command = format!(
            "ip link set {0} xdp off && ip link set {0} xdpgeneric off  # refused where a link holds it: bpftool link, bpftool link detach id ID",
            self.name()
        );
        Some(Finding::new(Error, "xdp_attached", message, command))
    }

    fn kernel_settings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let number = |key: String| (self.sysctl)(&key).and_then(|value| value.parse::<u32>().ok()).unwrap_or(0);
        let of = |family: &str, which: &str, key: &str| number(format!("net/{family}/conf/{which}/{key}"));
        let name = self.name();
        // The kernel takes the stricter of both: 1 is strict, 2 is loose.
        if of("ipv4", "all", "rp_filter").max(of("ipv4", name, "rp_filter")) == 1 {
            let message = format!(
                "the reverse-path filter of {name} is strict: what comes by another interface than its answer would leave by is lost, such as \
                 ICMP errors of routers and health checks"
            );
            found.push(Finding::new(Warning, "reverse_path_filter", message, format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2")));
        }
        for family in ["ipv4", "ipv6"] {
            if matches!(self.config.director.io, Io::AfPacket { .. }) && of(family, name, "forwarding") == 1 {
                let message = format!(
                    "the kernel forwards {family} packets that come by {name}, and with io af_packet it sees the clients' packets too: those that \
                     come without GRE would be sent twice"
                );
                found.push(Finding::new(Warning, "forwarding", message, format!("sysctl -w net.{family}.conf.{name}.forwarding=0")));
            }
        }
        found
    }
}
