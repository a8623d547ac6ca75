//! What tests of clients need besides servers.

use crate::client::{Ask, Plan};
use guideway_testbed::site::Site;
use std::time::Duration;

/// A fetch of `file` from the site's server, with time-outs fit for a namespace.
pub fn plan(site: &Site, file: &str, ask: &[Ask]) -> Plan {
    let mut plan = Plan { ask: ask.to_vec(), ..Plan::new(site.server(), file) };
    plan.timing.initial = Duration::from_millis(200);
    plan
}
