//! Draws the pictures of the documents: the README's overview as SVG, and the crates of the workspace as a graph for `src/README.md`.

mod canvas;
mod crates;
mod overview;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

/// Draw the pictures of the documents.
///
/// Exit code 0: written, or up to date; 1: failed, or with --check out of date; 2: bad usage.
#[derive(Debug, Parser)]
#[command(name = "draw", after_help = "Examples:\n  draw overview\n  draw crates --check")]
struct Args {
    /// The picture
    #[command(subcommand)]
    picture: Picture,
    /// Write nothing; fail when a file is not what would be written
    #[arg(long, global = true)]
    check: bool,
    /// The repository
    #[arg(long, value_name = "DIR", default_value = ".", global = true)]
    root: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Picture {
    /// How packets travel: tools/plots/overview-light.svg and overview-dark.svg
    Overview,
    /// Which crate uses which, from `cargo metadata`: between the markers of src/README.md
    Crates,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = match args.picture {
        Picture::Overview => overview_files(&args.root),
        Picture::Crates => crates_file(&args.root),
    };
    match result.and_then(|files| finish(&files, args.check)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("draw: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Paths and what they are to contain.
type Files = Vec<(PathBuf, String)>;

fn overview_files(root: &Path) -> Result<Files, String> {
    let picture = |theme: &canvas::Theme| {
        let canvas = overview::draw(theme);
        match canvas.faults().first() {
            None => Ok((root.join(format!("tools/plots/overview-{}.svg", theme.name)), canvas.to_svg())),
            Some(fault) => Err(fault.clone()),
        }
    };
    canvas::THEMES.iter().map(picture).collect()
}

fn crates_file(root: &Path) -> Result<Files, String> {
    let file = root.join("src/README.md");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let graph = crates::graph(&root.join("Cargo.toml"))?;
    let text = crates::replace_block(&text, "crates", &graph).map_err(|why| format!("{}: {why}", file.display()))?;
    Ok(vec![(file, text)])
}

/// Writes the files, or compares them; true when all is well.
fn finish(files: &Files, check: bool) -> Result<bool, String> {
    let mut up_to_date = true;
    for (file, content) in files {
        let failed = |error: io::Error| format!("{}: {error}", file.display());
        if !check {
            fs::write(file, content).map_err(failed)?;
        } else if fs::read_to_string(file).map_err(failed)? != *content {
            eprintln!("draw: {} is out of date", file.display());
            up_to_date = false;
        }
    }
    Ok(up_to_date)
}
