//! `guideway backends`: the backends of a running director, their state and share.

use super::common::{columns, failed, part, plain, query, result};
use super::running::DirectorArgs;
use guideway_daemon::client::Client;
use serde_json::{Value, json};

/// Show the backends of a running director: state, weight, share of new flows, what still runs on those that are drained
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway backends\n  guideway backends t1 --pool boot --json")]
pub struct Args {
    /// Only the backends of this name, with what is known of their health
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
    let found: Vec<Value> = match &args.name {
        Some(name) => match named(&found, name) {
            Ok(found) => found,
            Err(why) => return failed(&why),
        },
        None => found,
    };
    if args.json {
        return result(&format!("{:#}", json!({"backends": found})));
    }
    result(&table(&found))
}

/// The backends, of one pool or all.
pub(super) fn all(client: &Client, pool: Option<&str>) -> Result<Vec<Value>, String> {
    let path = pool.map_or_else(|| "/v1/backends".to_owned(), |pool| format!("/v1/backends?{}", query(&[("pool", pool)])));
    let document = client.get(&path).map_err(|error| error.to_string())?;
    Ok(document["backends"].as_array().cloned().unwrap_or_default())
}

/// Those of a name.
fn named(all: &[Value], name: &str) -> Result<Vec<Value>, String> {
    let found: Vec<Value> = all.iter().filter(|backend| backend["name"] == name).cloned().collect();
    if found.is_empty() {
        let known = all.iter().filter_map(|backend| backend["name"].as_str());
        return Err(format!("there is no backend {name}{}", guideway_config::text::did_you_mean(name, known)));
    }
    Ok(found)
}

/// The path of the one backend that is meant: a name that several pools have needs the pool.
pub(super) fn path(client: &Client, name: &str, pool: Option<&str>) -> Result<String, String> {
    let found = named(&all(client, pool)?, name)?;
    let mut pools: Vec<&str> = found.iter().filter_map(|backend| backend["pool"].as_str()).collect();
    pools.dedup();
    match pools.as_slice() {
        [pool] => Ok(format!("/v1/pools/{}/backends/{}", part(pool), part(name))),
        several => Err(format!("several pools have a backend {name}; say which by --pool: {}", several.join(", "))),
    }
}

fn table(backends: &[Value]) -> String {
    let head = ["backend", "pool", "address", "weight", "state", "share", "running", "neighbour"].map(str::to_owned);
    let mut rows = vec![head];
    let percent = |share: &Value| share.as_f64().map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
    rows.extend(backends.iter().map(|backend| {
        let text = |key: &str| plain(&backend[key]);
        let running = backend["running"].as_u64().map_or_else(|| "-".to_owned(), |running| running.to_string());
        let share = percent(&backend["share"]);
        [text("name"), text("pool"), text("address"), text("weight"), text("state"), share, running, text("neighbour")]
    }));
    let mut out = columns(&rows);
    for backend in backends {
        let name = plain(&backend["name"]);
        if let Some(why) = backend["unresolved_because"].as_str() {
            out.push_str(&format!("{name} is unresolved: {why}\n"));
        }
        if let Some(why) = backend["health"]["why"].as_str() {
            out.push_str(&format!("{name} is {}: {why}\n", plain(&backend["health"]["state"])));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_share_and_what_still_runs() {
        let backends = [
            json!({"name": "t1", "pool": "boot", "address": "10.0.2.21", "weight": 100, "state": "active", "share": 0.5, "running": null, "neighbour": "x"}),
            json!({"name": "t2", "pool": "boot", "address": "10.0.2.22", "weight": 100, "state": "down", "share": 0.0, "running": 3,
                   "neighbour": "x", "health": {"state": "down", "why": "silent"}}),
        ];
        let shown = table(&backends);
        let words: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["t1", "boot", "10.0.2.21", "100", "active", "50.0", "%", "-", "x"]);
        assert_eq!(words[2], ["t2", "boot", "10.0.2.22", "100", "down", "0.0", "%", "3", "x"]);
        assert!(shown.ends_with("t2 is down: silent\n"));
        assert!(named(&backends, "t3").unwrap_err().contains("did you mean \"t"), "{:?}", named(&backends, "t3"));
    }
}
