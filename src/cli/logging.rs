//! Logging of the daemons: the options and the setup.

use super::log_limit::LogLimit;
use super::print;
use clap::ValueEnum;
use guideway_daemon::systemd::{is_journal, with_priority};
use std::io::{self, IsTerminal, Write, stderr};
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
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

/// Writes the log to standard error. In the journal each line gets the priority of its level (sd-daemon(3)), so that `journalctl -p` finds it.
struct Lines {
    journal: bool,
}

/// Writes one message.
struct Message {
    /// The level as a priority of syslog(3); `None` outside of the journal.
    priority: Option<u8>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Message;

    fn make_writer(&'a self) -> Message {
        Message { priority: self.journal.then_some(priority(Level::INFO)) }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Message {
        Message { priority: self.journal.then_some(priority(*metadata.level())) }
    }
}

/// Returns the priority of syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl Write for Message {
    fn write(&mut self, message: &[u8]) -> io::Result<usize> {
        match self.priority {
            Some(priority) => stderr().write_all(&with_priority(priority, message))?,
            None => stderr().write_all(message)?,
        }
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        stderr().flush()
    }
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
        let journal = is_journal(&stderr());
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Lines { journal }).with_ansi(stderr().is_terminal());
        let set = match args.log_format {
            // The journal has its own time stamps.
            LogFormat::Human if journal => builder.with_target(false).without_time().finish().with(LogLimit::default()).try_init(),
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
    fn levels_are_priorities_of_syslog() {
        assert_eq!([Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE].map(priority), [3, 4, 6, 7, 7]);
    }

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
