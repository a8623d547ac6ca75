//! Runs a script: transfers and events side by side, and the verdict.

use super::field::Field;
use super::memory::{Memory, Watch};
use super::parse::{Reading, parse};
use super::script::{Clients, Event as Trouble, Moment, Script, Step};
use super::storm;
use super::verdict::{Happened, Row, Seen, Struck};
use crate::args::{Io, LabArgs};
use crate::clients::Client;
use crate::ledger::Ledger;
use crate::link::Link;
use crate::plan::{self, Plan};
use crate::report::{self, Counts, Progress};
use crate::sandbox::Inside;
use crate::session::{Interrupt, Lab, print};
use crate::topology::ROUTER_FABRIC;
use crate::transfers::{self, Event, Order, Transfer};
use guideway_host::error::{Doing, Error};
use guideway_testbed::servers::Server;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// Who asks a stock server that never heard of its transfer asks in vain, however long: no longer than this, in large runs than the second.
const HOPELESS: [Duration; 2] = [Duration::from_secs(25), Duration::from_secs(90)];
/// How late an event may be.
const TICK: Duration = Duration::from_millis(5);

/// Reads the script; the flags of a lab for it.
///
/// # Errors
/// [`Error::Usage`] with every error of the script, a line each; [`Error::Missing`] when a program is not installed.
pub fn prepare(args: &LabArgs) -> Result<(LabArgs, Script), Error> {
    let path = args.chaos.clone().unwrap_or_default();
    let text = std::fs::read_to_string(&path).map_err(|e| Error::Usage(format!("--chaos {}: {e}", path.display())))?;
    let seed = (args.seed != 1).then_some(args.seed);
    let mut script =
        parse(&path.display().to_string(), &text, Reading { full: args.full, seed }).map_err(|e| Error::Usage(e.join("\n")))?;
    if args.direct {
        // What stands there today: servers that know nothing of one another.
        script.head.server = Server::InTftpd;
        script.head.takeover = false;
        script.head.with_error = false;
        if args.full || script.head.blksize >= 512 && !script.steps.is_empty() {
            script.head.timeout = script.head.timeout.min(HOPELESS[usize::from(args.full)]);
        }
    }
    let head = &script.head;
    let client = match &head.clients {
        Clients::Real(clients) => clients.first().copied().unwrap_or(Client::Curl),
        Clients::Swarm(_) => Client::Guideway,
    };
    if let Clients::Real(clients) = &head.clients {
        clients.iter().try_for_each(|client| client.program().map(drop))?;
    }
    head.server.program()?;
    let args = LabArgs {
        directors: head.directors,
        backends: head.backends,
        spares: head.spares,
        server: head.server,
        client,
        transfers: head.transfers,
        concurrency: head.concurrency,
        size: head.size,
        blksize: Some(head.blksize),
        windowsize: Some(head.windowsize),
        timeout: head.timeout,
        takeover: head.takeover,
        without_ranges: !head.ranges,
        admission: head.admission,
        ..args.clone()
    };
    Ok((args, script))
}

/// The whole of `guideway-lab --chaos`, inside; the exit code.
pub fn run(args: &LabArgs, script: &Script, io: Io, inside: &Inside, interrupt: &Interrupt) -> Result<u8, Error> {
    let plan = Plan::new(args);
    let ledger = Arc::new(Ledger::new(plan.vip));
    let mut networks = vec![plan::net(plan.client, plan.gateway.1).trunc()];
    networks.extend(storm::networks(script));
    let link = Link::new(script.head.link, args.seed, Arc::clone(&ledger), ROUTER_FABRIC, networks);
    let mut lab = Lab::up_with(plan, args, io, &inside.directory, Some(link.clone()))?;
    interrupt.is_up();
    if !args.json {
        print(&report::draw(&lab.plan, args, io.name()))?;
    }
    let name = args.chaos.as_ref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
    let mut row = Row {
        row: name.unwrap_or_default(),
        event: script.event.clone(),
        balancer: if args.direct { "plain ECMP" } else { "guideway" },
        server: args.server.name(),
        seed: args.seed,
        transfers: if script.head.lasts.is_some() { 0 } else { args.transfers },
        ..Row::default()
    };
    let since = Instant::now();
    row = match &script.head.clients {
        Clients::Real(_) => play(&mut lab, args, script, &ledger, row, interrupt)?,
        Clients::Swarm(networks) => storm::play(&mut lab, args, script, networks, &ledger, row, interrupt)?,
    };
    row.seconds = since.elapsed().as_secs_f64();
    row.link = [&link.lost, &link.doubled].map(|count| count.load(Ordering::Relaxed));
    if args.json {
        let json = serde_json::to_string_pretty(&row).doing(|| "writing the report".to_owned())?;
        print(&format!("{json}\n"))?;
    } else {
        print(&row.text())?;
    }
    Ok(row.exit_code())
}

