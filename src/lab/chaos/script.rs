//! What a script of chaos says, as values; written out again as it is read ([`super::parse`]).

use crate::clients::Client;
use crate::link::LinkConditions;
use guideway_config::Admission;
use guideway_config::duration::human;
use guideway_testbed::servers::Server;
use std::fmt::{Display, Formatter, Result};
use std::time::Duration;

/// A whole script.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// What it is about, in a line.
    pub event: String,
    /// What runs, and what is fetched.
    pub config: ScriptConfig,
    /// What happens, in order.
    pub steps: Vec<ScriptStep>,
    /// Whether some of it was made by chance; then the transfers may be over before it all came.
    pub is_random: bool,
}

/// What runs, what is fetched, and what may fail.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptConfig {
    /// `d1`, `d2`, …; 1–16.
    pub directors: u8,
    /// `t1`, `t2`, … in the pool from the start; 1–64 with the spare ones.
    pub backends: u8,
    /// Whether the server of each backend is on the host of the director of the same number.
    pub local_servers: bool,
    /// Those that are up and wait to be added.
    pub spares: u8,
    /// What serves.
    pub server: Server,
    /// Who fetches, in turn.
    pub clients: Clients,
    /// How many transfers.
    pub transfers: u32,
    /// How many at a time.
    pub concurrency: u32,
    /// Bytes of a file.
    pub size: u64,
    /// Bytes of a block, where the client can ask.
    pub blksize: u16,
    /// Blocks of a window, where the client can ask.
    pub windowsize: u16,
    /// How long one transfer may take.
    pub timeout: Duration,
    /// Transfers begin for so long; then `transfers` does not count.
    pub duration: Option<Duration>,
    /// The link to the clients.
    pub link: LinkConditions,
    /// How many transfers may fail.
    pub allowed: AllowedFailures,
    /// Whether the client of a transfer that may fail must get an ERROR.
    pub with_error: bool,
    /// Whether servers of the pool take over from one another.
    pub takeover: bool,
    /// Minimum number of transfers taken over; fewer than this is a failure.
    pub min_takeovers: u32,
    /// When directors know of the death that the script is about: no client may wait longer than this and one time-out of its own. None: nothing is
    /// promised about pauses.
    pub detection: Option<Duration>,
    /// Whether servers get a range of ports.
    pub ranges: bool,
    /// New requests a second that each director lets through.
    pub admission: Admission,
}

impl Default for ScriptConfig {
    fn default() -> Self {
        ScriptConfig {
            directors: 3,
            backends: 4,
            local_servers: false,
            spares: 0,
            server: Server::GuidewayTunnel,
            clients: Clients::Real(vec![Client::Curl]),
            transfers: 40,
            concurrency: 40,
            size: 1 << 20,
            blksize: 1428,
            windowsize: 1,
            timeout: Duration::from_secs(60),
            duration: None,
            link: LinkConditions { delay: Duration::from_millis(1), ..LinkConditions::default() },
            allowed: AllowedFailures::Count(0),
            with_error: false,
            takeover: false,
            min_takeovers: 0,
            detection: None,
            ranges: true,
            admission: Admission::default(),
        }
    }
}

/// Who fetches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// A process for each transfer, of these in turn.
    Real(Vec<Client>),
    /// `guideway tftp swarm`, as many clients as transfers, from these networks.
    Swarm(ClientNetworks),
}

/// The networks of a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientNetworks {
    /// How many, 1–200.
    pub count: u8,
    /// How many clients they have, in parts of one another, and again from the first when there are more networks.
    pub sizes: Vec<u16>,
}

/// How many transfers may fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedFailures {
    /// So many.
    Count(u32),
    /// Those that these backends served when the first event came.
    TransfersOf(Vec<String>),
}

/// What happens at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ScriptStep {
    /// When.
    pub at: Trigger,
    /// What, in order.
    pub events: Vec<Event>,
}

impl ScriptStep {
    /// How long after the step before it comes, if that is when it comes.
    pub fn wait(&self) -> Duration {
        if let Trigger::After(time) = self.at { time } else { Duration::ZERO }
    }
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// So long after the first transfer began.
    Time(Duration),
    /// So long after the step before.
    After(Duration),
    /// When so many per cent of all bytes have reached clients.
    Bytes(u8),
    /// When so many per cent of all transfers are over.
    Done(u8),
    /// When so many transfers have been taken over by another server.
    Takeovers(u32),
}

