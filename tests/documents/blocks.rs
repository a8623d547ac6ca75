//! The generated blocks of the guides: what stands between `<!-- generated: NAME -->` and `<!-- end -->`.

use super::crates::{graph, replace_block};
use super::markdown::table;
use super::root;
use clap::Arg;
use guideway_api::event_kinds::event_kinds;
use guideway_config::keys::{DIRECTOR, HEALTH, STORE, Section};
use guideway_control::{DirectorInfo, Status as DirectorStatus};
use guideway_daemon::metrics::MetricKind;
use guideway_health::controller::Controller;
use guideway_packet::loss::Loss;
use guideway_packet::verdict::Reason;
use guideway_tftp::report::Statistics;
use guideway_tftp::takeover::checkpoint_store::Limits;
use guideway_tftpd::config::keys::SERVER;
use guideway_tftpd::status::Status as ServerStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Returns a document with all its blocks made anew.
pub fn regenerated(text: &str) -> Result<String, String> {
    let names = text.split("<!-- generated: ").skip(1).map(|rest| rest.split(" -->").next().unwrap_or_default());
    names.map(str::to_owned).try_fold(text.to_owned(), |text, name| replace_block(&text, &name, &content(&name)?))
}

/// Returns what a block holds.
fn content(name: &str) -> Result<String, String> {
    let (kind, of) = name.split_once(' ').unwrap_or((name, ""));
    let content = match (kind, of) {
        ("keys", "director") => keys(DIRECTOR),
        ("keys", "store") => keys(STORE),
        ("keys", "health") => keys(HEALTH),
        ("keys", "tftpd") => keys(SERVER),
        ("reasons", "") => reasons(),
        ("events", "") => events(),
        ("flags", command) => flags(command)?,
        ("crates", "") => graph(&root().join("Cargo.toml"))?,
        ("metrics", daemon) => metrics(daemon)?,
        _ => return Err(format!("nothing generates a block {name:?}")),
    };
    Ok(content)
}

fn keys(sections: &[Section]) -> String {
    let row = |section: &Section| {
        section
            .keys
            .iter()
            .map(|key| [format!("`{}`", section.full_name(key)), key.default.to_owned(), section.describe(key)])
            .collect::<Vec<_>>()
    };
    table(["Key", "Default", "Description"], sections.iter().flat_map(row))
}

fn reasons() -> String {
    let mut last = "";
    let losses = Loss::ALL.iter().map(|loss| ["lost before", loss.name(), loss.explain()]);
    let reasons = losses.chain(Reason::ALL.iter().map(|reason| [reason.stage(), reason.name(), reason.explain()]));
    let row = |[stage, name, explain]: [&'static str; 3]| {
        let shown = if stage == last { "" } else { stage };
        last = stage;
        [shown.to_owned(), format!("`{name}`"), explain.to_owned()]
    };
    table(["Stage", "Reason", "Description"], reasons.map(row))
}

fn events() -> String {
    let rows = event_kinds().into_iter().map(|kind| {
        let changes: Vec<String> = kind.changes.iter().map(|change| format!("`{change}`")).collect();
        let changes = if changes.is_empty() { String::new() } else { format!(" Changes: {}", changes.join(", ")) };
        [format!("`{}`", kind.event), kind.description + &changes]
    });
    table(["Event", "Description"], rows)
}

/// Returns a row for each metric that a daemon exports.
fn metrics(daemon: &str) -> Result<String, String> {
    let started = Instant::now();
    let exposition = match daemon {
        "director" => {
            let (interface, mode) = (String::new(), String::new());
            let info =
                DirectorInfo { name: String::new(), kind: "", interface, mode, cpus: Vec::new(), instance: Default::default(), started };
            guideway_control::metrics::exposition(&DirectorStatus::new(info, Vec::new(), None))
        }
        "health" => guideway_health::daemon::exposition("", "", Duration::ZERO, &Default::default(), &Controller::new(1, 0)),
        "tftpd" => {
            let status = ServerStatus {
                maintenance: guideway_tftpd::status::MaintenanceState::default(),
                name: String::new(),
                listen: Vec::new(),
                tids: Vec::new(),
                http: Vec::new(),
                loops: 1,
                capacity: 0,
                statistics: Statistics::new(Vec::new()),
                caches: Default::default(),
                checkpoints: Some((Limits::default(), Arc::default())),
                started,
                transfers: Default::default(),
                reports: Default::default(),
                requests: Default::default(),
                reloads: Default::default(),
            };
            status.exposition()
        }
        _ => return Err(format!("no daemon is called {daemon:?}")),
    };
    let row = |(name, kind, help): (&str, MetricKind, &str)| [format!("`{name}`"), kind.name().to_owned(), help.to_owned()];
    Ok(table(["Metric", "Type", "Description"], exposition.described().map(row)))
}

fn flags(command: &str) -> Result<String, String> {
    let mut cli = guideway::command();
    cli.build();
    let found = cli.find_subcommand(command).ok_or_else(|| format!("guideway has no command {command}"))?;
    let shown = found.get_arguments().filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"));
    Ok(table(["Flag", "Default", "Description"], shown.map(flag)))
}

fn flag(arg: &Arg) -> [String; 3] {
    let takes_value = arg.get_action().takes_values();
    let value = arg.get_value_names().filter(|_| takes_value).map(|names| names.join(" ")).unwrap_or_default();
    let name =
        arg.get_long().map_or(value.clone(), |long| if value.is_empty() { format!("--{long}") } else { format!("--{long} {value}") });
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    // Flags that a file may set have no default of clap: their help ends with it.
    let by_help = ["Default: ", "default: "].iter().find_map(|mark| help.rsplit_once(mark));
    let (description, default) = match by_help {
        Some((description, default)) => {
            (description.trim_end_matches([' ', ';', '.', '[']).to_owned(), default.trim_end_matches(['.', ']']).to_owned())
        }
        None => {
            let values: Vec<String> = arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
            (help.trim_end_matches('.').to_owned(), if takes_value { values.join(" ") } else { String::new() })
        }
    };
    [format!("`{name}`"), default, description]
}
