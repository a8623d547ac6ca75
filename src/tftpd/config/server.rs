//! `[server]`: addresses, limits and timeouts of the server. The flags of `guideway tftpd` set the same values and take precedence.

use super::values::{one_or_more, path, size};
use guideway_config::reader::{Field, Table};
use guideway_config::{duration_within, text};
use guideway_tftp::engine::{Config, Tid, TunnelConfig};
use guideway_tftp::http;
use guideway_tftp::options::{Limits, Rollover};
use guideway_tftp::packet::PORT;
use guideway_tftp::rto::RetransmissionPolicy;
use guideway_tftp::writable;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of the server from a file or from flags; `None` where the default applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// 1–63 characters of `a-z A-Z 0-9 - _ .`; the control socket is named after it.
    pub name: Option<String>,
    /// The control socket.
    pub socket: Option<PathBuf>,
    /// Listening address of the metrics endpoint.
    pub metrics: Option<SocketAddr>,
    /// Listening addresses.
    pub listen: Option<Vec<SocketAddr>>,
    /// Listening addresses of HTTP.
    pub http: Option<Vec<SocketAddr>>,
    /// Largest number of HTTP connections.
    pub http_connections: Option<usize>,
    /// Largest number of HTTP connections with one client address.
    pub http_per_client: Option<usize>,
    /// Addresses of this host that receive GRE, at most one of each family.
    pub gre: Option<Vec<IpAddr>>,
    /// Destination addresses of requests that arrive in GRE.
    pub vip: Option<Vec<IpAddr>>,
    /// `tid_port` or `single_port`
    pub tid: Option<Tid>,
    /// Event loops, 1–64.
    pub loops: Option<u16>,
    /// Nice value of event loops above that of other threads, 0–19.
    pub nice: Option<u8>,
    /// The user that the process switches to.
    pub user: Option<String>,
    /// The directory that clients may write to.
    pub writable: Option<PathBuf>,
    /// Largest uploaded file in bytes.
    pub writable_limit: Option<u64>,
    /// Largest number of files in that directory.
    pub writable_files: Option<usize>,
    /// Largest sum of their sizes in bytes.
    pub writable_total: Option<u64>,
    /// Largest block in bytes, 8–65464.
    pub max_blksize: Option<u16>,
    /// Whether blocks may exceed the path's MTU.
    pub fragments: Option<bool>,
    /// Largest window in blocks, 1–32767.
    pub max_window: Option<u16>,
    /// Largest window in bytes.
    pub max_window_bytes: Option<u32>,
    /// Number of the block after block 65535.
    pub rollover: Option<Rollover>,
    /// Transfers at once in each loop.
    pub max_transfers: Option<usize>,
    /// Transfers at once with one client address in each loop.
    pub max_per_client: Option<usize>,
    /// Longest time that running transfers get to end when the server is stopped.
    pub grace: Option<Duration>,
    /// Retransmission time-out before the first measurement.
    pub timeout: Option<Duration>,
    /// Shortest measured time-out.
    pub timeout_min: Option<Duration>,
    /// Longest time-out, back-off included.
    pub timeout_max: Option<Duration>,
    /// Retransmissions without an answer before the client is given up.
    pub retries: Option<u8>,
    /// Shortest time without progress before a client that has answered is given up.
    pub give_up_after: Option<Duration>,
    /// Longest time between a request and the first answer.
    pub open_timeout: Option<Duration>,
}

const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// Allowed values of `grace`.
pub const GRACES: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// Default of `grace`. systemd kills a unit after 90 s.
const GRACE: Duration = Duration::from_secs(30);
const LONG_TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// Limits of `writable_limit`, `writable_total` and `max_window_bytes`, in bytes, in the file and as flags.
pub const WRITABLE_LIMIT: RangeInclusive<u64> = 1..=1 << 40;
/// See [`WRITABLE_LIMIT`].
pub const WRITABLE_TOTAL: RangeInclusive<u64> = 1..=1 << 60;
/// See [`WRITABLE_LIMIT`].
pub const WINDOW_BYTES: RangeInclusive<u64> = 512..=1 << 30;
const ADDRESSES: &str = "addresses with ports in quotes, such as \"127.0.0.1:6969\"";

