//! A long run of random chaos in one lab, and what became of the memory of directors and servers in it.

use guideway_config::duration;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A time of 10 s to 24 h.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text).map_err(|e| format!("it {e}"))?;
    let allowed = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&time) { Ok(time) } else { Err("from 10s to 24h".to_owned()) }
}

/// A script that is removed when it is no longer needed.
pub struct Script(PathBuf);

impl Script {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// Writes the script of a soak. A director and a server live through all of it, so that their memory can be looked at for as long.
pub fn script(time: Duration, seed: u64) -> Result<Script, String> {
    // Trouble comes about every two seconds.
    let events = (time.as_secs()).clamp(10, 10_000);
    let text = format!(
        "event a soak of {0}: random chaos\nfor {0}\ntakeover on\nclient curl guideway\nconcurrency 30\nrandom {events} seed {seed} keep d1 t1\n",
        duration::human(time)
    );
    let path = std::env::temp_dir().join(format!("guideway-soak-{}.chaos", std::process::id()));
    std::fs::write(&path, text).map_err(|e| format!("writing {}: {e}", path.display()))?;
    Ok(Script(path))
}

/// What is to be said of memory, a line for each program that ran long enough.
pub fn lines(row: &Value) -> Vec<String> {
    let one = |m: &Value| {
        format!("{}: {} KiB after the first minute, {} KiB at the end", m["host"].as_str().unwrap_or("?"), m["early_kib"], m["late_kib"])
    };
    row["memory"].as_array().map(|all| all.iter().map(one).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_scripts() {
        assert_eq!(parse_time("1h"), Ok(Duration::from_secs(3600)));
        assert!(parse_time("1s").is_err() && parse_time("x").is_err());
        let script = script(Duration::from_secs(600), 7).unwrap();
        let (path, text) = (script.path().to_owned(), std::fs::read_to_string(script.path()).unwrap());
        assert!(text.contains("for 10m\n") && text.ends_with("random 600 seed 7 keep d1 t1\n"), "{text}");
        drop(script);
        assert!(!path.exists());
    }
}
