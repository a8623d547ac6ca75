//! `guideway table`: the Maglev tables of a configuration, and the rows that move when a backend is lost.

use super::common::{load_with_vips, print_result, usage_error};
use super::print;
use guideway_config::{Config, Pool};
use guideway_dataplane::maglev::Table;
use serde::Serialize;
use std::collections::HashMap;
use std::net::IpAddr;
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
    /// Show how many entries of other backends would move without this backend; POOL/BACKEND if several pools have this name.
    #[arg(long, value_name = "BACKEND")]
    without: Option<String>,
    /// Print one JSON array, with an object for each VIP.
    #[arg(long)]
    json: bool,
}

/// The table of a pool, and the table without one backend.
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
            Err(message) => return usage_error(&message),
        }
    }
    if let Some(name) = &args.without
        && tables.iter().all(|tables| tables.without.is_none())
    {
        let known: Vec<_> = config.pools.iter().flat_map(|p| p.backends.iter().map(move |b| format!("{}/{}", p.name, b.name))).collect();
        return usage_error(&format!("--without {name}: no pool has a backend of this name; there are {}", known.join(", ")));
    }
    let of = |vip: &guideway_config::Vip| config.pools.iter().position(|pool| pool.name == vip.pool).map(|at| &tables[at]);
    if args.json {
        let vips: Vec<VipTable> = config.vips.iter().filter_map(|vip| Some(document(vip, of(vip)?))).collect();
        return print_result(&print::json(&vips));
    }
    let text: Vec<String> = config.vips.iter().filter_map(|vip| Some(lines(vip, of(vip)?))).collect();
    print_result(&text.join("\n"))
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

/// The JSON of a VIP.
#[derive(Serialize)]
struct VipTable<'t> {
    vip: IpAddr,
    service: String,
    pool: &'t str,
    size: u32,
    #[serde(flatten)]
    table: TableDocument<'t>,
    #[serde(flatten)]
    without: Option<Without<'t>>,
}

/// A Maglev table.
#[derive(Serialize)]
struct TableDocument<'t> {
    fingerprint: String,
    backends: Vec<MemberDocument<'t>>,
}

/// A backend of a Maglev table.
#[derive(Serialize)]
struct MemberDocument<'t> {
    name: &'t str,
    weight: u16,
    entries: u32,
    share: f64,
}

/// The loss of a backend.
#[derive(Serialize)]
struct Without<'t> {
    without: &'t str,
    moved: Option<u32>,
    after: TableDocument<'t>,
}

impl<'t> TableDocument<'t> {
    fn new(table: &'t Table) -> Self {
        let backends = backends(table).map(|(name, weight, entries, share)| MemberDocument { name, weight, entries, share });
        TableDocument { fingerprint: format!("{:016x}", table.fingerprint()), backends: backends.collect() }
    }
}

fn document<'t>(vip: &'t guideway_config::Vip, tables: &'t Tables) -> VipTable<'t> {
    let without =
        |(name, after): &'t (String, Table)| Without { without: name, moved: tables.table.moved(after), after: TableDocument::new(after) };
    VipTable {
        vip: vip.address,
        service: vip.service.label(),
        pool: &vip.pool,
        size: tables.table.size(),
        table: TableDocument::new(&tables.table),
        without: tables.without.as_ref().map(without),
    }
}

fn lines(vip: &guideway_config::Vip, tables: &Tables) -> String {
    let (size, fingerprint) = (tables.table.size(), tables.table.fingerprint());
    let mut text = format!("{} {} → pool {}: {size} rows, fingerprint {fingerprint:016x}\n", vip.address, vip.service.label(), vip.pool);
    let percent = |share: f64| format!("{:.3}%", share * 100.0);
    let mut rows = vec![["backend", "weight", "entries", "share"].map(str::to_owned).to_vec()];
    if let Some((gone, _)) = &tables.without {
        rows[0].extend([format!("without {gone}"), "share".to_owned(), "gains".to_owned()]);
    }
    let after: HashMap<_, _> = tables.without.iter().flat_map(|(_, after)| backends(after)).map(|later| (later.0, later)).collect();
    for (name, weight, entries, share) in backends(&tables.table) {
        let mut row = vec![name.to_owned(), weight.to_string(), entries.to_string(), percent(share)];
        if let Some((_, _, later, share)) = after.get(name) {
            let gains = i64::from(*later) - i64::from(entries);
            row.extend([later.to_string(), percent(*share), format!("{gains:+}")]);
        }
        rows.push(row);
    }
    text.push_str(&print::indented(&print::columns(rows, &[1, 2, 3, 4, 5, 6])));
    if let Some((name, after)) = &tables.without
        && let Some(moved) = tables.table.moved(after)
    {
        let others: u32 = backends(&tables.table).filter(|b| b.0 != name).map(|b| b.2).sum();
        let share = 100.0 * f64::from(moved) / f64::from(others.max(1));
        text.push_str(&format!("  without {name}: {moved} entries of the others move ({share:.3}% of theirs)\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::FLEET;

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
