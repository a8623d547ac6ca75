//! Logging of the daemons: the options and the setup.

use super::log_limit::LogLimit;
use super::print;
use clap::ValueEnum;
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Logging options of every daemon.
#[derive(Clone, Debug, clap::Args)]
pub struct LogArgs {
    /// Format of log lines
    #[arg(long, value_enum, default_value = "human")]
    log_format: LogFormat,
    /// Levels to log: error, warn, info, debug, trace, or a filter such as `guideway_control=debug`; default: RUST_LOG, otherwise info
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

/// Parses a filter. A word that is not a level is a mistyped level, not a module name: as such it would hide all other messages.
fn filter(text: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let known = |part: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part));
    if let Some(part) = text.split(',').find(|part| !part.contains(['=', '[']) && !known(part.trim())) {
        return Err(format!("{part:?} is not a level"));
    }
    EnvFilter::try_new(text).map_err(|e| e.to_string())
}

/// Sets up logging; reports invalid options and returns the exit code.
pub fn start(args: &LogArgs) -> Result<(), u8> {
    let set = || -> Result<(), String> {
        let filter = match &args.log_level {
            Some(level) => filter(level)?,
            None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
        };
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
        let set = match args.log_format {
            LogFormat::Human => builder.with_target(false).finish().with(LogLimit::default()).try_init(),
            LogFormat::Json => builder.json().flatten_event(true).finish().with(LogLimit::default()).try_init(),
        };
        set.map_err(|e| e.to_string())
    };
    set().map_err(|why| {
        print::error(format_args!("--log-level: {why}; allowed are error, warn, info, debug, trace, or target=level"));
        super::BAD_USAGE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_level_is_refused() {
        for text in ["info", "WARN", "guideway_control=debug", "warn,guideway=trace", "[{x}]=debug", "off"] {
            assert!(filter(text).is_ok(), "{text}");
        }
        for text in ["wran", "blah", "warn,guideway", "", "guideway=loud"] {
            assert!(filter(text).is_err(), "{text}");
        }
    }
}
