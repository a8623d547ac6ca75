//! `[announce]`: turns the table into an [`Announce`].

use super::director::{self, duration_within};
use super::reader::{Field, Located, Table};
use super::text;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `[announce]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announce {
    /// Kernel routing table that gets a route for each VIP, 1–4,294,967,295, except the tables that the host itself uses.
    pub table: u32,
    /// Time for which a stopping director forwards after it has withdrawn its VIPs, at most 60 s; default 2 s.
    pub linger: Duration,
    /// Name of the TUN device that the routes lead to; default: `gw-` and the director's name, cut to 15 characters.
    pub interface: String,
}

const LINGER: Duration = Duration::from_secs(2);
const LINGER_LIMITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Maximum length of an interface name, in bytes.
const MAX_INTERFACE_NAME: usize = 15;

/// The raw values of `[announce]`.
pub(super) struct RawAnnounce<'r, 't> {
    table: Option<u32>,
    linger: Option<Duration>,
    /// `None`: the name is derived from the director's, or is invalid.
    pub(super) interface: Option<Located<'r, 't, String>>,
}

impl RawAnnounce<'_, '_> {
    /// Returns the section if all of it is valid; `director` is the director's name.
    pub(super) fn announce(&self, director: &str) -> Option<Announce> {
        let interface = self.interface.as_ref().map_or_else(|| default_interface(director), |located| located.value.clone());
        Some(Announce { table: self.table?, linger: self.linger?, interface })
    }
}

/// Reads `[announce]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawAnnounce<'r, 't> {
    let kernel_table_number = table.required("table", "table = 4754").and_then(|f| kernel_table(&f));
    let linger = table.optional("linger").map_or(Some(LINGER), |f| duration_within(f, LINGER_LIMITS));
    let interface = table.optional("interface").and_then(|f| f.parse("the name of an interface in quotes", text::interface));
    table.finish();
    RawAnnounce { table: kernel_table_number, linger, interface }
}

/// Reads a table kernel_table_number. In a table that the host itself uses, the route of a VIP would take the host's own packets.
fn kernel_table(field: &Field<'_, '_>) -> Option<u32> {
    let table: u32 = field.integer("the number of a kernel routing table", 1..=i64::from(u32::MAX))?;
    let name = match table {
        253 => "default",
        254 => "main",
        255 => "local",
        _ => return Some(table),
    };
    field.error(format!(
        "is the kernel's table `{name}`, which this host uses for its own routes; give a table that nothing else uses, such as 4754"
    ));
    None
}

/// Returns the default name of the device. Every character of a director's name is allowed in it.
fn default_interface(director: &str) -> String {
    format!("gw-{director}").chars().take(MAX_INTERFACE_NAME).collect()
}

/// Reports a device that is also the interface of the io.
pub(super) fn check(announce: &RawAnnounce<'_, '_>, director: &director::RawDirector<'_, '_>) {
    let (Some(interface), Some(io)) = (&announce.interface, &director.io) else { return };
    if io.interface() == Some(interface.value.as_str()) {
        interface.field.error("is the interface of director.io; the director creates the announcing device itself: give another name");
    }
}
