//! What `-f` names: sending, receiving, answering, and the search for a rate.

use crate::args::{Args, Function, Pair};
use crate::capture::{Capture, Rewrite};
use crate::pacer::Pacer;
use crate::port::{self, Port, RELEASED, release};
use crate::rx_stats::RxStats;
use crate::search::{self, Limit, SearchConfig, Trial};
use crate::tag::Tag;
use crate::traffic::{FrameSource, Traffic, TrafficConfig};
use guideway_host::error::{Context, Error};
use guideway_packet::frame::Frame;
use guideway_packet::verdict::Verdict;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Set when the user wants an end.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// What is on its way has so long to come after the last frame.
const RETURN_TIMEOUT: Duration = Duration::from_millis(200);
/// Shorter waits are spent polling: a sleep takes longer.
const BUSY_POLL_BELOW: Duration = Duration::from_micros(100);
/// Longest sleep, so that a signal is noticed.
const MAX_SLEEP: Duration = Duration::from_millis(20);
/// Frames that one reading of the clock serves.
const FRAMES_PER_TIMESTAMP: u64 = 8;
/// How long `ping` waits for an answer.
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// Polls in which a transmit ring is emptied after the last frame.
const FINAL_POLLS: usize = 64;

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxStats {
    /// Frames.
    pub frames: u64,
    /// Bytes without checksums.
    pub bytes: u64,
    /// Seconds from the start to the last frame.
    pub seconds: f64,
}

impl TxStats {
    fn json(&self) -> Value {
        json!({"frames": self.frames, "bytes": self.bytes, "seconds": self.seconds, "pps": rate(self.frames, self.seconds)})
    }
}

fn rate(frames: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { frames as f64 / seconds } else { 0.0 }
}

/// Lines of progress on stderr.
struct Progress {
    every: Duration,
    last: Instant,
    frames: u64,
    bytes: u64,
}

impl Progress {
    fn new(args: &Args) -> Progress {
        Progress { every: Duration::from_millis(args.report), last: Instant::now(), frames: 0, bytes: 0 }
    }

    fn show(&mut self, what: &str, frames: u64, bytes: u64, rest: impl FnOnce() -> String) {
        let passed = self.last.elapsed();
        if self.every.is_zero() || passed < self.every {
            return;
        }
        let seconds = passed.as_secs_f64();
        let (mpps, mbits) = ((frames - self.frames) as f64 / seconds / 1e6, (bytes - self.bytes) as f64 * 8.0 / seconds / 1e6);
        eprintln!("{what} {mpps:.3} Mpps {mbits:.1} Mbit/s, {frames} in all{}", rest());
        (self.last, self.frames, self.bytes) = (Instant::now(), frames, bytes);
    }
}

/// Where frames come from, as the flags say.
pub fn source(args: &Args, port: &Port) -> Result<Box<dyn FrameSource>, Error> {
    let gre = args.gre.map(|Pair(both)| both);
    if let Some(file) = &args.pcap {
        let bisect = args.function == Function::Bisect;
        let rewrite = Rewrite { number: args.number || bisect, macs: [args.source_mac, args.destination_mac], gre };
        let rounds = if bisect { 0 } else { args.rounds };
        let capture = Capture::read(file, rewrite, rounds, args.speed).map_err(|e| Error::Usage(e.to_string()))?;
        let (len, numbered, skipped) = (capture.len(), capture.numbered, capture.skipped);
        eprintln!("{}: {len} frames of {:.3} s, {numbered} numbered, {skipped} left out", file.display(), capture.duration().as_secs_f64());
        if bisect && numbered < len {
            return Err(Error::Usage(format!("{}: has no UDP in it that could be numbered", file.display())));
        }
        return Ok(Box::new(capture));
    }
    let config = TrafficConfig {
        macs: [args.source_mac.or(port.mac).unwrap_or([2, 0, 0, 0, 0, 1]), args.destination_mac.unwrap_or([0xff; 6])],
        from: args.source,
        to: args.destination,
        gre,
        len: usize::from(args.len),
        flows: args.flows,
        destinations: args.destinations,
        skew: args.zipf,
        shape: args.shape,
        requests: args.requests,
        tids: args.tids,
        seed: args.seed,
    };
    Traffic::new(config).map(|traffic| Box::new(traffic) as Box<dyn FrameSource>).map_err(|e| Error::Usage(e.to_string()))
}

