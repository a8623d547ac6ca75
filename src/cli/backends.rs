//! `guideway backends`: the backends of a running director, their state and share.

use super::common::{encode_component, failed, print_result, query};
use super::print::{columns, json};
use super::target::DirectorArgs;
use guideway_api::backend::{BackendStatus, Backends, HealthState};
use guideway_daemon::client::Client;

/// Show the backends of a running director: state, weight, share of new flows, running transfers of drained backends
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway backends\n  guideway backends t1 --pool boot --json")]
pub struct Args {
    /// Only the backends of this name, with their health
    #[arg(value_name = "BACKEND")]
    name: Option<String>,
    /// Only those of this pool
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Print the JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    director: DirectorArgs,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let client = match args.director.client() {
        Ok(client) => client,
        Err(code) => return code,
    };
    let found = match all(&client, args.pool.as_deref()) {
        Ok(all) => all,
        Err(why) => return failed(&why),
    };
    let found = match &args.name {
        Some(name) => match named(&found, name) {
            Ok(found) => found,
            Err(why) => return failed(&why),
        },
        None => found,
    };
    if args.json {
        return print_result(&json(&Backends { backends: found }));
    }
    print_result(&table(&found, args.name.is_some()))
}

/// Returns the backends of one pool or of all.
pub(super) fn all(client: &Client, pool: Option<&str>) -> Result<Vec<BackendStatus>, String> {
    let path = pool.map_or_else(|| "/v1/backends".to_owned(), |pool| format!("/v1/backends?{}", query(&[("pool", pool)])));
    client.get::<Backends>(&path).map(|document| document.backends).map_err(|error| error.to_string())
}

/// Returns the backends with this name.
fn named(all: &[BackendStatus], name: &str) -> Result<Vec<BackendStatus>, String> {
    let found: Vec<BackendStatus> = all.iter().filter(|backend| backend.name == name).cloned().collect();
    if found.is_empty() {
        let known = all.iter().map(|backend| backend.name.as_str());
        return Err(format!("there is no backend {name}{}", guideway_config::text::did_you_mean(name, known)));
    }
    Ok(found)
}

/// Returns the path of a backend. A name that several pools have needs the pool.
pub(super) fn path(client: &Client, name: &str, pool: Option<&str>) -> Result<String, String> {
    let found = named(&all(client, pool)?, name)?;
    let mut pools: Vec<&str> = found.iter().map(|backend| backend.pool.as_str()).collect();
    pools.dedup();
    match pools.as_slice() {
        [pool] => Ok(format!("/v1/pools/{}/backends/{}", encode_component(pool), encode_component(name))),
        several => Err(format!("several pools have a backend {name}; say which by --pool: {}", several.join(", "))),
    }
}

/// Returns the state, and that nobody knows whether the backend works.
fn state(backend: &BackendStatus) -> String {
    let unknown = backend.health.as_ref().is_some_and(|health| health.state == HealthState::Unknown);
    format!("{}{}", backend.state, if unknown { ", unknown" } else { "" })
}

/// Formats backends; `every` is whether to explain also the health of those that are up.
fn table(backends: &[BackendStatus], every: bool) -> String {
    let mut rows = vec![["backend", "pool", "address", "weight", "state", "share", "running", "neighbour"].map(str::to_owned)];
    rows.extend(backends.iter().map(|backend| {
        [
            backend.name.clone(),
            backend.pool.clone(),
            backend.address.to_string(),
            backend.weight.to_string(),
            state(backend),
            backend.share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share)),
            backend.running.map_or_else(|| "-".to_owned(), |running| running.to_string()),
            backend.neighbour.clone().unwrap_or_default(),
        ]
    }));
    let mut out = columns(&rows, &[]);
    for backend in backends {
        if let Some(why) = &backend.unresolved_because {
            out.push_str(&format!("{} is unresolved: {why}\n", backend.name));
        }
        if let Some(health) = backend.health.as_ref().filter(|health| every || health.state != HealthState::Up) {
            out.push_str(&format!("{} is {}: {}\n", backend.name, health.state, health.why));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_shows_share_and_what_still_runs() {
        let Backends { backends } = serde_json::from_value(json!({"backends": [
            {"name": "t1", "pool": "boot", "address": "10.0.2.21", "weight": 100, "state": "active", "share": 0.5, "running": null, "neighbour": "x"},
            {"name": "t2", "pool": "boot", "address": "10.0.2.22", "weight": 100, "state": "down", "share": 0.0, "running": 3,
             "neighbour": "x", "health": {"state": "down", "since": 0, "why": "silent"}},
        ]}))
        .unwrap();
        let shown = table(&backends, false);
        let words: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["t1", "boot", "10.0.2.21", "100", "active", "50.0", "%", "-", "x"]);
        assert_eq!(words[2], ["t2", "boot", "10.0.2.22", "100", "down", "0.0", "%", "3", "x"]);
        assert!(shown.ends_with("t2 is down: silent\n"));
        let mut unknown = backends[1].clone();
        unknown.health.as_mut().unwrap().state = HealthState::Unknown;
        assert!(table(&[unknown], false).contains("down, unknown"), "what is not known is not called up or down alone");
        assert!(named(&backends, "t3").unwrap_err().contains("did you mean \"t"), "{:?}", named(&backends, "t3"));
    }
}
