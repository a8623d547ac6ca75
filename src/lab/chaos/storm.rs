//! A boot storm: thousands of clients from many networks ask at once, played by `guideway tftp swarm`, a process for each network.

use super::field::Field;
use super::script::{Clients, Script};
use super::verdict::{Happened, Row, fairness};
use crate::lab::args::LabArgs;
use crate::lab::error::{Doing, Error};
use crate::lab::files::Files;
use crate::lab::netlink::{Netlink, Via};
use crate::lab::router::MAIN_TABLE;
use crate::lab::session::{Interrupt, Lab};
use ipnet::{IpNet, Ipv4Net};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The least fairness over networks (issue of the boot storm).
const FAIR: f64 = 0.95;
/// How often it is looked for who is done.
const LOOK: Duration = Duration::from_millis(20);

/// The networks of a storm's clients: 10.64.1.0/24 and following; none for other scripts.
pub fn networks(script: &Script) -> Vec<IpNet> {
    let count = match script.head.clients {
        Clients::Swarm(count) => count,
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

/// Plays it, with the script's steps that come at times.
pub fn play(lab: &mut Lab, args: &LabArgs, script: &Script, networks: u8, mut row: Row, interrupt: &Interrupt) -> Result<Row, Error> {
    if args.ipv6 {
        return Err(Error::Usage("--ipv6: the swarm's networks are IPv4: leave it out".to_owned()));
    }
    let all = self::networks(script);
    route(lab, &all)?;
    lab.files.offer(0).doing(|| "offering a file".to_owned())?;
    let mut swarms =
        all.iter().enumerate().map(|(place, net)| start(lab, script, args, *net, place, networks)).collect::<Result<Vec<_>, _>>()?;
    let since = Instant::now();
    let mut field = Field::new(lab, args.seed);
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
    let mut speeds = Vec::new();
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
        // Nineteen in twenty are served by then: the speed that a network gets, and not that of its unluckiest client.
        let late = document["done_ms"]["p95"].as_f64().unwrap_or(f64::INFINITY).max(1.0);
        speeds.push(f64::from(completed) / late);
    }
    row.allowed = 0;
    if networks > 1 {
        let index = fairness(&speeds);
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

fn start(lab: &Lab, script: &Script, args: &LabArgs, net: IpNet, place: usize, networks: u8) -> Result<Swarm, Error> {
    let (share, rest) = (args.transfers / u32::from(networks), args.transfers % u32::from(networks));
    let asked = share + u32::from((place as u32) < rest);
    let mut command = Command::new("/proc/self/exe");
    command.arg0("guideway").args(["tftp", "swarm", &lab.plan.vip.to_string(), "--files", &Files::name(0), "--json", "--threads", "1"]);
    command.args([
        "--mix",
        "curl=1,guideway=1",
        "--yes-really",
        "--bind",
        &net.to_string(),
        "--seed",
        &(args.seed + place as u64).to_string(),
    ]);
    command.args(["--clients", &asked.to_string(), "--retries", "30", "--time", &format!("{}s", script.head.timeout.as_secs())]);
    let child = lab.topology.client.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()))?;
    Ok(Swarm { child, asked, done: false })
}

/// The swarm's own report; nothing when it wrote none.
fn answer(child: &mut Child) -> Value {
    let Some(stdout) = child.stdout.take() else { return Value::Null };
    let document = serde_json::from_reader(stdout).unwrap_or(Value::Null);
    let _collected = child.wait();
    document
}
