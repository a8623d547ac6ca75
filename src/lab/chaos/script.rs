//! What a script of chaos says, as values; written out again as it is read ([`super::parse`]).

use crate::clients::Client;
use crate::link::Conditions;
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
    pub head: Head,
    /// What happens, in order.
    pub steps: Vec<Step>,
    /// Whether some of it was made by chance; then the transfers may be over before it all came.
    pub by_chance: bool,
}

/// What runs, what is fetched, and what may fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// `d1`, `d2`, …; 1–16.
    pub directors: u8,
    /// `t1`, `t2`, … in the pool from the start; 1–64 with the spare ones.
    pub backends: u8,
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
    pub lasts: Option<Duration>,
    /// The link to the clients.
    pub link: Conditions,
    /// How many transfers may fail.
    pub allowed: Allowed,
    /// Whether what is allowed to fail must be told the client by an ERROR.
    pub with_error: bool,
    /// Whether servers of the pool take over from one another.
    pub takeover: bool,
    /// How many transfers must have been taken over, or the script has shown nothing.
    pub at_least: u32,
    /// When directors know of the death that the script is about: no client may wait longer than this and one time-out of its own. None: nothing is
    /// promised about pauses.
    pub detection: Option<Duration>,
    /// Whether servers are told which ports to use.
    pub ranges: bool,
    /// New requests a second that each director lets through.
    pub admission: Admission,
}

impl Default for Head {
    fn default() -> Self {
        Head {
            directors: 3,
            backends: 4,
            spares: 0,
            server: Server::GuidewayTunnel,
            clients: Clients::Real(vec![Client::Curl]),
            transfers: 40,
            concurrency: 40,
            size: 1 << 20,
            blksize: 1428,
            windowsize: 1,
            timeout: Duration::from_secs(60),
            lasts: None,
            link: Conditions { delay: Duration::from_millis(1), ..Conditions::default() },
            allowed: Allowed::Number(0),
            with_error: false,
            takeover: false,
            at_least: 0,
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
    Swarm(Networks),
}

/// The networks of a swarm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks {
    /// How many, 1–200.
    pub count: u8,
    /// How many clients they have, in parts of one another, and again from the first when there are more networks.
    pub sizes: Vec<u16>,
}

/// How many transfers may fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// So many.
    Number(u32),
    /// Those that these backends served when the first event came.
    TransfersOf(Vec<String>),
}

/// What happens at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// When.
    pub at: Moment,
    /// What, in order.
    pub events: Vec<Event>,
}

impl Step {
    /// How long after the step before it comes, if that is when it comes.
    pub fn wait(&self) -> Duration {
        if let Moment::After(time) = self.at { time } else { Duration::ZERO }
    }
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
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

/// In the place of a backend's name: the one that serves most transfers, and the one that has taken most over from others, each when it is first
/// asked for.
pub const BY_PART: [&str; 2] = ["owner", "heir"];

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
    /// The host hears nobody, and is heard.
    Deafen(String),
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
    /// A director is told to load a file that is no TOML.
    ReloadBroken(String),
    /// The router hashes with another key.
    Reshuffle,
    /// The link to the clients becomes this.
    Link(Conditions),
    /// The files change on the disks of these backends.
    ChangeFile(Vec<String>),
    /// Every director and backend is restarted, one at a time.
    RollAll,
}

impl Event {
    /// Whether it only mends what another did: when transfers are over before, nothing is missed.
    pub fn mends(&self) -> bool {
        matches!(self, Event::Start(_) | Event::Cont(_) | Event::Heal(_) | Event::Up(_))
    }

