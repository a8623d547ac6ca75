//! pkt-gen: sends, receives and replays packets over any io, and finds the rate that something forwards without loss.
//!
//! | module | is |
//! |---|---|
//! | [`args`], [`port`] | the flags; what `-i` names |
//! | [`tag`] | number and time in every datagram |
//! | [`traffic`], [`zipf`], [`capture`] | where frames come from |
//! | [`pacer`], [`rx_stats`], [`search`] | when they are due, what came of them, which rate is without loss |
//! | [`run`], [`lab`] | what `-f` names; `--lab-bisect` |

mod args;
mod capture;
mod lab;
mod pacer;
mod port;
mod run;
mod rx_stats;
mod search;
mod tag;
mod traffic;
mod zipf;

use args::{Args, Function};
use clap::Parser;
use guideway_host::error::{Context, Error};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;
use port::Port;
use serde_json::Value;
use std::process::ExitCode;
use std::sync::atomic::Ordering::Relaxed;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = if args.search.lab_bisect { lab::run(&args) } else { run_single(&args).map(Ok) };
    match done {
        Ok(Ok((json, text, good))) => {
            println!("{}", if args.json { json.to_string() } else { text });
            ExitCode::from(u8::from(!good))
        }
        Ok(Err(code)) => ExitCode::from(code),
        Err(e) => {
            eprintln!("pkt-gen: {e}");
            ExitCode::from(if matches!(e, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run_single(args: &Args) -> Result<(Value, String, bool), Error> {
    let Some(name) = &args.interface else { return Err(Error::Usage("-i is missing".to_owned())) };
    stop_on_signals()?;
    if let Some(cpu) = args.cpu {
        let mut set = CpuSet::new();
        set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set)).with_context(|| format!("running on CPU {cpu}"))?;
    }
    let reads = matches!(args.function, Function::Rx | Function::Pong);
    let mut port = Port::open(name, &args.take, reads).with_context(|| "opening the port".to_owned())?;
    run::run(args, &mut port)
}

/// SIGINT and SIGTERM end the work, whose result is then shown.
fn stop_on_signals() -> Result<(), Error> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block().with_context(|| "waiting for signals".to_owned())?;
    let wait = move || {
        // An error is no reason to go on for ever.
        let _ = signals.wait();
        run::STOP.store(true, Relaxed);
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).with_context(|| "starting a thread".to_owned())
}
