//! `guideway status`: the status of a running director, TFTP server or health controller.

mod format;
mod health;
mod selection;
mod tftpd;

use super::common::{failed, load, print_result};
use super::print;
use super::target::{DIRECTORY, DirectorArgs, single_socket};
use format::{line, numbers, rows, uptime};
use guideway_api::Status;
use guideway_api::backend::BackendSummary;
use guideway_api::counters::Counters;
use guideway_api::status::DirectorStatus;
use guideway_api::vip::AnnouncedVip;
use guideway_config::FileKind;
use guideway_daemon::client::Client;
use selection::{Row, Selection, more, reasons};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Show the status of a running director (backends, drops by reason), TFTP server (transfers, failures, caches) or health controller (checks)
///
/// Backends in trouble come first: down, unresolved, suspected, unknown.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guideway status\n  guideway status d1 --state trouble\n  guideway status --config /etc/guideway/director.toml --json\n  \
    guideway status --url https://d1.example:9443 --token-file token --pool boot"
)]
pub struct Args {
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    selection: Selection,
    /// Print the JSON document of the daemon
    #[arg(long)]
    json: bool,
}

/// Selects a daemon.
#[derive(Debug, clap::Args)]
pub(super) struct DaemonArgs {
    /// Name of the director, server or controller; needed only if several run here
    #[arg(conflicts_with_all = ["config", "socket", "url", "director"])]
    name: Option<String>,
    /// The one with this configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["socket", "url", "director"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    director: DirectorArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let client = match client(&args.daemon) {
        Ok(client) => client,
        Err(code) => return code,
    };
    if args.json && !args.selection.is_given() {
        return match client.get::<Value>("/v1/status") {
            Ok(status) => print_result(&print::json(&status)),
            Err(error) => failed(&error.to_string()),
        };
    }
    let selection = &args.selection;
    match client.get("/v1/status") {
        Ok(Status::Tftpd(_)) if selection.is_some() => failed("a TFTP server has no backends to select"),
        Ok(Status::Tftpd(status)) => print_result(&if args.json { print::json(&status) } else { tftpd::table(&status) }),
        Ok(Status::Health(mut status)) => {
            let summary = selection.apply(&mut status.checking.backends);
            if args.json {
                selection.truncate(&mut status.checking.backends);
                return print_result(&print::json(&status));
            }
            print_result(&health::table(&status, &summary, selection))
        }
        Ok(Status::Director(mut status)) => {
            let summary = selection.apply(&mut status.backends);
            if args.json {
                selection.truncate(&mut status.backends);
                return print_result(&print::json(&status));
            }
            print_result(&table(&status, &summary, selection))
        }
        Err(error) => failed(&error.to_string()),
    }
}

/// Returns the client of the requested daemon, or the exit code.
pub(super) fn client(args: &DaemonArgs) -> Result<Client, u8> {
    let socket = match (&args.config, &args.name) {
        // Each reader reports an unreadable file.
        (Some(file), _) => match FileKind::of_text(&std::fs::read_to_string(file).unwrap_or_default()) {
            Some(FileKind::Health) => health::socket(file)?,
            Some(FileKind::Server) => tftpd::socket(file)?,
            Some(FileKind::Director) | None => load(file)?.director.socket,
        },
        (_, Some(name)) => Path::new(DIRECTORY).join(format!("{name}.sock")),
        _ if args.director.is_given() => return args.director.client(),
        _ => single_socket(Path::new(DIRECTORY), |_| true).map_err(|why| failed(&why))?,
    };
    Ok(Client::Socket(socket))
}

