//! Which VIPs can be forwarded now. No socket and no clock: a view of the tables in, a verdict for each VIP out.
//!
//! A VIP can be forwarded while one of its services can: one that is not paused and of whose pool one backend has a next hop, or, where no
//! backend takes new flows, a director of the other site. A drained
//! backend counts, for the transfers that it keeps come through the VIP; whoever wants a VIP withdrawn pauses it. A retired backend does not
//! count: it is no longer in the file.

use guideway_control::{Known, State, View};
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Backends of which the reason is given; the rest are counted.
const NAMED: usize = 3;

/// Why a VIP cannot be forwarded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Somebody wants it so.
    #[error("{}", if *.0 > 1 { "all its services are paused" } else { "its service is paused" })]
    Paused(usize),
    /// There is nowhere to forward it to.
    #[error("{0}")]
    NoBackend(String),
    /// Nobody forwards.
    #[error("{0}")]
    Stuck(String),
}

/// What is true of each VIP.
pub type Verdicts = BTreeMap<IpAddr, Result<(), Why>>;

/// What is known of the backends of a pool.
#[derive(Default)]
struct Reach<'v> {
    usable: bool,
    unusable: Vec<(&'v str, IpAddr)>,
}

/// A verdict for each VIP of `view`.
pub fn decide(view: &View) -> Verdicts {
    let mut pools: HashMap<&str, Reach<'_>> = HashMap::new();
    for backend in view.backends.iter().filter(|backend| counts(backend)) {
        let reach = pools.entry(&backend.pool).or_default();
        if view.hops.get(backend.address).is_some() {
            reach.usable = true;
        } else if !reach.usable {
            reach.unusable.push((&backend.name, backend.address));
        }
    }
    let sites = &view.snapshot.sites;
    let site = sites.iter().filter_map(|id| view.snapshot.backend(*id)).any(|director| view.hops.get(director.address).is_some());
    let mut verdicts = Verdicts::new();
    for (vip, service) in view.vips.iter().zip(&view.snapshot.services) {
        let pool = &*service.pool.name;
        let verdict = match pools.get(pool) {
            _ if service.paused => Err(Why::Paused(1)),
            Some(reach) if reach.usable => Ok(()),
            // What a backend here would take never goes to the other site, reached or not.
            _ if site && !service.pool.succession.members().iter().any(|member| member.open) => Ok(()),
            reach => Err(Why::NoBackend(unreachable(pool, reach.map_or(&[], |reach| &reach.unusable), view))),
        };
        match verdicts.get_mut(vip) {
            None => drop(verdicts.insert(*vip, verdict)),
            Some(so_far) => *so_far = better(so_far.clone(), verdict),
        }
    }
    verdicts
}

/// Whether a backend is one to forward to. Every state is named, so that a new one is thought of here.
fn counts(backend: &Known) -> bool {
    match backend.state {
        State::Active | State::Slow | State::Drained => true,
        State::Down | State::Retired => false,
    }
}

