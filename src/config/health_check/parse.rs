//! Turns the table into a [`Check`].

use super::super::director::duration_within;
use super::super::duration::human;
use super::super::reader::{Field, Located, Reader, Table};
use super::super::text;
use super::{
    Check, Expect, FALL, FLAP_WINDOW, HOLD_DOWN, HOLD_DOWN_MAX, INTERVAL, JITTER, MIN_HEALTHY, Probe, RISE, SLOW_START, TIMEOUT, TftpProbe,
};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Default block size: fits an Ethernet frame in GRE over IPv6.
pub(super) const BLKSIZE: u16 = 1428;
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Prefix of bytes in hex digits.
pub(super) const HEX: &str = "hex:";
/// Maximum number of bytes that a udp check sends or a check looks for.
const MAX_BYTES: usize = 1024;

/// The raw values of a check.
pub(crate) struct RawCheck<'r, 't> {
    /// Present if all of it is valid.
    pub(crate) check: Option<Check>,
    /// The VIP of the check.
    pub(crate) vip: Option<Located<'r, 't, IpAddr>>,
    /// The table.
    pub(crate) field: Field<'r, 't>,
}

/// The raw values of the probe.
type ReadProbe<'r, 't> = (Option<Probe>, Option<Located<'r, 't, IpAddr>>);

#[derive(Clone, Copy)]
enum ProbeKind {
    Tftp,
    Udp,
    Tcp,
    Http,
    Icmp,
    Exec,
}

const KINDS: [(&str, ProbeKind); 6] = [
    ("tftp", ProbeKind::Tftp),
    ("udp", ProbeKind::Udp),
    ("tcp", ProbeKind::Tcp),
    ("http", ProbeKind::Http),
    ("icmp", ProbeKind::Icmp),
    ("exec", ProbeKind::Exec),
];

/// Reads `check`.
pub(crate) fn read<'r, 't>(reader: &'r Reader, field: Field<'r, 't>) -> Option<RawCheck<'r, 't>> {
    let mut table = field.table("a table such as { kind = \"tftp\", file = \"canary\" }")?;
    let kind = table.required("kind", "kind = \"tftp\"").and_then(|f| f.choice(&KINDS));
    let Some(kind) = kind else { return Some(RawCheck { check: None, vip: None, field }) };
    let (probe, vip) = match kind {
        ProbeKind::Tftp => tftp(&mut table),
        ProbeKind::Udp => (udp(&mut table), None),
        ProbeKind::Tcp => (port(&mut table, None).map(|port| Probe::Tcp { port }), None),
        ProbeKind::Http => (http(&mut table), None),
        ProbeKind::Icmp => (Some(Probe::Icmp), None),
        ProbeKind::Exec => (exec(&mut table), None),
    };
    let check = common_keys(reader, &mut table).and_then(|check| Some(Check { probe: probe?, ..check }));
    table.finish();
    Some(RawCheck { check, vip, field })
}

/// Reads the keys that all kinds have.
fn common_keys(reader: &Reader, table: &mut Table<'_, '_>) -> Option<Check> {
    let mut time = |key: &'static str, default: Duration, limits: RangeInclusive<Duration>| {
        let field = table.optional(key);
        let is_present = field.is_some();
        field.map_or(Some(default), |f| duration_within(f, limits)).map(|value| (value, is_present))
    };
    let interval = time("interval", INTERVAL, Duration::from_millis(100)..=HOUR);
    let timeout = time("timeout", TIMEOUT, Duration::from_millis(10)..=HOUR);
    let (hold_down, hold_down_max) =
        (time("hold_down", HOLD_DOWN, Duration::ZERO..=HOUR), time("hold_down_max", HOLD_DOWN_MAX, Duration::ZERO..=DAY));
    let (flap_window, slow_start) =
        (time("flap_window", FLAP_WINDOW, Duration::ZERO..=DAY), time("slow_start", SLOW_START, Duration::ZERO..=HOUR));
    let mut number = |key: &'static str, what: &str, default: u8, range: RangeInclusive<i64>| {
        table.optional(key).map_or(Some(default), |f| f.integer(what, range))
    };
    let (rise, fall) = (number("rise", "a number of checks", RISE, 1..=100), number("fall", "a number of checks", FALL, 1..=100));
    let (jitter, min_healthy) = (number("jitter", "per cent", JITTER, 0..=50), number("min_healthy", "per cent", MIN_HEALTHY, 0..=100));
    let ((interval, _), (timeout, timeout_given)) = (interval?, timeout?);
    if timeout > interval && timeout_given {
        let message =
            format!("is longer than the interval of {}: a backend has one check at a time; give at most the interval", human(interval));
        reader.error(&table.key_location("timeout"), message);
        return None;
    }
    let ((hold_down, hold_given), (hold_down_max, max_given)) = (hold_down?, hold_down_max?);
    if hold_down_max < hold_down && max_given {
        let message = format!("is less than the hold_down of {}, its lower limit; give at least that", human(hold_down));
        reader.error(&table.key_location(if hold_given { "hold_down_max" } else { "hold_down" }), message);
        return None;
    }
    Some(Check {
        probe: Probe::Icmp,
        interval,
        timeout: timeout.min(interval),
        jitter: jitter?,
        rise: rise?,
        fall: fall?,
        hold_down,
        hold_down_max: hold_down_max.max(hold_down),
        flap_window: flap_window?.0,
        min_healthy: min_healthy?,
        slow_start: slow_start?.0,
    })
}

