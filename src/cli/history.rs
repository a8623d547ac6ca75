//! `guideway history` and `rollback`: who changed the intent, and back to an intent before.

use super::DONE;
use super::common::{failed, print_result};
use super::plan::{ChangeArgs, plan_and_apply};
use super::print;
use super::target::DirectorArgs;
use super::time::utc;
use guideway_api::history::{History, IntentChange};
use std::fmt::Write;

/// Show who changed the VIPs and pools, from where, when, why, and what
#[derive(Debug, clap::Args)]
#[command(after_help = "The store keeps the last 1000 changes; a director without a store keeps them until it ends.\n\n\
    Example:\n  guideway history --limit 5\n  guideway history --director d1 --json")]
pub struct Args {
    /// Number of changes, the newest first
    #[arg(long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    director: DirectorArgs,
}

/// Make the VIPs and pools again what they were at a generation, as a new change
#[derive(Debug, clap::Args)]
#[command(after_help = "`guideway history` lists the generations. A rollback is checked as every change, and can be rolled back.\n\n\
    Example:\n  guideway rollback 41 --dry-run\n  guideway rollback 41 --reason 't3 was removed by mistake'")]
pub struct RollbackArgs {
    /// The generation whose intent is wanted
    #[arg(value_name = "GENERATION")]
    generation: u64,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Runs `guideway history`.
pub fn run(args: &Args) -> u8 {
    let client = match args.director.client() {
        Ok(client) => client,
        Err(code) => return code,
    };
    match client.get::<History>(&format!("/v1/history?limit={}", args.limit)) {
        Ok(history) if args.json => print_result(&print::json(&history)),
        Ok(history) if history.changes.is_empty() => print_result("no change is known"),
        Ok(history) => print_result(&history.changes.iter().map(text).collect::<String>()),
        Err(error) => failed(&error.to_string()),
    }
}

/// Runs `guideway rollback`.
pub fn rollback(args: &RollbackArgs) -> u8 {
    let client = match args.change.director.client() {
        Ok(client) => client,
        Err(code) => return code,
    };
    let path = format!("/v1/history/{}/rollback", args.generation);
    plan_and_apply(&client, "POST", &path, None, &args.change).err().unwrap_or(DONE)
}

fn text(change: &IntentChange) -> String {
    let seconds = change.at as f64 / 1000.0;
    let mut out = format!("generation {}  {}  {} ({})\n", change.generation, utc(seconds), change.who, change.from);
    // Writing into a String cannot fail.
    if let Some(reason) = &change.reason {
        let _ = writeln!(out, "  reason: {reason}");
    }
    for line in &change.what {
        let _ = writeln!(out, "  {line}");
    }
    if !change.intent_kept {
        let _ = writeln!(out, "  its intent was too large to keep: no rollback to it");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_few_lines() {
        let change = IntentChange {
            generation: 7,
            base: 5,
            at: 951_782_400_000,
            who: "alice".to_owned(),
            from: "control socket, uid 1000, pid 9".to_owned(),
            reason: Some("broken disk".to_owned()),
            what: vec!["- backend boot/t1".to_owned()],
            intent_kept: true,
        };
        let expected =
            "generation 7  2000-02-29 00:00:00.000Z  alice (control socket, uid 1000, pid 9)\n  reason: broken disk\n  - backend boot/t1\n";
        assert_eq!(text(&change), expected);
    }
}
