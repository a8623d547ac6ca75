//! How the director takes over what its store or its file says: checked on a copy, then all of it or none.

use super::control::Control;
use super::start::{FIRST_ANSWER, answered, vips, wanted};
use super::{Error, load};
use guideway_config::Config;
use guideway_control::{NextHops, Trial, Writer};
use guideway_dataplane::tables::Snapshot;
use guideway_store::{Health, Set};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// New backends of a store's set have so long to answer before the set counts: directors are to agree quickly.
const QUICK_ANSWER: Duration = Duration::from_millis(100);
/// Between two sets there is at least this much time, and four times as much as the last one took: control never has more than a fifth of its CPU's
/// time from this, and quick changes become one.
const REST: Duration = Duration::from_millis(10);

impl Control<'_> {
    /// Takes the newest set of the store over, or says why not and leaves everything as it is.
    pub(super) async fn take_newest(&mut self) {
        let started = Instant::now();
        let seen = self.seen.borrow_and_update().clone();
        self.stored.trouble = seen.trouble;
        // Health that somebody deleted from the store by hand has no generation of its own: who starts now has that set, so all are to have it.
        let same = seen.set.generation == self.generation && seen.set.health == self.health;
        if !same || self.stored.refused.is_some() {
            let base = self.config.clone();
            let generation = seen.set.generation;
            match self.take_over(base, &seen.set, QUICK_ANSWER).await {
                Ok(()) => tracing::info!(generation, "the set has changed"),
                Err(reasons) => {
                    reasons.iter().for_each(|reason| tracing::error!("the set of generation {generation} is refused: {reason}"))
                }
            }
        }
        self.rested = Instant::now() + REST.max(4 * started.elapsed().min(QUICK_ANSWER));
        self.show();
    }

    /// Reads the file anew, or says why not and leaves everything as it is.
    pub(super) async fn reload(&mut self) {
        tracing::info!(file = %self.file.display(), "SIGHUP: reloading");
        let outcome = self.reload_file().await;
        match &outcome {
            Ok(()) => tracing::info!(generation = self.generation, "reloaded"),
            Err(reasons) => {
                for reason in reasons {
                    tracing::error!("reload refused: {reason}");
                }
                tracing::error!("reload refused: the tables of generation {} stay", self.generation);
            }
        }
        self.board.reloaded(outcome.map_err(|reasons| reasons.join("\n")));
        self.show();
    }

    async fn reload_file(&mut self) -> Result<(), Vec<String>> {
        let file = load(self.file).map_err(|error| match error {
            Error::Config { file, problems } => problems.iter().map(|p| p.in_file(&file).to_string()).collect(),
            other => vec![other.to_string()],
        })?;
        let known = self.seen.borrow().set.clone();
        // Where the store says what is served, it says which key is used, too.
        let file = if self.store.durable() { file.with(&known.intent) } else { file };
        let mut restart: Vec<String> =
            self.config.changes_needing_restart(&file).iter().map(|p| p.in_file(self.file).to_string()).collect();
        restart.extend(self.filter.refuses(&self.config.director, &file.director).map(|why| format!("{}: {why}", self.file.display())));
        if !restart.is_empty() {
            return Err(restart);
        }
        if !self.store.durable() {
            if known.intent_generation != self.from_file {
                tracing::warn!("changes made by the API are gone with this reload: without a durable store, the file is what counts");
            }
            // The file is where such a store comes from. What it cannot bring about must not become the store's intent.
            let hops = self.neighbours.hops.borrow().clone();
            self.written(&file, 0, &known.health, &hops)?;
            let committed = self.store.commit(known.intent_generation, file.intent()).await;
            self.from_file = committed.map_err(|why| vec![format!("{}: {why}", self.file.display())])?;
        }
        let set = self.seen.borrow_and_update().set.clone();
        self.take_over(file, &set, FIRST_ANSWER).await
    }

    /// What was given up long enough ago is forgotten; a set that had to wait for that is tried again.
    pub(super) async fn retired(&mut self) {
        self.publish_again("a retired backend is forgotten");
        if self.stored.refused.is_some() {
            self.take_newest().await;
        }
    }

    /// What the tables would be with another intent. Changes nothing.
    pub(super) fn answer(&self, trial: Trial) {
        let hops = self.neighbours.hops.borrow().clone();
        let written = self.written(&self.config.with(&trial.intent), self.generation, &self.health, &hops);
        // Whoever asked may be gone.
        let _gone = trial.answer.send(written.map(|(_, snapshot)| Arc::new(snapshot)));
    }

    fn written(&self, config: &Config, generation: u64, health: &Health, hops: &NextHops) -> Result<(Writer, Snapshot), Vec<String>> {
        self.written_after(&self.writer, config, generation, health, hops)
    }

    /// The same by a writer that may have built these tables already.
    fn written_after(
        &self,
        writer: &Writer,
        config: &Config,
        generation: u64,
        health: &Health,
        hops: &NextHops,
    ) -> Result<(Writer, Snapshot), Vec<String>> {
        let clashes = config.clashes();
        if !clashes.is_empty() {
            return Err(clashes);
        }
        let mut writer = writer.clone();
        let snapshot = writer.apply_set(config, generation, health, hops, self.now()).map_err(|e| vec![e.to_string()])?;
        Ok((writer, snapshot))
    }

    /// Takes `set` over, with the director's part of `base`. New backends have `patience` to answer.
    async fn take_over(&mut self, base: Config, set: &Set, patience: Duration) -> Result<(), Vec<String>> {
        let outcome = self.carry_over(base, set, patience).await;
        self.stored.generation = set.generation;
        self.stored.refused = outcome.as_ref().err().map(|reasons| reasons.join("\n"));
        outcome
    }

    async fn carry_over(&mut self, base: Config, set: &Set, patience: Duration) -> Result<(), Vec<String>> {
        let config = base.with(&set.intent);
        // On a copy: whatever is refused below, nothing has changed.
        let known = self.neighbours.hops.borrow().clone();
        let (writer, _) = self.written(&config, set.generation, &set.health, &known)?;
        let wants = wanted(&config, writer.addresses());
        let new = &wants.addresses - &self.writer.addresses();
        self.neighbours.wanted.send_replace(wants);
        if !new.is_empty() {
            answered(&mut self.neighbours, &new, patience).await;
        }

        let hops = self.neighbours.hops.borrow_and_update().clone();
        let (before, after) = (vips(&self.config), vips(&config));
        let taken = self.written_after(&writer, &config, set.generation, &set.health, &hops).and_then(|written| {
            self.filter.set_vips(&(&before | &after)).map_err(|e| vec![e.to_string()])?;
            Ok(written)
        });
        match taken {
            Ok((writer, snapshot)) => {
                self.writer = writer;
                self.config = config;
                self.health = set.health.clone();
                self.generation = set.generation;
                self.publish(snapshot);
            }
            Err(why) => {
                self.neighbours.wanted.send_replace(wanted(&self.config, self.writer.addresses()));
                return Err(why);
            }
        }
        // Only now: until the swap workers still forward to the VIPs that go.
        if let Err(e) = self.filter.set_vips(&after) {
            tracing::warn!("the filter in the kernel still takes VIPs that were removed: {e}");
        }
        Ok(())
    }
}