/// How long and how fast.
struct SendConfig {
    pacer: Pacer,
    burst: u64,
    count: u64,
    until: Option<Instant>,
    /// Frames that may be on their way.
    window: Option<u64>,
}

/// Sends, numbered from `first` on; what comes meanwhile is counted.
fn send(
    port: &mut Port,
    source: &mut dyn FrameSource,
    mut send_config: SendConfig,
    first: u64,
    rx_stats: &mut RxStats,
    mut progress: Option<Progress>,
) -> Result<TxStats, Error> {
    let (start, mut sent, mut over) = (Instant::now(), TxStats::default(), false);
    // With a window: frames that were given up, and the last moment at which one came back.
    let (mut written_off, mut last_return) = (0, (rx_stats.unique(), start));
    while !over && !STOP.load(Relaxed) {
        let now = Instant::now();
        if send_config.until.is_some_and(|until| now >= until) {
            break;
        }
        let mut due = if source.due().is_some() { send_config.burst } else { send_config.pacer.due(now) };
        let mut window_full = false;
        if let Some(window) = send_config.window {
            let back = rx_stats.unique();
            if back > last_return.0 || sent.frames <= back + written_off {
                last_return = (back, now);
            } else if now - last_return.1 > RETURN_TIMEOUT {
                written_off = sent.frames.saturating_sub(back);
            }
            let room = window.saturating_sub(sent.frames.saturating_sub(back + written_off));
            window_full = room == 0;
            due = due.min(room);
        }
        let (mut burst, mut stamp) = (0, 0);
        while burst < due && !over {
            if source.due().is_some_and(|at| start + at > now) {
                break;
            }
            if burst % FRAMES_PER_TIMESTAMP == 0 {
                stamp = port::now();
            }
            let Some(frame) = source.next_frame(first + sent.frames, stamp) else {
                over = true;
                break;
            };
            let len = frame.len() as u64;
            if !port.io.send(frame).with_context(|| "sending".to_owned())? {
                break;
            }
            source.sent();
            burst += 1;
            sent.frames += 1;
            sent.bytes += len;
            over = send_config.count > 0 && sent.frames >= send_config.count;
        }
        send_config.pacer.sent(burst);
        if burst > 0 {
            sent.seconds = start.elapsed().as_secs_f64();
        }
        let wait = match (due, source.due()) {
            (0, _) if window_full => MAX_SLEEP,
            (0, _) => send_config.pacer.wait(now),
            (_, Some(at)) if burst == 0 => at.saturating_sub(start.elapsed()),
            _ => Duration::ZERO,
        };
        let wait = if wait < BUSY_POLL_BELOW { Duration::ZERO } else { wait.min(MAX_SLEEP) };
        receive(port, wait, rx_stats)?;
        if let Some(progress) = &mut progress {
            progress.show("sent", sent.frames, sent.bytes, || {
                if rx_stats.frames > 0 { format!("; {}", rx_stats.text()) } else { String::new() }
            });
        }
    }
    for _ in 0..FINAL_POLLS {
        receive(port, Duration::ZERO, rx_stats)?;
    }
    Ok(sent)
}

/// One poll: counts what comes; whether that was anything, and whether it was the last.
fn receive(port: &mut Port, wait: Duration, rx_stats: &mut RxStats) -> Result<(usize, bool), Error> {
    let poll = port.io.poll(wait, &mut |_, frames| {
        let now = port::now();
        for frame in frames.iter() {
            rx_stats.count(frame.bytes(), now);
        }
        release(frames);
    });
    poll.map(|poll| (poll.received, poll.end)).with_context(|| "receiving".to_owned())
}

/// Does what `-f` says; the result as JSON and as text, and whether it is a success.
pub fn run(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    match args.function {
        Function::Tx => {
            let mut source = source(args, port)?;
            start_delay(args);
            let burst = u64::from(args.burst);
            let window = args.window.map(u64::from);
            let send_config =
                SendConfig { pacer: Pacer::new(args.rate, burst, Instant::now()), burst, count: args.count, until: None, window };
            let mut rx_stats = RxStats::default();
            let sent = send(port, &mut *source, send_config, 0, &mut rx_stats, Some(Progress::new(args)))?;
            let mut text = format!(
                "sent {} frames, {} bytes in {:.3} s: {:.0} a second",
                sent.frames,
                sent.bytes,
                sent.seconds,
                rate(sent.frames, sent.seconds)
            );
            let mut json = json!({"function": "tx", "sent": sent.json()});
            if window.is_some() {
                wait_for_returns(port, sent.frames, &mut rx_stats)?;
                let lost = sent.frames.saturating_sub(rx_stats.unique());
                json["received"] = rx_stats.json();
                json["received"]["lost"] = lost.into();
                text.push_str(&format!("; lost {lost}; {}", rx_stats.text()));
            }
            Ok((json, text, true))
        }
        Function::Rx => rx(args, port),
        Function::Ping => ping(args, port),
        Function::Pong => pong(args, port),
        Function::Bisect => {
            let mut source = source(args, port)?;
            start_delay(args);
            bisect(args, port, &mut *source)
        }
    }
}

