//! A reload in the middle of the transfers: with one backend more, or with a broken file that must change nothing.

use super::args::{Io, ReloadKind};
use super::configuration::configuration;
use super::directors::Director;
use super::plan::Plan;
use guideway_host::error::Error;
use guideway_testbed::wait::holds_within;
use serde::Serialize;
use std::time::Duration;

/// What the directors made of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// `add-backend` or `broken`.
    pub kind: &'static str,
    /// How many transfers had ended when the signals were sent.
    pub after_transfers: u32,
    /// For each director, its generation before and after.
    pub directors: Vec<Generations>,
    /// Whether all did what they must: a new generation for a good file, the old one for a broken file.
    pub ok: bool,
}

/// The generation of one director's tables.
#[derive(Clone, Debug, Serialize)]
pub struct Generations {
    /// Name of the director.
    pub name: String,
    /// Before the signal.
    pub before: u64,
    /// After it.
    pub after: u64,
}

/// How long a director may take to load a good file.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long a broken file is watched for changing nothing.
const OBSERVATION_TIME: Duration = Duration::from_secs(1);

/// Reloads all directors, and waits until they have done it.
pub fn reload_all(kind: ReloadKind, plan: &Plan, io: Io, directors: &mut [Director], after_transfers: u32) -> Result<Outcome, Error> {
    let generation = |d: &mut Director| d.status().map(|status| status.generation);
    let before = directors.iter_mut().map(generation).collect::<Result<Vec<_>, _>>()?;
    let backends: Vec<_> = plan.all_backends().cloned().collect();
    for (number, director) in directors.iter().enumerate() {
        match kind {
            ReloadKind::AddBackend => director.reload(&configuration(plan, number, io, &director.socket, &backends))?,
            ReloadKind::Broken => director.reload("[director\nname = \"broken\"\n")?,
        }
    }
    let mut after = Vec::new();
    let mut changed = || {
        after = directors.iter_mut().map(generation).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Error>(before.iter().zip(&after).filter(|(b, a)| b != a).count())
    };
    let ok = match kind {
        ReloadKind::AddBackend => holds_within(TIMEOUT, || Ok::<_, Error>(changed()? == before.len()))?,
        ReloadKind::Broken => !holds_within(OBSERVATION_TIME, || Ok::<_, Error>(changed()? > 0))?,
    };
    let names = directors.iter().map(|director| director.name.clone());
    let generations = names.zip(before.into_iter().zip(after)).map(|(name, (before, after))| Generations { name, before, after });
    Ok(Outcome { kind: kind.name(), after_transfers, directors: generations.collect(), ok })
}
