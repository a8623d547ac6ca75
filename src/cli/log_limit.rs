//! Bounds the log: of lines of one kind only so many are written a second, whoever causes them; the rest is counted, and the count is logged.
//!
//! Lines of one kind come from one place in the code. A flood of bad connections or a flapping link writes the first lines of it, and then
//! one line every few seconds that says how many more there were.

use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// How many lines of a kind may be written at once, and then each second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rate {
    burst: f64,
    per_second: f64,
}

const ORDINARY: Rate = Rate { burst: 40.0, per_second: 1.0 };
/// Of lines that tell of one transfer: operators read them one by one.
const TRANSFERS: Rate = Rate { burst: 400.0, per_second: 100.0 };
/// Lines that were not written are counted for this time.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);
/// The field of the line with their number, which itself is always written.
const SUPPRESSED: &str = "suppressed";
/// Characters of the example in that line.
const MAX_EXAMPLE: usize = 160;

/// See the module. `debug` and `trace` are not bounded.
#[derive(Clone, Debug, Default)]
pub struct LogLimit(Arc<Mutex<Kinds>>);

#[derive(Debug, Default)]
struct Kinds {
    by_place: HashMap<Identifier, Kind>,
    /// A thread waits to log the counts.
    summary_pending: bool,
}

#[derive(Debug)]
struct Kind {
    lines: f64,
    at: Instant,
    suppressed: u64,
    example: String,
}

impl LogLimit {
    /// Returns whether to write a line of this kind; otherwise it is counted, with `example` as the text of the first.
    fn admit(&self, place: &Metadata<'_>, now: Instant, example: impl FnOnce() -> String) -> bool {
        let rate = if place.fields().field("outcome").is_some() { TRANSFERS } else { ORDINARY };
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Kind { lines: rate.burst, at: now, suppressed: 0, example: String::new() };
        let kind = kinds.by_place.entry(place.callsite()).or_insert_with(new);
        kind.lines = (kind.lines + rate.per_second * now.saturating_duration_since(kind.at).as_secs_f64()).min(rate.burst);
        kind.at = now;
        if kind.lines >= 1.0 {
            kind.lines -= 1.0;
            return true;
        }
        if kind.suppressed == 0 {
            kind.example = example();
        }
        kind.suppressed += 1;
        if !std::mem::replace(&mut kinds.summary_pending, true) {
            let limit = self.clone();
            let started = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
                let _ = nix::sys::signal::SigSet::all().thread_block();
                std::thread::sleep(SUMMARY_INTERVAL);
                limit.summarize();
            });
            kinds.summary_pending = started.is_ok();
        }
        false
    }

    /// Returns how many lines of each kind were not written since the last call.
    fn take_suppressed(&self) -> Vec<(u64, String)> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.summary_pending = false;
        let suppressed = kinds.by_place.values_mut().filter(|kind| kind.suppressed > 0);
        suppressed.map(|kind| (std::mem::take(&mut kind.suppressed), std::mem::take(&mut kind.example))).collect()
    }

    fn summarize(&self) {
        for (suppressed, example) in self.take_suppressed() {
            tracing::warn!(suppressed, example, "more lines of one kind, not written");
        }
    }
}

impl<S: Subscriber> Layer<S> for LogLimit {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // More verbose levels are greater.
        *metadata.level() > Level::INFO
            || metadata.fields().field(SUPPRESSED).is_some()
            || self.admit(metadata, Instant::now(), || {
                let mut text = Text(String::new());
                event.record(&mut text);
                text.0.chars().take(MAX_EXAMPLE).collect()
            })
    }
}

/// The message of an event and its fields, as in the log.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// A writer whose text the test reads.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_flood_of_one_kind_is_counted_and_hides_no_other() {
        let (limit, lines) = (LogLimit::default(), Lines::default());
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish().with(limit.clone());
        tracing::subscriber::with_default(subscriber, || {
            for peer in 0..3000 {
                tracing::info!(peer, "no TLS with a client of the API: garbage");
            }
            tracing::warn!("backend down");
            limit.summarize();
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(text.lines().count() < 60, "{text}");
        assert_eq!(text.matches("backend down").count(), 1);
        let counted: u64 = text.split("suppressed=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(counted + text.lines().filter(|line| line.contains("INFO")).count() as u64, 3000, "{text}");
        assert!(text.contains("no TLS with a client of the API: garbage peer=4"), "{text}");
    }

    #[test]
    fn lines_come_again_when_the_flood_has_ended() {
        struct Place;
        impl tracing::Callsite for Place {
            fn set_interest(&self, _: tracing::subscriber::Interest) {}
            fn metadata(&self) -> &Metadata<'_> {
                &METADATA
            }
        }
        static METADATA: Metadata<'static> = tracing::metadata! {
            name: "line", target: "test", level: Level::INFO, fields: &[], callsite: &Place, kind: tracing::metadata::Kind::EVENT
        };
        let (limit, start) = (LogLimit::default(), Instant::now());
        limit.0.lock().unwrap().summary_pending = true;
        let written =
            |after: u64, lines: u32| (0..lines).filter(|_| limit.admit(&METADATA, start + Duration::from_secs(after), String::new)).count();
        assert_eq!([written(0, 100), written(10, 100), written(1000, 100)], [40, 10, 40]);
        assert_eq!(limit.take_suppressed()[0].0, 210);
        assert!(limit.take_suppressed().is_empty());
    }
}
