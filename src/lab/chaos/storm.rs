//! A boot storm: thousands of clients from networks small and large ask at once, played by `guideway tftp swarm`, a process for each network.

use super::fairness::FairnessReport;
use super::network::Network;
use super::script::{ClientNetworks, Clients, Script};
use super::script_report::{ScriptReport, TimedEvent};
use crate::args::LabArgs;
use crate::files::Files;
use crate::interrupt::Interrupt;
use crate::lab::Lab;
use crate::router::MAIN_TABLE;
use crate::transfer_log::TransferLog;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::{Netlink, Via};
use guideway_testbed::programs;
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The least fairness over networks (issue of the boot storm).
const MIN_FAIRNESS: f64 = 0.95;
/// How often it is looked for who is done.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The networks of a storm's clients: 10.64.1.0/24 and following; none for other scripts.
pub fn networks(script: &Script) -> Vec<IpNet> {
    let count = match &script.config.clients {
        Clients::Swarm(networks) => networks.count,
        Clients::Real(_) => 0,
    };
    (1..=count).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(10, 64, n, 0), 24).ok()).map(IpNet::V4).collect()
}

/// One network's clients.
struct Swarm {
    child: Child,
    clients: u32,
    done: bool,
}

/// How many clients each network has; together `clients`, at least one in each.
fn sizes(networks: &ClientNetworks, clients: u32) -> Vec<u32> {
    let weights: Vec<u64> = (0..usize::from(networks.count)).map(|n| u64::from(networks.sizes[n % networks.sizes.len()])).collect();
    let (all, count) = (weights.iter().sum::<u64>(), weights.len() as u64);
    let rest = u64::from(clients) - count;
    let mut sizes: Vec<u32> = weights.iter().map(|weight| 1 + (rest * weight / all) as u32).collect();
    let left = clients - sizes.iter().sum::<u32>();
    sizes.iter_mut().take(left as usize).for_each(|size| *size += 1);
    sizes
}

/// The place among the networks of a storm that a client is in.
fn network_index(client: IpAddr) -> Option<usize> {
    match client {
        IpAddr::V4(a) if a.octets()[..2] == [10, 64] => usize::from(a.octets()[2]).checked_sub(1),
        _ => None,
    }
}

/// Plays it, with the script's steps that come at times.
pub fn run(
    lab: &mut Lab,
    args: &LabArgs,
    script: &Script,
    networks: &ClientNetworks,
    transfer_log: &TransferLog,
    mut report: ScriptReport,
    interrupt: &Interrupt,
) -> Result<ScriptReport, Error> {
    if args.ipv6 {
        return Err(Error::Usage("--ipv6: the swarm's networks are IPv4: leave it out".to_owned()));
    }
    let all = self::networks(script);
    route(lab, &all)?;
    lab.files.link_file(0).with_context(|| "offering a file".to_owned())?;
    let sums = lab.files.download_dir.join("sums");
    lab.files.write_digest(0, &sums).with_context(|| format!("writing {}", sums.display()))?;
    let sizes = sizes(networks, args.transfers);
    let start = |(place, (net, clients)): (usize, (&IpNet, &u32))| spawn_swarm(lab, script, args, *net, place, *clients, &sums);
    let mut swarms = all.iter().zip(&sizes).enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
    release(&mut swarms)?;
    let since = Instant::now();
    let mut network = Network::new(lab, args.size, args.seed);
    let mut steps = script.steps.as_slice();
    while swarms.iter().any(|swarm| !swarm.done) && !interrupt.is_set() {
        // Processes end whenever they do; the events of the script have times.
        std::thread::sleep(POLL_INTERVAL);
        if let Some((step, later)) = steps.split_first()
            && matches!(step.at, super::script::Trigger::Time(time) if since.elapsed() >= time)
        {
            steps = later;
            report.events.extend(step.events.iter().map(|e| TimedEvent { at: since.elapsed().as_secs_f64(), event: e.to_string() }));
            report.problems.extend(network.step(&step.events).err().map(|e| e.to_string()));
        }
        for swarm in swarms.iter_mut().filter(|swarm| !swarm.done) {
            if swarm.child.try_wait().with_context(|| "waiting for a swarm".to_owned())?.is_some() {
                swarm.done = true;
            }
        }
    }
    report.problems.extend(network.stop().iter().map(ToString::to_string));
    report.interrupted = interrupt.is_set();
    for swarm in &mut swarms {
        if report.interrupted {
            let _gone = swarm.child.kill();
        }
        let document = read_report(&mut swarm.child);
        let count = |what: &str| document["transfers"][what].as_u64().unwrap_or(0).min(swarm.clients.into()) as u32;
        let (completed, verified) = (count("completed"), count("verified"));
        report.verified += verified;
        report.wrong_bytes += completed.saturating_sub(verified);
        report.failed += swarm.clients - completed;
    }
    report.allowed = 0;
    report.storm = FairnessReport::compute(&transfer_log.records(), |record| network_index(record.client.0));
    if let Some(index) = report.storm.as_ref().filter(|_| networks.count > 1).map(|fairness| fairness.fairness) {
        report.fairness = Some((index * 1e4).round() / 1e4);
        if index < MIN_FAIRNESS {
            report.problems.push(format!("Jain's fairness index over networks is {index:.4}, and must be at least {MIN_FAIRNESS}"));
        }
    }
    report.ok = report.failed == 0 && report.wrong_bytes == 0 && report.problems.is_empty() && !report.interrupted;
    Ok(report)
}

