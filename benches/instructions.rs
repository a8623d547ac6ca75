//! A fixed number of batches through the path, for tools that count instructions: `instructions ROW BATCHES`.
#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

#[allow(dead_code)] // What only the timed benchmarks of the path need.
mod fixture;

use fixture::{Batch, Kind, MILLION};
use guideway_dataplane::path::{self, State};
use guideway_dataplane::tables::Snapshot;
use guideway_packet::frame::Frame;
use guideway_packet::io::BATCH;
use guideway_packet::time::Time;
use std::process::ExitCode;

/// Batches that are run before those that are counted.
const WARM_UP: usize = 4;

/// What is to be counted: nothing else, and in a function of its own that tools find by its name.
#[inline(never)]
fn counted(frames: &mut [Frame<'_>], tables: &Snapshot, state: &mut State) {
    path::run(frames, tables, state, Time(1_000_000_000));
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (row, batches) = (arguments.next(), arguments.next().map_or(Ok(100), |text| text.parse::<usize>()));
    let (kind, flows, repeated) = match row.as_deref() {
        None | Some("path_hot") => (Kind::V4, 1, false),
        Some("path_v6") => (Kind::V6, 1, false),
        Some("path_tid") => (Kind::Tid, 1, false),
        Some("path_1m") => (Kind::V4, MILLION, false),
        Some("path_tid_1m") => (Kind::Tid, MILLION, false),
        Some("path_tid_1m_repeat") => (Kind::Tid, MILLION, true),
        Some(other) => {
            eprintln!("no row is called {other}: path_hot, path_v6, path_tid, path_1m, path_tid_1m or path_tid_1m_repeat");
            return ExitCode::from(2);
        }
    };
    let Ok(batches) = batches else {
        eprintln!("the second argument is a number of batches");
        return ExitCode::from(2);
    };
    let tables = fixture::tables();
    // As in the timed rows, every flow is known when counting begins.
    let mut state = State::new(flows.max(1 << 10) as usize, fixture::MTU);
    let mut batch = Batch::new(kind, flows, 18);
    for _ in 0..flows / BATCH as u64 {
        batch.fill();
        path::run(&mut batch.frames(), &tables, &mut state, Time(1_000_000_000));
    }
    if repeated {
        fixture::repeat_request(&tables, &mut state, Time(1_000_000_000));
    }
    for _ in 0..WARM_UP + batches {
        batch.fill();
        counted(&mut batch.frames(), &tables, &mut state);
    }
    assert_eq!(state.counters.total_dropped(), 0);
    println!("{} packets, of them {} before counting makes sense", (WARM_UP + batches) * BATCH, WARM_UP * BATCH);
    ExitCode::SUCCESS
}
