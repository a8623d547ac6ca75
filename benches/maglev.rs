//! What building a Maglev table costs. Beside it the crate `maglev` 0.2.1, which builds what the paper describes.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod paired;

use criterion::{Criterion, criterion_group, criterion_main};
use guideway_dataplane::maglev::{DEFAULT_SIZE, Table};
use guideway_hash::FleetKey;
use paired::Unit;
use std::hint::black_box;
use std::time::{Duration, Instant};

const KEY: FleetKey = FleetKey::new([7; 16]);
/// The paper's "large" table.
const LARGE: u32 = 655_373;
const MILLISECONDS: Unit = Unit { name: "ms", nanoseconds: 1e6, elements: 1 };
/// The reference takes up to half a second for 1000 backends: so many builds of it are enough, and more for fewer backends.
const REFERENCES: usize = 3;

fn names(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("backend-{n}")).collect()
}

fn ours(size: u32, names: &[String]) -> Duration {
    let backends: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 100)).collect();
    let start = Instant::now();
    let table = Table::build_uneven(&KEY, size, black_box(&backends)).expect("the size is a prime, and large enough");
    let took = start.elapsed();
    assert_eq!(black_box(table).size(), size);
    took
}

fn theirs(size: u32, names: &[String]) -> Duration {
    let backends: Vec<&str> = names.iter().map(String::as_str).collect();
    let start = Instant::now();
    let table = maglev::Maglev::with_capacity(black_box(backends), size as usize);
    let took = start.elapsed();
    black_box(table);
    took
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("maglev");
    group.sample_size(10);
    for backends in [100, 1000] {
        for (name, removed) in [(format!("maglev_{backends}"), None), (format!("maglev_{backends}_less_one"), Some(backends / 2))] {
            let make = || {
                let mut names = names(backends);
                removed.map(|index| names.remove(index));
                (names, 0)
            };
            paired::row(&mut group, &name, MILLISECONDS, make, |(names, references)| {
                *references += 1;
                (ours(DEFAULT_SIZE, names), (*references <= REFERENCES * 1000 / backends).then(|| theirs(DEFAULT_SIZE, names)))
            });
        }
    }
    paired::row(
        &mut group,
        "maglev_655373",
        MILLISECONDS,
        || names(1000),
        |names| (ours(LARGE, names), Some(10 * ours(DEFAULT_SIZE, names))),
    );
    group.finish();
}

criterion_group!(benches, rows);
criterion_main!(benches);
