//! `guideway tftp put`: send a file.

use super::options::{Options, hex, worth_trying_without};
use crate::common::{failed, usage_error};
use guideway_tftp::client::exchange::{Done, put};
use guideway_tftp::client::target::Target;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

/// Send a file to a TFTP server that accepts files
///
/// Exit code 0: success; 1: failure; 2: bad usage.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  guideway tftp put switch.cfg tftp://192.0.2.69/backup/switch.cfg
  guideway tftp put - 192.0.2.69:6969:backup/switch.cfg --mode netascii")]
pub struct Args {
    /// The file to send; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// tftp://HOST[:PORT]/FILE[;mode=MODE] or HOST[:PORT]:FILE; without a file name, the name of the sent file is used
    #[arg(value_name = "URL|HOST[:PORT]:[FILE]")]
    target: Target,
    #[command(flatten)]
    options: Options,
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let (mut target, options) = (args.target.clone(), &args.options);
    let standard_input = args.file == Path::new("-");
    if target.file.is_empty() {
        match args.file.file_name().filter(|_| !standard_input) {
            Some(name) => target.file = name.as_encoded_bytes().to_vec(),
            None => return usage_error("the target names no file"),
        }
    }
    match send(args, &target, standard_input) {
        Err(code) => code,
        Ok(Err((reason, why))) => options.fail(&target, &reason, &why),
        Ok(Ok(done)) => options.report(&target, "sent", &done, false),
    }
}

enum Source {
    File(File),
    Standard(std::io::Stdin),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Source::File(file) => file.read(buffer),
            Source::Standard(input) => input.read(buffer),
        }
    }
}

fn send(args: &Args, target: &Target, standard_input: bool) -> Result<Result<Done, (String, String)>, u8> {
    let options = &args.options;
    let unreadable = |error: std::io::Error| failed(&format!("{}: {error}", args.file.display()));
    let (mut source, size) = match standard_input {
        true => (Source::Standard(std::io::stdin()), None),
        false => {
            let file = File::open(&args.file).map_err(unreadable)?;
            let about = file.metadata().map_err(unreadable)?;
            if about.is_dir() {
                return Err(failed(&format!("{}: it is a directory", args.file.display())));
            }
            (Source::File(file), Some(about.len()).filter(|_| about.is_file()))
        }
    };
    if let Some(wanted) = options.sha256 {
        // Wrong bytes must not be sent at all.
        let (Source::File(file), Some(_)) = (&mut source, size) else { return Err(usage_error("--sha256 needs a regular file to send")) };
        let mut hash = Sha256::new();
        std::io::copy(file, &mut hash).and_then(|_| file.rewind()).map_err(unreadable)?;
        let sum: [u8; 32] = hash.finalize().into();
        if sum != wanted {
            let why = format!("its SHA-256 is {}, not {}; nothing was sent", hex(&sum), hex(&wanted));
            return Ok(Err(("sha256".to_owned(), why)));
        }
    }
    let mut plan = options.plan(target, true, size)?;
    loop {
        let mut wire = options.wire(&plan)?;
        let bar = options.progress(size).with_message(String::from_utf8_lossy(&target.file).into_owned());
        let sent = put(plan.clone(), &mut wire, &mut source, &mut |bytes| bar.set_position(bytes));
        bar.finish_and_clear();
        match sent {
            Err(failure) if worth_trying_without(&failure, &plan) => plan.ask.clear(),
            Err(failure) => return Ok(Err((failure.reason(), failure.to_string()))),
            Ok(done) => return Ok(Ok(done)),
        }
    }
}
