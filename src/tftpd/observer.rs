//! What is made of reports: the log, metrics, and lines of JSON.

use super::log::TransferLog;
use super::reports::Reports;
use super::transfer_metrics::TransferMetrics;
use guideway_tftp::report::{Observer, Statistics, TransferReport};
use std::sync::Arc;
use std::time::Duration;

/// Passes reports to all that want them.
pub struct TransferObserver {
    /// The log.
    pub log: TransferLog,
    /// Metrics of the status.
    pub metrics: Arc<TransferMetrics>,
    /// Lines of JSON for other programs.
    pub reports: Arc<Reports>,
}

impl Observer for TransferObserver {
    fn finished(&self, report: &TransferReport) {
        self.log.finished(report);
        self.metrics.record(report);
        self.reports.push(report);
    }

    fn server(&self, statistics: &Statistics) {
        self.log.server(statistics);
    }

    fn interval(&self) -> Duration {
        self.log.interval()
    }
}
