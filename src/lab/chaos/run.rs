//! Runs a script: transfers and events side by side, and the verdict.

use super::memory::{Memory, MemoryMonitor};
use super::network::Network;
use super::parse::{ParseOptions, parse};
use super::script::{Clients, Event, Script, ScriptStep, Trigger};
use super::script_report::{InFlight, Observations, ScriptReport, TimedEvent};
use super::storm;
use crate::args::{Io, LabArgs};
use crate::clients::Client;
use crate::interrupt::Interrupt;
use crate::lab::Lab;
use crate::link::Link;
use crate::plan::{self, Plan};
use crate::report::{self, Counts, Progress, print};
use crate::sandbox::SandboxInfo;
use crate::topology::ROUTER_FABRIC;
use crate::transfer_log::TransferLog;
use crate::transfers::{self, Transfer, TransferEvent, Workload};
use guideway_host::error::{Context, Error};
use guideway_testbed::servers::Server;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Time limit of a transfer without takeover: a stock server never continues a transfer that it does not know. The second is for large runs.
const NO_TAKEOVER_TIMEOUT: [Duration; 2] = [Duration::from_secs(25), Duration::from_secs(90)];
/// Interval at which triggers of events are tested.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Reads the script. Returns it with the lab's flags for it.
///
/// # Errors
/// [`Error::Usage`] with every error of the script, a line each; [`Error::Missing`] when a program is not installed.
pub fn prepare(args: &LabArgs) -> Result<(LabArgs, Script), Error> {
    let path = args.chaos.clone().unwrap_or_default();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::Usage(format!("--chaos {}: {e}", path.display())))?;
    let seed = (args.seed != 1).then_some(args.seed);
    let mut script =
        parse(&path.display().to_string(), &text, ParseOptions { full: args.full, seed }).map_err(|e| Error::Usage(e.join("\n")))?;
    if args.direct {
        // The baseline: stock servers, which share no state.
        script.config.server = Server::InTftpd;
        script.config.takeover = false;
        script.config.with_error = false;
        if args.full || script.config.blksize >= 512 && !script.steps.is_empty() {
            script.config.timeout = script.config.timeout.min(NO_TAKEOVER_TIMEOUT[usize::from(args.full)]);
        }
    }
    let config = &script.config;
    let client = match &config.clients {
        Clients::Real(clients) => clients.first().copied().unwrap_or(Client::Curl),
        Clients::Swarm(_) => Client::Guideway,
    };
    if let Clients::Real(clients) = &config.clients {
        clients.iter().try_for_each(|client| client.program().map(drop))?;
    }
    config.server.program()?;
    let args = LabArgs {
        directors: config.directors,
        backends: config.backends,
        local_servers: config.local_servers && !args.direct,
        spares: config.spares,
        server: config.server,
        client,
        transfers: config.transfers,
        concurrency: config.concurrency,
        size: config.size,
        blksize: Some(config.blksize),
        windowsize: Some(config.windowsize),
        timeout: config.timeout,
        takeover: config.takeover,
        no_tid_ranges: !config.ranges,
        admission: config.admission,
        ..args.clone()
    };
    Ok((args, script))
}

/// The whole of `guideway-lab --chaos`, inside; the exit code.
pub fn run(args: &LabArgs, script: &Script, io: Io, sandbox: &SandboxInfo, interrupt: &Interrupt) -> Result<u8, Error> {
    let plan = Plan::new(args);
    let transfer_log = Arc::new(TransferLog::new(plan.vip));
    let mut networks = vec![plan::prefix(plan.client, plan.gateway.1).trunc()];
    networks.extend(storm::networks(script));
    let link = Link::new(script.config.link, args.seed, Arc::clone(&transfer_log), ROUTER_FABRIC, networks);
    let mut lab = Lab::start_with_link(plan, args, io, &sandbox.directory, Some(link.clone()))?;
    interrupt.set_ready();
    if !args.json {
        print(&report::topology_diagram(&lab.plan, args, io.name()))?;
    }
    let name = args.chaos.as_ref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let mut report = ScriptReport {
        row: name.unwrap_or_default(),
        event: script.event.clone(),
        balancer: if args.direct { "plain ECMP" } else { "guideway" },
        server: args.server.name(),
        seed: args.seed,
        transfers: if script.config.duration.is_some() { 0 } else { args.transfers },
        ..ScriptReport::default()
    };
    let since = Instant::now();
    report = match &script.config.clients {
        Clients::Real(_) => run_script(&mut lab, args, script, &transfer_log, report, interrupt)?,
        Clients::Swarm(networks) => storm::run(&mut lab, args, script, networks, &transfer_log, report, interrupt)?,
    };
    report.seconds = since.elapsed().as_secs_f64();
    report.link = [&link.lost, &link.duplicated].map(|count| count.load(Ordering::Relaxed));
    if args.json {
        let json = serde_json::to_string_pretty(&report).with_context(|| "writing the report".to_owned())?;
        print(&format!("{json}\n"))?;
    } else {
        print(&report.text())?;
    }
    Ok(report.exit_code())
}

