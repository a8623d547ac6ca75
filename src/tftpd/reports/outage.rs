//! Times in which a target takes no reports.

use std::fmt::Display;

/// Logs when reports begin to fail and when they arrive again, not each of them.
#[derive(Debug, Default)]
pub struct Outage {
    failing: bool,
}

impl Outage {
    /// Records the result of a delivery to this target.
    pub fn update(&mut self, target: &dyn Display, error: Option<String>) {
        match &error {
            Some(error) if !self.failing => tracing::warn!(%target, error, "reports of transfers are not delivered"),
            None if self.failing => tracing::info!(%target, "reports of transfers are delivered again"),
            _ => {}
        }
        self.failing = error.is_some();
    }
}
