//! A row beside its reference. Both run in turns, a batch of one and a batch of the other, so that what the machine does meanwhile it does to both.
//!
//! Criterion measures the row. When it is done, one line more is printed, the medians of both, which `tools/bench-report` reads:
//! `paired {"name":"path_hot","unit":"ns/packet","value":20.1,"reference":6.7}`. A row without a reference, as on a curve, has none there.

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use std::time::Duration;

/// What one number of a row is.
#[derive(Clone, Copy)]
pub struct Unit {
    /// Its name.
    pub name: &'static str,
    /// How many nanoseconds of one run make one of it.
    pub nanoseconds: f64,
    /// What one run handles; for criterion's throughput.
    pub elements: u64,
}

/// Measures a row. `make` makes what it needs, once and only if the row is wanted; `run` runs row and reference once and says how long each took.
/// A reference that is slow may be left out of most runs.
pub fn row<W>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    unit: Unit,
    make: impl FnOnce() -> W,
    mut run: impl FnMut(&mut W) -> (Duration, Option<Duration>),
) {
    let (mut make, mut fixture) = (Some(make), None);
    let (mut values, mut references) = (Vec::new(), Vec::new());
    group.throughput(Throughput::Elements(unit.elements));
    group.bench_function(name, |b| {
        if let Some(make) = make.take() {
            fixture = Some(make());
        }
        let fixture = fixture.as_mut().expect("it was just made");
        b.iter_custom(|runs| {
            let mut sum = Duration::ZERO;
            for _ in 0..runs {
                let (took, reference) = run(fixture);
                values.push(took);
                references.extend(reference);
                sum += took;
            }
            sum
        });
    });
    if let Some(value) = median(&mut values) {
        let in_units = |time: Duration| time.as_nanos() as f64 / unit.nanoseconds;
        print_row(name, unit.name, in_units(value), median(&mut references).map(in_units));
    }
}

/// Prints the line for `tools/bench-report`.
pub fn print_row(name: &str, unit: &str, value: f64, reference: Option<f64>) {
    let mut line = serde_json::json!({ "name": name, "unit": unit, "value": value });
    if let Some(reference) = reference {
        line["reference"] = reference.into();
    }
    println!("paired {line}");
}

/// The middle one; nothing of nothing.
pub fn median<T: Ord + Copy>(all: &mut [T]) -> Option<T> {
    let middle = all.len() / 2;
    (!all.is_empty()).then(|| *all.select_nth_unstable(middle).1)
}
