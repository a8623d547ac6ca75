//! Reads scripts of chaos: a line for each fact or event, every error with its line and what is allowed there.

use super::random;
use super::script::{Allowed, BY_PART, Clients, Event, Head, Moment, Networks, Script, Step};
use crate::clients::Client;
use crate::link::Conditions;
use clap::ValueEnum;
use guideway_config::Admission;
use guideway_config::duration;
use guideway_config::size::parse_size;
use guideway_testbed::servers::Server;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a line may begin with.
const LINES: &str = "event, directors, backends, spares, server, client, networks, transfers, concurrency, size, blksize, windowsize, timeout, for, allowed, \
                     takeover, detection, ranges, admission, link, full, random, at, after or also";
/// What may happen.
const EVENTS: &str = "kill, start, restart, stop, cont, partition, deafen, heal, down, up, drain, add, remove, weight, reload broken, reshuffle, \
                      link client, change-file or roll all";

/// How a script is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Whether lines that begin with `full` count.
    pub full: bool,
    /// In the place of the seed of `random`.
    pub seed: Option<u64>,
}

/// Reads a script. `name` is that of its file, for messages.
///
/// # Errors
/// Every error, a sentence each: file, line, what is allowed.
pub fn parse(name: &str, text: &str, reading: Reading) -> Result<Script, Vec<String>> {
    let mut script = Script { event: String::new(), head: Head::default(), steps: Vec::new(), by_chance: false };
    let (mut errors, mut random, mut networks, mut named) = (Vec::new(), None, None, Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let words = match words.split_first() {
            None | Some((&"full", [])) => continue,
            Some((&"full", _)) if !reading.full => continue,
            Some((&"full", rest)) => rest,
            Some(_) => &words,
        };
        let done = match words {
            ["event", rest @ ..] if !rest.is_empty() => {
                script.event = rest.join(" ");
                Ok(())
            }
            ["random", count, "seed", seed, kept @ ..] => by_chance(count, seed, kept, reading).map(|all| random = Some(all)),
            ["random", ..] => Err("write `random COUNT seed NUMBER` or `random COUNT seed NUMBER keep HOST …`".to_owned()),
            ["networks", count, rest @ ..] => self::networks(count, rest).map(|all| networks = Some(all)),
            ["at" | "after" | "also", ..] => event_line(&mut script.steps, words).map(|()| {
                let last = script.steps.last().and_then(|step| step.events.last());
                named.extend(last.iter().flat_map(|event| event.hosts()).map(|host| (number + 1, host.to_owned())));
            }),
            [key, rest @ ..] => head_line(&mut script.head, key, rest),
            [] => Ok(()),
        };
        errors.extend(done.err().map(|why| format!("{name}: line {}: {why}", number + 1)));
    }
    if let (Clients::Swarm(all), Some(asked)) = (&mut script.head.clients, networks) {
        *all = asked;
    }
    if let Some((count, seed, kept)) = random {
        errors.extend(kept.iter().filter_map(|host| missing(&script.head, host)).map(|why| format!("{name}: keep: {why}")));
        script.by_chance = true;
        script.steps.extend(random::steps(&script.head, count, seed, &kept));
    }
    let unknown = named.iter().filter(|(_, host)| !BY_PART.contains(&host.as_str()));
    errors.extend(unknown.filter_map(|(line, host)| Some(format!("{name}: line {line}: {}", missing(&script.head, host)?))));
    if script.event.is_empty() {
        errors.push(format!("{name}: there is no line `event …` that says what this is about"));
    }
    errors.extend(check(&script).into_iter().map(|why| format!("{name}: {why}")));
    if errors.is_empty() { Ok(script) } else { Err(errors) }
}

/// `random COUNT seed NUMBER keep HOST …`
fn by_chance(count: &str, seed: &str, kept: &[&str], reading: Reading) -> Result<(u32, u64, Vec<String>), String> {
    let seed = reading.seed.map_or_else(|| seed.parse().map_err(|_| format!("`{seed}` is no seed")), Ok)?;
    let kept = match kept {
        [] => Vec::new(),
        ["keep", hosts @ ..] if !hosts.is_empty() => hosts.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
        _ => return Err("write `keep HOST …` behind the seed, for hosts that are never killed".to_owned()),
    };
    Ok((whole(count, 1..=10_000, "events")?, seed, kept))
}