/// Formats the status; `summary` is about all backends.
fn table(status: &DirectorStatus, summary: &str, selection: &Selection) -> String {
    let mut out = head(status);
    let announces = status.vips.first().is_some_and(|vip| vip.announced.is_some());
    let mut titles = vec!["VIP", "SERVICE", "POOL", "TABLE"];
    titles.extend(announces.then_some("ANNOUNCED"));
    let mut vips: Vec<&AnnouncedVip> = status.vips.iter().collect();
    vips.sort_by_key(|vip| vip.announced != Some(false));
    let shown = selection.limit(vips.len());
    let vip_rows = vips.iter().take(shown).map(|vip| {
        let cells = [vip.vip.to_string(), vip.service.clone(), vip.pool.clone(), vip.fingerprint.clone()];
        cells.into_iter().chain(vip.announced.map(|announced| announced.to_string())).collect()
    });
    rows(&mut out, &titles, vip_rows);
    more(&mut out, shown, vips.len());
    let mut reported = BTreeSet::new();
    let not_announced = vips.iter().filter_map(|vip| Some((vip.vip, vip.not_announced_because.as_deref()?)));
    let not_announced: Vec<(String, &str)> =
        not_announced.filter(|(vip, _)| reported.insert(*vip)).map(|(vip, why)| (vip.to_string(), why)).collect();
    for (vip, why) in not_announced.iter().take(shown) {
        line(&mut out, format_args!("{vip} is not announced: {why}"));
    }
    out.push('\n');
    line(&mut out, summary);
    let shown = selection.limit(status.backends.len());
    let backends = status.backends.iter().take(shown).map(|backend| {
        let (address, weight, state) = (backend.address.to_string(), backend.weight.to_string(), backend.states().join(", "));
        vec![backend.name.clone(), backend.pool.clone(), address, weight, state, backend.neighbour.clone()]
    });
    rows(&mut out, &["BACKEND", "POOL", "ADDRESS", "WEIGHT", "STATE", "NEIGHBOUR"], backends);
    more(&mut out, shown, status.backends.len());
    let because = |why: fn(&BackendSummary) -> Option<&String>| {
        status.backends.iter().filter_map(move |backend| Some((backend.name.as_str(), why(backend)?.as_str())))
    };
    reasons(&mut out, "unresolved", because(|backend| backend.unresolved_because.as_ref()));
    reasons(&mut out, "suspected", because(|backend| backend.suspected_because.as_ref()));
    reasons(&mut out, "unknown", because(|backend| backend.unknown_because.as_ref()));
    for director in &status.remote_site {
        match &director.unresolved_because {
            Some(why) => line(&mut out, format_args!("remote site: {} is unresolved: {why}", director.address)),
            None => line(&mut out, format_args!("remote site: {} by {}", director.address, director.neighbour)),
        }
    }
    let selected: BTreeSet<String> = status.backends.iter().map(|backend| format!("{}/{}", backend.pool, backend.name)).collect();
    let draining: Vec<_> = status.draining.iter().filter(|(name, _)| selected.contains(*name)).collect();
    let shown = selection.limit(draining.len());
    for (name, running) in draining.iter().take(shown) {
        line(&mut out, format_args!("{name} gets nothing new; still running there: {running}"));
    }
    more(&mut out, shown, draining.len());
    out.push('\n');
    let lost = status.io.lost.iter().map(|(reason, count)| (format!("lost before: {reason}"), *count));
    out.push_str(&numbers(counters(&status.counters).into_iter().chain(lost).collect::<Vec<_>>()));
    out
}

/// Formats the lines about the process: name, keys, store, last reload.
fn head(status: &DirectorStatus) -> String {
    let mut out = String::new();
    let (io, uptime) = (&status.io, uptime(status.uptime_seconds));
    line(
        &mut out,
        format_args!(
            "{} (guideway {}), generation {}, up {uptime}, {} on {} ({}), {} worker(s)",
            status.name, status.version, status.generation, io.kind, io.interface, io.mode, status.workers,
        ),
    );
    let (active, others) = status.key.as_ref().map(|key| (key.active.as_deref().unwrap_or_default(), key.others())).unwrap_or_default();
    let also = if others.is_empty() { String::new() } else { format!(" (also known: {})", others.join(", ")) };
    line(&mut out, format_args!("key id {active}{also}"));
    if status.maintenance {
        line(&mut out, format_args!("in maintenance: its VIPs are withdrawn, and it forwards what still comes"));
    }
    if let Some(why) = &io.trouble {
        line(&mut out, format_args!("the io does not receive all packets, so all VIPs are withdrawn: {why}"));
    }
    for problem in &status.host_problems {
        line(&mut out, format_args!("host: {problem}"));
    }
    if let Some(stale) = &status.store.stale {
        let (kind, seconds, trouble) = (&status.store.kind, stale.seconds, stale.reason.text());
        line(&mut out, format_args!("the {kind} store {trouble} for {seconds:.0} s, the last good state stands: {}", stale.why));
    }
    for other in &status.disagreements {
        line(&mut out, format_args!("{} disagrees: {}", other.director, other.why));
    }
    match (&status.health.leader, status.health.age_seconds) {
        (Some(leader), Some(_)) => line(&mut out, format_args!("health by {leader}")),
        (None, Some(age)) => {
            line(&mut out, format_args!("no health controller is seen since {age:.0} s: backends keep their last state"));
        }
        (_, None) => {}
    }
    if let Some(why) = &status.store.refused {
        line(&mut out, format_args!("the cluster state of generation {} was refused: {why}", status.store.generation));
    }
    if let Some(error) = &status.reload.last_error {
        line(&mut out, "the last reload was refused:");
        out.push_str(&print::indented(error));
    }
    out
}

