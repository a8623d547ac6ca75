//! The signals of a director.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that a director listens to.
pub(super) struct Signals {
    pub(super) reload: Signal,
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
}

impl Signals {
    /// Starts to listen for the signals.
    pub(super) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}
