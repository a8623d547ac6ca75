//! `guideway tftp get`: fetch a file.

use super::options::{Options, hex, style, worth_trying_without};
use crate::common::usage_error;
use guideway_tftp::client::exchange::{Done, dally, get};
use guideway_tftp::client::output::Output;
use guideway_tftp::client::target::Target;
use std::path::{Path, PathBuf};

/// Fetch a file from a TFTP server.
///
/// The file appears under its name when it is complete and verified, or not at all. Exit code 0: success; 1: failure; 2: bad usage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  guideway tftp get tftp://192.0.2.69/boot/vmlinuz
  guideway tftp get 192.0.2.69:6969:boot/initrd -o /tmp/initrd --blksize 1468 --windowsize 64
  guideway tftp get [2001:db8::69]:grub.cfg -o - --mode netascii")]
pub struct Args {
    /// tftp://HOST[:PORT]/FILE[;mode=MODE] or HOST[:PORT]:FILE
    #[arg(value_name = "URL|HOST[:PORT]:FILE")]
    target: Target,
    /// Output file; - is standard output (default: the last part of its name, in the current directory)
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let (target, options) = (&args.target, &args.options);
    let Some(to) = args.output.clone().or_else(|| target.base_name().map(PathBuf::from)) else {
        return usage_error("cannot derive a file name from the target: give --output");
    };
    let to_stdout = to == Path::new("-");
    if to_stdout && options.json {
        return usage_error("--json and the file cannot both go to standard output: give --output FILE");
    }
    match fetch(args, &to) {
        Err(code) => code,
        Ok(Err((reason, why))) => options.fail(target, &reason, &why),
        Ok(Ok((done, guard))) => {
            let code = options.report(target, "fetched", &done, to_stdout);
            guard();
            code
        }
    }
}

type FailureText = (String, String);
type Fetched = (Done, Box<dyn FnOnce()>);

/// Fetches the file; returns the result, a failure, or an exit code when the error was already printed.
fn fetch(args: &Args, to: &Path) -> Result<Result<Fetched, FailureText>, u8> {
    let options = &args.options;
    let mut plan = options.plan(&args.target, false, None)?;
    let mut wire = options.wire(&plan)?;
    let local_error = |error: std::io::Error| ("here".to_owned(), format!("{}: {error}", to.display()));
    loop {
        let mut output = match Output::create(to, args.force) {
            Ok(output) => output,
            Err(error) => return Ok(Err(local_error(error))),
        };
        let bar = options.progress(None).with_message(to.display().to_string());
        let mut progress = |bytes, total: Option<u64>| {
            if bar.length() != total {
                bar.set_length(total.unwrap_or(0));
                style(&bar, total.is_some());
            }
            bar.set_position(bytes);
        };
        let got = get(plan.clone(), &mut wire, &mut output, &mut progress);
        bar.finish_and_clear();
        let (done, read) = match got {
            Ok(got) => got,
            Err(failure) if worth_trying_without(&failure, &plan) => {
                plan.ask.clear();
                // A new port, so that late packets of the first attempt are not mistaken for the second.
                wire = options.wire(&plan)?;
                continue;
            }
            Err(failure) => return Ok(Err((failure.reason(), failure.to_string()))),
        };
        if let Some(wanted) = options.sha256.filter(|wanted| *wanted != done.sha256) {
            let why = format!("its SHA-256 is {}, not {}; the file was discarded", hex(&done.sha256), hex(&wanted));
            return Ok(Err(("sha256".to_owned(), why)));
        }
        if let Err(error) = output.persist() {
            return Ok(Err(local_error(error)));
        }
        return Ok(Ok((done, Box::new(move || dally(read, &mut wire)))));
    }
}
