//! Follows which health controller leads at the store.

use guideway_control::Status;
use guideway_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Interval of reading it.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Time limit of reading it; so long a store may be slow before its leader counts as gone.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Follows until the runtime ends. It polls: a failed read is repeated, and no earlier state is needed.
pub(super) async fn follow(store: Store, status: Arc<Status>) {
    loop {
        let leader = timeout(READ_TIMEOUT, store.leader()).await;
        status.health_leader().set(leader.ok().and_then(Result::ok).flatten());
        sleep(POLL_INTERVAL).await;
    }
}
