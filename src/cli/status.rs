//! `guideway status`: what a running director or TFTP server does.

mod tftpd;

use super::common::{failed, load, result};
use crate::control_client;
use serde_json::Value;
use std::fmt::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where they have their control sockets unless the configuration says otherwise.
const DIRECTORY: &str = "/run/guideway";

/// Show what a running director or TFTP server does: backends, drops and their reasons; transfers, failures, caches
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway status\n  guideway status d1 --json\n  guideway status --config /etc/guideway/director.toml")]
pub struct Args {
    /// Name of the director or server; needed only if several run here
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
        Ok(status) => result(&table(&status)),
        Err(error) => failed(&error.to_string()),
    }
}

/// The control socket that is meant, or the exit code when that cannot be said.
fn socket(args: &Args) -> Result<PathBuf, u8> {
    match (&args.socket, &args.config, &args.name) {
        (Some(socket), _, _) => Ok(socket.clone()),
        (_, Some(file), _) if is_tftpd(file) => tftpd::socket(file),
        (_, Some(file), _) => Ok(load(file)?.director.socket),
        (_, _, Some(name)) => Ok(Path::new(DIRECTORY).join(format!("{name}.sock"))),
        _ => only_one(Path::new(DIRECTORY)).map_err(|why| failed(&why)),
    }
}

/// Whether a file is that of a TFTP server. One that cannot be read is told of by either reader.
fn is_tftpd(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| crate::tftp::config::is_meant(&text))
}

/// The socket in `directory`, if there is just one.
fn only_one(directory: &Path) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    // What was killed, or had given up its privileges, leaves a socket behind at which nobody answers.
    let answers = |path: &PathBuf| path.extension().is_some_and(|e| e == "sock") && UnixStream::connect(path).is_ok();
    let mut sockets: Vec<PathBuf> = entries.filter(answers).collect();
    sockets.sort();
    match sockets.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(format!(
            "nobody answers at a control socket in {}; is a director or server running, and may you open its socket? One with a `socket` of its \
             own is found by --config or --socket",
            directory.display()
        )),
        several => {
            let names: Vec<_> = several.iter().filter_map(|path| path.file_stem()).map(|name| name.to_string_lossy()).collect();
            Err(format!("several run here, name one: {}", names.join(", ")))
        }
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
    rows(&mut out, &["VIP", "SERVICE", "POOL", "TABLE"], &status["vips"], &["vip", "service", "pool", "fingerprint"]);
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
    use std::os::unix::net::UnixListener;

    #[test]
    fn the_table_shows_backends_drops_and_the_last_refusal() {
        let status = json!({
            "name": "d1", "version": "0.1.0", "generation": 3, "uptime_seconds": 3725, "workers": 2,
            "io": {"kind": "af_packet", "interface": "eth0", "mode": "ring"},
            "vips": [{"vip": "192.0.2.69", "service": "tftp", "pool": "boot", "fingerprint": "00000000000000ff"}],
            "backends": [{"name": "t1", "pool": "boot", "address": "10.0.2.21", "weight": 100, "state": "active", "neighbour": "02:00:00:00:02:21",
                    "suspected_because": "three clients repeat"},
                {"name": "t2", "neighbour": "unresolved", "unresolved_because": "the kernel has no route to it"}],
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
            "t1 is suspected: three clients repeat",
        ] {
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn without_a_name_the_only_one_that_answers_is_meant() {
        let directory = tempfile::tempdir().unwrap();
        assert!(only_one(directory.path()).unwrap_err().contains("nobody answers"));
        let d1 = UnixListener::bind(directory.path().join("d1.sock")).unwrap();
        drop(UnixListener::bind(directory.path().join("killed.sock")).unwrap());
        assert!(only_one(directory.path()).unwrap().ends_with("d1.sock"));
        let d2 = UnixListener::bind(directory.path().join("d2.sock")).unwrap();
        assert!(only_one(directory.path()).unwrap_err().contains("d1, d2"));
        drop((d1, d2));
    }
}
