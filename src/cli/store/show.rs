//! `guideway store show`: generation, leading health controller, and directors with their generations.

use super::super::common::print_result;
use super::super::print;
use super::open::{StoreArgs, with_state};
use guideway_api::presence::{Presence, PresentTables};
use guideway_store::{Observation, ReadError, Store, StoreView};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;

/// Show the generation of the store, the leading health controller, and the generation of each director
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway store show --config /etc/guideway/director.toml --json")]
pub(super) struct Show {
    #[command(flatten)]
    store_args: StoreArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Show) -> u8 {
    with_state(&args.store_args, async |store| {
        let (leader, directors) = tokio::join!(store.leader(), store.directors());
        let view = store.watch().borrow().clone();
        let leader = leader.unwrap_or_else(|ReadError(why)| Some(format!("unknown: {why}")));
        let directors = directors.unwrap_or_default();
        print_result(&if args.json {
            print::json(&document(&store, &view, leader, directors))
        } else {
            text(&store, &view, leader, &directors)
        })
    })
}

/// Returns for how long the store could not be read, in seconds.
fn stale(view: &StoreView) -> Option<f64> {
    view.stale.as_ref().map(|stale| stale.since.elapsed().as_secs_f64())
}

fn backends_down(view: &StoreView) -> usize {
    view.cluster.health.values().flat_map(|pool| pool.backends.values()).filter(|backend| backend.state == Observation::Down).count()
}

/// The JSON of the store.
#[derive(Serialize)]
struct StoreDocument {
    kind: &'static str,
    generation: u64,
    intent_generation: u64,
    vips: usize,
    pools: usize,
    backends: usize,
    backends_down: usize,
    leader: Option<String>,
    stale_seconds: Option<f64>,
    stale_reason: Option<&'static str>,
    stale_because: Option<String>,
    directors: Vec<DirectorRecord>,
}

/// A director with its record as the store has it.
#[derive(Serialize)]
struct DirectorRecord {
    name: String,
    presence: Value,
}

fn document(store: &Store, view: &StoreView, leader: Option<String>, directors: Vec<(String, Value)>) -> StoreDocument {
    let intent = &view.cluster.intent;
    StoreDocument {
        kind: store.kind(),
        generation: view.cluster.generation,
        intent_generation: view.cluster.intent_generation,
        vips: intent.vips.len(),
        pools: intent.pools.len(),
        backends: intent.pools.iter().map(|pool| pool.backends.len()).sum(),
        backends_down: backends_down(view),
        leader,
        stale_seconds: stale(view),
        stale_reason: view.stale.as_ref().map(|stale| stale.reason.name()),
        stale_because: view.stale.as_ref().map(|stale| stale.why.clone()),
        directors: directors.into_iter().map(|(name, presence)| DirectorRecord { name, presence }).collect(),
    }
}

fn tables(record: &Value) -> Option<PresentTables> {
    serde_json::from_value::<Presence>(record.clone()).ok()?.tables
}

fn text(store: &Store, view: &StoreView, leader: Option<String>, directors: &[(String, Value)]) -> String {
    let (cluster, intent) = (&view.cluster, &view.cluster.intent);
    let backends: usize = intent.pools.iter().map(|pool| pool.backends.len()).sum();
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{}, generation {} (its intent: {})", store.kind(), cluster.generation, cluster.intent_generation);
    let _ = writeln!(text, "  VIPs      {}", intent.vips.len());
    let _ = writeln!(text, "  pools     {} with {backends} backends, {} down", intent.pools.len(), backends_down(view));
    let _ = writeln!(text, "  health    {}", leader.map_or("nobody leads".to_owned(), |name| format!("{name} leads")));
    if let Some(stale) = &view.stale {
        let _ = writeln!(
            text,
            "  stale     {} for {:.1} s: {}",
            stale.reason.name(),
            stale.since.elapsed().as_secs_f64(),
            stale.why.replace('\n', "\n            ")
        );
    }
    let names: Vec<&str> = directors.iter().map(|(name, _)| name.as_str()).collect();
    let _ = writeln!(text, "  directors {}", if names.is_empty() { "none".to_owned() } else { names.len().to_string() });
    let first = directors.first().and_then(|(name, record)| Some((name, tables(record)?)));
    for (name, record) in directors {
        let presence: Presence = serde_json::from_value(record.clone()).unwrap_or_default();
        let behind = match presence.tables.map(|tables| tables.generation) {
            Some(own) if own == cluster.generation => format!("generation {own}"),
            Some(own) => format!("generation {own}, not {}", cluster.generation),
            None => "generation unknown".to_owned(),
        };
        let _ = writeln!(text, "    {name}  {behind}");
        let other = first.as_ref().zip(tables(record)).and_then(|((first, own), other)| Some((first, own.disagreement(name, &other)?)));
        if let Some((first, disagreement)) = other {
            let _ = writeln!(text, "      disagrees with {first}: {}", disagreement.why);
        }
    }
    text
}
