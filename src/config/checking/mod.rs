//! `[[pool]] check`: how the health controller finds out whether a backend does its work.

mod json;
mod read;
#[cfg(test)]
mod tests;

pub(super) use read::{Draft, read};

use super::duration::human;
use std::net::IpAddr;
use std::time::Duration;

/// How the backends of a pool are checked, and what is made of the outcomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is done.
    pub probe: Probe,
    /// From the begin of one check of a backend to that of the next, 100 ms–1 h; default 2 s.
    pub interval: Duration,
    /// How long a check may take, 10 ms to `interval`; default 1 s, or `interval` when that is shorter.
    pub timeout: Duration,
    /// How far a check may be moved, so that checks spread by themselves: per cent of `interval`, 0–50; default 10.
    pub jitter: u8,
    /// Good checks in a row that bring a backend back, 1–100; default 2.
    pub rise: u8,
    /// Failed checks in a row that take a backend out, 1–100; default 3.
    pub fall: u8,
    /// How long a backend must have been good before it is back when it fell a second time within `forget`; with each further fall twice as
    /// long. 0–1 h; default 10 s; 0: `rise` alone decides.
    pub hold: Duration,
    /// The longest hold, `hold`–24 h; default 5 min.
    pub hold_max: Duration,
    /// A backend that did not fall for so long begins anew, up to 24 h; default 10 min.
    pub forget: Duration,
    /// Per cent of the pool's backends (of those that take new flows at all) that are never marked down, 0–100; default 50.
    pub min_healthy: u8,
    /// A backend that is back gets its weight in steps over this time, 0–1 h; default 30 s; 0: at once.
    pub slow_start: Duration,
}

/// What one check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Reads a file from the VIP by way of the backend: every packet goes in GRE to the checked backend.
    Tftp(TftpProbe),
    /// Sends a datagram and waits for an answer.
    Udp {
        /// The port, 1–65535.
        port: u16,
        /// What is sent.
        send: Vec<u8>,
        /// What the answer must have; without, any answer is good.
        expect: Option<Expect>,
    },
    /// Opens a connection and closes it.
    Tcp {
        /// The port, 1–65535.
        port: u16,
    },
    /// Asks for a page (HTTP/1.1, GET, without TLS).
    Http {
        /// The port, 1–65535; default 80.
        port: u16,
        /// What is asked for; begins with `/`; default `/`.
        path: String,
        /// The status that is good, 100–599; default 200.
        status: u16,
        /// What the first 64 KiB of the page must have.
        expect: Option<Expect>,
    },
    /// Sends an ICMP echo request.
    Icmp,
    /// Runs a program on the controller's host; exit code 0 is good.
    Exec {
        /// The program's absolute path, and its arguments. The controller must allow its directory: `[health] exec`.
        command: Vec<String>,
    },
}

/// A read that serves as a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpProbe {
    /// The file's name, 1–255 bytes.
    pub file: String,
    /// SHA-256 of its bytes.
    pub sha256: Option<[u8; 32]>,
    /// Its bytes.
    pub size: Option<u64>,
    /// The `blksize` option (RFC 2348), 8–65464; default 1428.
    pub blksize: u16,
    /// The `windowsize` option (RFC 7440), 1–64; default 1, which is not asked for.
    pub windowsize: u16,
    /// Which VIP is asked; default: that of the first tftp service that uses the pool.
    pub vip: Option<IpAddr>,
}

/// What an answer must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// These bytes.
    pub bytes: Vec<u8>,
    /// At its begin, rather than anywhere.
    pub at_start: bool,
}

impl Expect {
    /// Whether `answer` has them.
    pub fn met(&self, answer: &[u8]) -> bool {
        match self.at_start {
            true => answer.starts_with(&self.bytes),
            false => self.bytes.is_empty() || answer.windows(self.bytes.len()).any(|part| part == self.bytes),
        }
    }
}

impl Check {
    /// A check with the default of everything else.
    pub fn new(probe: Probe) -> Check {
        Check {
            probe,
            interval: read::INTERVAL,
            timeout: read::TIMEOUT,
            jitter: read::JITTER,
            rise: read::RISE,
            fall: read::FALL,
            hold: read::HOLD,
            hold_max: read::HOLD_MAX,
            forget: read::FORGET,
            min_healthy: read::MIN_HEALTHY,
            slow_start: read::SLOW_START,
        }
    }

    /// For people: `tftp canary every 2s`.
    pub fn label(&self) -> String {
        format!("{} every {}", self.probe.label(), human(self.interval))
    }
}

impl Probe {
    /// Its word in the file.
    pub fn kind(&self) -> &'static str {
        match self {
            Probe::Tftp(_) => "tftp",
            Probe::Udp { .. } => "udp",
            Probe::Tcp { .. } => "tcp",
            Probe::Http { .. } => "http",
            Probe::Icmp => "icmp",
            Probe::Exec { .. } => "exec",
        }
    }

    /// For people: `tftp canary`, `tcp 22`.
    pub fn label(&self) -> String {
        match self {
            Probe::Tftp(probe) => format!("tftp {}", probe.file),
            Probe::Udp { port, .. } => format!("udp {port}"),
            Probe::Tcp { port } => format!("tcp {port}"),
            Probe::Http { port, path, .. } => format!("http {port}{path}"),
            Probe::Icmp => "icmp".to_owned(),
            Probe::Exec { command } => format!("exec {}", command.join(" ")),
        }
    }
}
