//! What the kernel says about the director's host, and what to do about it.

use guideway_config::Config;
use guideway_control::{HostProblem, HostProblems, NextHops};
use guideway_io::interface::Interface;
use guideway_io::offloads;

/// Updates the problems that the watcher of the kernel has found.
pub(super) fn update(config: &Config, hops: &NextHops, problems: &HostProblems) {
    let missing: Vec<String> = hops.missing_addresses.iter().map(ToString::to_string).collect();
    let missing = (!missing.is_empty()).then(|| {
        let addresses = missing.join(" and ");
        format!(
            "director.address {addresses} is on no interface of this host: routers cannot send GRE there, and their ICMP errors are lost; \
             `ip addr add {} dev lo`, or name an address that is here",
            missing[0]
        )
    });
    // Without GRE, packets come by the routes of the VIPs.
    let gre_only = config.announce.is_none() && !config.director.routers.is_empty();
    problems.set(HostProblem::Address, missing, gre_only);
    let refused = hops.refused.as_ref().map(|why| {
        format!(
            "the kernel does not resolve neighbours for the director: {why}; run it as root or with CAP_NET_ADMIN in its network namespace"
        )
    });
    problems.set(HostProblem::Permission, refused, false);
}

/// Shows the offloads that were found, until they are off.
pub(super) fn offloads_found(interface: &Interface, found: &[offloads::Finding], problems: &HostProblems) {
    let why = (!found.is_empty()).then(|| {
        let effects: Vec<String> = found.iter().map(|finding| format!("{} {}", finding.offload, finding.effect)).collect();
        format!("an offload of {} changes packets: {}; `{}`", interface.name, effects.join("; "), offloads::fix(&interface.name, found))
    });
    problems.set(HostProblem::Offload, why, false);
}
