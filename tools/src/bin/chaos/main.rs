//! Runs scripts of chaos, one lab after the other, with Guideway and with what an operator has today, and writes the results as JSON and as a table.

mod page;
mod rows;
mod soak;

use clap::Parser;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Run the scripts of chaos of this repository: with Guideway, and with plain ECMP to stock servers in its place.
///
/// Progress goes to stderr, a line for each lab. Small by default: a row once, about 40 transfers of 1 MiB. Exit code 0: every row of Guideway's is as its script allows; 1: one is not;
/// 2: bad usage; 130: interrupted. The column `plain ECMP` is there to compare, and never makes it fail.
#[derive(Debug, Parser)]
#[command(
    name = "chaos",
    after_help = "Examples:\n  tools/chaos --row kill-backend\n  tools/chaos --json chaos.json\n  tools/chaos --full --markdown chaos.md\n  tools/chaos --soak 1h --seed 7"
)]
struct Args {
    /// Only these scripts, by the names of their files; may be repeated
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Write the results here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table here (default with --full: chaos.md)
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Five seeds, and the scripts at their full size: 200 transfers of 8 MiB at once
    #[arg(long)]
    full: bool,
    /// The first seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many seeds, 1–100 (default: 1, with --full 5)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100))]
    seeds: Option<u64>,
    /// How many of these seeds for the comparison too, 1–100 (default: 1, of hopeless transfers every one takes its time-out)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100))]
    baseline_seeds: u64,
    /// Leave the comparison out
    #[arg(long)]
    no_baseline: bool,
    /// Random chaos for so long instead of the rows, such as 10m or 1h, and a look at the memory of directors and servers
    #[arg(long, value_name = "TIME", value_parser = soak::parse_time)]
    soak: Option<Duration>,
    /// The program to run
    #[arg(long, value_name = "FILE", default_value = "target/release/guideway-lab")]
    lab: PathBuf,
    /// Where the scripts are
    #[arg(long, value_name = "DIR", default_value = "src/lab/scripts")]
    scripts: PathBuf,
}

/// Longest time that one lab may take.
const MAX_RUNTIME: Duration = Duration::from_secs(15 * 60);
const MAX_RUNTIME_FULL: Duration = Duration::from_secs(60 * 60);

/// The lab that runs, if one does, and whether somebody wants it to end.
struct Running {
    pid: AtomicI32,
    stop: AtomicBool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("chaos: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<u8, String> {
    let running = listen()?;
    if let Some(time) = args.soak {
        let script = soak::script(time, args.seed)?;
        return soak(args, &running, script.path());
    }
    let rows = rows::find(&args.scripts, &args.row)?;
    let seeds = args.seed..args.seed + args.seeds.unwrap_or(if args.full { 5 } else { 1 });
    let (mut ours, mut baseline) = (Vec::new(), Vec::new());
    let since = Instant::now();
    let labs =
        rows.len() as u64 * (seeds.end - seeds.start + if args.no_baseline { 0 } else { args.baseline_seeds.min(seeds.end - seeds.start) });
    for row in &rows {
        for seed in seeds.clone() {
            let compared = !args.no_baseline && seed - args.seed < args.baseline_seeds;
            for direct in [false, true].into_iter().take(1 + usize::from(compared)) {
                if running.stop.load(Ordering::Acquire) {
                    return Ok(130);
                }
                let result = lab(args, &running, row, seed, direct)?;
                let done = ours.len() + baseline.len() + 1;
                eprintln!("[{done} of {labs}, {:.0} min] {}", since.elapsed().as_secs_f64() / 60.0, rows::line(&result));
                if direct {
                    baseline.push(result)
                } else {
                    ours.push(result)
                }
                // Hours may have gone into it: what is done is there whatever comes.
                write(args, &ours, &baseline)?;
            }
        }
    }
    let good = ours.iter().all(|row| row["ok"] == true);
    Ok(if running.stop.load(Ordering::Acquire) { 130 } else { u8::from(!good) })
}

fn soak(args: &Args, running: &Running, script: &Path) -> Result<u8, String> {
    let result = lab(args, running, script, args.seed, false)?;
    eprintln!("{}", rows::line(&result));
    soak::lines(&result).iter().for_each(|line| eprintln!("  {line}"));
    write(args, std::slice::from_ref(&result), &[])?;
    Ok(if result["interrupted"] == true { 130 } else { u8::from(result["ok"] != true) })
}

fn write(args: &Args, rows: &[Value], baseline: &[Value]) -> Result<(), String> {
    let save = |path: &Path, text: String| std::fs::write(path, text).map_err(|e| format!("writing {}: {e}", path.display()));
    if let Some(path) = &args.json {
        save(path, format!("{:#}\n", json!({ "rows": rows, "baseline": baseline })))?;
    }
    let markdown = args.markdown.clone().or_else(|| args.full.then(|| PathBuf::from("chaos.md")));
    markdown.map_or(Ok(()), |path| save(&path, page::table(rows, baseline)))
}

/// Ctrl-C and SIGTERM end the lab that runs, which takes everything of its own away, and then us.
fn listen() -> Result<Arc<Running>, String> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().map_err(|e| format!("blocking signals: {e}"))?;
    let running = Arc::new(Running { pid: AtomicI32::new(0), stop: AtomicBool::new(false) });
    let handler_state = Arc::clone(&running);
    let body = move || {
        while signals.wait().is_ok() {
            handler_state.stop.store(true, Ordering::Release);
            let pid = handler_state.pid.load(Ordering::Acquire);
            if pid > 0 {
                // It may have ended in this moment.
                let _gone = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(body).map_err(|e| format!("starting a thread: {e}"))?;
    Ok(running)
}

/// Runs one lab to its end; what it reports, or why there is no report as a row that is not ok.
fn lab(args: &Args, running: &Running, script: &Path, seed: u64, direct: bool) -> Result<Value, String> {
    let mut command = Command::new(&args.lab);
    command.args(["--json", "--seed", &seed.to_string(), "--chaos"]).arg(script);
    command.args([("--full", args.full), ("--direct", direct)].into_iter().filter(|(_, is)| *is).map(|(flag, _)| flag));
    let shown = |e| format!("{}: {e}", args.lab.display());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(shown)?;
    running.pid.store(i32::try_from(child.id()).unwrap_or(0), Ordering::Release);
    let pipes = (child.stdout.take(), child.stderr.take());
    let report = std::thread::spawn(move || pipes.0.map(std::io::read_to_string));
    let said = std::thread::spawn(move || pipes.1.map(std::io::read_to_string));
    let since = Instant::now();
    let longest = args.soak.map_or(if args.full { MAX_RUNTIME_FULL } else { MAX_RUNTIME }, |time| time + MAX_RUNTIME);
    let mut timed_out = false;
    while child.try_wait().map_err(|e| format!("waiting for the lab: {e}"))?.is_none() {
        if !timed_out && since.elapsed() > longest {
            timed_out = true;
            let _gone = kill(Pid::from_raw(running.pid.load(Ordering::Acquire)), Signal::SIGTERM);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    running.pid.store(0, Ordering::Release);
    let text = |read: std::thread::JoinHandle<Option<std::io::Result<String>>>| {
        read.join().ok().flatten().and_then(Result::ok).unwrap_or_default()
    };
    let (report, said) = (text(report), text(said));
    Ok(match serde_json::from_str::<Value>(&report) {
        Ok(mut row) => {
            if args.soak.is_none() {
                rows::truncate_failures(&mut row);
            }
            row
        }
        Err(_) => rows::failed(script, seed, direct, said.lines().last().unwrap_or("the lab said nothing")),
    })
}
