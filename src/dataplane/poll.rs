//! One poll of a worker: the io receives, the path decides, the io sends. The same for a live director, a replay and a benchmark.

use crate::path::{self, State};
use crate::tables::Snapshot;
use arc_swap::{ArcSwap, Cache};
use guideway_packet::io::{Io, PollResult};
use std::sync::Arc;
use std::time::Duration;

/// Where a worker finds the tables of the moment.
pub trait SnapshotSource {
    /// Returns the newest snapshot. Called once for each batch, so no batch sees two.
    fn current(&mut self) -> &Snapshot;
}

impl SnapshotSource for &Snapshot {
    fn current(&mut self) -> &Snapshot {
        self
    }
}

/// What a writer publishes and a worker looks up without waiting.
impl SnapshotSource for Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>> {
    fn current(&mut self) -> &Snapshot {
        self.load()
    }
}

/// Polls `io` once with the newest tables. Returns the result of the io, and whether a frame was originated or released.
///
/// # Errors
/// Those of the io.
pub fn poll(io: &mut dyn Io, state: &mut State, wait: Duration, tables: &mut impl SnapshotSource) -> std::io::Result<(PollResult, bool)> {
    let poll = io.poll(wait, &mut |now, frames| path::run(frames, tables.current(), state, now))?;
    state.counters.transmit_full(poll.transmit_full as u64);
    if poll.received == 0 {
        state.tick(io.now());
        path::release_known(tables.current(), state, io.now());
    }
    let (mut sent, mut failure) = (false, None);
    state.drain_outbox(|frame, output| {
        sent = true;
        io.send_by(frame, output).unwrap_or_else(|error| {
            failure = Some(error);
            false
        })
    });
    failure.map_or(Ok((poll, sent)), Err)
}
