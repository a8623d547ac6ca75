//! What several commands need: a configuration or the reasons against it, and ways to say what is wrong.

use super::{BAD_USAGE, DONE, FAILED, print};
use crate::config::{self, Config};
use std::path::Path;

/// Reads a configuration. When it cannot be used, every error of it is on standard error, and the exit code is given.
/// Warnings are left to `guideway check`.
pub fn load(path: &Path) -> Result<Config, u8> {
    let checked = match config::load(path) {
        Ok(checked) => checked,
        Err(error) => return Err(bad(&error.to_string())),
    };
    for problem in checked.errors() {
        print::error(problem.in_file(path));
    }
    checked.config.ok_or(BAD_USAGE)
}

/// Says what is wrong with the usage or configuration.
pub fn bad(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    BAD_USAGE
}

/// Says what failed.
pub fn failed(message: &str) -> u8 {
    print::error(format_args!("guideway: {message}"));
    FAILED
}

/// Prints the result of a command; gives its exit code.
pub fn result(text: &str) -> u8 {
    if print::line(text.trim_end()) { DONE } else { failed("standard output cannot be written") }
}
