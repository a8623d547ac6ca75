//! A reload in the middle of the transfers: with one backend more, or with a broken file that must change nothing.

use super::args::Io;
use super::directors::{Director, configuration};
use super::plan::Plan;
use guideway_host::error::Error;
use serde::Serialize;
use serde_json::Value;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// What to reload with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The spare backend joins the pool.
    AddBackend,
    /// The file is no TOML.
    Broken,
}

/// What to reload with, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reload {
    /// What with.
    pub kind: Kind,
    /// At how many percent of the transfers, 0–100.
    pub percent: u8,
}

impl FromStr for Reload {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, percent) = text.split_once('@').unwrap_or((text, "30"));
        let kind = match kind {
            "add-backend" => Kind::AddBackend,
            "broken" => Kind::Broken,
            other => return Err(format!("`{other}` is no kind of reload: use add-backend or broken")),
        };
        match percent.trim_end_matches('%').parse() {
            Ok(percent @ 0..=100) => Ok(Reload { kind, percent }),
            _ => Err(format!("`{percent}` is no percentage: use 0–100")),
        }
    }
}

/// What the directors made of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// `add-backend` or `broken`.
    pub kind: &'static str,
    /// How many transfers had ended when the signals were sent.
    pub at: u32,
    /// For each director, its generation before and after.
    pub directors: Vec<Generations>,
    /// Whether all did what they must: a new generation for a good file, the old one for a broken file.
    pub right: bool,
}

/// The generation of one director's tables.
#[derive(Clone, Debug, Serialize)]
pub struct Generations {
    /// Name of the director.
    pub name: String,
    /// Before the signal.
    pub before: Value,
    /// After it.
    pub after: Value,
}

/// How long a director may take to load a good file.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a broken file is watched for changing nothing.
const WATCHED: Duration = Duration::from_secs(1);

/// Reloads all directors, and waits until they have done it.
pub fn carry_out(kind: Kind, plan: &Plan, io: Io, directors: &mut [Director], at: u32) -> Result<Outcome, Error> {
    let generation = |d: &mut Director| d.status().map(|s| s["generation"].clone());
    let before = directors.iter_mut().map(generation).collect::<Result<Vec<_>, _>>()?;
    let backends: Vec<_> = plan.all_backends().cloned().collect();
    for (number, director) in directors.iter().enumerate() {
        match kind {
            Kind::AddBackend => director.reload(&configuration(plan, number, io, &director.socket, &backends))?,
            Kind::Broken => director.reload("[director\nname = \"broken\"\n")?,
        }
    }
    let since = Instant::now();
    let patience = if kind == Kind::AddBackend { PATIENCE } else { WATCHED };
    loop {
        let after = directors.iter_mut().map(generation).collect::<Result<Vec<_>, _>>()?;
        let changed = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        let right = if kind == Kind::AddBackend { changed == directors.len() } else { changed == 0 };
        let settled = if kind == Kind::AddBackend { right } else { !right };
        if settled || since.elapsed() > patience {
            let name = |d: &Director| d.name.clone();
            let directors = directors.iter().map(name).zip(before).zip(after);
            let directors = directors.map(|((name, before), after)| Generations { name, before, after }).collect();
            let kind = if kind == Kind::AddBackend { "add-backend" } else { "broken" };
            return Ok(Outcome { kind, at, directors, right });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_is_read() {
        assert_eq!("add-backend".parse(), Ok(Reload { kind: Kind::AddBackend, percent: 30 }));
        assert_eq!("broken@75".parse(), Ok(Reload { kind: Kind::Broken, percent: 75 }));
        for bad in ["", "remove", "broken@", "broken@101", "broken@x"] {
            assert!(bad.parse::<Reload>().is_err(), "{bad:?}");
        }
    }
}
