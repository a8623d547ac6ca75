//! What `-f` names: sending, receiving, answering, and the search for a rate.

use crate::args::{Args, Function, Pair};
use crate::capture::{Capture, Rewrite};
use crate::pace::Pace;
use crate::port::{self, Port, RELEASED, release};
use crate::search::{self, Limit, Search, Trial};
use crate::tag::Tag;
use crate::tally::Tally;
use crate::traffic::{Source, Traffic, Wanted};
use guideway_host::error::{Doing, Error};
use guideway_packet::frame::Frame;
use guideway_packet::verdict::Verdict;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Set when the user wants an end.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// What is on its way has so long to come after the last frame.
const GRACE: Duration = Duration::from_millis(200);
/// Shorter waits are spent turning: a sleep takes longer.
const SPIN: Duration = Duration::from_micros(100);
/// Longest sleep, so that a signal is noticed.
const SLEEP: Duration = Duration::from_millis(20);
/// Frames that one reading of the clock serves.
const STAMPED: u64 = 8;
/// How long `ping` waits for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// Turns in which a transmit ring is emptied after the last frame.
const LAST_TURNS: usize = 64;

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames.
    pub frames: u64,
    /// Bytes without checksums.
    pub bytes: u64,
    /// Seconds from the start to the last frame.
    pub seconds: f64,
}