fn play(lab: &mut Lab, args: &LabArgs, script: &Script, ledger: &Ledger, mut row: Row, interrupt: &Interrupt) -> Result<Row, Error> {
    let events = start(lab, args, script, interrupt)?;
    let mut play = Play {
        since: Instant::now(),
        before: Instant::now(),
        open: BTreeMap::new(),
        ended: Vec::new(),
        struck: None,
        steps: &script.steps,
    };
    let mut field = Field::new(lab, args.size, args.seed);
    play.follow(&mut field, &events, ledger, args, &mut row);
    row.interrupted = interrupt.happened();
    if let Some(step) = play.steps.iter().find(|step| !row.interrupted && !script.by_chance && !step.events.iter().all(Trouble::mends)) {
        row.problems.push(format!("`{} {}` never came: the transfers were over", step.at, step.events[0]));
    }
    row.problems.extend(field.end().iter().map(ToString::to_string));
    let records = ledger.records();
    let seen = Seen { ended: &play.ended, struck: play.struck.as_ref(), records: &records };
    Ok(row.judge(script, &seen))
}

fn start(lab: &Lab, args: &LabArgs, script: &Script, interrupt: &Interrupt) -> Result<Receiver<Event>, Error> {
    let clients = match &script.head.clients {
        Clients::Real(clients) => clients.iter().map(|client| Ok((*client, client.program()?))).collect::<Result<_, Error>>()?,
        Clients::Swarm(_) => Vec::new(),
    };
    let order = Order {
        clients,
        vip: lab.plan.vip,
        blksize: script.head.blksize,
        windowsize: Some(script.head.windowsize),
        lasts: script.head.lasts,
        transfers: args.transfers,
        concurrency: args.concurrency,
        timeout: args.timeout,
        files: lab.files.clone(),
    };
    transfers::start(&lab.topology.client, order, interrupt.receiver())
}

/// Transfers and events under way.
struct Play<'a> {
    /// When the first transfer began.
    since: Instant,
    /// When the last step was carried out.
    before: Instant,
    /// Names of files that are being fetched.
    open: BTreeMap<u32, String>,
    ended: Vec<(Transfer, Option<String>)>,
    struck: Option<Struck>,
    /// What is still to come.
    steps: &'a [Step],
}

impl Play<'_> {
    /// Until the last transfer has ended.
    fn follow(&mut self, field: &mut Field<'_>, events: &Receiver<Event>, ledger: &Ledger, args: &LabArgs, row: &mut Row) {
        let mut counts = Counts::default();
        let mut progress = Progress::new(args.transfers);
        let mut memory = Watch::default();
        loop {
            memory.look(field);
            match events.recv_timeout(TICK) {
                Ok(Event::Started(number)) => {
                    row.transfers = row.transfers.max(number + 1);
                    if counts.started == 0 {
                        (self.since, self.before) = (Instant::now(), Instant::now());
                    }
                    counts.started += 1;
                    self.open.insert(number, crate::files::Files::name(number));
                }
                Ok(Event::Ended(transfer)) => {
                    self.open.remove(&transfer.number);
                    counts.ended(&transfer.outcome);
                    progress.show(&counts);
                    let backend = field.lab.served.by(&transfer.file);
                    self.ended.push((transfer, backend));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            while let Some((step, later)) = self.steps.split_first()
                && self.is_due(step.at, ledger, args)
            {
                self.steps = later;
                self.carry_out(step, field, ledger, row);
            }
        }
        progress.finish();
        row.memory = memory.tell();
        row.problems.extend(row.memory.iter().filter_map(Memory::grown));
    }

    fn is_due(&self, at: Moment, ledger: &Ledger, args: &LabArgs) -> bool {
        let share = |percent: u8, of: u64| u128::from(of) * u128::from(percent) / 100;
        match at {
            // Nothing is under way before.
            _ if self.open.is_empty() && self.ended.is_empty() => false,
            Moment::Time(time) => self.since.elapsed() >= time,
            Moment::After(time) => self.before.elapsed() >= time,
            Moment::Bytes(percent) => u128::from(ledger.bytes()) >= share(percent, args.size * u64::from(args.transfers)),
            Moment::Takeovers(count) => ledger.taken_over() >= count as usize,
            Moment::Done(percent) => self.ended.len() as u128 >= share(percent, args.transfers.into()),
        }
    }

    fn carry_out(&mut self, step: &Step, field: &mut Field<'_>, ledger: &Ledger, row: &mut Row) {
        if self.struck.is_none() {
            let open = self.open.iter().map(|(number, file)| (*number, field.lab.served.by(file)));
            self.struck = Some(Struck(open.collect()));
            ledger.arm();
        }
        let at = (self.since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
        row.happened.extend(step.events.iter().map(|event| Happened { at, event: event.to_string() }));
        self.before = Instant::now();
        field.open = self.open.values().cloned().collect();
        if let Err(e) = field.step(&step.events) {
            row.problems.push(format!("`{} {}`: {e}", step.at, step.events[0]));
        }
    }
}
