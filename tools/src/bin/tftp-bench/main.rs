//! TFTP servers side by side: the same work for each, in one run, in namespaces that take everything away when it ends.
//!
//! | module | is |
//! |---|---|
//! | [`servers`] | who is compared |
//! | [`workloads`], [`metrics`] | what is measured |
//! | [`single`], [`concurrent`], [`transfer`], [`batch`] | clients |
//! | [`accounting`] | CPU time and memory of a server |
//! | [`results`], [`report`], [`plot`] | what came of it |

mod accounting;
mod batch;
mod concurrent;
mod metrics;
mod plot;
mod report;
mod results;
mod servers;
mod single;
mod transfer;
mod workloads;

use accounting::CpuAccounting;
use clap::Parser;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_lab::sandbox::{self, ProcessRole};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;
use results::Results;
use serde_json::json;
use servers::{BenchPaths, Kind};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use workloads::{Bench, ETHERNET_BLKSIZE, Group, Sizes, WINDOW, Workload};

/// Where every server listens.
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 99, 0, 1), 69);
/// A measurement that takes longer than this is not repeated.
const SLOW: Duration = Duration::from_secs(15);

/// Compare TFTP servers: throughput, CPU time, memory, losses.
///
/// Each server is started afresh for every measurement, on loopback inside namespaces of this run, whose end is also the end of everything
/// in them. Every file's SHA-256 is verified. Prints tables in Markdown; progress goes to stderr. Exit code 0 when everything was measured,
/// 1 when the run failed, 3 with --check when a goal was not reached.
#[derive(Parser)]
#[command(version, name = "tftp-bench")]
struct Args {
    /// Less of everything, once, and slow servers are cut off: under a minute
    #[arg(long)]
    quick: bool,
    /// Servers to compare (default: all that are here)
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    servers: Vec<Kind>,
    /// What to measure (default: everything)
    #[arg(long, value_enum, value_name = "WORKLOAD", value_delimiter = ',')]
    only: Vec<Group>,
    /// Measurements of each kind, whose median counts (default: 3, or 1 with --quick)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=99))]
    repeat: Option<u16>,
    /// Longest time of one measurement in seconds (default: 60, or 4 with --quick, but 1.2 at losses)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    limit: Option<u64>,
    /// Begin no measurement after this many minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: u64,
    /// Threads that play clients (default: half of the CPUs)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: Option<u16>,
    /// The CPU that both ends of single transfers share (default: the last one)
    #[arg(long, value_name = "NUMBER")]
    cpu: Option<usize>,
    /// Write everything that was measured to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write charts (SVG) to this directory
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Exit code 3 when a goal that was measured is not reached
    #[arg(long)]
    check: bool,
    /// Where the set-up put the other servers
    #[arg(long, value_name = "DIR", default_value = "target/tftp-bench")]
    peers: PathBuf,
    /// Our server
    #[arg(long, value_name = "PROGRAM", default_value = "target/release/guideway")]
    guideway: PathBuf,
    /// A further argument of `guideway tftpd`; may be repeated
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    guideway_arg: Vec<String>,
}

impl Args {
    fn repeat(&self) -> usize {
        usize::from(self.repeat.unwrap_or(if self.quick { 1 } else { 3 }))
    }

    fn sizes(&self, cpus: usize) -> Sizes {
        let threads = self.threads.map_or((cpus / 2).max(1), usize::from);
        let limit = Duration::from_secs(self.limit.unwrap_or(if self.quick { 4 } else { 60 }));
        if self.quick {
            // Longer than the time after which clients repeat themselves, so that what was lost is counted.
            let loss_limit = self.limit.map_or(Duration::from_millis(1_200), Duration::from_secs);
            Sizes { single: 16 << 20, concurrent: 100, short: 1_000, loss: 10, burst: 2_000, limit, loss_limit, threads }
        } else {
            Sizes { single: 64 << 20, concurrent: 200, short: 5_000, loss: 20, burst: 2_000, limit, loss_limit: limit, threads }
        }
    }

