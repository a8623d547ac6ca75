//! Decides which VIPs can be forwarded now. No socket and no clock: takes a view of the tables and returns a verdict for each VIP.
//!
//! A VIP can be forwarded while one of its services can. A service can be forwarded while it is not paused and one backend of its pool has
//! a next hop. If no backend takes new flows, a reachable director of the remote site is enough. A drained backend counts, because its
//! transfers come through the VIP; to withdraw a VIP, pause it. A retired backend does not count: it is no longer in the file.

use guideway_control::{BackendEntry, BackendState, View};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Maximum number of backends whose reasons are listed; the rest are counted.
const MAX_NAMED: usize = 3;

/// Why a VIP cannot be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WithdrawReason {
    /// An operator paused it.
    #[error("{}", if *.0 > 1 { "all its services are paused" } else { "its service is paused" })]
    Paused(usize),
    /// No backend and no remote site can be reached.
    #[error("{0}")]
    NoBackend(String),
    /// The io does not receive what it should.
    #[error("{0}")]
    Io(String),
    /// The workers do not forward.
    #[error("{0}")]
    Stuck(String),
    /// The director is in maintenance.
    #[error("the director is in maintenance")]
    Maintenance,
}

/// The verdict for each VIP.
pub type Verdicts = BTreeMap<IpAddr, Result<(), WithdrawReason>>;

/// State of the backends of a pool.
#[derive(Default)]
struct PoolReachability<'v> {
    usable: bool,
    unusable: Vec<(&'v str, IpAddr)>,
}

/// Returns a verdict for each VIP of `view`.
pub fn verdicts(view: &View) -> Verdicts {
    let mut pools: HashMap<&str, PoolReachability<'_>> = HashMap::new();
    for backend in view.backends.iter().filter(|backend| can_forward(backend)) {
        let reachability = pools.entry(&backend.pool).or_default();
        if view.hops.get(backend.address).is_some() {
            reachability.usable = true;
        } else if !reachability.usable {
            reachability.unusable.push((&backend.name, backend.address));
        }
    }
    let remote_directors = &view.snapshot.remote_site_directors;
    let remote_reachable =
        remote_directors.iter().filter_map(|id| view.snapshot.backend(*id)).any(|director| view.hops.get(director.address).is_some());
    let mut verdicts = Verdicts::new();
    for (vip, service) in view.vips.iter().zip(&view.snapshot.services) {
        let pool = &*service.pool.name;
        let verdict = match pools.get(pool) {
            _ if service.paused => Err(WithdrawReason::Paused(1)),
            Some(reachability) if reachability.usable => Ok(()),
            // Packets that a local backend would take never go to the remote site, reachable or not.
            _ if remote_reachable && !service.pool.successors.members().iter().any(|member| member.accepts_new) => Ok(()),
            reachability => {
                Err(WithdrawReason::NoBackend(unreachable(pool, reachability.map_or(&[], |reachability| &reachability.unusable), view)))
            }
        };
        match verdicts.get_mut(vip) {
            None => drop(verdicts.insert(*vip, verdict)),
            Some(so_far) => *so_far = combine(so_far.clone(), verdict),
        }
    }
    verdicts
}

/// Returns whether packets may go to a backend. Lists every state, so that a new state must be handled here.
fn can_forward(backend: &BackendEntry) -> bool {
    match backend.state {
        // One that cannot be reached has no next hop.
        BackendState::Active | BackendState::Slow | BackendState::Drained | BackendState::Unreachable => true,
        BackendState::Down | BackendState::Retired => false,
    }
}

/// Combines the verdicts of a VIP's services.
fn combine(one: Result<(), WithdrawReason>, other: Result<(), WithdrawReason>) -> Result<(), WithdrawReason> {
    match (one, other) {
        (Ok(()), _) | (_, Ok(())) => Ok(()),
        (Err(WithdrawReason::Paused(a)), Err(WithdrawReason::Paused(b))) => Err(WithdrawReason::Paused(a + b)),
        (Err(WithdrawReason::NoBackend(a)), Err(WithdrawReason::NoBackend(b))) if a != b => {
            Err(WithdrawReason::NoBackend(format!("{a}; {b}")))
        }
        (Err(WithdrawReason::Paused(_)), Err(why)) | (Err(why), Err(_)) => Err(why),
    }
}