/// Names that stand for a backend: the one that serves most transfers, and the one that took most over. Each is resolved when it is first used.
pub const ROLES: [&str; 2] = ["owner", "successor"];

/// What happens. Names are those of hosts: `d1`, `t1`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// SIGKILL to everything on the host that we started.
    Kill(String),
    /// What was killed starts again, and is waited for.
    Start(String),
    /// Killed, and started so much later.
    Restart(String, Duration),
    /// SIGSTOP.
    Stop(String),
    /// SIGCONT.
    Cont(String),
    /// The host's link to the fabric is cut.
    Partition(String),
    /// The host receives nothing, and can still send.
    BlockReceive(String),
    /// The link is mended.
    Heal(String),
    /// A backend is seen to be dead, as a health check would see it; a director's route is withdrawn.
    Down(String),
    /// It is seen to live again.
    Up(String),
    /// No new transfers for this backend.
    Drain(String),
    /// A spare backend joins the pool, or a drained one gets transfers again.
    Add(String),
    /// A backend leaves the pool.
    Remove(String),
    /// Another weight for this backend.
    Weight(String, u16),
    /// A director's interface gets another link-layer address; its neighbours hear of it.
    ChangeMac(String),
    /// A director's interface gets another MTU.
    ChangeMtu(String, u32),
    /// A director's interface gets so many receive queues, and packets come by all of them.
    ChangeQueues(String, u32),
    /// A director reloads a file that is no TOML.
    ReloadBroken(String),
    /// The router hashes with another key.
    Reshuffle,
    /// The link to the clients becomes this.
    Link(LinkConditions),
    /// The files change on the disks of these backends.
    ChangeFile(Vec<String>),
    /// Every director and backend is restarted, one at a time.
    RollingRestart,
}

impl Event {
    /// Whether it only mends what another did: when transfers are over before, nothing is missed.
    pub fn is_recovery(&self) -> bool {
        matches!(self, Event::Start(_) | Event::Cont(_) | Event::Heal(_) | Event::Up(_))
    }

    /// The same with names of hosts in the place of [`ROLES`].
    pub fn resolve_roles(&self, mut name: impl FnMut(&str) -> String) -> Event {
        let mut named = |host: &String| if ROLES.contains(&host.as_str()) { name(host) } else { host.clone() };
        match self {
            Event::Kill(host) => Event::Kill(named(host)),
            Event::Start(host) => Event::Start(named(host)),
            Event::Restart(host, after) => Event::Restart(named(host), *after),
            Event::Partition(host) => Event::Partition(named(host)),
            Event::Heal(host) => Event::Heal(named(host)),
            Event::Down(host) => Event::Down(named(host)),
            Event::Up(host) => Event::Up(named(host)),
            other => other.clone(),
        }
    }

    /// Whether it changes what the pool should be, or how it is seen: such events of one step become one reload.
    pub fn changes_pool(&self) -> bool {
        match self {
            Event::Drain(_) | Event::Add(_) | Event::Remove(_) | Event::Weight(..) => true,
            Event::Down(host) | Event::Up(host) => host.starts_with('t'),
            _ => false,
        }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Event::Kill(host) => write!(f, "kill {host}"),
            Event::Start(host) => write!(f, "start {host}"),
            Event::Restart(host, after) => write!(f, "restart {host} after {}", human(*after)),
            Event::Stop(host) => write!(f, "stop {host}"),
            Event::Cont(host) => write!(f, "cont {host}"),
            Event::Partition(host) => write!(f, "partition {host}"),
            Event::BlockReceive(host) => write!(f, "block-receive {host}"),
            Event::Heal(host) => write!(f, "heal {host}"),
            Event::Down(host) => write!(f, "down {host}"),
            Event::Up(host) => write!(f, "up {host}"),
            Event::Drain(host) => write!(f, "drain {host}"),
            Event::Add(host) => write!(f, "add {host}"),
            Event::Remove(host) => write!(f, "remove {host}"),
            Event::Weight(host, weight) => write!(f, "weight {host} {weight}"),
            Event::ChangeMac(host) => write!(f, "change-mac {host}"),
            Event::ChangeMtu(host, mtu) => write!(f, "change-mtu {host} {mtu}"),
            Event::ChangeQueues(host, queues) => write!(f, "change-queues {host} {queues}"),
            Event::ReloadBroken(host) => write!(f, "reload broken {host}"),
            Event::Reshuffle => f.write_str("reshuffle"),
            Event::Link(conditions) => link(f, conditions),
            Event::ChangeFile(hosts) => write!(f, "change-file {}", hosts.join(" ")),
            Event::RollingRestart => f.write_str("rolling-restart"),
        }
    }
}