impl Sent {
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
pub fn source(args: &Args, port: &Port) -> Result<Box<dyn Source>, Error> {
    let gre = args.gre.map(|Pair(both)| both);
    if let Some(file) = &args.pcap {
        let bisect = args.function == Function::Bisect;
        let rewrite = Rewrite { number: args.number || bisect, macs: [args.source_mac, args.destination_mac], gre };
        let rounds = if bisect { 0 } else { args.rounds };
        let capture = Capture::read(file, rewrite, rounds, args.speed).map_err(|e| Error::Usage(e.to_string()))?;
        let (len, numbered, left_out) = (capture.len(), capture.numbered, capture.left_out);
        eprintln!("{}: {len} frames of {:.3} s, {numbered} numbered, {left_out} left out", file.display(), capture.lasts().as_secs_f64());
        if bisect && numbered < len {
            return Err(Error::Usage(format!("{}: has no UDP in it that could be numbered", file.display())));
        }
        return Ok(Box::new(capture));
    }
    let wanted = Wanted {
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
    Traffic::new(wanted).map(|traffic| Box::new(traffic) as Box<dyn Source>).map_err(|e| Error::Usage(e.to_string()))
}

/// How long and how fast.
struct Order {
    pace: Pace,
    burst: u64,
    count: u64,
    until: Option<Instant>,
    /// Frames that may be on their way.
    window: Option<u64>,
}

/// Sends, numbered from `first` on; what comes meanwhile is counted.
fn send(
    port: &mut Port,
    source: &mut dyn Source,
    mut order: Order,
    first: u64,
    tally: &mut Tally,
    mut progress: Option<Progress>,
) -> Result<Sent, Error> {
    let (start, mut sent, mut over) = (Instant::now(), Sent::default(), false);
    // With a window: frames that were given up, and the last moment at which one came back.
    let (mut forgiven, mut heard) = (0, (tally.unique(), start));
    while !over && !STOP.load(Relaxed) {
        let now = Instant::now();
        if order.until.is_some_and(|until| now >= until) {
            break;
        }
        let mut due = if source.due().is_some() { order.burst } else { order.pace.due(now) };
        let mut held = false;
        if let Some(window) = order.window {
            let back = tally.unique();
            if back > heard.0 || sent.frames <= back + forgiven {
                heard = (back, now);
            } else if now - heard.1 > GRACE {
                forgiven = sent.frames.saturating_sub(back);
            }
            let room = window.saturating_sub(sent.frames.saturating_sub(back + forgiven));
            held = room == 0;
            due = due.min(room);
        }
        let (mut burst, mut stamp) = (0, 0);
        while burst < due && !over {
            if source.due().is_some_and(|at| start + at > now) {
                break;
            }
            if burst % STAMPED == 0 {
                stamp = port::now();
            }
            let Some(frame) = source.make(first + sent.frames, stamp) else {
                over = true;
                break;
            };
            let len = frame.len() as u64;
            if !port.io.send(frame).doing(|| "sending".to_owned())? {
                break;
            }
            source.sent();
            burst += 1;
            sent.frames += 1;
            sent.bytes += len;
            over = order.count > 0 && sent.frames >= order.count;
        }
        order.pace.sent(burst);
        if burst > 0 {
            sent.seconds = start.elapsed().as_secs_f64();
        }
        let wait = match (due, source.due()) {
            (0, _) if held => SLEEP,
            (0, _) => order.pace.wait(now),
            (_, Some(at)) if burst == 0 => at.saturating_sub(start.elapsed()),
            _ => Duration::ZERO,
        };
        let wait = if wait < SPIN { Duration::ZERO } else { wait.min(SLEEP) };
        receive(port, wait, tally)?;
        if let Some(progress) = &mut progress {
            progress.show("sent", sent.frames, sent.bytes, || if tally.frames > 0 { format!("; {}", tally.text()) } else { String::new() });
        }
    }
    for _ in 0..LAST_TURNS {
        receive(port, Duration::ZERO, tally)?;
    }
    Ok(sent)
}

/// One turn: counts what comes; whether that was anything, and whether it was the last.
fn receive(port: &mut Port, wait: Duration, tally: &mut Tally) -> Result<(usize, bool), Error> {
    let turn = port.io.turn(wait, &mut |_, frames| {
        let now = port::now();
        for frame in frames.iter() {
            tally.count(frame.bytes(), now);
        }
        release(frames);
    });
    turn.map(|turn| (turn.received, turn.end)).doing(|| "receiving".to_owned())
}

/// Does what `-f` says; the result as JSON and as text, and whether it is a success.
pub fn run(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    match args.function {
        Function::Tx => {
            let mut source = source(args, port)?;
            pause(args);
            let burst = u64::from(args.burst);
            let window = args.window.map(u64::from);
            let order = Order { pace: Pace::new(args.rate, burst, Instant::now()), burst, count: args.count, until: None, window };
            let mut tally = Tally::default();
            let sent = send(port, &mut *source, order, 0, &mut tally, Some(Progress::new(args)))?;
            let mut text = format!(
                "sent {} frames, {} bytes in {:.3} s: {:.0} a second",
                sent.frames,
                sent.bytes,
                sent.seconds,
                rate(sent.frames, sent.seconds)
            );
            let mut json = json!({"function": "tx", "sent": sent.json()});
            if window.is_some() {
                come_back(port, sent.frames, &mut tally)?;
                let lost = sent.frames.saturating_sub(tally.unique());
                json["received"] = tally.json();
                json["received"]["lost"] = lost.into();
                text.push_str(&format!("; lost {lost}; {}", tally.text()));
            }
            Ok((json, text, true))
        }
        Function::Rx => rx(args, port),
        Function::Ping => ping(args, port),
        Function::Pong => pong(args, port),
        Function::Bisect => {
            let mut source = source(args, port)?;
            pause(args);
            bisect(args, port, &mut *source)
        }
    }
}

fn pause(args: &Args) {
    std::thread::sleep(Duration::from_secs(args.wait.into()));
}

fn rx(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut tally, mut progress) = (Tally::default(), Progress::new(args));
    let (mut first, mut last): (Option<Instant>, Instant) = (None, Instant::now());
    eprintln!("receiving");
    while !STOP.load(Relaxed) && (args.count == 0 || tally.frames < args.count) {
        let (received, end) = receive(port, SLEEP, &mut tally)?;
        if received > 0 {
            last = Instant::now();
            first.get_or_insert(last);
        }
        progress.show("received", tally.frames, tally.bytes, || format!(", {} lost", tally.lost()));
        if end || (args.until_silence && first.is_some() && last.elapsed() > Duration::from_secs(1)) {
            break;
        }
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    let json = json!({"function": "rx", "received": tally.json(), "seconds": seconds, "pps": rate(tally.frames, seconds)});
    Ok((json, format!("{}; {:.0} a second", tally.text(), rate(tally.frames, seconds)), true))
}

fn ping(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut source, mut tally, mut progress) = (source(args, port)?, Tally::default(), Progress::new(args));
    let (mut sent, start) = (0u64, Instant::now());
    pause(args);
    while !STOP.load(Relaxed) && (args.count == 0 || sent < args.count) {
        if let Some(rate) = args.rate {
            std::thread::sleep(Duration::from_secs_f64(sent as f64 / rate).saturating_sub(start.elapsed()));
        }
        let Some(frame) = source.make(sent, port::now()) else { break };
        if !port.io.send(frame).doing(|| "sending".to_owned())? {
            receive(port, Duration::ZERO, &mut tally)?;
            continue;
        }
        source.sent();
        sent += 1;
        let (asked, before) = (Instant::now(), tally.frames);
        let mut wait = Duration::ZERO;
        while tally.frames == before && asked.elapsed() < ANSWER && !STOP.load(Relaxed) {
            receive(port, wait, &mut tally)?;
            wait = SLEEP;
        }
        progress.show("pinged", sent, sent, || format!("; {}", tally.text()));
    }
    let json =
        json!({"function": "ping", "sent": {"frames": sent}, "received": tally.json(), "unanswered": sent - tally.unique().min(sent)});
    Ok((json, format!("sent {sent}; {}", tally.text()), true))
}

fn pong(args: &Args, port: &mut Port) -> Result<(Value, String, bool), Error> {
    let (mut answered, mut bytes, mut progress) = (0u64, 0u64, Progress::new(args));
    eprintln!("answering");
    while !STOP.load(Relaxed) && (args.count == 0 || answered < args.count) {
        let turn = port.io.turn(SLEEP, &mut |_, frames| {
            for frame in frames {
                frame.verdict = if Tag::in_frame(frame.bytes()).is_some() && turned_round(frame) { Verdict::Transmit } else { RELEASED };
                answered += u64::from(frame.verdict == Verdict::Transmit);
                bytes += frame.len() as u64;
            }
        });
        let turn = turn.doing(|| "answering".to_owned())?;
        answered -= turn.transmit_full as u64;
        progress.show("answered", answered, bytes, String::new);
        if turn.end {
            break;
        }
    }
    for _ in 0..LAST_TURNS {
        receive(port, Duration::ZERO, &mut Tally::default())?;
    }
    Ok((json!({"function": "pong", "answered": answered}), format!("answered {answered} frames"), true))
}

/// Exchanges every source and destination of a frame. Checksums stay right: the words are the same.
fn turned_round(frame: &mut Frame<'_>) -> bool {
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
pub fn bisect(args: &Args, port: &mut Port, source: &mut dyn Source) -> Result<(Value, String, bool), Error> {
    let wanted = Search { start: args.search.start, most: args.search.most, loss: args.search.loss, precision: args.search.precision };
    let (mut trials, mut failure, mut first) = (Vec::new(), None, 0);
    let mut latency = Value::Null;
    let (best, limit) = search::search(wanted, |asked| {
        let mut best: Option<Trial> = None;
        for _ in 0..args.search.tries {
            let (done, tally) = match trial(args, port, source, asked, &mut first) {
                Ok(_) if STOP.load(Relaxed) => return None,
                Ok(done) => done,
                Err(e) => {
                    failure = Some(e);
                    return None;
                }
            };
            let lost = done.sent.saturating_sub(done.received);
            eprintln!("{asked:9.0} a second: sent {} at {:.0} a second, lost {lost}; {}", done.sent, done.offered, tally.text());
            trials.push(json!({"asked": asked, "offered": done.offered, "sent": done.sent, "received": done.received, "lost": lost}));
            let better = best.is_none_or(|best| (done.loss(), best.offered) < (best.loss(), done.offered));
            if better {
                best = Some(done);
            }
            if done.loss() <= wanted.loss {
                latency = tally.json()["latency_ns"].clone();
                // A sender that something else held up may try again, too.
                if !done.fell_short() {
                    break;
                }
            }
        }
        best
    });
    if let Some(error) = failure {
        return Err(error);
    }
    let found = best.map_or(0.0, |best| best.offered);
    let json = json!({
        "function": "bisect", "loss_free_pps": found, "limit": limit.name(), "allowed_loss": wanted.loss, "latency_ns": latency, "trials": trials,
    });
    let why = match limit {
        Limit::Loss => "beyond it frames are lost",
        Limit::Sender => "the sender sends no faster",
        Limit::Allowed => "the highest that was allowed",
        Limit::Start => "every rate that was tried loses frames",
    };
    Ok((json, format!("without loss: {found:.0} a second ({why})"), best.is_some()))
}

fn trial(args: &Args, port: &mut Port, source: &mut dyn Source, asked: f64, first: &mut u64) -> Result<(Trial, Tally), Error> {
    let (mut tally, burst, start) = (Tally::default(), u64::from(args.burst), Instant::now());
    let until = start + Duration::from_secs_f64(args.search.trial);
    let order = Order { pace: Pace::new(Some(asked), burst, start), burst, count: args.count, until: Some(until), window: None };
    let sent = send(port, source, order, *first, &mut tally, None)?;
    *first += sent.frames;
    come_back(port, sent.frames, &mut tally)?;
    Ok((Trial { asked, offered: rate(sent.frames, sent.seconds), sent: sent.frames, received: tally.unique().min(sent.frames) }, tally))
}

/// Waits for what is still on its way.
fn come_back(port: &mut Port, sent: u64, tally: &mut Tally) -> Result<(), Error> {
    let mut quiet = Instant::now();
    while tally.unique() < sent && quiet.elapsed() < GRACE {
        if receive(port, SPIN, tally)?.0 > 0 {
            quiet = Instant::now();
        }
    }
    Ok(())
}

/// Whether `file` can be read, for an early word.
pub fn readable(file: &Path) -> Result<(), Error> {
    std::fs::File::open(file).map(drop).map_err(|e| Error::Usage(format!("{}: {e}", file.display())))
}