fn run_script(
    lab: &mut Lab,
    args: &LabArgs,
    script: &Script,
    transfer_log: &TransferLog,
    mut report: ScriptReport,
    interrupt: &Interrupt,
) -> Result<ScriptReport, Error> {
    let events = start(lab, args, script, interrupt)?;
    let mut run = ScriptRun {
        since: Instant::now(),
        before: Instant::now(),
        open: BTreeMap::new(),
        ended: Vec::new(),
        in_flight: None,
        steps: &script.steps,
    };
    let mut network = Network::new(lab, args.size, args.seed);
    run.run_to_end(&mut network, &events, transfer_log, args, &mut report);
    report.interrupted = interrupt.is_set();
    if let Some(step) =
        run.steps.iter().find(|step| !report.interrupted && !script.is_random && !step.events.iter().all(Event::is_recovery))
    {
        report.problems.push(format!("`{} {}` never came: the transfers were over", step.at, step.events[0]));
    }
    report.problems.extend(network.stop().iter().map(ToString::to_string));
    let records = transfer_log.records();
    let seen = Observations { ended: &run.ended, in_flight: run.in_flight.as_ref(), records: &records };
    Ok(report.evaluate(script, &seen))
}

fn start(lab: &Lab, args: &LabArgs, script: &Script, interrupt: &Interrupt) -> Result<Receiver<TransferEvent>, Error> {
    let clients = match &script.config.clients {
        Clients::Real(clients) => clients.iter().map(|client| Ok((*client, client.program()?))).collect::<Result<_, Error>>()?,
        Clients::Swarm(_) => Vec::new(),
    };
    let workload = Workload {
        clients,
        vip: lab.plan.vip,
        blksize: script.config.blksize,
        windowsize: Some(script.config.windowsize),
        duration: script.config.duration,
        transfers: args.transfers,
        concurrency: args.concurrency,
        timeout: args.timeout,
        files: lab.files.clone(),
    };
    transfers::start(&lab.topology.client, workload, interrupt.subscribe())
}

/// Transfers and events under way.
struct ScriptRun<'a> {
    /// When the first transfer began.
    since: Instant,
    /// When the last step was carried out.
    before: Instant,
    /// Names of files that are being fetched.
    open: BTreeMap<u32, String>,
    ended: Vec<(Transfer, Option<String>)>,
    in_flight: Option<InFlight>,
    /// What is still to come.
    steps: &'a [ScriptStep],
}

impl ScriptRun<'_> {
    /// Until the last transfer has ended.
    fn run_to_end(
        &mut self,
        network: &mut Network<'_>,
        events: &Receiver<TransferEvent>,
        transfer_log: &TransferLog,
        args: &LabArgs,
        report: &mut ScriptReport,
    ) {
        let mut counts = Counts::default();
        let mut progress = Progress::new(args.transfers);
        let mut memory = MemoryMonitor::default();
        loop {
            memory.sample(network);
            match events.recv_timeout(POLL_INTERVAL) {
                Ok(TransferEvent::Started(number)) => {
                    report.transfers = report.transfers.max(number + 1);
                    if counts.started == 0 {
                        (self.since, self.before) = (Instant::now(), Instant::now());
                    }
                    counts.started += 1;
                    self.open.insert(number, crate::files::Files::name(number));
                }
                Ok(TransferEvent::Ended(transfer)) => {
                    self.open.remove(&transfer.number);
                    counts.ended(&transfer.outcome);
                    progress.show(&counts);
                    let backend = network.lab.monitor.backend_of(&transfer.file);
                    self.ended.push((transfer, backend));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Some((step, later)) = self.steps.split_first()
                && self.is_due(step.at, transfer_log, args)
            {
                self.steps = later;
                self.execute_step(step, network, transfer_log, report);
            }
        }
        progress.finish();
        report.memory = memory.summary();
        report.problems.extend(report.memory.iter().filter_map(Memory::growth_problem));
    }

    fn is_due(&self, at: Trigger, transfer_log: &TransferLog, args: &LabArgs) -> bool {
        let share = |percent: u8, of: u64| u128::from(of) * u128::from(percent) / 100;
        match at {
            // Nothing is under way before.
            _ if self.open.is_empty() && self.ended.is_empty() => false,
            Trigger::Time(time) => self.since.elapsed() >= time,
            Trigger::After(time) => self.before.elapsed() >= time,
            Trigger::Bytes(percent) => u128::from(transfer_log.bytes()) >= share(percent, args.size * u64::from(args.transfers)),
            Trigger::Takeovers(count) => transfer_log.taken_over() >= count as usize,
            Trigger::Done(percent) => self.ended.len() as u128 >= share(percent, args.transfers.into()),
        }
    }

    fn execute_step(&mut self, step: &ScriptStep, network: &mut Network<'_>, transfer_log: &TransferLog, report: &mut ScriptReport) {
        if self.in_flight.is_none() {
            let open = self.open.iter().map(|(number, file)| (*number, network.lab.monitor.backend_of(file)));
            self.in_flight = Some(InFlight(open.collect()));
            transfer_log.start_measuring();
        }
        let at = (self.since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        report.events.extend(step.events.iter().map(|event| TimedEvent { at, event: event.to_string() }));
        self.before = Instant::now();
        network.open = self.open.values().cloned().collect();
        if let Err(e) = network.step(&step.events) {
            report.problems.push(format!("`{} {}`: {e}", step.at, step.events[0]));
        }
    }
}