fn tftp<'r, 't>(table: &mut Table<'r, 't>) -> ReadProbe<'r, 't> {
    let file = table.required("file", "file = \"canary\"").and_then(|f| f.parse("the name of a file in quotes", file_name));
    let matches_presence = |is_valid: bool, is_present: bool| is_valid == is_present;
    let sha256 = table.optional("sha256");
    let (is_present, sha256) = (sha256.is_some(), sha256.and_then(|f| f.parse("64 hex digits in quotes", digest)).map(|s| s.value));
    let size = table.optional("size").map_or(Some(None), |f| f.integer("bytes", 0..=i64::MAX).map(Some));
    let blksize = table.optional("blksize").map_or(Some(BLKSIZE), |f| f.integer("bytes of a block", 8..=65464));
    let windowsize = table.optional("windowsize").map_or(Some(1), |f| f.integer("blocks of a window", 1..=64));
    let vip = table.optional("vip");
    let vip_given = vip.is_some();
    let vip = vip.and_then(|f| f.parse("an address in quotes", text::unicast));
    let good = matches_presence(sha256.is_some(), is_present) && matches_presence(vip.is_some(), vip_given);
    let probe = || {
        let (file, vip) = (file?.value, vip.as_ref().map(|vip| vip.value));
        Some(Probe::Tftp(TftpProbe { file, sha256, size: size?, blksize: blksize?, windowsize: windowsize?, vip }))
    };
    (probe().filter(|_| good), vip)
}

fn udp(table: &mut Table<'_, '_>) -> Option<Probe> {
    let port = port(table, None);
    let send = table.required("send", "send = \"hex:0001\"").and_then(|f| f.parse("text, or hex digits after \"hex:\"", bytes));
    let expect = expect(table);
    Some(Probe::Udp { port: port?, send: send?.value, expect: expect? })
}

fn http(table: &mut Table<'_, '_>) -> Option<Probe> {
    let port = port(table, Some(80));
    let path = table.optional("path").map_or(Some("/".to_owned()), |f| f.parse("a path in quotes", path).map(|s| s.value));
    let status = table.optional("status").map_or(Some(200), |f| f.integer("a status", 100..=599));
    let expect = expect(table);
    Some(Probe::Http { port: port?, path: path?, status: status?, expect: expect? })
}

fn exec(table: &mut Table<'_, '_>) -> Option<Probe> {
    const WANTED: &str = "a list of a program's absolute path and its arguments, each in quotes";
    let field = table.required("command", "command = [\"/etc/guideway/checks/dns\", \"-4\"]")?;
    let items = field.items(WANTED)?;
    let arguments: Vec<Option<String>> = items.into_iter().map(|item| item.parse(WANTED, argument).map(|s| s.value)).collect();
    let command: Vec<String> = arguments.into_iter().collect::<Option<_>>()?;
    if !command.first().is_some_and(|program| program.starts_with('/')) {
        field.error("does not begin with the absolute path of a program, such as \"/etc/guideway/checks/dns\"");
        return None;
    }
    Some(Probe::Exec { command })
}

fn port(table: &mut Table<'_, '_>, default: Option<u16>) -> Option<u16> {
    match default {
        None => table.required("port", "port = 53").and_then(|f| f.integer("a port", 1..=65535)),
        Some(port) => table.optional("port").map_or(Some(port), |f| f.integer("a port", 1..=65535)),
    }
}

/// Returns `None` when the value is invalid.
fn expect(table: &mut Table<'_, '_>) -> Option<Option<Expect>> {
    const WANTED: &str = "text that the answer must have, or { prefix = \"text\" }; hex digits after \"hex:\" stand for bytes";
    let Some(field) = table.optional("expect") else { return Some(None) };
    let (field, at_start) = if field.is_table() {
        let mut table = field.table(WANTED)?;
        let prefix = table.required("prefix", "prefix = \"220 \"");
        table.finish();
        (prefix?, true)
    } else {
        (field, false)
    };
    field.parse(WANTED, bytes).map(|located| Some(Expect { bytes: located.value, at_start }))
}

fn file_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains('\0') {
        return Err("is not a file name; a file name has 1 to 255 bytes, none of them zero".to_owned());
    }
    Ok(text.to_owned())
}

fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("has a zero byte, which an argument cannot contain".to_owned()) } else { Ok(text.to_owned()) }
}

fn path(text: &str) -> Result<String, String> {
    let visible = |b: u8| b.is_ascii_graphic();
    if !text.starts_with('/') || text.len() > 1024 || !text.bytes().all(visible) {
        return Err("is not the path of a page; it begins with '/' and has at most 1024 characters of ASCII, without spaces".to_owned());
    }
    Ok(text.to_owned())
}

fn digest(text: &str) -> Result<[u8; 32], String> {
    let wrong = || "is not a SHA-256; write 64 hex digits (sha256sum FILE)".to_owned();
    hex(text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)
}

fn bytes(text: &str) -> Result<Vec<u8>, String> {
    let bytes = match text.strip_prefix(HEX) {
        Some(digits) => hex(digits).ok_or_else(|| "lacks pairs of hex digits after \"hex:\"".to_owned())?,
        None => text.as_bytes().to_vec(),
    };
    if bytes.len() > MAX_BYTES {
        return Err(format!("has {} bytes; at most {MAX_BYTES} are allowed", bytes.len()));
    }
    Ok(bytes)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect::<Option<_>>()?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}