fn head_line(head: &mut Head, key: &str, rest: &[&str]) -> Result<(), String> {
    match (key, rest) {
        ("directors", [n]) => head.directors = whole(n, 1..=16, "directors")?,
        ("backends", [n]) => head.backends = whole(n, 1..=64, "backends")?,
        ("spares", [n]) => head.spares = whole(n, 0..=63, "spare backends")?,
        ("transfers", [n]) => head.transfers = whole(n, 1..=1_000_000, "transfers")?,
        ("concurrency", [n]) => head.concurrency = whole(n, 1..=500, "transfers at a time")?,
        ("blksize", [n]) => head.blksize = whole(n, 8..=65464, "bytes of a block")?,
        ("windowsize", [n]) => head.windowsize = whole(n, 1..=65535, "blocks of a window")?,
        ("size", [size]) => head.size = parse_size(size)?,
        ("for", [time]) => (head.lasts, head.transfers) = (Some(time_of(time)?), 1_000_000),
        ("timeout", [time]) => head.timeout = time_of(time)?,
        ("takeover", ["on"]) => head.takeover = true,
        ("takeover", ["off"]) => head.takeover = false,
        ("takeover", ["on", "at-least", n]) => (head.takeover, head.at_least) = (true, whole(n, 1..=1_000_000, "transfers taken over")?),
        ("takeover", _) => return Err("write `takeover on`, `takeover on at-least COUNT` or `takeover off`".to_owned()),
        ("detection", [time]) => head.detection = Some(time_of(time)?),
        ("ranges", ["on"]) => head.ranges = true,
        ("ranges", ["off"]) => head.ranges = false,
        ("ranges", _) => return Err("write `ranges on` or `ranges off`".to_owned()),
        ("admission", rest) => head.admission = admission(rest)?,
        ("server", ["guideway"]) => head.server = Server::GuidewayTunnel,
        ("server", [name]) => head.server = kind::<Server>(name)?,
        ("client", ["swarm"]) => head.clients = Clients::Swarm(Networks { count: 1, sizes: vec![1] }),
        ("client", names) if !names.is_empty() => {
            head.clients = Clients::Real(names.iter().map(|name| kind::<Client>(name)).collect::<Result<_, _>>()?);
        }
        ("allowed", [rest @ .., "with-error"]) if !rest.is_empty() && !head.with_error => {
            head.with_error = true;
            return head_line(head, key, rest);
        }
        ("allowed", ["transfers-of", hosts @ ..]) if !hosts.is_empty() => {
            head.allowed = Allowed::TransfersOf(hosts.iter().map(|h| backend(h)).collect::<Result<_, _>>()?);
        }
        ("allowed", [n]) => head.allowed = Allowed::Number(whole(n, 0..=1_000_000, "transfers")?),
        ("link", ["client", rest @ ..]) => head.link = conditions(rest)?,
        _ => return Err(format!("`{}` is not understood: a line begins with {LINES}", [&[key], rest].concat().join(" "))),
    }
    Ok(())
}

/// `40 sizes 1 2 10`: without sizes all are alike.
fn networks(count: &str, rest: &[&str]) -> Result<Networks, String> {
    let sizes = match rest {
        [] => vec![1],
        ["sizes", sizes @ ..] if !sizes.is_empty() => {
            sizes.iter().map(|size| whole(size, 1..=10_000, "the size of a network")).collect::<Result<_, _>>()?
        }
        _ => return Err("write `networks COUNT` or `networks COUNT sizes SIZE …`".to_owned()),
    };
    Ok(Networks { count: whole(count, 1..=200, "networks")?, sizes })
}

/// `per_vip 500 per_backend 200 per_prefix 100`, in any order and number.
fn admission(words: &[&str]) -> Result<Admission, String> {
    let mut limits = Admission::default();
    for pair in words.chunks(2) {
        let [key, rate] = pair else { return Err(format!("`{}`: a limit is a key and a number", pair.join(" "))) };
        let place = match *key {
            "per_vip" => &mut limits.per_vip,
            "per_backend" => &mut limits.per_backend,
            "per_prefix" => &mut limits.per_prefix,
            other => return Err(format!("`{other}` is no limit: use per_vip, per_backend or per_prefix")),
        };
        *place = Some(whole(rate, 1..=10_000_000, "requests a second")?);
    }
    if limits.limits() {
        Ok(limits)
    } else {
        Err("write `admission` and pairs of per_vip, per_backend, per_prefix and a number".to_owned())
    }
}

