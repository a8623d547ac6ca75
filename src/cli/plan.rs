//! What a change will do, for people, before it is done.

use super::common::{failed, plain, result};
use super::print;
use guideway_daemon::client::{Client, Error};
use serde_json::Value;
use std::fmt::Write;

/// Shows the plan of a change, then makes it, unless it is `dry_run`. Gives the exit code.
pub(super) fn carry_out(client: &Client, method: &str, path: &str, body: Option<&Value>, dry_run: bool, json: bool) -> Result<Value, u8> {
    let refused = |error: Error| failed(&error.to_string());
    let planned = client.change(method, &format!("{path}?dry_run=true"), body).map_err(refused)?;
    if dry_run || planned["changed"] == false {
        let code = result(&if json { format!("{planned:#}") } else { text(&planned) });
        return if code == super::DONE { Ok(planned) } else { Err(code) };
    }
    if !json && !print::line(text(&planned).trim_end()) {
        return Err(failed("standard output cannot be written; nothing was changed"));
    }
    let done = client.change(method, path, body).map_err(refused)?;
    let said = if json {
        format!("{done:#}")
    } else if done["applied"] == true {
        format!("done: generation {}", done["intent_generation"]["after"])
    } else {
        format!("committed as generation {}: {}", done["intent_generation"]["after"], plain(&done["not_applied_because"]))
    };
    if print::line(said) { Ok(done) } else { Err(failed("standard output cannot be written; the change was made")) }
}

/// A plan in a few lines.
fn text(plan: &Value) -> String {
    let mut out = String::new();
    let each = |key: &str| plan[key].as_array().into_iter().flatten();
    let percent = |share: &Value| share.as_f64().map_or_else(|| "?".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    if plan["changed"] == false {
        return "nothing to do: nothing differs from what is there\n".to_owned();
    }
    // Writing into a String cannot fail.
    for backend in each("backends") {
        let (pool, name, change) = (plain(&backend["pool"]), plain(&backend["backend"]), plain(&backend["change"]));
        let share = match (&backend["share_before"], &backend["share_after"]) {
            (Value::Null, Value::Null) => String::new(),
            (before, after) => format!(": {} of new flows, then {}", percent(before), percent(after)),
        };
        let _ = writeln!(out, "{pool}/{name} {change}{share}");
    }
    for vip in each("vips") {
        let moved = match vip["moved"].as_u64() {
            Some(moved) => format!(
                "{moved} of {} rows move ({}), {} of them from backends that stay",
                vip["rows"],
                percent(&vip["moved_share"]),
                vip["moved_from_stayers"]
            ),
            None => "its table is a new one".to_owned(),
        };
        let change = if vip["change"] == "rows" { String::new() } else { format!("{}, ", plain(&vip["change"])) };
        let _ = writeln!(out, "VIP {} {}: {change}{moved}", plain(&vip["vip"]), plain(&vip["service"]));
    }
    for pool in each("running") {
        let _ = writeln!(out, "pool {}: {}", plain(&pool["pool"]), plain(&pool["promise"]));
    }
    for warning in each("warnings") {
        let _ = writeln!(out, "warning: {}: {}", plain(&warning["key"]), plain(&warning["message"]));
    }
    if plan["survives_restart"] == false {
        let _ = writeln!(out, "note: {}", plain(&plan["restart"]));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plan_is_a_few_clear_lines() {
        let plan = json!({
            "changed": true, "survives_restart": false, "restart": "only memory",
            "backends": [{"pool": "boot", "backend": "t1", "change": "drained", "share_before": 0.5, "share_after": 0.0}],
            "vips": [{"vip": "192.0.2.69", "service": "tftp", "pool": "boot", "change": "rows", "rows": 1009, "moved": 505, "moved_share": 0.5, "moved_from_stayers": 0}],
            "running": [{"pool": "boot", "transfers_affected": 0, "promise": "no running transfer moves"}],
            "warnings": [{"key": "pool.boot", "value": null, "message": "one is left"}],
        });
        let expected = "boot/t1 drained: 50.0 % of new flows, then 0.0 %\n\
            VIP 192.0.2.69 tftp: 505 of 1009 rows move (50.0 %), 0 of them from backends that stay\n\
            pool boot: no running transfer moves\nwarning: pool.boot: one is left\nnote: only memory\n";
        assert_eq!(text(&plan), expected);
        assert!(text(&json!({"changed": false})).starts_with("nothing to do"));
    }
}
