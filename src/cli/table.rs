//! `guideway table`: the Maglev tables of a configuration, and what it would cost to lose a backend.

use super::common::{bad, load_with_vips, result};
use guideway_config::{Config, Pool};
use guideway_dataplane::maglev::Table;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Show the Maglev table of every VIP: fingerprint, entries and share of each backend.
///
/// All directors of a fleet show the same fingerprints, whatever the order in their files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway table --config boot.toml\n  guideway table --config boot.toml --without t2 --json")]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Say how many entries of the other backends would move if this one were not there; POOL/BACKEND if several pools have one of this name.
    #[arg(long, value_name = "BACKEND")]
    without: Option<String>,
    /// Print one JSON array, with an object for each VIP.
    #[arg(long)]
    json: bool,
}

/// A pool's table, and the one without a backend.
struct Tables {
    table: Table,
    without: Option<(String, Table)>,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let config = match load_with_vips(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let mut tables = Vec::with_capacity(config.pools.len());
    for pool in &config.pools {
        match build(pool, &config, args.without.as_deref()) {
            Ok(built) => tables.push(built),
            Err(message) => return bad(&message),
        }
    }
    if let Some(name) = &args.without
        && tables.iter().all(|tables| tables.without.is_none())
    {
        let known: Vec<_> = config.pools.iter().flat_map(|p| p.backends.iter().map(move |b| format!("{}/{}", p.name, b.name))).collect();
        return bad(&format!("--without {name}: no pool has a backend of this name; there are {}", known.join(", ")));
    }
    let of = |vip: &guideway_config::Vip| config.pools.iter().position(|pool| pool.name == vip.pool).map(|at| &tables[at]);
    if args.json {
        let vips: Vec<Value> = config.vips.iter().filter_map(|vip| Some(document(vip, of(vip)?))).collect();
        return result(&format!("{:#}\n", Value::Array(vips)));
    }
    let text: Vec<String> = config.vips.iter().filter_map(|vip| Some(lines(vip, of(vip)?))).collect();
    result(&text.join("\n"))
}

fn build(pool: &Pool, config: &Config, without: Option<&str>) -> Result<Tables, String> {
    let key = config.active_key().unwrap_or(config.director.key);
    let build = |backends: &[(&str, u16)]| Table::build(&key, pool.table_size, backends).map_err(|e| e.to_string());
    let backends: Vec<(&str, u16)> = pool.backends.iter().map(|b| (b.name.as_str(), b.weight)).collect();
    let named = |name: &str| without == Some(name) || without == Some(&format!("{}/{name}", pool.name));
    let rest: Vec<_> = backends.iter().copied().filter(|(name, _)| !named(name)).collect();
    let gone = backends.iter().find(|(name, _)| named(name)).map(|(name, _)| (*name).to_owned());
    let without = gone.map(|name| build(&rest).map(|table| (name, table))).transpose()?;
    Ok(Tables { table: build(&backends)?, without })
}

fn backends(table: &Table) -> impl Iterator<Item = (&str, u16, u32, f64)> {
    let entries = table.entries();
    table.members().iter().zip(entries).map(|(m, entries)| (&*m.name, m.weight, entries, f64::from(entries) / f64::from(table.size())))
}

fn document(vip: &guideway_config::Vip, tables: &Tables) -> Value {
    let list = |table: &Table| -> Vec<Value> {
        backends(table)
            .map(|(name, weight, entries, share)| json!({ "name": name, "weight": weight, "entries": entries, "share": share }))
            .collect()
    };
    let mut document = json!({
        "vip": vip.address.to_string(),
        "service": vip.service.label(),
        "pool": vip.pool,
        "size": tables.table.size(),
        "fingerprint": format!("{:016x}", tables.table.fingerprint()),
        "backends": list(&tables.table),
    });
    if let Some((name, after)) = &tables.without {
        document["without"] = json!(name);
        document["moved"] = json!(tables.table.moved(after));
        document["after"] = json!({ "fingerprint": format!("{:016x}", after.fingerprint()), "backends": list(after) });
    }
    document
}

fn lines(vip: &guideway_config::Vip, tables: &Tables) -> String {
    let mut text = String::new();
    let (size, fingerprint) = (tables.table.size(), tables.table.fingerprint());
    // Writing into a String cannot fail.
    let _ = writeln!(text, "{} {} → pool {}: {size} rows, fingerprint {fingerprint:016x}", vip.address, vip.service.label(), vip.pool);
    let title = tables.without.as_ref().map(|(gone, _)| format!("without {gone}")).unwrap_or_default();
    let width = title.len().max(8);
    let after: HashMap<_, _> = tables.without.iter().flat_map(|(_, after)| backends(after)).map(|later| (later.0, later)).collect();
    let titles = if title.is_empty() { title } else { format!("   {title:>width$} {:>8} {:>8}", "share", "gains") };
    let _ = writeln!(text, "  {:<24} {:>6} {:>8} {:>8}{titles}", "backend", "weight", "entries", "share");
    for (name, weight, entries, share) in backends(&tables.table) {
        let _ = write!(text, "  {name:<24} {weight:>6} {entries:>8} {:>7.3}%", share * 100.0);
        if let Some((_, _, later, share)) = after.get(name) {
            let gains = i64::from(*later) - i64::from(entries);
            let _ = write!(text, "   {later:>width$} {:>7.3}% {gains:>+8}", share * 100.0);
        }
        text.push('\n');
    }
    if let Some((name, after)) = &tables.without
        && let Some(moved) = tables.table.moved(after)
    {
        let others: u32 = backends(&tables.table).filter(|b| b.0 != name).map(|b| b.2).sum();
        let share = 100.0 * f64::from(moved) / f64::from(others.max(1));
        let _ = writeln!(text, "  without {name}: {moved} entries of the others move ({share:.3}% of theirs)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::FLEET;

    #[test]
    fn the_share_of_one_that_is_gone_is_shown_where_it_goes() {
        let config = guideway_config::read(FLEET).config.unwrap();
        let tables = build(&config.pools[0], &config, Some("t2")).unwrap();
        let said = lines(&config.vips[0], &tables);
        let rows: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["backend", "weight", "entries", "share", "without", "t2", "share", "gains"], "{said}");
        let number = |name: &str, column: usize| -> i64 {
            let row = rows.iter().find(|row| row[0] == name).unwrap();
            row[column].parse().unwrap_or_else(|_| panic!("{row:?}"))
        };
        for name in ["t1", "t3"] {
            assert_eq!(number(name, 4) - number(name, 2), number(name, 6), "{said}");
        }
        // What the others gain is what the one had; it has nothing of its own any more.
        assert_eq!(number("t1", 6) + number("t3", 6), number("t2", 2), "{said}");
        assert_eq!(rows.iter().find(|row| row[0] == "t2").unwrap().len(), 4, "{said}");
        let plain = lines(&config.vips[0], &build(&config.pools[0], &config, None).unwrap());
        assert!(!plain.contains("gains") && !plain.contains("without"), "{plain}");
    }
}
