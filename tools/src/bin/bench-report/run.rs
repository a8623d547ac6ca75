//! Builds the benchmarks, runs them, and counts the instructions of the fixed one.

use crate::rows::INSTRUCTIONS;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The benchmark that does a fixed amount of work; it is counted, not timed.
const FIXED: &str = "instructions";
/// The function in it whose instructions are counted.
const COUNTED: &str = "instructions::counted";
/// Two amounts of work, in batches. Only what lies between them counts, so that whatever happens once cancels out.
const SMALL_RUN: u32 = 50;
const LARGE_RUN: u32 = 250;
/// Packets of a batch.
const BATCH: u32 = 64;

/// How long criterion measures each row.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Seconds of warming up.
    pub warm_up: f64,
    /// Seconds of measuring.
    pub measure: f64,
}

/// A benchmark that was built.
#[derive(Clone, Debug)]
pub struct BenchBinary {
    name: String,
    program: PathBuf,
}

/// Builds all benchmarks of the package, whatever they are.
pub fn build() -> Result<Vec<BenchBinary>, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["bench", "--locked", "--package", "guideway", "--bench", "*", "--no-run", "--message-format", "json-render-diagnostics"]);
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("cargo cannot be run: {error}"))?;
    if !output.status.success() {
        return Err("the benchmarks cannot be built".to_owned());
    }
    let built: Vec<BenchBinary> = String::from_utf8_lossy(&output.stdout).lines().filter_map(artifact).collect();
    if built.is_empty() { Err("cargo has built no benchmarks".to_owned()) } else { Ok(built) }
}

/// The benchmark in a line of `cargo --message-format json`, if it is about one.
fn artifact(line: &str) -> Option<BenchBinary> {
    let message: Value = serde_json::from_str(line).ok()?;
    let target = &message["target"];
    let is_bench = target["kind"].as_array()?.iter().any(|kind| kind == "bench");
    let program = message["executable"].as_str().filter(|_| is_bench)?;
    Some(BenchBinary { name: target["name"].as_str()?.to_owned(), program: program.into() })
}

/// Runs every benchmark once, and gives what they printed.
pub fn round(built: &[BenchBinary], times: Times, directory: &Path) -> Result<String, String> {
    let mut said = String::new();
    for bench in built.iter().filter(|bench| bench.name != FIXED) {
        eprintln!("  {}", bench.name);
        let mut command = Command::new(&bench.program);
        command.args(["--bench", "--noplot", "--sample-size", "10"]).env("CRITERION_HOME", directory.join("criterion"));
        command.args(["--warm-up-time", &times.warm_up.to_string(), "--measurement-time", &times.measure.to_string()]);
        let printed = printed(&mut command, &bench.name)?.0;
        said += &format!("bench {}\n{printed}\n", bench.name);
    }
    Ok(said)
}

/// Instructions for each packet of the hot row, as a line like those of the others; or why not.
pub fn instructions(built: &[BenchBinary], directory: &Path) -> Result<String, String> {
    let Some(fixed) = built.iter().find(|bench| bench.name == FIXED) else { return Err("there is no benchmark of fixed work".to_owned()) };
    if Command::new("valgrind").arg("--version").output().is_err() {
        return Ok(format!("bench {FIXED}\nSKIPPED: valgrind is not installed\n"));
    }
    let count = |batches: u32| {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", &format!("--toggle-collect={COUNTED}")]);
        command.arg(format!("--callgrind-out-file={}", directory.join("callgrind.out").display()));
        command.arg(&fixed.program).args(["path_hot", &batches.to_string()]);
        collected(&printed(&mut command, "valgrind")?.1).ok_or_else(|| format!("valgrind counted nothing of `{COUNTED}`"))
    };
    let (few, many) = (count(SMALL_RUN)?, count(LARGE_RUN)?);
    let packets = f64::from((LARGE_RUN - SMALL_RUN) * BATCH);
    let line = json!({ "name": INSTRUCTIONS, "unit": "instructions/packet", "value": many.saturating_sub(few) as f64 / packets });
    Ok(format!("bench {FIXED}\npaired {line}\n"))
}

/// The number in callgrind's line `==1== Collected : 123`; nothing when it is 0.
fn collected(errors: &str) -> Option<u64> {
    let line = errors.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok().filter(|count| *count > 0)
}

/// Runs a program to its end: what it printed on stdout and stderr.
fn printed(command: &mut Command, name: &str) -> Result<(String, String), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{name} cannot be run: {error}"))?;
    let [text, errors] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    if output.status.success() { Ok((text, errors)) } else { Err(format!("{name} failed ({}):\n{text}{errors}", output.status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benchmarks_are_found_among_what_cargo_built() {
        let line = |kind: &str| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"target\":{{\"kind\":[\"{kind}\"],\"name\":\"path\"}},\"executable\":\"/x/path-1\"}}"
            )
        };
        let built = artifact(&line("bench")).unwrap();
        assert_eq!((built.name.as_str(), built.program.as_path()), ("path", Path::new("/x/path-1")));
        assert!(artifact(&line("bin")).is_none() && artifact("   Compiling x").is_none());
        assert!(artifact("{\"target\":{\"kind\":[\"bench\"],\"name\":\"path\"},\"executable\":null}").is_none());
    }

    #[test]
    fn callgrind_is_understood() {
        assert_eq!(collected("==7== \n==7== Events    : Ir\n==7== Collected : 2654208\n"), Some(2_654_208));
        assert_eq!(collected("==7== Collected : 0\n"), None);
    }
}
