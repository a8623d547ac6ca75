//! `[reports]`: where reports of ended requests go.

use super::values::{integer, path};
use crate::reports::{Settings, hook};
use guideway_config::duration_within;
use guideway_config::reader::Table;
use guideway_tftp::handlers::client;
use std::time::Duration;

/// Default number of reports that may wait for each target.
const QUEUE: usize = 10_000;

/// Reads the optional section `[reports]`. The table's reader gets the errors.
pub(super) fn read(root: &mut Table<'_, '_>) -> Option<Option<Settings>> {
    let Some(field) = root.optional("reports") else { return Some(None) };
    let mut table = field.table("a table: [reports]")?;
    let t = &mut table;
    let file = t.optional("file").map(|f| f.parse("a path in quotes", path).map(|s| s.value));
    let socket = t.optional("socket").map(|f| f.parse("a path in quotes", path).map(|s| s.value));
    let url = t.optional("url").map(|f| f.parse("a URL in quotes", client::url).map(|s| s.value));
    let of_url = ["ca", "timeout", "retries", "batch", "interval"].map(|key| t.optional(key));
    let [ca, timeout, retries, batch, interval] = of_url.clone();
    let ca = ca.map_or(Some(None), |f| f.parse("a path in quotes", path).map(|s| Some(s.value)));
    let seconds = |from, to| Duration::from_secs(from)..=Duration::from_secs(to);
    let timeout = timeout.map_or(Some(Duration::from_secs(5)), |f| duration_within(f, seconds(1, 300)));
    let retries = retries.map_or(Some(3), |f| f.integer("further attempts", 0..=100));
    let batch = batch.map_or(Some(500), |f| f.integer("reports of one request", 1..=10_000));
    let interval = interval.map_or(Some(Duration::from_secs(1)), |f| duration_within(f, seconds(0, 3600)));
    let queue = integer(t, "queue", "reports", QUEUE, 1..=1_000_000);
    let targets = [file.is_some(), socket.is_some(), url.is_some()];
    if !targets.contains(&true) {
        field.error("names no target; write file = \"/var/log/guideway/transfers.json\", or socket, or url");
    }
    if url.is_none() {
        of_url.into_iter().flatten().for_each(|field| field.error("requires url: the service that takes reports"));
    }
    table.finish();
    let hook = match url {
        Some(url) => Some(hook::Settings { url: url?, ca: ca?, timeout: timeout?, retries: retries?, batch: batch?, interval: interval? }),
        None => None,
    };
    Some(Some(Settings {
        file: file.map_or(Some(None), |file| file.map(Some))?,
        socket: socket.map_or(Some(None), |socket| socket.map(Some))?,
        hook,
        queue: queue?,
    }))
}
