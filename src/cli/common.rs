//! What several commands need: a configuration or the reasons against it, exit codes, output that survives a closed pipe.

use crate::config::{self, Config};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// The command failed.
pub const FAILED: u8 = 1;
/// Bad usage or a bad configuration.
pub const BAD_USAGE: u8 = 2;

/// Reads a configuration. When it cannot be used, every error of it is on standard error, and the exit code is given.
/// Warnings are left to `guideway check`.
pub fn load(path: &Path) -> Result<Config, ExitCode> {
    let checked = match config::load(path) {
        Ok(checked) => checked,
        Err(error) => return Err(bad(&error.to_string())),
    };
    for problem in checked.errors() {
        eprintln!("{}", problem.in_file(path));
    }
    checked.config.ok_or(ExitCode::from(BAD_USAGE))
}

/// Says what is wrong with the usage or configuration.
pub fn bad(message: &str) -> ExitCode {
    eprintln!("guideway: {message}");
    ExitCode::from(BAD_USAGE)
}

/// Says what failed.
pub fn failed(message: &str) -> ExitCode {
    eprintln!("guideway: {message}");
    ExitCode::from(FAILED)
}

/// Prints to standard output. A reader that went away is no failure of ours.
pub fn print(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => failed(&format!("standard output: {e}")),
    }
}