fn link(f: &mut Formatter<'_>, conditions: &LinkConditions) -> Result {
    write!(f, "link client delay {}", human(conditions.delay))?;
    let shares = [("loss", conditions.loss), ("duplicate", conditions.duplicate), ("reorder", conditions.reorder)];
    shares.iter().filter(|(_, share)| *share > 0.0).try_for_each(|(name, share)| write!(f, " {name} {}%", (share * 1e6).round() / 1e4))
}

impl Display for Trigger {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Trigger::Time(time) => write!(f, "at {}", human(*time)),
            Trigger::After(time) => write!(f, "after {}", human(*time)),
            Trigger::Bytes(percent) => write!(f, "at {percent}%"),
            Trigger::Done(percent) => write!(f, "at {percent}% done"),
            Trigger::Takeovers(count) => write!(f, "at {count} takeovers"),
        }
    }
}

impl Display for Script {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let config = &self.config;
        writeln!(f, "event {}", self.event)?;
        writeln!(
            f,
            "directors {}\nbackends {}\nspares {}\nserver {}",
            config.directors,
            config.backends,
            config.spares,
            config.server.name()
        )?;
        match &config.clients {
            Clients::Real(clients) => {
                let names: Vec<&str> = clients.iter().map(|client| client.name()).collect();
                writeln!(f, "client {}", names.join(" "))?;
            }
            Clients::Swarm(ClientNetworks { count, sizes }) => {
                let sizes: Vec<String> = sizes.iter().map(u16::to_string).collect();
                writeln!(f, "client swarm\nnetworks {count} sizes {}", sizes.join(" "))?;
            }
        }
        writeln!(f, "transfers {}\nconcurrency {}\nsize {}", config.transfers, config.concurrency, config.size)?;
        writeln!(f, "blksize {}\nwindowsize {}\ntimeout {}", config.blksize, config.windowsize, human(config.timeout))?;
        if let Some(time) = config.duration {
            writeln!(f, "for {}", human(time))?;
        }
        match &config.allowed {
            AllowedFailures::Count(number) => write!(f, "allowed {number}")?,
            AllowedFailures::TransfersOf(hosts) => write!(f, "allowed transfers-of {}", hosts.join(" "))?,
        }
        f.write_str(if config.with_error { " with-error\n" } else { "\n" })?;
        match config.min_takeovers {
            0 => writeln!(f, "takeover {}", if config.takeover { "on" } else { "off" })?,
            count => writeln!(f, "takeover on at-least {count}")?,
        }
        writeln!(f, "local-servers {}", if config.local_servers { "on" } else { "off" })?;
        writeln!(f, "ranges {}", if config.ranges { "on" } else { "off" })?;
        if let Some(time) = config.detection {
            writeln!(f, "detection {}", human(time))?;
        }
        if config.admission.limits() {
            let limits = [
                ("per_vip", config.admission.per_vip),
                ("per_backend", config.admission.per_backend),
                ("per_prefix", config.admission.per_prefix),
            ];
            let said: Vec<String> = limits.iter().filter_map(|(key, rate)| rate.map(|rate| format!("{key} {rate}"))).collect();
            writeln!(f, "admission {}", said.join(" "))?;
        }
        link(f, &config.link)?;
        f.write_str("\n")?;
        for step in &self.steps {
            for (place, event) in step.events.iter().enumerate() {
                let when = if place == 0 { step.at.to_string() } else { "also".to_owned() };
                writeln!(f, "{when} {event}")?;
            }
        }
        Ok(())
    }
}
