//! `guideway status`: what a running director, TFTP server or health controller does.

mod health;
mod tftpd;

use super::common::{failed, load, result};
use super::running::{DIRECTORY, only_one};
use guideway_config::Kind;
use guideway_daemon::client as control_client;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Show what a running director, TFTP server or health controller does: backends, drops and their reasons; transfers, failures, caches; checks
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway status\n  guideway status d1 --json\n  guideway status --config /etc/guideway/director.toml")]
pub struct Args {
    /// Name of the director, server or controller; needed only if several run here
    #[arg(conflicts_with_all = ["config", "socket"])]
    name: Option<String>,
    /// The one with this configuration file
    #[arg(long, value_name = "FILE", conflicts_with = "socket")]
    config: Option<PathBuf>,
    /// The one with this control socket
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the JSON document of the control socket
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let socket = match socket(args) {
        Ok(socket) => socket,
        Err(code) => return code,
    };
    match control_client::get(&socket, "/v1/status") {
        Ok(status) if args.json => result(&format!("{status:#}")),
        Ok(status) if status["kind"] == "tftpd" => result(&tftpd::table(&status)),
        Ok(status) if status["kind"] == "health" => result(&health::table(&status)),
        Ok(status) => result(&table(&status)),
        Err(error) => failed(&error.to_string()),
    }
}

/// The control socket that is meant, or the exit code when that cannot be said.
fn socket(args: &Args) -> Result<PathBuf, u8> {
    match (&args.socket, &args.config, &args.name) {
        (Some(socket), _, _) => Ok(socket.clone()),
        // A file that cannot be read is told of by any reader.
        (_, Some(file), _) => match Kind::of_text(&std::fs::read_to_string(file).unwrap_or_default()) {
            Some(Kind::Health) => health::socket(file),
            Some(Kind::Server) => tftpd::socket(file),
            Some(Kind::Director) | None => Ok(load(file)?.director.socket),
        },
        (_, _, Some(name)) => Ok(Path::new(DIRECTORY).join(format!("{name}.sock"))),
        _ => only_one(Path::new(DIRECTORY), |_| true).map_err(|why| failed(&why)),
    }
}

/// The status for people.
fn table(status: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "{} (guideway {}), generation {}, up {}, {} on {} ({}), {} worker(s)",
        text(&status["name"]),
        text(&status["version"]),
        status["generation"],
        uptime(status["uptime_seconds"].as_u64().unwrap_or(0)),
        text(&status["io"]["kind"]),
        text(&status["io"]["interface"]),
        text(&status["io"]["mode"]),
        status["workers"],
    );
    let known: Vec<&str> = status["key"]["known"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let active = status["key"]["active"].as_str().unwrap_or_default();
    let others: Vec<&str> = known.into_iter().filter(|id| *id != active).collect();
    let also = if others.is_empty() { String::new() } else { format!(" (also known: {})", others.join(", ")) };
    let _ = writeln!(out, "key id {active}{also}");
    let store = &status["store"];
    if let Some(why) = store["stale"]["why"].as_str() {
        let _ = writeln!(
            out,
            "the {} store is away since {:.0} s, the last set stands: {why}",
            text(&store["kind"]),
            store["stale"]["seconds"].as_f64().unwrap_or(0.0)
        );
    }
    if let Some(why) = store["refused"].as_str() {
        let _ = writeln!(out, "the set of generation {} was refused: {why}", store["generation"]);
    }
    let reload = &status["reload"];
    if reload["last_error"].is_string() {
        let _ = writeln!(out, "the last reload was refused:");
        text(&reload["last_error"]).lines().for_each(|line| {
            let _ = writeln!(out, "  {line}");
        });
    }
    let (mut titles, mut keys) = (vec!["VIP", "SERVICE", "POOL", "TABLE"], vec!["vip", "service", "pool", "fingerprint"]);
    if status["vips"][0]["announced"].is_boolean() {
        titles.push("ANNOUNCED");
        keys.push("announced");
    }
    rows(&mut out, &titles, &status["vips"], &keys);
    let mut told = BTreeSet::new();
    for vip in status["vips"].as_array().into_iter().flatten() {
        if let Some(why) = vip["not_announced_because"].as_str()
            && told.insert(vip["vip"].as_str())
        {
            let _ = writeln!(out, "{} is not announced: {why}", text(&vip["vip"]));
        }
    }
    rows(
        &mut out,
        &["BACKEND", "POOL", "ADDRESS", "WEIGHT", "STATE", "NEIGHBOUR"],
        &status["backends"],
        &["name", "pool", "address", "weight", "state", "neighbour"],
    );
    for backend in status["backends"].as_array().into_iter().flatten() {
        if let Some(why) = backend["unresolved_because"].as_str() {
            let _ = writeln!(out, "{} is unresolved: {why}", text(&backend["name"]));
        }
        if let Some(why) = backend["suspected_because"].as_str() {
            let _ = writeln!(out, "{} is suspected: {why}", text(&backend["name"]));
        }
    }
    for director in status["other_site"].as_array().into_iter().flatten() {
        let _ = match director["unresolved_because"].as_str() {
            Some(why) => writeln!(out, "other site: {} is unresolved: {why}", text(&director["address"])),
            None => writeln!(out, "other site: {} by {}", text(&director["address"]), text(&director["neighbour"])),
        };
    }
    for (name, running) in status["draining"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{name} gets nothing new; still running there: {running}");
    }
    let _ = writeln!(out);
    for (name, value) in status["counters"].as_object().into_iter().flatten() {
        match value.as_object() {
            None => {
                let _ = writeln!(out, "{name:<28} {value:>14}");
            }
            Some(reasons) => reasons.iter().for_each(|(reason, count)| {
                let _ = writeln!(out, "{:<28} {count:>14}", format!("{name}: {reason}"));
            }),
        }
    }
    out
}