    /// The same with names of hosts in the place of [`BY_PART`].
    pub fn with_names(&self, mut name: impl FnMut(&str) -> String) -> Event {
        let mut named = |host: &String| if BY_PART.contains(&host.as_str()) { name(host) } else { host.clone() };
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
    pub fn is_about_the_pool(&self) -> bool {
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
            Event::Deafen(host) => write!(f, "deafen {host}"),
            Event::Heal(host) => write!(f, "heal {host}"),
            Event::Down(host) => write!(f, "down {host}"),
            Event::Up(host) => write!(f, "up {host}"),
            Event::Drain(host) => write!(f, "drain {host}"),
            Event::Add(host) => write!(f, "add {host}"),
            Event::Remove(host) => write!(f, "remove {host}"),
            Event::Weight(host, weight) => write!(f, "weight {host} {weight}"),
            Event::ReloadBroken(host) => write!(f, "reload broken {host}"),
            Event::Reshuffle => f.write_str("reshuffle"),
            Event::Link(conditions) => link(f, conditions),
            Event::ChangeFile(hosts) => write!(f, "change-file {}", hosts.join(" ")),
            Event::RollAll => f.write_str("roll all"),
        }
    }
}

fn link(f: &mut Formatter<'_>, conditions: &Conditions) -> Result {
    write!(f, "link client delay {}", human(conditions.delay))?;
    let shares = [("loss", conditions.loss), ("duplicate", conditions.duplicate), ("reorder", conditions.reorder)];
    shares.iter().filter(|(_, share)| *share > 0.0).try_for_each(|(name, share)| write!(f, " {name} {}%", (share * 1e6).round() / 1e4))
}

impl Display for Moment {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Moment::Time(time) => write!(f, "at {}", human(*time)),
            Moment::After(time) => write!(f, "after {}", human(*time)),
            Moment::Bytes(percent) => write!(f, "at {percent}%"),
            Moment::Done(percent) => write!(f, "at {percent}% done"),
            Moment::Takeovers(count) => write!(f, "at {count} takeovers"),
        }
    }
}

impl Display for Script {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let head = &self.head;
        writeln!(f, "event {}", self.event)?;
        writeln!(f, "directors {}\nbackends {}\nspares {}\nserver {}", head.directors, head.backends, head.spares, head.server.name())?;
        match &head.clients {
            Clients::Real(clients) => {
                let names: Vec<&str> = clients.iter().map(|client| client.name()).collect();
                writeln!(f, "client {}", names.join(" "))?;
            }
            Clients::Swarm(Networks { count, sizes }) => {
                let sizes: Vec<String> = sizes.iter().map(u16::to_string).collect();
                writeln!(f, "client swarm\nnetworks {count} sizes {}", sizes.join(" "))?;
            }
        }
        writeln!(f, "transfers {}\nconcurrency {}\nsize {}", head.transfers, head.concurrency, head.size)?;
        writeln!(f, "blksize {}\nwindowsize {}\ntimeout {}", head.blksize, head.windowsize, human(head.timeout))?;
        if let Some(time) = head.lasts {
            writeln!(f, "for {}", human(time))?;
        }
        match &head.allowed {
            Allowed::Number(number) => write!(f, "allowed {number}")?,
            Allowed::TransfersOf(hosts) => write!(f, "allowed transfers-of {}", hosts.join(" "))?,
        }
        f.write_str(if head.with_error { " with-error\n" } else { "\n" })?;
        match head.at_least {
            0 => writeln!(f, "takeover {}", if head.takeover { "on" } else { "off" })?,
            count => writeln!(f, "takeover on at-least {count}")?,
        }
        writeln!(f, "ranges {}", if head.ranges { "on" } else { "off" })?;
        if let Some(time) = head.detection {
            writeln!(f, "detection {}", human(time))?;
        }
        if head.admission.limits() {
            let limits = [
                ("per_vip", head.admission.per_vip),
                ("per_backend", head.admission.per_backend),
                ("per_prefix", head.admission.per_prefix),
            ];
            let said: Vec<String> = limits.iter().filter_map(|(key, rate)| rate.map(|rate| format!("{key} {rate}"))).collect();
            writeln!(f, "admission {}", said.join(" "))?;
        }
        link(f, &head.link)?;
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
