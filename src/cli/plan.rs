//! Plans of changes: shows what a change does, then makes it.

use super::common::{failed, print_result};
use super::print;
use guideway_api::plan::{Plan, VipEffect};
use guideway_daemon::client::{Client, Error};
use serde_json::Value;
use std::fmt::Write;

/// Shows the plan of a change, then makes the change unless it is a dry run. An `Err` is the exit code.
pub(super) fn plan_and_apply(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
    dry_run: bool,
    json: bool,
) -> Result<Plan, u8> {
    let refused = |error: Error| failed(&error.to_string());
    let planned: Plan = client.change(method, &format!("{path}?dry_run=true"), body).map_err(refused)?;
    if dry_run || !planned.changed {
        let code = print_result(&if json { print::json(&planned) } else { text(&planned) });
        return if code == super::DONE { Ok(planned) } else { Err(code) };
    }
    if !json && !print::line(text(&planned).trim_end()) {
        return Err(failed("standard output cannot be written; nothing was changed"));
    }
    let done: Plan = client.change(method, path, body).map_err(refused)?;
    let generation = done.intent_generation.after.unwrap_or(done.intent_generation.before);
    let said = if json {
        print::json(&done)
    } else if done.applied {
        format!("done: generation {generation}")
    } else {
        format!("committed as generation {generation}: {}", done.not_applied_because.as_deref().unwrap_or_default())
    };
    if print::line(said) { Ok(done) } else { Err(failed("standard output cannot be written; the change was made")) }
}

/// Formats a plan in a few lines.
fn text(plan: &Plan) -> String {
    let mut out = String::new();
    let percent = |share: Option<f64>| share.map_or_else(|| "?".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    if !plan.changed {
        return "nothing to do: nothing differs from what is there\n".to_owned();
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
            None => "its table is a new one".to_owned(),
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
