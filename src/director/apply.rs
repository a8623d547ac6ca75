//! Applies a new cluster state or file: checks it on a copy, then takes over all of it or nothing.

use super::Error;
use super::control::Control;
use super::load::load;
use super::resolve::{START_RESOLVE_TIMEOUT, targets, vips, wait_resolved};
use guideway_config::Config;
use guideway_control::{DryRun, NextHops, Writer};
use guideway_dataplane::tables::Snapshot;
use guideway_store::{ClusterState, Health, Origin};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time that new backends have for neighbour resolution before a new cluster state takes effect. It is short, so that directors agree soon.
const UPDATE_RESOLVE_TIMEOUT: Duration = Duration::from_millis(100);
/// Minimum time between two updates; it is also at least four times the duration of the last one. So updates take at most a fifth of the
/// control CPU's time, and quick changes are merged.
const MIN_UPDATE_INTERVAL: Duration = Duration::from_millis(10);

impl Control<'_> {
    /// Applies the newest cluster state of the store, or logs why not and changes nothing.
    pub(super) async fn apply_latest(&mut self) {
        let started = Instant::now();
        let view = self.store_view.borrow_and_update().clone();
        self.store_status.stale = view.stale;
        // When health is deleted from the store by hand, the generation does not change. All directors must apply it, because a new
        // director starts with it.
        let cluster = &view.cluster;
        let same = cluster.generation == self.generation && cluster.lineage == self.lineage && cluster.health == self.health;
        if !same || self.store_status.refused.is_some() {
            let base = self.config.clone();
            let generation = view.cluster.generation;
            match self.apply_state(base, &view.cluster, UPDATE_RESOLVE_TIMEOUT).await {
                Ok(()) => tracing::info!(generation, "cluster state applied"),
                Err(reasons) => reasons.iter().for_each(|reason| tracing::error!(generation, %reason, "cluster state refused")),
            }
        }
        self.next_update = Instant::now() + MIN_UPDATE_INTERVAL.max(4 * started.elapsed().min(UPDATE_RESOLVE_TIMEOUT));
        self.update_status();
    }

    /// Reloads the file, and the files that it names, or logs and returns why not and changes nothing. Returns the generation in force.
    pub(super) async fn reload(&mut self, by: &str, origin: &Origin) -> Result<u64, Vec<String>> {
        tracing::info!(file = %self.file.display(), by, "reloading");
        let outcome = self.reload_file(origin).await;
        match &outcome {
            Ok(()) => tracing::info!(generation = self.generation, "reloaded"),
            Err(reasons) => {
                for reason in reasons {
                    tracing::error!(%reason, "reload refused");
                }
                tracing::error!(generation = self.generation, "reload refused, tables unchanged");
            }
        }
        self.status.reloaded(outcome.clone().map_err(|reasons| reasons.join("\n")));
        self.update_status();
        outcome.map(|()| self.generation)
    }

    async fn reload_file(&mut self, origin: &Origin) -> Result<(), Vec<String>> {
        let file = load(self.file).map_err(|error| match error {
            Error::Config { file, problems } => problems.iter().map(|p| p.in_file(&file).to_string()).collect(),
            other => vec![other.to_string()],
        })?;
        let current = self.store_view.borrow().cluster.clone();
        // A durable store that holds the intent also holds the active key.
        let file = if self.store.is_durable() { file.with_intent(&current.intent) } else { file };
        let mut restart: Vec<String> =
            self.config.changes_needing_restart(&file).iter().map(|p| p.in_file(self.file).to_string()).collect();
        restart
            .extend(self.filter.restart_reason(&self.config.director, &file.director).map(|why| format!("{}: {why}", self.file.display())));
        if !restart.is_empty() {
            return Err(restart);
        }
        let renewal = match (&self.credentials, &file.api) {
            (Some(credentials), Some(api)) => Some(credentials.read_again(api).map_err(|error| vec![error.to_string()])?),
            _ => None,
        };
        // The paths cannot change, and a refused file is no reason to keep an old certificate.
        self.store.reload_credentials().map_err(|error| vec![error.to_string()])?;
        if !self.store.is_durable() {
            if current.intent_generation != self.file_generation {
                tracing::warn!("reload discards changes made by the API: without a durable store, the file holds the intent");
            }
            // Without a durable store, the intent comes from the file. An intent that cannot be applied must not be committed.
            let hops = self.neighbours.hops.borrow().clone();
            self.build_tables(&file, 0, &current.health, &hops)?;
            let from = format!("reload of {}: {}", self.file.display(), origin.from);
            let committed = self.store.commit(current.intent_generation, file.intent(), &Origin { from, ..origin.clone() }).await;
            self.file_generation = committed.map_err(|why| vec![format!("{}: {why}", self.file.display())])?;
        }
        let cluster = self.store_view.borrow_and_update().cluster.clone();
        self.apply_state(file, &cluster, START_RESOLVE_TIMEOUT).await?;
        if let Some(renewal) = renewal {
            renewal.install();
        }
        Ok(())
    }

    /// Forgets backends that were retired long enough ago, and retries a cluster state that had to wait for this.
    pub(super) async fn expire_retired(&mut self) {
        self.publish_again("retired backend forgotten");
        if self.store_status.refused.is_some() {
            self.apply_latest().await;
        }
    }

    /// Builds the tables for another intent without applying it.
    pub(super) fn dry_run(&self, dry_run: DryRun) {
        let hops = self.neighbours.hops.borrow().clone();
        let built = self.build_tables(&self.config.with_intent(&dry_run.intent), self.generation, &self.health, &hops);
        // The requester may be gone.
        let _gone = dry_run.reply.send(built.map(|(_, snapshot)| Arc::new(snapshot)));
    }

    fn build_tables(&self, config: &Config, generation: u64, health: &Health, hops: &NextHops) -> Result<(Writer, Snapshot), Vec<String>> {
        self.build_from(&self.writer, config, generation, health, hops)
    }

    /// Builds the tables with a writer that may have built them before.
    fn build_from(
        &self,
        writer: &Writer,
        config: &Config,
        generation: u64,
        health: &Health,
        hops: &NextHops,
    ) -> Result<(Writer, Snapshot), Vec<String>> {
        let conflicts = config.conflicts();
        if !conflicts.is_empty() {
            return Err(conflicts);
        }
        let mut writer = writer.clone();
        let snapshot = writer.apply_state(config, generation, health, hops, self.now()).map_err(|e| vec![e.to_string()])?;
        Ok((writer, snapshot))
    }

    /// Applies `cluster` with the director's part of `base`. New backends have `timeout` for neighbour resolution.
    async fn apply_state(&mut self, base: Config, cluster: &ClusterState, timeout: Duration) -> Result<(), Vec<String>> {
        let outcome = self.try_apply(base, cluster, timeout).await;
        self.store_status.generation = cluster.generation;
        self.store_status.refused = outcome.as_ref().err().map(|reasons| reasons.join("\n"));
        outcome
    }

    async fn try_apply(&mut self, base: Config, cluster: &ClusterState, timeout: Duration) -> Result<(), Vec<String>> {
        let config = base.with_intent(&cluster.intent);
        // Works on a copy, so that a refusal changes nothing.
        let current = self.neighbours.hops.borrow().clone();
        let (writer, _) = self.build_tables(&config, cluster.generation, &cluster.health, &current)?;
        let targets_after = targets(&config, writer.addresses());
        let new = &targets_after.addresses - &self.writer.addresses();
        self.neighbours.targets.send_replace(targets_after);
        if !new.is_empty() {
            wait_resolved(&mut self.neighbours, &new, timeout).await;
        }

        let hops = self.neighbours.hops.borrow_and_update().clone();
        let (before, after) = (vips(&self.config), vips(&config));
        let taken = self.build_from(&writer, &config, cluster.generation, &cluster.health, &hops).and_then(|built| {
            self.filter.set_vips(&(&before | &after)).map_err(|e| vec![e.to_string()])?;
            Ok(built)
        });
        match taken {
            Ok((writer, snapshot)) => {
                self.writer = writer;
                self.config = config;
                self.health = cluster.health.clone();
                self.generation = cluster.generation;
                self.lineage = cluster.lineage.clone();
                self.publish(snapshot);
            }
            Err(why) => {
                self.neighbours.targets.send_replace(targets(&self.config, self.writer.addresses()));
                return Err(why);
            }
        }
        // Must happen last: until the swap, workers still forward to removed VIPs.
        if let Err(e) = self.filter.set_vips(&after) {
            tracing::warn!(error = %e, "removed VIPs stay in the kernel filter");
        }
        Ok(())
    }
}