/// The verdict on a VIP from those on its services.
fn better(one: Result<(), Why>, other: Result<(), Why>) -> Result<(), Why> {
    match (one, other) {
        (Ok(()), _) | (_, Ok(())) => Ok(()),
        (Err(Why::Paused(a)), Err(Why::Paused(b))) => Err(Why::Paused(a + b)),
        (Err(Why::NoBackend(a)), Err(Why::NoBackend(b))) if a != b => Err(Why::NoBackend(format!("{a}; {b}"))),
        (Err(Why::Paused(_)), Err(why)) | (Err(why), Err(_)) => Err(why),
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
    let mut reasons: Vec<String> = backends.iter().take(NAMED).map(reason).collect();
    if backends.len() > NAMED {
        reasons.push(format!("and {} more", backends.len() - NAMED));
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
        // The lists stand before the section to which they would belong otherwise.
        let (director, rest) = text.split_once("vip = [").unwrap();
        let checked = config::read(&format!("vip = [{rest}\n{director}"));
        checked.config.unwrap_or_else(|| panic!("{:#?}", checked.problems))
    }

    fn view(writer: &mut Writer, config: &Config, reachable: &[&str]) -> View {
        let hop = NextHop { mac: [2; 6], mtu: 1500 };
        let mut hops: BTreeMap<IpAddr, Result<NextHop, Unresolved>> = reachable.iter().map(|a| (a.parse().unwrap(), Ok(hop))).collect();
        hops.entry("10.0.2.22".parse().unwrap()).or_insert(Err(Unresolved::NoRoute));
        let hops = NextHops { link: Link { mac: [2; 6], mtu: 1500 }, hops };
        let snapshot = writer.apply(config, &hops, Time::default()).unwrap();
        View {
            snapshot: Arc::new(snapshot),
            vips: config.vips.iter().map(|vip| vip.address).collect(),
            keys: Default::default(),
            backends: writer.backends().collect(),
            hops,
        }
    }

    /// `4:` and `6:` with the reason, or nothing.
    fn said(text: &str, reachable: &[&str]) -> [String; 2] {
        let verdicts = decide(&view(&mut Writer::new(), &config(text), reachable));
        assert_eq!(verdicts.len(), 2);
        let text = |vip: &str| verdicts[&vip.parse().unwrap()].clone().err().map_or(String::new(), |why| why.to_string());
        ["192.0.2.69", "2001:db8:69::69"].map(text)
    }

    #[test]
    fn one_backend_of_one_service_is_enough() {
        let boot = "no backend of pool boot can be reached (t1: its route was not looked up yet; t2: the kernel has no route to it)";
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(said(FILE, &["10.0.2.22", "10.0.2.31"]), ["", ""]);
        assert_eq!(said(FILE, &["10.0.2.21"]), ["", ""]);
        assert_eq!(said(FILE, &["10.0.2.31"]), ["", boot]);
        assert_eq!(said(FILE, &[]), [&format!("{boot}; {dns}"), boot]);
    }

    #[test]
    fn a_way_to_another_site_is_enough_and_opens_no_paused_service() {
        let sites = FILE.replace("[director]", "[director]\nother_site = [\"10.9.1.11\"]");
        let boot = "no backend of pool boot can be reached (t1: its route was not looked up yet; t2: the kernel has no route to it)";
        assert_eq!(said(&sites, &["10.9.1.11"])[1], boot, "packets would go to backends that cannot be reached");
        let empty =
            sites.replace("\"10.0.2.21\" }", "\"10.0.2.21\", drain = true }").replace("\"10.0.2.22\" }", "\"10.0.2.22\", weight = 0 }");
        assert_eq!(said(&empty, &["10.9.1.11"]), ["", ""]);
        assert_ne!(said(&empty, &[]), ["", ""], "it has to be reached");
        let paused = empty.replace("pool = \"boot\" }", "pool = \"boot\", paused = true }");
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(said(&paused, &["10.9.1.11"]), [dns, "its service is paused"]);
    }

    #[test]
    fn a_paused_service_forwards_nothing() {
        let paused = FILE.replace("pool = \"boot\" }", "pool = \"boot\", paused = true }");
        let paused_all = paused.replace("pool = \"dns\" }", "pool = \"dns\", paused = true }");
        let all = ["10.0.2.21", "10.0.2.31"];
        assert_eq!(said(&paused, &all), ["", "its service is paused"], "DNS goes on");
        assert_eq!(said(&paused_all, &all), ["all its services are paused", "its service is paused"]);
        let dns = "no backend of pool dns can be reached (n1: its route was not looked up yet)";
        assert_eq!(said(&paused, &["10.0.2.21"]), [dns, "its service is paused"], "what can be mended is told");
    }

    #[test]
    fn a_drained_backend_keeps_the_vip_and_a_retired_one_does_not() {
        let drained = FILE.replace("\"10.0.2.21\" }", "\"10.0.2.21\", weight = 0 }");
        assert_eq!(said(&drained, &["10.0.2.21"]), ["", ""]);

        let mut writer = Writer::new();
        view(&mut writer, &config(FILE), &["10.0.2.21"]);
        let without = config(&FILE.replace("{ name = \"t1\", address = \"10.0.2.21\" }, ", ""));
        let later = view(&mut writer, &without, &["10.0.2.21"]);
        assert!(later.backends.iter().any(|b| b.state == State::Retired));
        let why = decide(&later)[&"2001:db8:69::69".parse().unwrap()].clone().unwrap_err();
        assert_eq!(why.to_string(), "no backend of pool boot can be reached (t2: the kernel has no route to it)");
    }

    #[test]
    fn of_many_backends_a_few_are_named() {
        let many: Vec<String> = (1..=9).map(|n| format!("{{ name = \"n{n}\", address = \"10.0.3.{n}\" }}")).collect();
        let text = FILE.replace("{ name = \"n1\", address = \"10.0.2.31\" }", &many.join(", "));
        assert!(said(&text, &[])[0].ends_with("n3: its route was not looked up yet; and 6 more)"));
    }
}
