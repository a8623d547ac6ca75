//! `guideway drain` and `undrain`: a backend gets no new requests, and its running transfers continue to their end.

use super::common::{failed, print_result, query, usage_error};
use super::plan::{ChangeArgs, plan_and_apply};
use super::{DONE, FAILED, backends, print};
use guideway_api::backend::BackendStatus;
use guideway_api::transfers::Transfers;
use guideway_config::duration;
use guideway_daemon::client::{Client, Error};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Time between two queries to the directors.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Give a backend no new requests; with --wait, return when the last of its transfers has ended
///
/// Directors do not see the end of a transfer. It counts as ended after --idle-timeout without a packet. With several --socket or --url, the command drains at
/// the first director (or at all, if each has its own store), and --wait queries all of them.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit code 0: done, and with --wait nothing runs any more; 1: it failed, or something still runs after --timeout.\n\n\
    Example:\n  guideway drain t1 --wait --timeout 10m\n  guideway drain t1 --pool boot --dry-run"
)]
pub struct Args {
    /// The backend
    #[arg(value_name = "BACKEND")]
    name: String,
    /// Its pool, if several have one of that name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    /// Wait until nothing runs there any more
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Give up after this time; the backend stays drained
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = time)]
    timeout: Option<Duration>,
    /// Time without a packet after which a transfer counts as ended; must exceed the longest retransmission time-out of the clients
    #[arg(long, value_name = "TIME", requires = "wait", default_value = "10s", value_parser = time)]
    idle_timeout: Duration,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Give a drained backend new requests again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway undrain t1")]
