//! `guideway replay`: a capture through the real packet path, offline.

use super::common::{bad, down, failed, load, result};
use guideway_config::{Config, Io as IoKind};
use guideway_control::{NextHops, Writer};
use guideway_dataplane::counters::{Counters, Number};
use guideway_dataplane::path::State;
use guideway_dataplane::turn::turn;
use guideway_io::pcap::Pcap;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_store::Health;
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Frames between two updates of the progress line.
const PROGRESS: u64 = 1 << 16;

/// Run a capture through the real packet path, offline: frames in, frames out, and what became of each.
///
/// Time is the capture's. Next hops are the [[neighbour]] entries of the configuration.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway replay --config boot.toml --in A.pcap --out B.pcap --counters C.json")]
pub struct Args {
    /// The configuration; its io is { kind = "pcap", … }.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Capture to read: pcap or pcapng, Ethernet.
    #[arg(long = "in", value_name = "A.pcap")]
    input: PathBuf,
    /// Capture to write: every frame that a director would send.
    #[arg(long = "out", value_name = "B.pcap")]
    output: PathBuf,
    /// Write the counters to this file, as JSON.
    #[arg(long, value_name = "C.json")]
    counters: Option<PathBuf>,
    /// As if this backend had been seen to be down; may be given several times.
    #[arg(long, value_name = "POOL/BACKEND")]
    down: Vec<String>,
    /// Print the counters as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let config = match load(&args.config) {
        Ok(config) => config,
        Err(code) => return code,
    };
    if !matches!(config.director.io, IoKind::Pcap { .. }) {
        return bad(&format!(
            "{}: director.io: replay needs io = {{ kind = \"pcap\", mac = \"02:00:00:00:01:11\" }}, with the director's link-layer address in the capture",
            args.config.display()
        ));
    }
    let health = match down(&config, &args.down) {
        Ok(health) => health,
        Err(message) => return bad(&message),
    };
    if let Some(clash) = clash(args) {
        return bad(&clash);
    }
    let pcap = match Pcap::open(&args.input, &args.output) {
        Ok(pcap) => pcap,
        Err(error) => return failed(&error.to_string()),
    };
    let (counters, end) = match replay(&config, &health, pcap) {
        Ok(done) => done,
        Err(message) => return bad(&message),
    };
    // The counters are of use also when the capture was damaged at its end.
    let document = format!("{:#}\n", counters.to_json());
    if let Some(path) = &args.counters
        && let Err(error) = std::fs::write(path, &document)
    {
        return failed(&format!("{}: {error}", path.display()));
    }
    let printed = result(&if args.json { document } else { summary(&counters) });
    match end {
        Ok(()) => printed,
        Err(error) => failed(&error.to_string()),
    }
}

/// Says which file would be overwritten although it is wanted, if one would.
fn clash(args: &Args) -> Option<String> {
    let mut others = vec![("--in", args.input.as_path()), ("--config", args.config.as_path())];
    let counters = args.counters.as_deref().map(|path| ("--counters", path));
    for (name, path) in std::iter::once(("--out", args.output.as_path())).chain(counters) {
        if let Some((other, _)) = others.iter().find(|(_, other)| same_file(path, other)) {
            return Some(format!("{name} is the same file as {other}, which would be overwritten; name another one"));
        }
        others.push((name, path));
    }
    None
}

/// Whether two paths lead to one file, also by different names; files that are not there yet are told by their paths.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => a == b,
    }
}

/// Runs the capture to its end, or to where it is damaged.
fn replay(config: &Config, health: &Health, mut pcap: Pcap) -> Result<(Counters, std::io::Result<()>), String> {
    let tables = Writer::new().apply_set(config, 1, health, &NextHops::fixed(config), Time(0)).map_err(|refused| refused.to_string())?;
    let mut state = State::new(config.director.flows, tables.mtu);
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    let mut shown = 0;
    let result = loop {
        match turn(&mut pcap, &mut state, Duration::ZERO, &mut &tables) {
            Ok((done, _)) if done.end => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
        if pcap.frames_read() - shown >= PROGRESS {
            shown = pcap.frames_read();
            progress.set_message(format!("{shown} frames"));
            progress.tick();
        }
    };
    progress.finish_and_clear();
    Ok((state.counters, result.and(pcap.finish())))
}

fn summary(counters: &Counters) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail.
    for number in [Number::Received, Number::Transmitted, Number::ToHost, Number::Held] {
        let _ = writeln!(text, "{:<14} {:>12}", number.name(), counters.get(number));
    }
    let _ = writeln!(text, "{:<14} {:>12}", "dropped", counters.dropped_in_all());
    for reason in Reason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0) {
        let _ = writeln!(text, "  {:<20} {:>12}  {}", reason.name(), counters.dropped(*reason), reason.explain());
    }
    let _ = writeln!(text, "{:<14} {:>12}", Number::Originated.name(), counters.get(Number::Originated));
    text
}
