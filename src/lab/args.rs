//! The flags of `guideway-lab`.

use super::clients::Client;
use super::router::Ecmp;
use guideway_config::Admission;
use guideway_config::size::parse_size;
use guideway_host::error::Error;
use guideway_testbed::servers::Server;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Fetch real files by TFTP clients, our own or others, through directors, in network namespaces on this machine.
///
/// Builds client — router — fabric with directors and backends, fetches files, checks the SHA-256 of every one, and removes everything
/// again. Needs no configuration and touches nothing of the machine's own network. Exit code 0: every transfer was verified; 1: one
/// failed; 2: bad flags; 130: interrupted.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  guideway-lab
  guideway-lab --directors 3 --backends 8 --server dnsmasq --client atftp
  guideway-lab --ipv6 --io af_packet --json
  guideway-lab --drain 10 --concurrency 100  # a backend is drained while it has transfers
  guideway-lab --reload add-backend@30     # a SIGHUP to every director at 30 % of the transfers
  guideway-lab --chaos src/lab/scripts/kill-director.chaos --seed 7")]
pub struct LabArgs {
    /// Directors, 1–16
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub directors: u8,
    /// Backends, 1–64
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub backends: u8,
    /// Transfers in all, 1–1000000
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub transfers: u32,
    /// Transfers at the same time, 1–500
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub concurrency: u32,
    /// Size of each file: bytes, or with KiB, MiB, GiB; at most 4GiB
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = |text: &str| parse_size(text, &(0..=4 << 30)))]
    pub size: u64,
    /// Bytes in a block that the client asks for, 8–65464 (default 1428; 512 where the client cannot ask)
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(8..=65464))]
    pub blksize: Option<u16>,
    /// How directors get packets in and out (default: af_xdp as root, else af_packet)
    #[arg(long, value_enum)]
    pub io: Option<Io>,
    /// The TFTP server on the backends; all but our own are programs of others, to be installed first
    #[arg(long, value_enum, default_value_t = Server::GuidewayTunnel)]
    pub server: Server,
    /// The TFTP client; the same holds for it
    #[arg(long, value_enum, default_value_t = Client::Guideway)]
    pub client: Client,
    /// What the router spreads packets over the directors by
    #[arg(long, value_enum, default_value_t = Ecmp::FiveTuple)]
    pub ecmp: Ecmp,
    /// IPv6 everywhere: client, VIP, router, directors, backends
    #[arg(long)]
    pub ipv6: bool,
    /// Print nothing on stdout but the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Keep the hosts after the transfers, and say how to look into them, until Ctrl-C
    #[arg(long)]
    pub keep: bool,
    /// During the transfers, at PERCENT of them (default 30), rewrite every director's file and send it a SIGHUP: with one backend more,
    /// or with a broken file, which must change nothing
    #[arg(long, value_name = "add-backend|broken[@PERCENT]")]
    pub reload: Option<Reload>,
    /// When PERCENT of the transfers have ended and as many run as may, drain the first backend with `guideway drain --wait`: it may get no
    /// new transfer, and those that it has must end well
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub drain: Option<u8>,
    /// How long one transfer may take: 90s, 2m, 500ms
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Write what the router sent to the directors to this capture (pcap), at most its first 64 MiB
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// What the files' content is made from
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Who unwraps GRE on the backends
    #[arg(long, value_enum, default_value_t = DecapMode::Auto)]
    pub decap: DecapMode,
    /// Leave the directors out: the router sends to the backends itself, by the client's address and port. Shows whether a fault is the
    /// lab's or the directors'
    #[arg(long)]
    pub direct: bool,
    /// Run this script of chaos: hosts, files, what happens to them in mid-transfer and what may fail are as it says. With --direct the same
    /// with plain ECMP to in.tftpd in the place of directors and servers
    #[arg(long, value_name = "SCRIPT", conflicts_with_all = ["reload", "keep", "capture", "drain", "directors", "backends", "transfers", "concurrency", "size", "blksize", "timeout", "server", "client"])]
    pub chaos: Option<PathBuf>,
    /// With --chaos: the script's `full` lines count, which make it large
    #[arg(long, requires = "chaos")]
    pub full: bool,
    /// Run the server of each backend on the host of the director of the same number
    #[arg(long, conflicts_with = "direct")]
    pub local_servers: bool,
    /// Backends that are up and not in the pool; a script says so.
    #[arg(skip)]
    pub spares: u8,
    /// Servers take over from one another; a script says so.
    #[arg(skip)]
    pub takeover: bool,
    /// Servers get no range of ports; a script says so.
    #[arg(skip)]
    pub no_tid_ranges: bool,
    /// New requests a second that directors let through; a script says so.
    #[arg(skip)]
    pub admission: Admission,
    /// Blocks of a window that the client asks for; a script says so.
    #[arg(skip)]
    pub windowsize: Option<u16>,
}