/// Reads the optional section `[server]`. The table's reader gets the errors.
pub(super) fn read(root: &mut Table<'_, '_>) -> Option<Option<Server>> {
    let Some(field) = root.optional("server") else { return Some(None) };
    section(field.table("a table: [server]")?).map(Some)
}

fn section(mut table: Table<'_, '_>) -> Option<Server> {
    let t = &mut table;
    let name = key(t, "name", |f| Some(f.parse("a name in quotes", text::name)?.value));
    let socket = key(t, "socket", |f| Some(f.parse("a path in quotes", text::socket_path)?.value));
    let metrics = key(t, "metrics", |f| Some(f.parse("an address with a port in quotes", text::socket_address)?.value));
    let one = |f: Field<'_, '_>| Some(f.parse(ADDRESSES, text::socket_address)?.value);
    let listen = key(t, "listen", |f| one_or_more(&f, ADDRESSES, one));
    let http = key(t, "http", |f| one_or_more(&f, ADDRESSES, one));
    let http_connections = key(t, "http_connections", |f| f.integer("connections at once", 1..=1_000_000));
    let http_per_client = key(t, "http_per_client", |f| f.integer("connections at once", 1..=1_000_000));
    let host = |f: Field<'_, '_>| Some(f.parse("an address in quotes", text::unicast)?.value);
    let gre_field = t.optional("gre");
    let gre = gre_field.clone().map(|f| one_or_more(&f, "addresses in quotes", host).filter(|gre| one_of_each(&f, gre)));
    let vip_field = t.optional("vip");
    let vip = vip_field.clone().map(|f| one_or_more(&f, "addresses in quotes", host));
    let (tid_port, single_port) = (t.optional("tid_port"), t.optional("single_port"));
    let port = tid_port.as_ref().map(|f| f.integer("a port", 1024..=65535));
    let single = single_port.as_ref().map(Field::boolean);
    let loops = key(t, "loops", |f| f.integer("a number of threads", 1..=64));
    let nice = key(t, "nice", |f| f.integer("steps of nice", 0..=19));
    let user = key(t, "user", |f| Some(f.parse("the name of a user in quotes", text::name)?.value));
    let writable = key(t, "writable", |f| Some(f.parse("a path in quotes", path)?.value));
    let limits = ["writable_limit", "writable_files", "writable_total"].map(|name| t.optional(name));
    let [limit, files, total] = limits.clone();
    let writable_limit = transpose(limit.map(|f| size(f, WRITABLE_LIMIT)));
    let writable_files = transpose(files.map(|f| f.integer("a number of files", 1..=10_000_000)));
    let writable_total = transpose(total.map(|f| size(f, WRITABLE_TOTAL)));
    let max_blksize = key(t, "max_blksize", |f| f.integer("bytes of a block", 8..=65464));
    let fragments = key(t, "fragments", |f| f.boolean());
    let max_window = key(t, "max_window", |f| f.integer("blocks of a window", 1..=32767));
    let max_window_bytes = key(t, "max_window_bytes", |f| u32::try_from(size(f, WINDOW_BYTES)?).ok());
    let rollover = key(t, "rollover", |f| f.integer::<u8>("the number after 65535", 0..=1).map(rollover));
    let max_transfers = key(t, "max_transfers", |f| f.integer("transfers at once", 1..=4_000_000));
    let max_per_client = key(t, "max_per_client", |f| f.integer("transfers at once", 1..=4_000_000));
    let grace = key(t, "grace", |f| duration_within(f, GRACES));
    let timeout = key(t, "timeout", |f| duration_within(f, TIMEOUTS));
    let timeout_min = key(t, "timeout_min", |f| duration_within(f, TIMEOUTS));
    let timeout_max = key(t, "timeout_max", |f| duration_within(f, TIMEOUTS));
    let retries = key(t, "retries", |f| f.integer("retransmissions", 0..=100));
    let give_up_after = key(t, "give_up_after", |f| duration_within(f, LONG_TIMEOUTS));
    let open_timeout = key(t, "open_timeout", |f| duration_within(f, LONG_TIMEOUTS));
    if let (Some(Some(true)), Some(field)) = (single, &tid_port) {
        field.error("contradicts single_port = true; keep one of the two");
        return None;
    }
    match (&gre_field, &vip_field) {
        (Some(field), None) => field.error("requires vip: the addresses that clients send to; write vip = \"192.0.2.69\""),
        (None, Some(field)) => {
            field.error("requires gre: the address of this host that receives GRE from directors; write gre = \"10.0.2.21\"")
        }
        _ => {}
    }
    if writable == Some(None) {
        let why = "requires writable: the directory that clients may write to; write writable = \"/srv/backups\"";
        limits.iter().flatten().for_each(|field| field.error(why));
    }
    table.finish();
    let tid = match (single, port) {
        (Some(single), _) if single? => Some(Tid::Single),
        (_, Some(port)) => Some(Tid::Port(port?)),
        _ => None,
    };
    Some(Server {
        name: name?,
        socket: socket?,
        metrics: metrics?,
        listen: listen?,
        http: http?,
        http_connections: http_connections?,
        http_per_client: http_per_client?,
        gre: transpose(gre)?,
        vip: transpose(vip)?,
        tid,
        loops: loops?,
        nice: nice?,
        user: user?,
        writable: writable?,
        writable_limit: writable_limit?,
        writable_files: writable_files?,
        writable_total: writable_total?,
        max_blksize: max_blksize?,
        fragments: fragments?,
        max_window: max_window?,
        max_window_bytes: max_window_bytes?,
        rollover: rollover?,
        max_transfers: max_transfers?,
        max_per_client: max_per_client?,
        grace: grace?,
        timeout: timeout?,
        timeout_min: timeout_min?,
        timeout_max: timeout_max?,
        retries: retries?,
        give_up_after: give_up_after?,
        open_timeout: open_timeout?,
    })
}

