//! `guideway store show`: the generation, who leads over health, which directors are there and how far they are.

use super::super::common::result;
use super::{Place, with_set};
use guideway_store::{Observation, ReadError, Seen, Store};
use serde_json::{Value, json};
use std::fmt::Write;

/// Show the generation of the store's set, who leads over health, and which directors have it
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway store show --config /etc/guideway/director.toml --json")]
pub(super) struct Show {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(args: &Show) -> u8 {
    with_set(&args.place, async |store| {
        let (leader, directors) = tokio::join!(store.leader(), store.directors());
        let seen = store.watch().borrow().clone();
        let leader = leader.unwrap_or_else(|ReadError(why)| Some(format!("unknown: {why}")));
        let directors = directors.unwrap_or_default();
        result(&if args.json {
            format!("{:#}", document(&store, &seen, leader, directors))
        } else {
            text(&store, &seen, leader, &directors)
        })
    })
}

/// How long the set may have been old, in seconds.
fn stale(seen: &Seen) -> Option<f64> {
    seen.trouble.as_ref().map(|trouble| trouble.since.elapsed().as_secs_f64())
}

fn backends_down(seen: &Seen) -> usize {
    seen.set.health.values().flat_map(|pool| pool.backends.values()).filter(|backend| backend.state == Observation::Down).count()
}

fn document(store: &Store, seen: &Seen, leader: Option<String>, directors: Vec<(String, Value)>) -> Value {
    json!({
        "kind": store.kind(),
        "generation": seen.set.generation,
        "intent_generation": seen.set.intent_generation,
        "vips": seen.set.intent.vips.len(),
        "pools": seen.set.intent.pools.len(),
        "backends": seen.set.intent.pools.iter().map(|pool| pool.backends.len()).sum::<usize>(),
        "backends_down": backends_down(seen),
        "leader": leader,
        "stale_seconds": stale(seen),
        "trouble": seen.trouble.as_ref().map(|trouble| &trouble.why),
        "directors": directors.into_iter().map(|(name, word)| json!({"name": name, "says": word})).collect::<Vec<_>>(),
    })
}

fn text(store: &Store, seen: &Seen, leader: Option<String>, directors: &[(String, Value)]) -> String {
    let (set, intent) = (&seen.set, &seen.set.intent);
    let backends: usize = intent.pools.iter().map(|pool| pool.backends.len()).sum();
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{}, generation {} (its intent: {})", store.kind(), set.generation, set.intent_generation);
    let _ = writeln!(text, "  VIPs      {}", intent.vips.len());
    let _ = writeln!(text, "  pools     {} with {backends} backends, {} down", intent.pools.len(), backends_down(seen));
    let _ = writeln!(text, "  health    {}", leader.map_or("nobody leads".to_owned(), |name| format!("{name} leads")));
    if let Some(trouble) = &seen.trouble {
        let _ = writeln!(
            text,
            "  trouble   for {:.1} s: {}",
            trouble.since.elapsed().as_secs_f64(),
            trouble.why.replace('\n', "\n            ")
        );
    }
    let names: Vec<&str> = directors.iter().map(|(name, _)| name.as_str()).collect();
    let _ = writeln!(text, "  directors {}", if names.is_empty() { "none".to_owned() } else { names.len().to_string() });
    for (name, word) in directors {
        let generation = word.get("generation").and_then(Value::as_u64);
        let behind = match generation {
            Some(own) if own == set.generation => format!("generation {own}"),
            Some(own) => format!("generation {own}, not {}", set.generation),
            None => "says no generation".to_owned(),
        };
        let _ = writeln!(text, "    {name}  {behind}");
    }
    text
}
