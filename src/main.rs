//! The `guideway` program.

use clap::Parser;
use guideway::lab;
use std::process::ExitCode;

/// A Maglev load balancer for TFTP and other UDP fleets.
#[derive(Parser)]
#[command(version)]
enum Command {
    Lab(lab::LabArgs),
    Decap(lab::DecapArgs),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Lab(args) => lab::main(&args),
        Command::Decap(args) => lab::decap_main(&args),
    }
}