/// Reads an optional key. Returns `None` only if the key is present and could not be read.
fn key<'r, 't, T>(table: &mut Table<'r, 't>, name: &'static str, read: impl FnOnce(Field<'r, 't>) -> Option<T>) -> Option<Option<T>> {
    transpose(table.optional(name).map(read))
}

fn transpose<T>(read: Option<Option<T>>) -> Option<Option<T>> {
    read.map_or(Some(None), |read| read.map(Some))
}

fn one_of_each(field: &Field<'_, '_>, addresses: &[IpAddr]) -> bool {
    let good = is_one_of_each(addresses);
    if !good {
        field.error("has several addresses of one family; at most one IPv4 and one IPv6 address are allowed");
    }
    good
}

fn is_one_of_each(addresses: &[IpAddr]) -> bool {
    [true, false].into_iter().all(|v4| addresses.iter().filter(|address| address.is_ipv4() == v4).count() <= 1)
}

/// Returns the rollover for `number`, 0 or 1.
pub fn rollover(number: u8) -> Rollover {
    if number == 0 { Rollover::Zero } else { Rollover::One }
}

/// Calls a macro with all fields of [`Server`]. One that is missing here is an error of the compiler in [`Server::or`].
macro_rules! with_fields {
    ($then:ident) => {
        $then!(name socket metrics listen http http_connections http_per_client gre vip tid loops nice user writable writable_limit writable_files writable_total max_blksize
            fragments max_window max_window_bytes rollover max_transfers max_per_client grace timeout timeout_min timeout_max retries
            give_up_after open_timeout)
    };
}

/// Formats a value as in the file.
fn shown(value: Option<&impl std::fmt::Debug>) -> String {
    let text = value.map_or_else(|| "default".to_owned(), |value| format!("{value:?}"));
    match text.as_str() {
        "Zero" => "0".to_owned(),
        "One" => "1".to_owned(),
        "Single" => "single_port".to_owned(),
        port => port.strip_prefix("Port(").and_then(|port| port.strip_suffix(')')).unwrap_or(port).to_owned(),
    }
}

impl Server {
    /// Returns these settings, completed by those of `other`.
    #[must_use]
    pub fn or(self, other: Server) -> Server {
        macro_rules! or {
            ($($field:ident)*) => { Server { $($field: self.$field.or(other.$field)),* } };
        }
        with_fields!(or)
    }

    /// Returns the settings that differ in `new`: key, value here and value there, as `server.loops: 1 → 4`.
    pub fn changes(&self, new: &Server) -> Vec<String> {
        macro_rules! shown {
            ($($field:ident)*) => { [$((stringify!($field), shown(self.$field.as_ref()), shown(new.$field.as_ref()))),*] };
        }
        let all = with_fields!(shown);
        all.into_iter()
            .filter(|(_, old, new)| old != new)
            .map(|(key, old, new)| {
                let key = if key == "tid" { "tid_port" } else { key };
                format!("server.{key}: {old} → {new}")
            })
            .collect()
    }

