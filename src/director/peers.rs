//! The other directors of the store: refuses a name that another one has, and compares keys and tables with theirs.
//!
//! Directors never ask one another. Each leaves a record in the store, and reads those of the others.

use super::Error;
use guideway_api::presence::{Disagreement, DisagreementKind, Instance, Presence};
use guideway_config::Director;
use guideway_control::Status;
use guideway_store::Store;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Time after which the record of a director that was killed is gone, with a margin.
const MAX_RECORD_AGE: Duration = Duration::from_secs(12);
/// Time that a director of this host has to end before its name is taken: it may be about to, and then forwards for 1.25 s.
const MAX_END_TIME: Duration = Duration::from_secs(2);
const CLAIM_POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Interval at which the records are compared.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit of a look into the store; without an answer a director starts and forwards all the same.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns what distinguishes this process from all others.
pub(super) fn this_instance(director: &Director) -> Instance {
    let line = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let (v4, v6) = (director.address.v4.map(|v4| v4.to_string()), director.address.v6.map(|v6| v6.to_string()));
    let pid = std::process::id();
    Instance {
        id: format!("{:032x}", fastrand::u128(..)),
        host: format!("{} {}", line("/proc/sys/kernel/random/boot_id"), namespace.display()),
        pid,
        start_time: start_time(pid).unwrap_or_default(),
        address: v4.into_iter().chain(v6).collect::<Vec<_>>().join(" "),
    }
}

/// Returns when a process of this host began.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// Waits until no other process has this name in the store.
///
/// # Errors
/// Returns an error when another one keeps it.
pub(super) async fn claim_name(store: &Store, name: &str, own: &Instance) -> Result<(), Error> {
    let began = Instant::now();
    let mut waits = false;
    loop {
        let Ok(Ok(records)) = timeout(READ_TIMEOUT, store.directors()).await else { return Ok(()) };
        let record = records.into_iter().find(|(other, _)| other == name).map(|(_, record)| record);
        let presence: Option<Presence> = record.and_then(|record| serde_json::from_value(record).ok());
        let Some(other) = presence.and_then(|presence| presence.instance).filter(|other| other.id != own.id) else { return Ok(()) };
        // This director, which was killed; its record has not expired yet.
        let same_host = other.host == own.host;
        let ended = same_host && start_time(other.pid) != Some(other.start_time);
        // Another container of this host may not see its processes, but has no other address.
        let same_address = !same_host && other.address == own.address && boot(&other) == boot(own);
        if ended || same_address {
            return Ok(());
        }
        if began.elapsed() >= if same_host { MAX_END_TIME } else { MAX_RECORD_AGE } {
            return Err(Error::NameTaken { name: name.to_owned(), pid: other.pid, address: other.address });
        }
        if !std::mem::replace(&mut waits, true) {
            tracing::warn!(
                name,
                address = other.address,
                pid = other.pid,
                "another director has this name in the store; waiting for its end"
            );
        }
        sleep(CLAIM_POLL_INTERVAL).await;
    }
}

fn boot(instance: &Instance) -> &str {
    instance.host.split(' ').next().unwrap_or_default()
}

/// Compares this director with the others of its store for ever. Logs each disagreement when it begins.
pub(super) async fn compare(store: Store, name: String, own: Instance, status: Arc<Status>) {
    let (mut before, mut shown) = (BTreeSet::new(), BTreeSet::new());
    loop {
        if let Ok(Ok(records)) = timeout(READ_TIMEOUT, store.directors()).await {
            let presence = |record| serde_json::from_value::<Presence>(record).unwrap_or_default();
            let mine = presence(status.presence());
            let found: Vec<Disagreement> = records
                .into_iter()
                .filter_map(|(other, record)| {
                    let theirs = presence(record);
                    match theirs.instance {
                        Some(instance) if instance.id == own.id => None,
                        Some(instance) if other == name => {
                            let why = format!(
                                "process {} with address {} has the same name: give it another one",
                                instance.pid, instance.address
                            );
                            Some(Disagreement { director: other, kind: DisagreementKind::Name, why })
                        }
                        _ => mine.tables.as_ref()?.disagreement(&other, theirs.tables.as_ref()?),
                    }
                })
                .collect();
            // Seen twice: a record may be older than the state that it is compared with.
            let kind = |one: &Disagreement| (one.director.clone(), one.kind);
            let lasting: Vec<Disagreement> = found.iter().filter(|one| before.contains(&kind(one))).cloned().collect();
            for new in lasting.iter().filter(|one| !shown.contains(&kind(one))) {
                tracing::warn!(
                    director = new.director,
                    kind = new.kind.name(),
                    reason = new.why,
                    "another director of the store disagrees"
                );
            }
            if lasting.is_empty() && !shown.is_empty() {
                tracing::info!("all directors of the store agree again");
            }
            (before, shown) = (found.iter().map(kind).collect(), lasting.iter().map(kind).collect());
            status.set_disagreements(lasting);
        }
        sleep(COMPARE_INTERVAL).await;
    }
}