/// How directors get packets in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// AF_XDP sockets; needs root
    #[value(name = "af_xdp")]
    AfXdp,
    /// Ring-mapped AF_PACKET sockets
    #[value(name = "af_packet")]
    AfPacket,
    /// netmap rings; needs root and netmap's kernel module
    #[value(name = "netmap")]
    Netmap,
    /// netmap, with every director a port of a VALE switch
    #[value(name = "vale")]
    Vale,
}

impl Io {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Io::AfXdp => "af_xdp",
            Io::AfPacket => "af_packet",
            Io::Netmap => "netmap",
            Io::Vale => "vale",
        }
    }

    /// Whether netmap's module is needed.
    pub fn is_netmap(self) -> bool {
        matches!(self, Io::Netmap | Io::Vale)
    }
}

/// Who unwraps GRE on the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DecapMode {
    /// The kernel where it can, else `guideway decap`
    Auto,
    /// A GRE device of the kernel
    Kernel,
    /// `guideway decap`
    User,
}

/// What to reload with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReloadKind {
    /// The spare backend joins the pool.
    AddBackend,
    /// The file is no TOML.
    Broken,
}

impl ReloadKind {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            ReloadKind::AddBackend => "add-backend",
            ReloadKind::Broken => "broken",
        }
    }
}

/// What to reload with, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What with.
    pub kind: ReloadKind,
    /// At how many percent of the transfers, 0–100.
    pub percent: u8,
}

impl FromStr for Reload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, percent) = text.split_once('@').unwrap_or((text, "30"));
        let kind = match kind {
            "add-backend" => ReloadKind::AddBackend,
            "broken" => ReloadKind::Broken,
            other => return Err(format!("`{other}` is no kind of reload: use add-backend or broken")),
        };
        match percent.trim_end_matches('%').parse() {
            Ok(percent @ 0..=100) => Ok(Reload { kind, percent }),
            _ => Err(format!("`{percent}` is no percentage: use 0–100")),
        }
    }
}

impl LabArgs {
    /// Checks what no single flag shows.
    ///
    /// # Errors
    /// [`Error::Usage`] with the reason.
    pub fn check(&self) -> Result<(), Error> {
        if self.size == 0 && self.client == Client::Curl {
            return Err(Error::Usage("--size 0: curl reports an error for an empty file: use another --client".to_owned()));
        }
        if self.direct && self.reload.is_some() {
            return Err(Error::Usage("--reload needs directors, and --direct leaves them out: give one of the two".to_owned()));
        }
        if self.local_servers && self.directors < self.backends + u8::from(self.reload.is_some()) {
            return Err(Error::Usage(
                "--local-servers needs a director for each backend: give more --directors or fewer --backends".to_owned(),
            ));
        }
        if self.drain.is_some() && (self.direct || self.backends < 2) {
            return Err(Error::Usage("--drain needs directors, and at least --backends 2".to_owned()));
        }
        if self.reload.is_some() && self.backends == 64 {
            return Err(Error::Usage("--reload needs a spare backend: give at most --backends 63".to_owned()));
        }
        Ok(())
    }

    /// What the router really hashes over.
    pub fn effective_ecmp(&self) -> Ecmp {
        if self.direct { Ecmp::Client } else { self.ecmp }
    }

    /// Returns the requested block size in bytes.
    pub fn block_size(&self) -> u16 {
        if self.client.supports_blksize() { self.blksize.unwrap_or(1428) } else { 512 }
    }
}

/// A time: `60s`, `500ms`, `2m`; from 1 ms to 24 hours.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "m" | "min" => 60_000,
        _ => return Err("a time is a whole number with ms, s or m, for example 60s".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a time is a whole number with ms, s or m, for example 60s".to_owned())?;
    match number.checked_mul(factor) {
        Some(ms @ 1..=86_400_000) => Ok(Duration::from_millis(ms)),
        _ => Err("from 1ms to 24 hours".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_human_readable_forms() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "60", "0s", "25h", "1441m"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reloads_are_read() {
        assert_eq!("add-backend".parse(), Ok(Reload { kind: ReloadKind::AddBackend, percent: 30 }));
        assert_eq!("broken@75".parse(), Ok(Reload { kind: ReloadKind::Broken, percent: 75 }));
        for bad in ["", "remove", "broken@", "broken@101", "broken@x"] {
            assert!(bad.parse::<Reload>().is_err(), "{bad:?}");
        }
    }
}