fn start_delay(args: &Args) {
    std::thread::sleep(Duration::from_secs(args.wait.into()));
}

fn rx(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut rx_stats, mut progress) = (RxStats::default(), Progress::new(args));
    let (mut first, mut last): (Option<Instant>, Instant) = (None, Instant::now());
    eprintln!("receiving");
    while !STOP.load(Relaxed) && (args.count == 0 || rx_stats.frames < args.count) {
        let (received, end) = receive(port, MAX_SLEEP, &mut rx_stats)?;
        if received > 0 {
            last = Instant::now();
            first.get_or_insert(last);
        }
        progress.show("received", rx_stats.frames, rx_stats.bytes, || format!(", {} lost", rx_stats.lost()));
        if end || (args.exit_when_idle && first.is_some() && last.elapsed() > Duration::from_secs(1)) {
            break;
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    let json = json!({"function": "rx", "received": rx_stats.json(), "seconds": seconds, "pps": rate(rx_stats.frames, seconds)});
    Ok((json, format!("{}; {:.0} a second", rx_stats.text(), rate(rx_stats.frames, seconds)), true))
}

fn ping(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut source, mut rx_stats, mut progress) = (source(args, port)?, RxStats::default(), Progress::new(args));
    let (mut sent, start) = (0u64, Instant::now());
    start_delay(args);
    while !STOP.load(Relaxed) && (args.count == 0 || sent < args.count) {
        if let Some(rate) = args.rate {
            std::thread::sleep(Duration::from_secs_f64(sent as f64 / rate).saturating_sub(start.elapsed()));
        }
        let Some(frame) = source.next_frame(sent, port::now()) else { break };
        if !port.io.send(frame).with_context(|| "sending".to_owned())? {
            receive(port, Duration::ZERO, &mut rx_stats)?;
            continue;
        }
        source.sent();
        sent += 1;
        let (requested, before) = (Instant::now(), rx_stats.frames);
        let mut wait = Duration::ZERO;
        while rx_stats.frames == before && requested.elapsed() < PING_TIMEOUT && !STOP.load(Relaxed) {
            receive(port, wait, &mut rx_stats)?;
            wait = MAX_SLEEP;
        }
        progress.show("pinged", sent, sent, || format!("; {}", rx_stats.text()));
    }
    let json = json!({"function": "ping", "sent": {"frames": sent}, "received": rx_stats.json(), "unanswered": sent - rx_stats.unique().min(sent)});
    Ok((json, format!("sent {sent}; {}", rx_stats.text()), true))
}

fn pong(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut answered, mut bytes, mut progress) = (0u64, 0u64, Progress::new(args));
    eprintln!("answering");
    while !STOP.load(Relaxed) && (args.count == 0 || answered < args.count) {
        let poll = port.io.poll(MAX_SLEEP, &mut |_, frames| {
            for frame in frames {
                frame.verdict = if Tag::in_frame(frame.bytes()).is_some() && swap_endpoints(frame) { Verdict::Transmit } else { RELEASED };
                answered += u64::from(frame.verdict == Verdict::Transmit);
                bytes += frame.len() as u64;
            }
        });
        let poll = poll.with_context(|| "answering".to_owned())?;
        answered -= poll.transmit_full as u64;
        progress.show("answered", answered, bytes, String::new);
        if poll.end {
            break;
        }
    }
    for _ in 0..FINAL_POLLS {
        receive(port, Duration::ZERO, &mut RxStats::default())?;
    }
    Ok((json!({"function": "pong", "answered": answered}), format!("answered {answered} frames"), true))
}