/// One line for each entry of a list, in columns.
fn rows(out: &mut String, titles: &[&str], list: &Value, keys: &[&str]) {
    let cell = |entry: &Value, key: &&str| entry[*key].as_str().map_or_else(|| entry[*key].to_string(), str::to_owned);
    let mut lines: Vec<Vec<String>> = vec![titles.iter().map(ToString::to_string).collect()];
    lines.extend(list.as_array().into_iter().flatten().map(|entry| keys.iter().map(|key| cell(entry, key)).collect()));
    let width = |column: usize| lines.iter().filter_map(|line| line.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let _ = writeln!(out);
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
}

/// `3 d 4 h`, `5 min 6 s`
fn uptime(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_shows_backends_drops_and_the_last_refusal() {
        let status = json!({
            "name": "d1", "version": "0.1.0", "generation": 3, "uptime_seconds": 3725, "workers": 2,
            "io": {"kind": "af_packet", "interface": "eth0", "mode": "ring"},
            "vips": [{"vip": "192.0.2.69", "service": "tftp", "pool": "boot", "fingerprint": "00000000000000ff"}],
            "backends": [{"name": "t1", "pool": "boot", "address": "10.0.2.21", "weight": 100, "state": "active", "neighbour": "02:00:00:00:02:21",
                    "suspected_because": "three clients repeat"},
                {"name": "t2", "neighbour": "unresolved", "unresolved_because": "the kernel has no route to it"}],
            "draining": {"boot/t2": 3},
            "counters": {"received": 10, "dropped": {"not_tftp": 4}},
            "reload": {"accepted": 1, "refused": 1, "last_error": "boot.toml:3: no"},
        });
        let shown = table(&status);
        for part in [
            "d1 (guideway 0.1.0), generation 3, up 1 h 2 min",
            "refused:\n  boot.toml:3: no",
            "dropped: not_tftp",
            "t1       boot",
            "t2 is unresolved: the kernel has no route to it",
            "boot/t2 gets nothing new; still running there: 3",
            "t1 is suspected: three clients repeat",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn a_director_that_announces_says_what_and_why_not() {
        let row = |vip: &str, service: &str, why: Option<&str>| json!({"vip": vip, "service": service, "pool": "p", "fingerprint": "00ff", "announced": why.is_none(), "not_announced_because": why});
        let why = Some("its service is paused");
        let mut status = json!({
            "vips": [row("192.0.2.53", "udp/53", why), row("192.0.2.53", "tcp/53", why), row("192.0.2.69", "tftp", None)]
        });
        let shown = table(&status);
        let columns: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        for line in [
            ["VIP", "SERVICE", "POOL", "TABLE", "ANNOUNCED"],
            ["192.0.2.53", "udp/53", "p", "00ff", "false"],
            ["192.0.2.69", "tftp", "p", "00ff", "true"],
        ] {
            assert!(columns.iter().any(|columns| columns == &line), "{line:?} in\n{shown}");
        }
        assert_eq!(shown.matches("192.0.2.53 is not announced: its service is paused\n").count(), 1, "once for its two services:\n{shown}");
        for row in status["vips"].as_array_mut().unwrap() {
            (row["announced"], row["not_announced_because"]) = (Value::Null, Value::Null);
        }
        assert!(!table(&status).to_lowercase().contains("announced"), "nothing of it where nothing is announced");
    }
}
