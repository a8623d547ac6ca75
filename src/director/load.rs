//! Loads the configuration of a director.

use super::Error;
use guideway_config as config;
use std::path::Path;

/// Reads a file that must be valid; logs its warnings.
pub(super) fn load(file: &Path) -> Result<config::Config, Error> {
    let mut checked = config::load(file)?;
    config::check_secrets(file, &mut checked);
    for warning in checked.warnings() {
        tracing::warn!("{}", warning.in_file(file));
    }
    let problems = checked.errors().cloned().collect();
    checked.config.ok_or_else(|| Error::Config { file: file.to_owned(), problems })
}