/// Returns each counter and each reason of dropped packets.
fn counters(counters: &Counters) -> Vec<(String, u64)> {
    let dropped = counters.dropped.iter().map(|(reason, count)| (format!("dropped: {reason}"), *count));
    counters.each().into_iter().map(|(name, count)| (name.to_owned(), count)).chain(dropped).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(vips: Value) -> DirectorStatus {
        let status = json!({
            "kind": "director", "name": "d1", "version": "0.1.0", "generation": 3, "published": 3, "tables_built": 1, "ready": true,
            "store": {"kind": "memory", "generation": 3}, "health": {"leader": null, "age_seconds": 12.5}, "uptime_seconds": 3725, "workers": 2, "per_worker": [], "remote_site": [],
            "io": {"kind": "af_packet", "interface": "eth0", "mode": "ring", "lost": {"ring_full": 12}, "counts": {}},
            "key": {"active": "00ff", "known": ["00ff", "11ee"]},
            "vips": vips,
            "backends": [
                {"name": "t1", "pool": "boot", "address": "10.0.2.21", "weight": 100, "state": "active", "neighbour": "02:00:00:00:02:21",
                 "suspected_because": "three clients repeat"},
                {"name": "t2", "pool": "boot", "address": "10.0.2.22", "weight": 100, "state": "down", "neighbour": "unresolved",
                 "unresolved_because": "the kernel has no route to it"},
            ],
            "draining": {"boot/t2": 3},
            "counters": Counters { received: 10, dropped: [("not_tftp".to_owned(), 4)].into(), ..Counters::default() },
            "flows": {"used": 1, "capacity": 2},
            "host_problems": ["10.0.1.11 is on no interface"],
            "reload": {"accepted": 1, "refused": 1, "last_error": "boot.toml:3: no"},
        });
        match serde_json::from_value(status).unwrap() {
            Status::Director(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    fn table(status: &DirectorStatus) -> String {
        let (mut status, selection) = (status.clone(), Selection::default());
        let summary = selection.apply(&mut status.backends);
        super::table(&status, &summary, &selection)
    }

    #[test]
    fn the_table_shows_backends_drops_and_the_last_refusal() {
        let shown = table(&status(json!([{"vip": "192.0.2.69", "service": "tftp", "pool": "boot", "fingerprint": "00000000000000ff"}])));
        for part in [
            "d1 (guideway 0.1.0), generation 3, up 1 h 2 min",
            "key id 00ff (also known: 11ee)",
            "refused:\n  boot.toml:3: no",
            "dropped: not_tftp",
            "host: 10.0.1.11 is on no interface",
            "t1       boot",
            "t2 is unresolved: the kernel has no route to it",
            "boot/t2 gets nothing new; still running there: 3",
            "t1 is suspected: three clients repeat",
            "active, suspected",
            "no health controller is seen since 12 s",
            "2 backends: 1 active, 1 down, 1 suspected, 1 unresolved",
        ] {
            assert!(shown.find("t2       boot") < shown.find("t1       boot"), "trouble first:\n{shown}");
            assert!(shown.contains(part), "{part} in\n{shown}");
        }
    }

    #[test]
    fn a_director_that_announces_says_what_and_why_not() {
        let row = |vip: &str, service: &str, why: Option<&str>| json!({"vip": vip, "service": service, "pool": "p", "fingerprint": "00ff", "announced": why.is_none(), "not_announced_because": why});
        let why = Some("its service is paused");
        let mut status =
            status(json!([row("192.0.2.53", "udp/53", why), row("192.0.2.53", "tcp/53", why), row("192.0.2.69", "tftp", None)]));
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
        for vip in &mut status.vips {
            (vip.announced, vip.not_announced_because) = (None, None);
        }
        assert!(!table(&status).to_lowercase().contains("announced"), "nothing of it where nothing is announced");
    }
}
