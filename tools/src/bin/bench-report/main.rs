//! What Guideway costs, beside what the machine allows: runs every benchmark, and says whether the goals are reached.
//!
//! | module | is |
//! |---|---|
//! | [`run`] | builds and runs the benchmarks |
//! | [`recording`] | what they print |
//! | [`rows`] | goals, and what came of them |
//! | [`machine`], [`page`], [`plot`] | the report |

mod machine;
mod page;
mod plot;
mod recording;
mod rows;
mod run;

use clap::Parser;
use page::Report;
use recording::Recording;
use run::Times;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Run all benchmarks beside their references, and report which goals are reached.
///
/// Prints the table; the whole report (Markdown, SVG, JSON) and what the benchmarks printed is written to a directory. To be run at the root of
/// the repository. Exit code 0 when everything ran, 1 when something did not, 3 with --strict when a goal was missed or not measured.
#[derive(Parser)]
#[command(
    version,
    name = "bench-report",
    after_help = "Example:\n  tools/bench-report --quick\n  tools/bench-report --readme --json results.json\n  \
                  tools/bench-report --recorded target/bench-report"
)]
struct Args {
    /// One short round: under a minute once everything is built
    #[arg(long)]
    quick: bool,
    /// How many rounds (default: 5, or 1 with --quick)
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=99))]
    rounds: Option<u16>,
    /// Write the rows to this file, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the report goes
    #[arg(long, value_name = "DIR", default_value = "target/bench-report")]
    write: PathBuf,
    /// Measure nothing, and report what was printed before: the files round-*.txt of this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["quick", "rounds"])]
    recorded: Option<PathBuf>,
    /// Rewrite the table in README.md, between its two comments, and the picture beside it
    #[arg(long)]
    readme: bool,
    /// Exit code 3 when a goal is missed, or was not measured
    #[arg(long)]
    strict: bool,
}

/// Where the README finds its picture.
const PICTURE: &str = "tools/plots/flows.svg";

fn main() -> ExitCode {
    match report(&Args::parse()) {
        Ok(code) => code,
        Err(why) => {
            eprintln!("bench-report: {why}");
            ExitCode::FAILURE
        }
    }
}

fn report(args: &Args) -> Result<ExitCode, String> {
    fs::create_dir_all(&args.write).map_err(|error| format!("{} cannot be made: {error}", args.write.display()))?;
    let rounds = match &args.recorded {
        Some(directory) => recorded(directory)?,
        None => measured(args)?,
    };
    let mut recording = Recording::default();
    rounds.iter().try_for_each(|round| recording.add(round))?;
    let report = Report::new(recording);
    let json = format!("{:#}\n", report.to_json());
    write(&args.write.join("report.json"), &json)?;
    if let Some(file) = &args.json {
        write(file, &json)?;
    }
    let page = report.page();
    write(&args.write.join("report.md"), &page)?;
    for (name, picture) in report.pictures() {
        write(&args.write.join(name).with_extension("svg"), &picture)?;
        if args.readme && name == page::PICTURE {
            write(Path::new(PICTURE), &picture)?;
        }
    }
    if args.readme {
        let readme = Path::new("README.md");
        write(readme, &page::replace_section(&read(readme)?, &report.section(PICTURE))?)?;
    }
    println!("{page}");
    let (missed, unmeasured) = (report.missed(), report.unmeasured());
    eprintln!("{missed} goals missed, {unmeasured} not measured; the report is {}", args.write.join("report.md").display());
    Ok(if args.strict && missed + unmeasured > 0 { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

/// Runs everything; what was printed, round by round, is kept in files as well.
fn measured(args: &Args) -> Result<Vec<String>, String> {
    let built = run::build()?;
    let (rounds, times) = match args.quick {
        true => (args.rounds.unwrap_or(1), Times { warm_up: 0.1, measure: 0.3 }),
        false => (args.rounds.unwrap_or(5), Times { warm_up: 0.3, measure: 1.0 }),
    };
    for old in files(&args.write)? {
        fs::remove_file(&old).map_err(|error| format!("{} cannot be removed: {error}", old.display()))?;
    }
    let mut outputs = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        let mut text = format!("machine {}\n", machine::detect());
        text += &run::round(&built, times, &args.write)?;
        if round == 1 {
            eprintln!("  instructions");
            text += &run::instructions(&built, &args.write)?;
        }
        write(&args.write.join(format!("round-{round:02}.txt")), &text)?;
        outputs.push(text);
    }
    Ok(outputs)
}

fn recorded(directory: &Path) -> Result<Vec<String>, String> {
    let files = files(directory)?;
    if files.is_empty() {
        return Err(format!("{} has no files round-*.txt", directory.display()));
    }
    files.iter().map(|file| read(file)).collect()
}

/// The recordings in a directory, in order.
fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).map_err(|error| format!("{} cannot be read: {error}", directory.display()))?;
    let is_round = |path: &PathBuf| {
        let name = path.file_name().map(|name| name.to_string_lossy());
        name.is_some_and(|name| name.starts_with("round-") && name.ends_with(".txt"))
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_round).collect();
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<(), String> {
    fs::write(file, text).map_err(|error| format!("{} cannot be written: {error}", file.display()))
}