    fn workloads(&self) -> Vec<Workload> {
        let mut all = Vec::new();
        for window in [1, WINDOW] {
            let blksizes: &[u16] = if self.quick { &[ETHERNET_BLKSIZE, 8192] } else { &[512, ETHERNET_BLKSIZE, 8192] };
            all.extend(blksizes.iter().map(|&blksize| Workload::Single { blksize, window }));
        }
        all.extend([ETHERNET_BLKSIZE, 8192].map(|blksize| Workload::Gro { blksize, window: WINDOW }));
        all.extend([1, WINDOW].map(|window| Workload::Concurrent { window }));
        all.push(Workload::Short);
        all.extend([200, OPEN].map(|transfers| Workload::Open { transfers }));
        all.extend([1, WINDOW].map(|window| Workload::Loss { window }));
        all.push(Workload::Burst);
        all.retain(|work| self.only.is_empty() || self.only.contains(&work.group()));
        all
    }
}

/// Most transfers that are held open.
const OPEN: usize = 10_000;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match sandbox::role() {
        ProcessRole::Launcher => {
            CpuAccounting::sweep();
            let done = sandbox::launch();
            CpuAccounting::sweep();
            done
        }
        ProcessRole::Init => sandbox::init(),
        ProcessRole::Lab => run(&args),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("tftp-bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<u8, Error> {
    let inside = sandbox::enter()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).with_context(|| "reading the limit of open files".to_owned())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).with_context(|| "raising the limit of open files".to_owned())?;
    let netlink = Netlink::open()?;
    netlink.set_up("lo", true)?;
    // in.tftpd wants an address that is not 127.0.0.1; a prefix on loopback makes all its addresses this host's.
    netlink.add_address("lo", (*SERVER.ip()).into(), 32)?;
    netlink.add_address("lo", concurrent::CLIENTS.into(), concurrent::CLIENTS_PREFIX)?;
    let [root, scratch] = ["root", "scratch"].map(|name| inside.directory.join(name));
    for directory in [&root, &scratch] {
        fs::create_dir(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("looking for {}", path.display()));
    let place = BenchPaths {
        peers: absolute(&args.peers)?,
        guideway: absolute(&args.guideway)?,
        guideway_args: args.guideway_arg.clone(),
        address: SERVER,
        root,
        scratch,
    };
    let accounting = CpuAccounting::open(&inside.host_pid);
    let done = compare(args, place, &accounting);
    accounting.close();
    done
}

fn compare(args: &Args, place: BenchPaths, accounting: &CpuAccounting) -> Result<u8, Error> {
    let (begun, load) = (Instant::now(), workloads::load());
    let allowed = sched_getaffinity(Pid::from_raw(0)).with_context(|| "reading which CPUs may be used".to_owned())?;
    let cpus: Vec<usize> = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)).collect();
    let cpu = args.cpu.or(cpus.last().copied()).unwrap_or(0);
    let bench = Bench::new(place, accounting.clone(), args.sizes(cpus.len()), cpu)?;
    let (mut results, mut missing, mut windows) = (Results::default(), Vec::new(), Vec::new());
    for kind in Kind::ALL.into_iter().filter(|kind| args.servers.is_empty() || args.servers.contains(kind)) {
        let found = kind.find(&bench.place).and_then(|s| bench.abilities(&s).map(|a| (s, a)).map_err(|e| e.to_string()));
        match found {
            Ok((server, abilities)) => {
                eprintln!("{}: {}", server.name, if abilities.windows { "with windows" } else { report::NO_WINDOWS });
                windows.extend(abilities.windows.then_some(kind));
                results.servers.push(server);
            }
            Err(why) => {
                eprintln!("{} is missing: {why}", kind.name());
                missing.push((kind, why));
            }
        }
    }
    measure(args, &bench, &windows, &mut results, begun)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let conditions = format!(
        "{} CPUs, Linux {}; load average {load} before, {} after; server CPU time by {}; {} × each; client threads: {}; {:.0} s in all",
        cpus.len(),
        kernel.trim(),
        workloads::load(),
        accounting.describe(),
        args.repeat(),
        bench.sizes.threads,
        begun.elapsed().as_secs_f64()
    );
    publish(args, &bench.sizes, &results, &missing, &conditions)
}