/// Exchanges every source and destination of a frame. Checksums stay right: the words are the same.
fn swap_endpoints(frame: &mut Frame<'_>) -> bool {
    let bytes = frame.bytes_mut();
    swap(bytes, 0, 6);
    let mut at = 14;
    loop {
        let (addresses, len, protocol, next) = match bytes.get(at).map(|first| first >> 4) {
            Some(4) => (at + 12, 4, at + 9, at + 20),
            Some(6) => (at + 8, 16, at + 6, at + 40),
            _ => return false,
        };
        swap(bytes, addresses, len);
        match bytes.get(protocol) {
            Some(47) => at = next + 4,
            Some(17) => return swap(bytes, next, 2),
            _ => return false,
        }
    }
}

/// Exchanges `len` bytes at `at` with those behind them.
fn swap(bytes: &mut [u8], at: usize, len: usize) -> bool {
    let Some(both) = bytes.get_mut(at..at + 2 * len) else { return false };
    both.rotate_left(len);
    true
}

/// Looks for the highest rate without loss.
pub fn bisect(args: &Args, port: &mut Port, source: &mut dyn FrameSource) -> Result<(Value, String, bool), Error> {
    let config =
        SearchConfig { start: args.search.start, max_rate: args.search.max_rate, loss: args.search.loss, precision: args.search.precision };
    let (mut trials, mut failure, mut first) = (Vec::new(), None, 0);
    let mut latency = Value::Null;
    let (best, limit) = search::search(config, |requested| {
        let mut best: Option<Trial> = None;
        for _ in 0..args.search.tries {
            let (done, rx_stats) = match trial(args, port, source, requested, &mut first) {
                Ok(_) if STOP.load(Relaxed) => return None,
                Ok(done) => done,
                Err(e) => {
                    failure = Some(e);
                    return None;
                }
            };
            let lost = done.sent.saturating_sub(done.received);
            eprintln!("{requested:9.0} a second: sent {} at {:.0} a second, lost {lost}; {}", done.sent, done.offered, rx_stats.text());
            trials
                .push(json!({"requested": requested, "offered": done.offered, "sent": done.sent, "received": done.received, "lost": lost}));
            let better = best.is_none_or(|best| (done.loss(), best.offered) < (best.loss(), done.offered));
            if better {
                best = Some(done);
            }
            if done.loss() <= config.loss {
                latency = rx_stats.json()["latency_ns"].clone();
                // A sender that something else held up may try again, too.
                if !done.is_sender_limited() {
                    break;
                }
            }
        }
        best
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let best_rate = best.map_or(0.0, |best| best.offered);
    let json = json!({
        "function": "bisect", "loss_free_pps": best_rate, "limit": limit.name(), "allowed_loss": config.loss, "latency_ns": latency, "trials": trials,
    });
    let why = match limit {
        Limit::Loss => "beyond it frames are lost",
        Limit::Sender => "the sender sends no faster",
        Limit::Allowed => "the highest that was allowed",
        Limit::Start => "every rate that was tried loses frames",
    };
    Ok((json, format!("without loss: {best_rate:.0} a second ({why})"), best.is_some()))
}

fn trial(args: &Args, port: &mut Port, source: &mut dyn FrameSource, requested: f64, first: &mut u64) -> Result<(Trial, RxStats), Error> {
    let (mut rx_stats, burst, start) = (RxStats::default(), u64::from(args.burst), Instant::now());
    let until = start + Duration::from_secs_f64(args.search.trial);
    let send_config =
        SendConfig { pacer: Pacer::new(Some(requested), burst, start), burst, count: args.count, until: Some(until), window: None };
    let sent = send(port, source, send_config, *first, &mut rx_stats, None)?;
    *first += sent.frames;
    wait_for_returns(port, sent.frames, &mut rx_stats)?;
    Ok((
        Trial { requested, offered: rate(sent.frames, sent.seconds), sent: sent.frames, received: rx_stats.unique().min(sent.frames) },
        rx_stats,
    ))
}

/// Waits for what is still on its way.
fn wait_for_returns(port: &mut Port, sent: u64, rx_stats: &mut RxStats) -> Result<(), Error> {
    let mut quiet = Instant::now();
    while rx_stats.unique() < sent && quiet.elapsed() < RETURN_TIMEOUT {
        if receive(port, BUSY_POLL_BELOW, rx_stats)?.0 > 0 {
            quiet = Instant::now();
        }
    }
    Ok(())
}

/// Whether `file` can be read, for an early word.
pub fn check_readable(file: &Path) -> Result<(), Error> {
    std::fs::File::open(file).map(drop).map_err(|e| Error::Usage(format!("{}: {e}", file.display())))
}
