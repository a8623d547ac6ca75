//! `[announce]`: from the table to [`Announce`].

use super::Announce;
use super::director::{self, duration_within};
use super::reader::{Field, Spot, Table};
use super::text;
use std::ops::RangeInclusive;
use std::time::Duration;

const LINGER: Duration = Duration::from_secs(2);
const LINGER_LIMITS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);
/// Longest name of an interface, in bytes.
const NAME: usize = 15;

/// What was read of `[announce]`.
pub(super) struct Draft<'r, 't> {
    table: Option<u32>,
    linger: Option<Duration>,
    /// `None`: the name is made from the director's, or could not be read.
    pub(super) interface: Option<Spot<'r, 't, String>>,
}

impl Draft<'_, '_> {
    /// The section, if everything of it could be read; `director` is the director's name.
    pub(super) fn announce(&self, director: &str) -> Option<Announce> {
        let interface = self.interface.as_ref().map_or_else(|| device_of(director), |spot| spot.value.clone());
        Some(Announce { table: self.table?, linger: self.linger?, interface })
    }
}

/// Reads `[announce]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> Draft<'r, 't> {
    let number = table.required("table", "table = 4754").and_then(|f| kernel_table(&f));
    let linger = table.optional("linger").map_or(Some(LINGER), |f| duration_within(f, LINGER_LIMITS));
    let interface = table.optional("interface").and_then(|f| f.parse("the name of an interface in quotes", text::interface));
    table.finish();
    Draft { table: number, linger, interface }
}

/// In a table that the host itself looks into, the route of a VIP would take the host's own packets.
fn kernel_table(field: &Field<'_, '_>) -> Option<u32> {
    let table: u32 = field.integer("the number of a kernel routing table", 1..=i64::from(u32::MAX))?;
    let known = match table {
        253 => "default",
        254 => "main",
        255 => "local",
        _ => return Some(table),
    };
    field.error(format!("is the kernel's table `{known}`, by which this host routes; give a table that nothing else uses, such as 4754"));
    None
}

/// The device's name where the file gives none: a director's name has no character that it must not have.
fn device_of(director: &str) -> String {
    format!("gw-{director}").chars().take(NAME).collect()
}

/// Reports a device that is also the interface of the io.
pub(super) fn check(announce: &Draft<'_, '_>, director: &director::Draft<'_, '_>) {
    let (Some(interface), Some(io)) = (&announce.interface, &director.io) else { return };
    if io.interface() == Some(interface.value.as_str()) {
        interface.field.error("is the interface of director.io; the announcing device is one that the director makes: give another name");
    }
}
