//! `guideway replay`: runs a capture through the real packet path, offline.

use super::common::{failed, health_with_down, load, print_result, usage_error};
use super::print;
use guideway_config::{Config, Io as IoKind};
use guideway_control::{NextHops, Writer};
use guideway_dataplane::counters::{Counters, PacketCounter};
use guideway_dataplane::path::State;
use guideway_dataplane::poll::poll;
use guideway_io::pcap::Pcap;
use guideway_packet::time::Time;
use guideway_packet::verdict::Reason;
use guideway_store::Health;
use indicatif::{ProgressBar, ProgressStyle};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Frames between two updates of the progress line.
const PROGRESS: u64 = 1 << 16;

/// Run a capture through the real packet path, offline: frames in, frames out, and the verdict on each
///
/// Time is that of the capture. Next hops are the [[neighbour]] entries of the configuration.
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
    /// Treat this backend as down; may be given several times
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
        return usage_error(&format!(
            "{}: director.io: replay needs io = {{ kind = \"pcap\", mac = \"02:00:00:00:01:11\" }}, with the director's link-layer address in the capture",
            args.config.display()
        ));
    }
    let health = match health_with_down(&config, &args.down) {
        Ok(health) => health,
        Err(message) => return usage_error(&message),
    };
    if let Some(overwritten_file) = overwritten_file(args) {
        return usage_error(&overwritten_file);
    }
    let pcap = match Pcap::open(&args.input, &args.output) {
        Ok(pcap) => pcap,
        Err(error) => return failed(&error.to_string()),
    };
    let (counters, end) = match replay(&config, &health, pcap) {
        Ok(done) => done,
        Err(message) => return usage_error(&message),
    };
    // The counters are useful even when the capture was damaged at its end.
    let document = format!("{:#}\n", counters.to_json());
    if let Some(path) = &args.counters
        && let Err(error) = std::fs::write(path, &document)
    {
        return failed(&format!("{}: {error}", path.display()));
    }
    let printed = print_result(&if args.json { document } else { summary(&counters) });
    match end {
        Ok(()) => printed,
        Err(error) => failed(&error.to_string()),
    }
}

/// Returns an error when an output would overwrite another file.
fn overwritten_file(args: &Args) -> Option<String> {
    let mut others = vec![("--in", args.input.as_path()), ("--config", args.config.as_path())];
    let counters = args.counters.as_deref().map(|path| ("--counters", path));
    for (name, path) in std::iter::once(("--out", args.output.as_path())).chain(counters) {
        if let Some((other, _)) = others.iter().find(|(_, other)| same_file(path, other)) {
            return Some(format!("{name} is the same file as {other}, which would be overwritten; give another path"));
        }
        others.push((name, path));
    }
    None
}

/// Returns whether two paths lead to one file, also under different names; compares paths of files that do not exist yet.
fn same_file(a: &Path, b: &Path) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => a == b,
    }
}

/// Runs the capture to its end, or to a damaged frame.
fn replay(config: &Config, health: &Health, mut pcap: Pcap) -> Result<(Counters, std::io::Result<()>), String> {
    let tables =
        Writer::new().apply_state(config, 1, health, &NextHops::from_config(config), Time(0)).map_err(|refused| refused.to_string())?;
    let mut state = State::new(config.director.flows, tables.mtu);
    let progress = ProgressBar::new_spinner().with_style(ProgressStyle::default_spinner());
    let mut shown = 0;
    let result = loop {
        match poll(&mut pcap, &mut state, Duration::ZERO, &mut &tables) {
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
    state.count_evictions();
    Ok((state.counters, result.and(pcap.finish())))
}

fn summary(counters: &Counters) -> String {
    let number = |counter: PacketCounter| [counter.name().to_owned(), counters.get(counter).to_string(), String::new()];
    let mut rows: Vec<[String; 3]> =
        [PacketCounter::Received, PacketCounter::Transmitted, PacketCounter::ToHost, PacketCounter::Held].map(number).into();
    rows.push(["dropped".to_owned(), counters.total_dropped().to_string(), String::new()]);
    let dropped = Reason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0);
    rows.extend(
        dropped.map(|reason| [format!("dropped: {}", reason.name()), counters.dropped(*reason).to_string(), reason.explain().to_owned()]),
    );
    rows.push(number(PacketCounter::Originated));
    print::columns(rows, &[1])
}
