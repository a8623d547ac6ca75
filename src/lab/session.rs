//! One run of the lab: everything up, transfers, report, everything down.

use super::args::{Io, LabArgs};
use super::capture::Capture;
use super::chaos;
use super::drain::Drain;
use super::interrupt::Interrupt;
use super::lab::Lab;
use super::report::{self, BackendReport, Counts, DirectorReport, Failure, Progress, Report, print};
use super::sandbox::{self, ProcessRole, SandboxInfo};
use super::transfers::TransferEvent;
use guideway_host::error::{Context, Error};
use guideway_testbed::servers::Server;
use std::os::fd::AsRawFd;
use std::time::Instant;

/// The whole command, in whichever of its three processes this is.
pub fn run(args: &LabArgs) -> Result<u8, Error> {
    match sandbox::role() {
        ProcessRole::Launcher if args.chaos.is_some() => {
            chaos::prepare(args)?;
            guideway_host::tun::check_tun()?;
            sandbox::launch()
        }
        ProcessRole::Launcher => {
            args.check()?;
            args.server.program()?;
            args.client.program()?;
            guideway_host::tun::check_tun()?;
            sandbox::launch()
        }
        ProcessRole::Init => sandbox::init(),
        ProcessRole::Lab => run_in_sandbox(args, &sandbox::enter()?),
    }
}

fn select_io(args: &LabArgs, sandbox: &SandboxInfo) -> Result<Io, Error> {
    match (args.io, sandbox.user_namespace) {
        (Some(io), _) if io.is_netmap() && !std::path::Path::new("/dev/netmap").exists() => Err(Error::Missing {
            what: "there is no /dev/netmap".to_owned(),
            hint: "load netmap's kernel module (`modprobe netmap`), or use another --io".to_owned(),
        }),
        (Some(Io::Netmap | Io::Vale), true) => Err(Error::Missing {
            what: "netmap is not permitted without root".to_owned(),
            hint: "run as root, or with --io af_packet".to_owned(),
        }),
        (Some(Io::AfXdp), true) => Err(Error::Missing {
            what: "AF_XDP is not permitted without root".to_owned(),
            hint: "run as root, or with --io af_packet".to_owned(),
        }),
        (Some(io), _) => Ok(io),
        (None, true) => Ok(Io::AfPacket),
        (None, false) => Ok(Io::AfXdp),
    }
}

/// Whether the server works where the lab runs: inside a user namespace this process is root of nothing but that.
fn check_server(server: Server, sandbox: &SandboxInfo) -> Result<(), Error> {
    if server == Server::InTftpd && sandbox.user_namespace {
        return Err(Error::Missing {
            what: "in.tftpd cannot run without root (it gives up its groups for every transfer, and a user namespace forbids that)"
                .to_owned(),
            hint: "run as root, or with --server dnsmasq".to_owned(),
        });
    }
    Ok(())
}

fn run_in_sandbox(args: &LabArgs, sandbox: &SandboxInfo) -> Result<u8, Error> {
    let io = select_io(args, sandbox)?;
    if args.chaos.is_some() {
        let (args, script) = chaos::prepare(args)?;
        check_server(args.server, sandbox)?;
        return chaos::run(&args, &script, io, sandbox, &Interrupt::listen()?);
    }
    check_server(args.server, sandbox)?;
    let interrupt = Interrupt::listen()?;
    if args.block_size() != args.blksize.unwrap_or(args.block_size()) {
        eprintln!("note: {} cannot ask for a block size; its blocks have 512 bytes", args.client.name());
    }
    let mut lab = Lab::start(args, io, &sandbox.directory)?;
    let capture = args.capture.as_deref().map(|file| Capture::start(&lab.topology.router, file, args.ipv6)).transpose()?;
    // First, so that who reads that it is up may interrupt it.
    interrupt.set_ready();
    if !args.json {
        print(&report::topology_diagram(&lab.plan, args, io.name()))?;
    }
    let mut report = run_transfers(&mut lab, args, io, &interrupt)?;
    if let Some(capture) = capture {
        let frames = capture.finish()?;
        eprintln!("captured: {frames} frames");
    }
    if args.keep && !interrupt.is_set() {
        print_report(args, &report)?;
        keep_hosts_until_interrupt(&lab, sandbox, &interrupt);
        lab.stop_directors();
        return Ok(report.exit_code());
    }
    report.problems.extend(lab.stop_directors().iter().map(ToString::to_string));
    print_report(args, &report)?;
    Ok(report.exit_code())
}