pub struct UndrainArgs {
    /// The backend
    #[arg(value_name = "BACKEND")]
    name: String,
    /// Its pool, if several have one of that name
    #[arg(long, value_name = "POOL")]
    pool: Option<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

/// Runs `guideway drain`.
pub fn run(args: &Args) -> u8 {
    let (clients, path) = match drain_each(&args.name, args.pool.as_deref(), &args.change, "drain") {
        Ok(done) => done,
        Err(code) => return code,
    };
    if args.wait { wait(args, &clients, &path) } else { DONE }
}

/// Runs `guideway undrain`.
pub fn undrain(args: &UndrainArgs) -> u8 {
    drain_each(&args.name, args.pool.as_deref(), &args.change, "undrain").err().unwrap_or(DONE)
}

/// Drains or undrains at every director that does not have the change yet.
fn drain_each(name: &str, pool: Option<&str>, change: &ChangeArgs, action: &str) -> Result<(Vec<Client>, String), u8> {
    let clients = change.director.clients()?;
    let Some(first) = clients.first() else { return Err(usage_error("no director is named")) };
    let path = backends::path(first, name, pool).map_err(|why| failed(&why))?;
    for (at, client) in clients.iter().enumerate() {
        // Directors with a shared store have the change from the first one.
        let drained = Some(action == "drain");
        let already_changed = || client.get::<BackendStatus>(&path).is_ok_and(|backend| backend.drain == drained);
        if at == 0 || (!change.dry_run && !already_changed()) {
            plan_and_apply(client, "POST", &format!("{path}/{action}"), None, change)?;
        }
    }
    Ok((clients, path))
}

fn wait(args: &Args, clients: &[Client], path: &str) -> u8 {
    let path = format!("{path}/transfers?{}", query(&[("idle_timeout", &duration::human(args.idle_timeout))]));
    let (started, mut shown) = (Instant::now(), None);
    loop {
        let mut running = 0;
        let mut ended = true;
        let mut unreachable = None;
        for client in clients {
            match client.get::<Transfers>(&path) {
                Ok(transfers) if transfers.draining_seconds.is_none() => {
                    return failed(&format!("{} is not drained any more at {}", args.name, client.endpoint()));
                }
                Ok(transfers) => {
                    running += transfers.running;
                    ended &= transfers.ended;
                }
                // It restarts, or is busy; it is asked again until the time is over.
                Err(error) if may_pass(&error) => {
                    ended = false;
                    unreachable = Some(error.to_string());
                }
                Err(error) => return failed(&error.to_string()),
            }
        }
        let seconds = started.elapsed().as_secs_f64();
        let news = match &unreachable {
            Some(why) => format!("{seconds:6.1} s  not known, asking again: {why}"),
            None => progress_text(running, seconds),
        };
        let state = (running, unreachable.is_some());
        if shown != Some(state) && !args.change.json && !print::line(news) {
            return failed("standard output cannot be written; the backend is drained");
        }
        shown = Some(state);
        if ended {
            return print_result(&finished_text(&args.name, seconds, args.change.json));
        }
        if let Some(timeout) = args.timeout.filter(|timeout| started.elapsed() >= *timeout) {
            let waited = duration::human(timeout);
            let why = unreachable.map_or_else(
                || format!("{running} still run on {} after {waited}", args.name),
                |why| format!("it is not known what runs on {} after {waited}: {why}", args.name),
            );
            print::error(format_args!("guideway: {why}; it stays drained"));
            return FAILED;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Returns whether the same question may have an answer later: the director does not answer, or says that it cannot now.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Connect { .. } | Error::InvalidResponse { .. } => true,
        Error::Refused { status, .. } => matches!(status, 409 | 429 | 500..),
        Error::Config(_) => false,
    }
}

fn progress_text(running: usize, seconds: f64) -> String {
    match running {
        0 => format!("{seconds:6.1} s  none seen; waiting until it was quiet for long enough"),
        1 => format!("{seconds:6.1} s  1 transfer runs"),
        n => format!("{seconds:6.1} s  {n} transfers run"),
    }
}

/// The JSON that `--wait` ends with.
#[derive(Serialize)]
struct Finished<'n> {
    backend: &'n str,
    running: usize,
    seconds: f64,
}

fn finished_text(backend: &str, seconds: f64, as_json: bool) -> String {
    if as_json {
        print::json(&Finished { backend, running: 0, seconds })
    } else {
        format!("{seconds:6.1} s  nothing runs on {backend} any more: it can be stopped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    /// Waits at a director that gives these answers one after the other, and then the last one again.
    fn wait_for(answers: &'static [&'static str], timeout: &str) -> u8 {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d1.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let mut answers = answers.iter();
            let mut answer = answers.next().unwrap();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let _ = stream.read(&mut [0; 1024]);
                let _ = write!(stream, "HTTP/1.1 {}", answer.replacen('|', "\r\nconnection: close\r\n\r\n", 1));
                answer = answers.next().unwrap_or(answer);
            }
        });
        let args = Command::parse_from(["drain", "t1", "--wait", "--timeout", timeout, "--socket", socket.to_str().unwrap()]).args;
        wait(&args, &args.change.director.clients().unwrap(), "/v1/pools/boot/backends/t1")
    }

    const ENDED: &str = "200 OK|{\"pool\": \"boot\", \"backend\": \"t1\", \"state\": \"drained\", \"generation\": 1, \"idle_timeout_seconds\": 10.0, \
        \"draining_seconds\": 11.0, \"running\": 0, \"untracked\": 0, \"ended\": true, \"transfers\": []}";
    const BUSY: &str = "503 Service Unavailable|{\"error\": \"the director is not ready yet\", \"problems\": []}";

    #[test]
    fn one_poll_that_fails_does_not_end_the_wait() {
        assert_eq!(wait_for(&["", BUSY, ENDED], "20s"), DONE);
        assert_eq!(wait_for(&[BUSY], "500ms"), FAILED, "the deadline does");
        assert_eq!(
            wait_for(&["401 Unauthorized|{\"error\": \"a token is needed\", \"problems\": []}"], "20s"),
            FAILED,
            "nor does asking again help"
        );
    }
}