    /// Returns the engine's configuration, with defaults for the rest.
    ///
    /// # Errors
    /// A sentence, when valid settings contradict each other.
    pub fn engine(&self) -> Result<Config, String> {
        let (gre, vip) = (self.gre.clone().unwrap_or_default(), self.vip.clone().unwrap_or_default());
        if gre.is_empty() != vip.is_empty() {
            return Err("gre and vip require each other: the address of this host that receives GRE, and the address that clients send to"
                .to_owned());
        }
        if !is_one_of_each(&gre) {
            return Err("gre: at most one IPv4 and one IPv6 address".to_owned());
        }
        let (default, limits, retransmission) = (Config::default(), Limits::default(), RetransmissionPolicy::default());
        let retransmission = RetransmissionPolicy {
            initial_rto: self.timeout.unwrap_or(retransmission.initial_rto),
            min_rto: self.timeout_min.unwrap_or(retransmission.min_rto),
            max_rto: self.timeout_max.unwrap_or(retransmission.max_rto),
            retries: self.retries.unwrap_or(retransmission.retries),
            min_give_up: self.give_up_after.unwrap_or(retransmission.min_give_up),
        };
        if retransmission.min_rto > retransmission.max_rto {
            return Err(format!("timeout_min = {:?} is longer than timeout_max = {:?}", retransmission.min_rto, retransmission.max_rto));
        }
        let everywhere = || vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), PORT)];
        let listen = self.listen.clone().unwrap_or_else(|| if gre.is_empty() { everywhere() } else { Vec::new() });
        Ok(Config {
            listen,
            tunnel: (!gre.is_empty()).then_some(TunnelConfig { locals: gre, vips: vip, port: PORT }),
            tid: self.tid.unwrap_or_default(),
            loops: self.loops.map_or(default.loops, usize::from),
            nice: self.nice.unwrap_or(default.nice),
            limits: Limits {
                blksize: self.max_blksize.unwrap_or(limits.blksize),
                blksize_by_mtu: !self.fragments.unwrap_or(!limits.blksize_by_mtu),
                window: self.max_window.unwrap_or(limits.window),
                window_bytes: self.max_window_bytes.unwrap_or(limits.window_bytes),
                rollover: self.rollover.unwrap_or(limits.rollover),
            },
            retransmission,
            max_transfers: self.max_transfers.unwrap_or(default.max_transfers),
            max_per_client: self.max_per_client.unwrap_or(default.max_per_client),
            open_timeout: self.open_timeout.unwrap_or(default.open_timeout),
            ..default
        })
    }

    /// Returns the limits of HTTP connections.
    pub fn http_limits(&self) -> http::Limits {
        let default = http::Limits::default();
        http::Limits {
            connections: self.http_connections.unwrap_or(default.connections),
            per_client: self.http_per_client.unwrap_or(default.per_client),
            ..default
        }
    }

    /// Returns the directory that clients may write to, with its limits; `None` if uploads are refused.
    ///
    /// # Errors
    /// A sentence, when there is a limit but no directory.
    pub fn writable(&self) -> Result<Option<(PathBuf, writable::Settings)>, String> {
        let default = writable::Settings::default();
        let settings = writable::Settings {
            limit: self.writable_limit.unwrap_or(default.limit),
            files: self.writable_files.unwrap_or(default.files),
            total: self.writable_total,
            ..default
        };
        match &self.writable {
            Some(path) => Ok(Some((path.clone(), settings))),
            None if settings == default => Ok(None),
            None => Err("limits of uploads require writable: the directory that clients may write to".to_owned()),
        }
    }

    /// Returns how long running transfers may go on when the server is stopped. With takeover, other servers go on with them at once.
    pub fn grace(&self, takeover: bool) -> Duration {
        self.grace.unwrap_or(if takeover { Duration::ZERO } else { GRACE })
    }

    /// Returns the path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| text::default_socket(self.name()))
    }

    /// Returns the name of the server; the default is `tftpd`.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("tftpd")
    }
}
