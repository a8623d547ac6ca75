//! `[[vip]]`: turns the table into a [`Vip`].

use super::director::duration_within;
use super::reader::{Located, Location, Table};
use super::service::{self, ClaimedPorts};
use super::text;
use super::{RequestPolicy, Service, request_policy};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `[[vip]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The virtual IP address.
    pub address: IpAddr,
    /// The service at this address.
    pub service: Service,
    /// Name of the pool.
    pub pool: String,
    /// A flow without packets for this time is forgotten, 1 s–12 h; default 60 s.
    pub idle: Duration,
    /// The VIP takes no packets while this is true.
    pub paused: bool,
    /// `writes`, `clients` and `admission`; defaults for services other than `tftp`.
    pub request_policy: RequestPolicy,
}

const IDLE: Duration = Duration::from_secs(60);
const IDLE_LIMITS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(12 * 3600);

/// The raw values of one `[[vip]]`.
pub(super) struct RawVip<'r, 't> {
    pub(super) address: Option<Located<'r, 't, IpAddr>>,
    pub(super) service: Option<Located<'r, 't, Service>>,
    /// The ports of a udp or tcp service as written, sorted.
    pub(super) claimed_ports: Vec<ClaimedPorts<'r, 't>>,
    pub(super) pool: Option<Located<'r, 't, String>>,
    /// The table itself.
    pub(super) location: Location,
    idle: Option<Duration>,
    paused: Option<bool>,
    request_policy: Option<RequestPolicy>,
}

impl RawVip<'_, '_> {
    /// Returns the VIP if all of it is valid.
    pub(super) fn vip(&self) -> Option<Vip> {
        Some(Vip {
            address: self.address.as_ref()?.value,
            service: self.service.as_ref()?.value.clone(),
            pool: self.pool.as_ref()?.value.clone(),
            idle: self.idle?,
            paused: self.paused?,
            request_policy: self.request_policy.clone()?,
        })
    }

    /// Returns whether this is certainly a `tftp` service.
    pub(super) fn is_tftp(&self) -> bool {
        matches!(self.service, Some(Located { value: Service::Tftp { .. }, .. }))
    }
}

/// Reads one `[[vip]]`.
pub(super) fn read<'r, 't>(mut table: Table<'r, 't>) -> RawVip<'r, 't> {
    let location = table.location();
    let address = table.required("address", "address = \"192.0.2.69\"").and_then(|f| f.parse("an address in quotes", text::unicast));
    let (service, claimed_ports) = match table.required("service", "service = \"tftp\"") {
        Some(field) => {
            let (service, claimed_ports) = service::read(&field);
            (service.map(|value| Located { value, field }), claimed_ports)
        }
        None => (None, Vec::new()),
    };
    let pool = table.required("pool", "pool = \"boot\"").and_then(|f| f.parse("the name of a pool in quotes", text::name));
    let idle = table.optional("idle").map_or(Some(IDLE), |f| duration_within(f, IDLE_LIMITS));
    let paused = table.optional("paused").map_or(Some(false), |f| f.boolean());
    let tftp = service.as_ref().map(|s| matches!(s.value, Service::Tftp { .. }));
    let request_policy = request_policy::read(&mut table, address.as_ref().map(|a| a.value), tftp);
    table.finish();
    RawVip { address, service, claimed_ports, pool, location, idle, paused, request_policy }
}