fn unreachable(pool: &str, backends: &[(&str, IpAddr)], view: &View) -> String {
    if backends.is_empty() {
        return format!("pool {pool} has no backend");
    }
    let reason = |(name, address): &(&str, IpAddr)| match view.hops.status(*address) {
        Ok(_) => (*name).to_owned(),
        Err(why) => format!("{name}: {why}"),
    };
    let mut reasons: Vec<String> = backends.iter().take(MAX_NAMED).map(reason).collect();
    if backends.len() > MAX_NAMED {
        reasons.push(format!("and {} more", backends.len() - MAX_NAMED));
    }
    format!("no backend of pool {pool} can be reached ({})", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_config::{self as config, Config};
    use guideway_control::{Link, NextHops, Unresolved, Writer};
    use guideway_dataplane::tables::NextHop;
    use guideway_packet::time::Time;
    use std::sync::Arc;

    const FILE: &str = r#"
        [director]
        name = "d1"
        address = ["10.0.1.11", "2001:db8::11"]
        key = "000102030405060708090a0b0c0d0e0f"
        io = { kind = "pcap", mac = "02:00:00:00:01:11" }
        vip = [
          { address = "192.0.2.69", service = "tftp", pool = "boot" },
          { address = "192.0.2.69", service = { protocol = "udp", ports = [53] }, pool = "dns" },
          { address = "2001:db8:69::69", service = "tftp", pool = "boot" },
        ]
        pool = [
          { name = "boot", backends = [{ name = "t1", address = "10.0.2.21" }, { name = "t2", address = "10.0.2.22" }] },
          { name = "dns", backends = [{ name = "n1", address = "10.0.2.31" }] },
        ]
    "#;

    fn config(text: &str) -> Config {
        // The lists must stand before the section that would otherwise contain them.
        let (director, rest) = text.split_once("vip = [").unwrap();
        let checked = config::read(&format!("vip = [{rest}\n{director}"));
        checked.config.unwrap_or_else(|| panic!("{:#?}", checked.problems))
    }

    fn view(writer: &mut Writer, config: &Config, reachable: &[&str]) -> View {
        let hop = NextHop { mac: [2; 6], mtu: 1500, output: None };
        let mut hops: BTreeMap<IpAddr, Result<NextHop, Unresolved>> = reachable.iter().map(|a| (a.parse().unwrap(), Ok(hop))).collect();
        hops.entry("10.0.2.22".parse().unwrap()).or_insert(Err(Unresolved::NoRoute));
        let hops = NextHops { link: Link { mac: [2; 6], mtu: 1500 }, hops, missing_addresses: Vec::new(), refused: None };
        let snapshot = writer.apply(config, &hops, Time::default()).unwrap();
        View {
            checked: Default::default(),
            snapshot: Arc::new(snapshot),
            vips: config.vips.iter().map(|vip| vip.address).collect(),
            keys: Default::default(),
            backends: writer.backends().collect(),
            hops,
        }
    }

    /// Returns the reasons of the IPv4 and the IPv6 VIP, or nothing.
    fn reasons(text: &str, reachable: &[&str]) -> [String; 2] {
        let verdicts = verdicts(&view(&mut Writer::new(), &config(text), reachable));
        assert_eq!(verdicts.len(), 2);
        let text = |vip: &str| verdicts[&vip.parse().unwrap()].clone().err().map_or(String::new(), |why| why.to_string());
        ["192.0.2.69", "2001:db8:69::69"].map(text)
    }

    #[test]
    fn one_backend_of_one_service_is_enough() {
        let boot = "no backend of pool boot can be reached (t1: its route was not looked up yet; t2: the kernel has no route to it)";
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(reasons(FILE, &["10.0.2.22", "10.0.2.31"]), ["", ""]);
        assert_eq!(reasons(FILE, &["10.0.2.21"]), ["", ""]);
        assert_eq!(reasons(FILE, &["10.0.2.31"]), ["", boot]);
        assert_eq!(reasons(FILE, &[]), [&format!("{boot}; {dns}"), boot]);
    }

    #[test]
    fn a_reachable_remote_site_is_enough_but_opens_no_paused_service() {
        let with_remote_site = FILE.replace("[director]", "[director]\nremote_site = [\"10.9.1.11\"]");
        let boot = "no backend of pool boot can be reached (t1: its route was not looked up yet; t2: the kernel has no route to it)";
        assert_eq!(reasons(&with_remote_site, &["10.9.1.11"])[1], boot, "packets would go to backends that cannot be reached");
        let empty = with_remote_site
            .replace("\"10.0.2.21\" }", "\"10.0.2.21\", drain = true }")
            .replace("\"10.0.2.22\" }", "\"10.0.2.22\", weight = 0 }");
        assert_eq!(reasons(&empty, &["10.9.1.11"]), ["", ""]);
        assert_ne!(reasons(&empty, &[]), ["", ""], "the remote site must be reachable");
        let paused = empty.replace("pool = \"boot\" }", "pool = \"boot\", paused = true }");
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(reasons(&paused, &["10.9.1.11"]), [dns, "its service is paused"]);
    }

    #[test]
    fn a_paused_service_forwards_nothing() {
        let paused = FILE.replace("pool = \"boot\" }", "pool = \"boot\", paused = true }");
        let paused_all = paused.replace("pool = \"dns\" }", "pool = \"dns\", paused = true }");
        let all = ["10.0.2.21", "10.0.2.31"];
        assert_eq!(reasons(&paused, &all), ["", "its service is paused"], "DNS goes on");
        assert_eq!(reasons(&paused_all, &all), ["all its services are paused", "its service is paused"]);
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(reasons(&paused, &["10.0.2.21"]), [dns, "its service is paused"], "the reason that an operator can fix comes first");
    }

    #[test]
    fn a_drained_backend_keeps_the_vip_announced_and_a_retired_one_does_not() {
        let drained = FILE.replace("\"10.0.2.21\" }", "\"10.0.2.21\", weight = 0 }");
        assert_eq!(reasons(&drained, &["10.0.2.21"]), ["", ""]);

        let mut writer = Writer::new();
        view(&mut writer, &config(FILE), &["10.0.2.21"]);
        let without = config(&FILE.replace("{ name = \"t1\", address = \"10.0.2.21\" }, ", ""));
        let later = view(&mut writer, &without, &["10.0.2.21"]);
        assert!(later.backends.iter().any(|b| b.state == BackendState::Retired));
        let why = verdicts(&later)[&"2001:db8:69::69".parse().unwrap()].clone().unwrap_err();
        assert_eq!(why.to_string(), "no backend of pool boot can be reached (t2: the kernel has no route to it)");
    }

    #[test]
    fn only_a_few_of_many_backends_are_listed() {
        let many: Vec<String> = (1..=9).map(|n| format!("{{ name = \"n{n}\", address = \"10.0.3.{n}\" }}")).collect();
        let text = FILE.replace("{ name = \"n1\", address = \"10.0.2.31\" }", &many.join(", "));
        assert!(reasons(&text, &[])[0].ends_with("n3: its route was not looked up yet; and 6 more)"));
    }
}