fn event_line(steps: &mut Vec<Step>, words: &[&str]) -> Result<(), String> {
    let (at, rest) = match words {
        ["also", rest @ ..] => (None, rest),
        ["after", time, rest @ ..] => (Some(Moment::After(time_of(time)?)), rest),
        ["at", share, "done", rest @ ..] if share.ends_with('%') => (Some(Moment::Done(percent(share)?)), rest),
        ["at", count, "takeovers", rest @ ..] => (Some(Moment::Takeovers(whole(count, 1..=1_000_000, "takeovers")?)), rest),
        ["at", share, rest @ ..] if share.ends_with('%') => (Some(Moment::Bytes(percent(share)?)), rest),
        ["at", time, rest @ ..] => (Some(Moment::Time(time_of(time)?)), rest),
        _ => {
            return Err("write `at TIME`, `at SHARE%`, `at SHARE% done`, `at COUNT takeovers`, `after TIME` or `also`, and then the event"
                .to_owned());
        }
    };
    let event = event(rest)?;
    match (at, steps.last_mut()) {
        (None, None) => return Err("`also` stands behind another event: there is none yet".to_owned()),
        (None, Some(last)) => last.events.push(event),
        (Some(at), Some(last)) if at == last.at && !matches!(at, Moment::After(_)) => last.events.push(event),
        (Some(at), _) => steps.push(Step { at, events: vec![event] }),
    }
    Ok(())
}

fn event(words: &[&str]) -> Result<Event, String> {
    Ok(match words {
        ["kill", name] => Event::Kill(host_or_part(name)?),
        ["start", name] => Event::Start(host_or_part(name)?),
        ["restart", name] => Event::Restart(host_or_part(name)?, Duration::ZERO),
        ["restart", name, "after", time] => Event::Restart(host_or_part(name)?, time_of(time)?),
        ["stop", name] => Event::Stop(host(name)?),
        ["cont", name] => Event::Cont(host(name)?),
        ["partition", name] => Event::Partition(host_or_part(name)?),
        ["deafen", name] => Event::Deafen(backend(name)?),
        ["heal", name] => Event::Heal(host_or_part(name)?),
        ["down", name] => Event::Down(host_or_part(name)?),
        ["up", name] => Event::Up(host_or_part(name)?),
        ["drain", name] => Event::Drain(backend(name)?),
        ["add", name] => Event::Add(backend(name)?),
        ["remove", name] => Event::Remove(backend(name)?),
        ["weight", name, weight] => Event::Weight(backend(name)?, whole(weight, 0..=1000, "a weight")?),
        ["reload", "broken", name] => Event::ReloadBroken(director(name)?),
        ["reshuffle"] => Event::Reshuffle,
        ["link", "client", rest @ ..] => Event::Link(conditions(rest)?),
        ["change-file", names @ ..] if !names.is_empty() => {
            Event::ChangeFile(names.iter().map(|name| backend(name)).collect::<Result<_, _>>()?)
        }
        ["roll", "all"] => Event::RollAll,
        ["clock-jump", ..] => {
            return Err("clock-jump is not offered: the clock of the wall is one for the whole machine, and a time namespace shifts the others only \
                        before a program starts; `stop` and `cont` show what a jump of the monotonic clock does"
                .to_owned());
        }
        _ => return Err(format!("`{}` is no event: use {EVENTS}", words.join(" "))),
    })
}

/// `delay 5ms loss 5% duplicate 2% reorder 3%`: what is not said is none.
fn conditions(words: &[&str]) -> Result<Conditions, String> {
    let mut conditions = Conditions::default();
    if !words.len().is_multiple_of(2) {
        return Err("write `link client` and pairs of delay TIME, loss SHARE%, duplicate SHARE%, reorder SHARE%".to_owned());
    }
    for pair in words.chunks_exact(2) {
        match pair[0] {
            "delay" => conditions.delay = time_of(pair[1])?,
            "loss" => conditions.loss = share(pair[1])?,
            "duplicate" => conditions.duplicate = share(pair[1])?,
            "reorder" => conditions.reorder = share(pair[1])?,
            other => return Err(format!("`{other}` is nothing that a link does: use delay, loss, duplicate or reorder")),
        }
    }
    Ok(conditions)
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok()).filter(|n| (0.0..=100.0).contains(n));
    share.map(|n| n / 100.0).ok_or_else(|| format!("`{text}` is no share: use 0% to 100%"))
}

fn percent(text: &str) -> Result<u8, String> {
    whole(text.trim_end_matches('%'), 0..=100, "per cent")
}

