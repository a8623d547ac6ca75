//! Plans of changes: makes a change and shows what it does.

use super::common::{failed, query};
use super::print;
use super::target::DirectorArgs;
use guideway_api::plan::{Plan, VipEffect};
use guideway_daemon::client::Client;
use serde_json::Value;
use std::fmt::Write;

/// Options of every change.
#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// Say what would happen, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Make the change also if it leaves no VIP, or a pool without a backend for new requests
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) yes: bool,
    /// Why, for `guideway history` and the log
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// Print the plan as JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) director: DirectorArgs,
}

/// Makes a change and shows what it does, or only shows it in a dry run. A change that fails prints nothing but its error. An `Err` is the exit
/// code.
pub(super) fn plan_and_apply(client: &Client, method: &str, path: &str, body: Option<&Value>, change: &ChangeArgs) -> Result<Plan, u8> {
    let flags = [("dry_run", change.dry_run), ("confirm", change.yes)];
    let mut parameters: Vec<(&str, &str)> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| (*name, "true")).collect();
    parameters.extend(change.reason.as_deref().map(|reason| ("reason", reason)));
    let query = if parameters.is_empty() { String::new() } else { format!("?{}", query(&parameters)) };
    let plan: Plan = client.change(method, &format!("{path}{query}"), body).map_err(|error| failed(&error.to_string()))?;
    let generation = plan.intent_generation.after.unwrap_or(plan.intent_generation.before);
    let made = plan.changed && !change.dry_run;
    let shown = match (change.json, made && plan.applied) {
        (true, _) => print::json(&plan),
        (false, true) => format!("{}done: generation {generation}", text(&plan)),
        (false, false) => text(&plan),
    };
    if !print::line(shown.trim_end()) {
        return Err(failed(&format!("standard output cannot be written{}", if made { "; the change was made" } else { "" })));
    }
    if made && !plan.applied {
        let why = plan.not_applied_because.as_deref().unwrap_or_default();
        return Err(failed(&format!("committed as generation {generation}, but not in force here: {why}")));
    }
    Ok(plan)
}

/// Formats a plan in a few lines.
fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let percent = |share: Option<f64>| share.map_or_else(|| "?".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    if !plan.changed {
        return "nothing to do: the intent does not change\n".to_owned();
    }
    // Writing into a String cannot fail.
    for backend in &plan.effects.backends {
        let share = match (backend.share_before, backend.share_after) {
            (None, None) => String::new(),
            (before, after) => format!(": {} of new flows, then {}", percent(before), percent(after)),
        };
        let _ = writeln!(out, "{}/{} {}{share}", backend.pool, backend.backend, backend.change.name());
    }
    for vip in &plan.effects.vips {
        let moved = match vip.moved {
            Some(moved) => format!(
                "{moved} of {} rows move ({}), {} of them from backends that stay",
                vip.rows,
                percent(vip.moved_share),
                vip.moved_from_remaining.unwrap_or_default()
            ),
            None => "its table is new".to_owned(),
        };
        let change = if vip.change == VipEffect::Rows { String::new() } else { format!("{}, ", vip.change.name()) };
        let _ = writeln!(out, "VIP {} {}: {change}{moved}", vip.vip, vip.service);
    }
    for setting in &plan.effects.settings {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        let effect = setting.effect.as_ref().map(|effect| format!(": {effect}")).unwrap_or_default();
        let _ = writeln!(out, "{}: {} becomes {}{effect}", setting.key, value(&setting.before), value(&setting.after));
    }
    for pool in &plan.effects.running {
        let _ = writeln!(out, "pool {}: {}", pool.pool, pool.effect);
    }
    for unserved in plan.effects.needs_confirmation.iter().filter(|_| plan.dry_run) {
        let _ = writeln!(out, "needs --yes: {unserved}");
    }
    for warning in &plan.effects.warnings {
        let _ = writeln!(out, "warning: {}: {}", warning.key.as_deref().unwrap_or_default(), warning.message);
    }
    if !plan.survives_restart {
        let _ = writeln!(out, "note: {}", plan.restart);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_is_a_few_clear_lines() {
        let mut plan: Plan = serde_json::from_value(json!({
            "dry_run": true, "changed": true, "intent_generation": {"before": 1}, "applied": false, "survives_restart": false, "restart": "only memory",
            "backends": [{"pool": "boot", "backend": "t1", "change": "drained", "share_before": 0.5, "share_after": 0.0}],
            "vips": [{"vip": "192.0.2.69", "service": "tftp", "pool": "boot", "change": "rows", "rows": 1009, "moved": 505, "moved_share": 0.5, "moved_from_remaining": 0}],
            "settings": [{"key": "pool.boot.takeover", "before": "false", "after": "true", "effect": "successors continue"}],
            "running": [{"pool": "boot", "transfers_affected": 0, "effect": "no running transfer moves"}],
            "warnings": [{"key": "pool.boot", "value": null, "message": "one is left"}],
        }))
        .unwrap();
        let expected = "boot/t1 drained: 50.0 % of new flows, then 0.0 %\n\
            VIP 192.0.2.69 tftp: 505 of 1009 rows move (50.0 %), 0 of them from backends that stay\n\
            pool.boot.takeover: false becomes true: successors continue\n\
            pool boot: no running transfer moves\nwarning: pool.boot: one is left\nnote: only memory\n";
        assert_eq!(text(&plan), expected);
        plan.changed = false;
        assert!(text(&plan).starts_with("nothing to do"));
    }
}