/// Prints the results and writes the requested files.
fn publish(args: &Args, sizes: &Sizes, results: &Results, missing: &[(Kind, String)], conditions: &str) -> Result<u8, Error> {
    let (workloads, goals) = (args.workloads(), results.goals(sizes.burst, OPEN));
    let work = format!(
        "One transfer of {} MiB; many: {} × 1 MiB at once; short: {} × 2 KiB, 32 at a time; loss: {} × 1 MiB at once; burst: {} requests. \
         Block size 1428 but for single transfers",
        sizes.single >> 20,
        sizes.concurrent,
        sizes.short,
        sizes.loss,
        sizes.burst
    );
    println!("## TFTP servers side by side\n\n{conditions}. {work}; {}\n", report::window_note());
    for table in report::tables(&workloads) {
        println!("{}", report::markdown(&table, results));
    }
    println!("{}\n{}", report::goals(&goals), report::notes(results, &workloads, missing));
    if let Some(file) = &args.json {
        let missing: Vec<_> = missing.iter().map(|(kind, why)| json!({ "server": kind.name(), "why": why })).collect();
        let about = json!({ "conditions": conditions, "work": work, "quick": args.quick, "missing": missing });
        let text = serde_json::to_string_pretty(&results.json(&goals, about)).with_context(|| "writing JSON".to_owned())?;
        fs::write(file, text + "\n").with_context(|| format!("writing {}", file.display()))?;
    }
    if let Some(directory) = &args.plots {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        for chart in plot::charts(OPEN) {
            if let Some(svg) = plot::svg(&chart, results) {
                let file = directory.join(chart.name).with_extension("svg");
                fs::write(&file, svg).with_context(|| format!("writing {}", file.display()))?;
            }
        }
    }
    Ok(if args.check && goals.iter().any(|row| row.ok == Some(false)) { 3 } else { 0 })
}

/// Workload by workload, round by round, server by server: what disturbs the machine for a while disturbs all servers alike.
fn measure(args: &Args, bench: &Bench, windows: &[Kind], results: &mut Results, begun: Instant) -> Result<(), Error> {
    let servers = results.servers.clone();
    for work in &args.workloads() {
        for round in 1..=args.repeat() {
            for server in servers.iter().filter(|s| work.is_for(s.kind)) {
                if results.refused(*work, server.kind).is_some() {
                    continue;
                }
                if work.window() > 1 && !windows.contains(&server.kind) {
                    results.cell(*work, server.kind).refused = Some(report::NO_WINDOWS.to_owned());
                    continue;
                }
                if begun.elapsed() > Duration::from_secs(args.minutes * 60) {
                    results.cell(*work, server.kind).refused = Some("out of time".to_owned());
                    continue;
                }
                let since = Instant::now();
                let measured = bench.measure(*work, server);
                let took = since.elapsed();
                let cell = results.cell(*work, server.kind);
                let said = match measured {
                    Ok(sample) => {
                        let first: Vec<String> = sample.iter().take(2).map(|(m, n)| format!("{} {n:.2}", m.0)).collect();
                        cell.samples.push(sample);
                        if took > SLOW && round < args.repeat() {
                            cell.refused = Some(format!("measured {round} × only, because it takes {:.0} s", took.as_secs_f64()));
                        }
                        first.join(", ")
                    }
                    Err(e) => {
                        cell.refused = Some(e.to_string());
                        e.to_string()
                    }
                };
                eprintln!("{:4.0} s  {work}, round {round}, {}: {said}", begun.elapsed().as_secs_f64(), server.name);
            }
        }
    }
    Ok(())
}