/// Whole numbers with units, and fractions of a second such as `2.5s`.
fn time_of(text: &str) -> Result<Duration, String> {
    if let Ok(time) = duration::parse(text) {
        return Ok(time);
    }
    let seconds = text.strip_suffix('s').and_then(|n| n.parse::<f64>().ok()).filter(|n| (0.0..=86_400.0).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("`{text}` is no time: write 300ms, 2s, 2.5s or 1m30s"))
}

fn whole<T: TryFrom<u32> + Default>(text: &str, allowed: RangeInclusive<u32>, what: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| allowed.contains(n));
    let refused = || format!("`{text}`: {what}: a whole number, {} to {}", allowed.start(), allowed.end());
    T::try_from(number.ok_or_else(refused)?).map_err(|_| refused())
}

fn kind<T: ValueEnum>(name: &str) -> Result<T, String> {
    T::from_str(name, false).map_err(|_| {
        let names: Vec<String> =
            T::value_variants().iter().filter_map(|v| v.to_possible_value()).map(|v| v.get_name().to_owned()).collect();
        format!("`{name}` is not known: use {}", names.join(", "))
    })
}

fn host(name: &str) -> Result<String, String> {
    let good = name.len() > 1 && name.starts_with(['d', 't']) && name[1..].parse::<u8>().is_ok_and(|n| n > 0);
    if good { Ok(name.to_owned()) } else { Err(format!("`{name}` is no host: directors are d1, d2, …, backends t1, t2, …")) }
}

fn host_or_part(name: &str) -> Result<String, String> {
    if BY_PART.contains(&name) { Ok(name.to_owned()) } else { host(name) }
}

fn backend(name: &str) -> Result<String, String> {
    host(name).ok().filter(|name| name.starts_with('t')).ok_or_else(|| format!("`{name}` is no backend: they are t1, t2, …"))
}

fn director(name: &str) -> Result<String, String> {
    host(name).ok().filter(|name| name.starts_with('d')).ok_or_else(|| format!("`{name}` is no director: they are d1, d2, …"))
}

/// A sentence about a host that the script does not have.
fn missing(head: &Head, host: &str) -> Option<String> {
    let number: u32 = host[1..].parse().unwrap_or(0);
    let all = u32::from(head.backends) + u32::from(head.spares);
    let (count, what) = if host.starts_with('d') { (u32::from(head.directors), "directors") } else { (all, "backends") };
    (number > count).then(|| format!("there is no {host}: the script has {count} {what}"))
}

/// What no single line shows.
fn check(script: &Script) -> Vec<String> {
    let (head, mut errors) = (&script.head, Vec::new());
    let all = u32::from(head.backends) + u32::from(head.spares);
    if all > 64 {
        errors.push(format!("{all} backends with the spare ones: at most 64"));
    }
    if head.takeover && !head.ranges {
        errors.push("takeover needs `ranges on`: an heir is found by the range of who died".to_owned());
    }
    if !head.ranges && head.server.unwraps() {
        errors.push(format!("`ranges off` is for stock servers: {} has one port for all transfers", head.server.name()));
    }
    if let Clients::Swarm(networks) = &head.clients
        && u32::from(networks.count) > head.transfers
    {
        errors.push(format!("{} networks for {} transfers: at most one for each", networks.count, head.transfers));
    }
    if head.takeover && !head.server.has_tid_ranges() {
        errors.push(format!("takeover needs a server with a port of its own, and {} has none", head.server.name()));
    }
    if let Allowed::TransfersOf(hosts) = &head.allowed {
        errors.extend(hosts.iter().filter_map(|host| missing(head, host)).map(|why| format!("allowed: {why}")));
    }
    errors
}

impl Event {
    /// The hosts that it names.
    pub fn hosts(&self) -> Vec<&str> {
        match self {
            Event::Kill(h) | Event::Start(h) | Event::Restart(h, _) | Event::Stop(h) | Event::Cont(h) | Event::Partition(h) => vec![h],
            Event::Deafen(h) | Event::Heal(h) | Event::Down(h) | Event::Up(h) | Event::Drain(h) | Event::Add(h) => vec![h],
            Event::Remove(h) | Event::Weight(h, _) | Event::ReloadBroken(h) => vec![h],
            Event::ChangeFile(hosts) => hosts.iter().map(String::as_str).collect(),
            Event::Reshuffle | Event::Link(_) | Event::RollAll => Vec::new(),
        }
    }
}
