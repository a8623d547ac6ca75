//! `guideway check`: checks the configuration of a director, a TFTP server or a health controller, and the host of a director.

use super::common::{load, print_result, usage_error};
use super::{FAILED, print};
use guideway_config::{self as config, FileKind};
use guideway_director::host_check::{self, Finding, Severity};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Check a configuration: print every error and warning, and names that do not exist on this host
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 0: it can be used; 2: it cannot; 1: with `--host`, a director cannot work on this host.\n\n\
    `--host` examines what a director needs: interface, addresses, routes to backends, MTU, receive queues, capabilities, locked memory, other XDP programs, \
    settings of the kernel. It changes nothing, and names a command for each finding.\n\n\
    Example:\n  guideway check --config /etc/guideway/director.toml\n  guideway check --config /etc/guideway/director.toml --host")]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Examine this host for the director of the file, too
    #[arg(long)]
    host: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    // Each of them reports an unreadable file.
    let text = std::fs::read_to_string(&args.config).unwrap_or_default();
    let kind = FileKind::of_text(&text);
    let check = match kind {
        Some(FileKind::Health) => config::health::check_health_command,
        Some(FileKind::Server) => guideway_tftpd::config::check_command,
        Some(FileKind::Director) | None => config::check_command,
    };
    if !args.host {
        return check(&args.config, args.json, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    }
    if matches!(kind, Some(FileKind::Health | FileKind::Server)) {
        return usage_error("`--host` examines the host of a director; this is the file of another daemon");
    }
    let mut report = Vec::new();
    let code = check(&args.config, args.json, &mut report, &mut std::io::stderr().lock());
    let report = String::from_utf8_lossy(&report);
    if code != super::DONE {
        return print_result(&report).max(code);
    }
    match examine(&args.config, args.json, &report) {
        Ok((text, code)) => print_result(&text).max(code),
        Err(code) => code,
    }
}

/// Returns the report with the findings behind it, and the exit code.
fn examine(file: &Path, json: bool, report: &str) -> Result<(String, u8), u8> {
    let config = load(file)?;
    let findings = host_check::examine(&config);
    let bad = findings.iter().any(|finding| finding.severity == Severity::Error);
    let text = if json {
        let mut document: Value = serde_json::from_str(report).unwrap_or_default();
        document["host"] = json!(findings);
        print::json(&document)
    } else {
        format!("{report}{}", table(&findings))
    };
    Ok((text, if bad { FAILED } else { super::DONE }))
}

fn table(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "host: {finding}");
    }
    if findings.is_empty() {
        out.push_str("host: good\n");
    }
    out
}
