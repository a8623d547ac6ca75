//! A boot storm: thousands of clients from networks small and large ask at once, played by `guideway tftp swarm`, a process for each network.

use super::field::Field;
use super::script::{Clients, Networks, Script};
use super::shares::Shares;
use super::verdict::{Happened, Row};
use crate::args::LabArgs;
use crate::files::Files;
use crate::ledger::Ledger;
use crate::router::MAIN_TABLE;
use crate::session::{Interrupt, Lab};
use guideway_host::error::{Doing, Error};
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
const FAIR: f64 = 0.95;
/// How often it is looked for who is done.
const LOOK: Duration = Duration::from_millis(20);

/// The networks of a storm's clients: 10.64.1.0/24 and following; none for other scripts.
pub fn networks(script: &Script) -> Vec<IpNet> {
    let count = match &script.head.clients {
        Clients::Swarm(networks) => networks.count,
        Clients::Real(_) => 0,
    };
    (1..=count).filter_map(|n| Ipv4Net::new(Ipv4Addr::new(10, 64, n, 0), 24).ok()).map(IpNet::V4).collect()
}

/// One network's clients.
struct Swarm {
    child: Child,
    asked: u32,
    done: bool,
}

/// How many clients each network has; together `clients`, at least one in each.
fn sizes(networks: &Networks, clients: u32) -> Vec<u32> {
    let weights: Vec<u64> = (0..usize::from(networks.count)).map(|n| u64::from(networks.sizes[n % networks.sizes.len()])).collect();
    let (all, count) = (weights.iter().sum::<u64>(), weights.len() as u64);
    let rest = u64::from(clients) - count;
    let mut sizes: Vec<u32> = weights.iter().map(|weight| 1 + (rest * weight / all) as u32).collect();
    let left = clients - sizes.iter().sum::<u32>();
    sizes.iter_mut().take(left as usize).for_each(|size| *size += 1);
    sizes
}

/// The place among the networks of a storm that a client is in.
fn network(client: IpAddr) -> Option<usize> {
    match client {
        IpAddr::V4(a) if a.octets()[..2] == [10, 64] => usize::from(a.octets()[2]).checked_sub(1),
        _ => None,
    }
}

/// Plays it, with the script's steps that come at times.
pub fn play(
    lab: &mut Lab,
    args: &LabArgs,
    script: &Script,
    networks: &Networks,
    ledger: &Ledger,
    mut row: Row,
    interrupt: &Interrupt,
) -> Result<Row, Error> {
    if args.ipv6 {
        return Err(Error::Usage("--ipv6: the swarm's networks are IPv4: leave it out".to_owned()));
    }
    let all = self::networks(script);
    route(lab, &all)?;
    lab.files.offer(0).doing(|| "offering a file".to_owned())?;
    let sums = lab.files.fetched.join("sums");
    lab.files.write_sum(0, &sums).doing(|| format!("writing {}", sums.display()))?;
    let sizes = sizes(networks, args.transfers);
    let start = |(place, (net, asked)): (usize, (&IpNet, &u32))| start(lab, script, args, *net, place, *asked, &sums);
    let mut swarms = all.iter().zip(&sizes).enumerate().map(start).collect::<Result<Vec<_>, _>>()?;
    begin(&mut swarms)?;
    let since = Instant::now();
    let mut field = Field::new(lab, args.size, args.seed);
    let mut steps = script.steps.as_slice();
    while swarms.iter().any(|swarm| !swarm.done) && !interrupt.happened() {
        // Processes end whenever they do; the events of the script have times.
        std::thread::sleep(LOOK);
        if let Some((step, later)) = steps.split_first()
            && matches!(step.at, super::script::Moment::Time(time) if since.elapsed() >= time)
        {
            steps = later;
            row.happened.extend(step.events.iter().map(|e| Happened { at: since.elapsed().as_secs_f64(), event: e.to_string() }));
            row.problems.extend(field.step(&step.events).err().map(|e| e.to_string()));
        }
        for swarm in swarms.iter_mut().filter(|swarm| !swarm.done) {
            if swarm.child.try_wait().doing(|| "waiting for a swarm".to_owned())?.is_some() {
                swarm.done = true;
            }
        }
    }
    row.problems.extend(field.end().iter().map(ToString::to_string));
    row.interrupted = interrupt.happened();
    for swarm in &mut swarms {
        if row.interrupted {
            let _gone = swarm.child.kill();
        }
        let document = answer(&mut swarm.child);
        let count = |what: &str| document["transfers"][what].as_u64().unwrap_or(0).min(swarm.asked.into()) as u32;
        let (completed, verified) = (count("completed"), count("verified"));
        row.verified += verified;
        row.wrong_bytes += completed.saturating_sub(verified);
        row.failed += swarm.asked - completed;
    }
    row.allowed = 0;
    row.storm = Shares::of(&ledger.records(), |record| network(record.client.0));
    if let Some(index) = row.storm.as_ref().filter(|_| networks.count > 1).map(|shares| shares.fairness) {
        row.fairness = Some((index * 1e4).round() / 1e4);
        if index < FAIR {
            row.problems.push(format!("Jain's fairness index over networks is {index:.4}, and must be at least {FAIR}"));
        }
    }
    row.ok = row.failed == 0 && row.wrong_bytes == 0 && row.problems.is_empty() && !row.interrupted;
    Ok(row)
}

/// Makes the networks the client's own, and the router know it.
fn route(lab: &Lab, networks: &[IpNet]) -> Result<(), Error> {
    Netlink::within(&lab.topology.client, |n| networks.iter().try_for_each(|net| n.set_local(*net, "lo")))?;
    let client = Via::Gateways(vec![lab.plan.client]);
    Netlink::within(&lab.topology.router, |n| networks.iter().try_for_each(|net| n.set_route(*net, &client, MAIN_TABLE, None)))
}

/// Waits until every swarm has its sockets, and lets all of them begin at once. One that failed has ended, and its clients count as failed.
fn begin(swarms: &mut [Swarm]) -> Result<(), Error> {
    for swarm in swarms.iter_mut() {
        let Some(stderr) = swarm.child.stderr.take() else { continue };
        BufReader::new(stderr).read_line(&mut String::new()).doing(|| "waiting for a swarm to be ready".to_owned())?;
    }
    swarms.iter_mut().for_each(|swarm| drop(swarm.child.stdin.take()));
    Ok(())
}

fn start(lab: &Lab, script: &Script, args: &LabArgs, net: IpNet, place: usize, asked: u32, sums: &Path) -> Result<Swarm, Error> {
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
    command.args(["--clients", &asked.to_string(), "--retries", "30", "--time", &format!("{}s", script.head.timeout.as_secs())]);
    // All within a second, those of every network spread over it.
    command.args(["--rate", &asked.to_string()]).arg("--sha256").arg(sums);
    let child = lab.topology.client.spawn(command.arg("--hold").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    Ok(Swarm { child, asked, done: false })
}

/// The swarm's own report; nothing when it wrote none.
fn answer(child: &mut Child) -> Value {
    let Some(stdout) = child.stdout.take() else { return Value::Null };
    let document = serde_json::from_reader(stdout).unwrap_or(Value::Null);
    let _collected = child.wait();
    document
}
