//! `[[vip]]`: from the table to [`Vip`].

use super::director::duration_within;
use super::reader::{Mark, Spot, Table};
use super::service::{self, Claim};
use super::text;
use super::{Guard, Service, Vip, guard};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

const IDLE: Duration = Duration::from_secs(60);
const IDLE_LIMITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(12 * 3600);

/// What was read of one `[[vip]]`.
pub(super) struct Draft<'r, 't> {
    pub(super) address: Option<Spot<'r, 't, IpAddr>>,
    pub(super) service: Option<Spot<'r, 't, Service>>,
    /// The ports of a udp or tcp service as they are written, sorted.
    pub(super) claims: Vec<Claim<'r, 't>>,
    pub(super) pool: Option<Spot<'r, 't, String>>,
    /// The table itself.
    pub(super) here: Mark,
    idle: Option<Duration>,
    paused: Option<bool>,
    guard: Option<Guard>,
}

impl Draft<'_, '_> {
    /// The VIP, if everything of it could be read.
    pub(super) fn vip(&self) -> Option<Vip> {
        Some(Vip {
            address: self.address.as_ref()?.value,
            service: self.service.as_ref()?.value.clone(),
            pool: self.pool.as_ref()?.value.clone(),
            idle: self.idle?,
            paused: self.paused?,
            guard: self.guard.clone()?,
        })
    }

    /// Whether this is known to be a `tftp` service.
    pub(super) fn is_tftp(&self) -> bool {
        matches!(self.service, Some(Spot { value: Service::Tftp { .. }, .. }))
    }
}

/// Reads one `[[vip]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> Draft<'r, 't> {
    let here = table.here();
    let address = table.required("address", "address = \"192.0.2.69\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let (service, claims) = match table.required("service", "service = \"tftp\"") {
        Some(field) => {
            let (service, claims) = service::read(&field);
            (service.map(|value| Spot { value, field }), claims)
        }
        None => (None, Vec::new()),
    };
    let pool = table.required("pool", "pool = \"boot\"").and_then(|f| f.parse("the name of a pool in quotes", text::name));
    let idle = table.optional("idle").map_or(Some(IDLE), |f| duration_within(f, IDLE_LIMITS));
    let paused = table.optional("paused").map_or(Some(false), |f| f.boolean());
    let tftp = service.as_ref().map(|s| matches!(s.value, Service::Tftp { .. }));
    let guard = guard::read(&mut table, address.as_ref().map(|a| a.value), tftp);
    table.finish();
    Draft { address, service, claims, pool, here, idle, paused, guard }
}