/// Makes the networks the client's own, and the router know it.
fn route(lab: &Lab, networks: &[IpNet]) -> Result<(), Error> {
    Netlink::in_namespace(&lab.topology.client, |n| networks.iter().try_for_each(|net| n.add_local_route(*net, "lo")))?;
    let client = Via::Gateways(vec![lab.plan.client]);
    Netlink::in_namespace(&lab.topology.router, |n| networks.iter().try_for_each(|net| n.set_route(*net, &client, MAIN_TABLE, None)))
}

/// Waits until every swarm has its sockets, and lets all of them begin at once. One that failed has ended, and its clients count as failed.
fn release(swarms: &mut [Swarm]) -> Result<(), Error> {
    for swarm in swarms.iter_mut() {
        let Some(stderr) = swarm.child.stderr.take() else { continue };
        BufReader::new(stderr).read_line(&mut String::new()).with_context(|| "waiting for a swarm to be ready".to_owned())?;
    }
    swarms.iter_mut().for_each(|swarm| drop(swarm.child.stdin.take()));
    Ok(())
}

fn spawn_swarm(lab: &Lab, script: &Script, args: &LabArgs, net: IpNet, place: usize, clients: u32, sums: &Path) -> Result<Swarm, Error> {
    let mut command = Command::new(programs::guideway()?);
    command.args(["tftp", "swarm", &lab.plan.vip.to_string(), "--files", &Files::name(0), "--json", "--threads", "1"]);
    command.args([
        "--mix",
        "ipxe=1,guideway=1",
        "--yes-really",
        "--bind",
        &net.to_string(),
        "--seed",
        &(args.seed + place as u64).to_string(),
    ]);
    command.args(["--clients", &clients.to_string(), "--retries", "30", "--time", &format!("{}s", script.config.timeout.as_secs())]);
    // All within a second, those of every network spread over it.
    command.args(["--rate", &clients.to_string()]).arg("--sha256").arg(sums);
    let child = lab.topology.client.spawn(command.arg("--hold").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    Ok(Swarm { child, clients, done: false })
}

/// The swarm's own report; nothing when it wrote none.
fn read_report(child: &mut Child) -> Value {
    let Some(stdout) = child.stdout.take() else { return Value::Null };
    let document = serde_json::from_reader(stdout).unwrap_or(Value::Null);
    let _reaped = child.wait();
    document
}