fn run_transfers(lab: &mut Lab, args: &LabArgs, io: Io, interrupt: &Interrupt) -> Result<Report, Error> {
    let events = lab.transfers(args, interrupt.subscribe())?;
    let since = Instant::now();
    let (mut counts, mut failures, mut problems, mut reloaded) = (Counts::default(), Vec::new(), Vec::new(), None);
    let mut progress = Progress::new(args.transfers);
    let mut reload = args.reload;
    let (mut drain_at, mut drain) = (args.drain, None::<Drain>);
    for event in events {
        match event {
            TransferEvent::Started(_) => counts.started += 1,
            TransferEvent::Ended(transfer) => {
                counts.ended(&transfer.outcome);
                drain.iter_mut().for_each(|drain| drain.ended(lab.monitor.backend_of(&transfer.file).as_deref(), transfer.ended));
                failures.extend(Failure::of(&transfer, lab.monitor.backend_of(&transfer.file)));
                progress.show(&counts);
            }
        }
        let due = |percent: u8| u64::from(counts.finished()) * 100 >= u64::from(percent) * u64::from(args.transfers);
        let all_run = counts.started >= args.concurrency.min(args.transfers);
        if let (Some(backend), Some(_)) = (lab.backends.first(), drain_at.take_if(|percent| all_run && due(*percent))) {
            match Drain::start(&backend.name, &lab.directors, &lab.monitor, counts.finished()) {
                Ok(begun) => drain = Some(begun),
                Err(e) => problems.push(e.to_string()),
            }
        }
        if let Some(now) = reload.take_if(|r| due(r.percent)) {
            match lab.reload(now.kind, counts.finished()) {
                Ok(outcome) => reloaded = Some(outcome),
                Err(e) => problems.push(e.to_string()),
            }
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    progress.finish();
    let drained = drain.map(|drain| drain.finish(&lab.monitor)).transpose().unwrap_or_else(|e| {
        problems.push(e.to_string());
        None
    });
    let mut directors = Vec::new();
    for director in &mut lab.directors {
        match director.status() {
            Ok(status) => {
                let (name, generation, counters) = (director.name.clone(), status.generation, status.counters);
                directors.push(DirectorReport { name, generation, counters });
            }
            Err(e) => problems.push(e.to_string()),
        }
    }
    let backend = |name: &String| BackendReport { name: name.clone(), transfers: lab.monitor.requests_to(name) };
    Ok(Report {
        transfers: counts,
        requested: args.transfers,
        dropped: report::dropped(&directors),
        directors,
        backends: lab.backends.iter().map(|b| backend(&b.name)).collect(),
        router: lab.router_report(),
        io: io.name(),
        server: args.server.name(),
        client: args.client.name(),
        ecmp: args.effective_ecmp().name(),
        ipv6: args.ipv6,
        size: args.size,
        blksize: args.block_size(),
        concurrency: args.concurrency,
        decap: if lab.backends.iter().any(|b| b.decap.is_some()) { "user" } else { "kernel" },
        seconds,
        reload: reloaded,
        drain: drained,
        failures,
        problems,
        interrupted: interrupt.is_set(),
    })
}

fn print_report(args: &LabArgs, report: &Report) -> Result<(), Error> {
    if args.json {
        let json = serde_json::to_string_pretty(report).with_context(|| "writing the report".to_owned())?;
        return print(&format!("{json}\n"));
    }
    print(&report.text())
}

/// Says how to look into the hosts, and waits for Ctrl-C.
fn keep_hosts_until_interrupt(lab: &Lab, sandbox: &SandboxInfo, interrupt: &Interrupt) {
    let pid = &sandbox.host_pid;
    let user = if sandbox.user_namespace { " --user --preserve-credentials" } else { "" };
    eprintln!("\nThe hosts stay until Ctrl-C. To look into one:");
    for host in lab.topology.hosts() {
        eprintln!("  {:<8} nsenter --target {pid}{user} --mount --pid --net=/proc/{pid}/fd/{}", host.name(), host.as_raw_fd());
    }
    eprintln!("Configurations and logs are in {} there.", sandbox.directory.display());
    interrupt.wait();
}
