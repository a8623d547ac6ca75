//! Reads scripts of chaos: a line for each fact or event, every error with its line and what is allowed there.

use super::random;
use super::script::{AllowedFailures, ClientNetworks, Clients, Event, ROLES, Script, ScriptConfig, ScriptStep, Trigger};
use crate::clients::Client;
use crate::link::LinkConditions;
use clap::ValueEnum;
use guideway_config::Admission;
use guideway_config::duration;
use guideway_config::size::parse_size;
use guideway_testbed::servers::Server;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What a line may begin with.
const DIRECTIVES: &str = "event, directors, backends, spares, server, client, networks, transfers, concurrency, size, blksize, windowsize, timeout, for, allowed, \
                     takeover, detection, local-servers, ranges, admission, link, full, random, at, after or also";
/// What may happen.
const EVENTS: &str = "kill, start, restart, stop, cont, partition, block-receive, heal, down, up, drain, add, remove, weight, \
                      change-mac, change-mtu, change-queues, reload broken, reshuffle, link client, change-file or rolling-restart";

/// How a script is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct ParseOptions {
    /// Whether lines that begin with `full` count.
    pub full: bool,
    /// In the place of the seed of `random`.
    pub seed: Option<u64>,
}

/// Reads a script. `name` is that of its file, for messages.
///
/// # Errors
/// Every error, a sentence each: file, line, what is allowed.
pub fn parse(name: &str, text: &str, options: ParseOptions) -> Result<Script, Vec<String>> {
    let mut script = Script { event: String::new(), config: ScriptConfig::default(), steps: Vec::new(), is_random: false };
    let (mut errors, mut random, mut networks, mut named) = (Vec::new(), None, None, Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        let words = match words.split_first() {
            None | Some((&"full", [])) => continue,
            Some((&"full", _)) if !options.full => continue,
            Some((&"full", rest)) => rest,
            Some(_) => &words,
        };
        let done = match words {
            ["event", rest @ ..] if !rest.is_empty() => {
                script.event = rest.join(" ");
                Ok(())
            }
            ["random", count, "seed", seed, protected @ ..] => random_line(count, seed, protected, options).map(|all| random = Some(all)),
            ["random", ..] => Err("write `random COUNT seed NUMBER` or `random COUNT seed NUMBER keep HOST …`".to_owned()),
            ["networks", count, rest @ ..] => parse_networks(count, rest).map(|all| networks = Some(all)),
            ["at" | "after" | "also", ..] => parse_event_line(&mut script.steps, words).map(|()| {
                let last = script.steps.last().and_then(|step| step.events.last());
                named.extend(last.iter().flat_map(|event| event.hosts()).map(|host| (number + 1, host.to_owned())));
            }),
            [key, rest @ ..] => parse_config_line(&mut script.config, key, rest),
            [] => Ok(()),
        };
        errors.extend(done.err().map(|why| format!("{name}: line {}: {why}", number + 1)));
    }
    if let (Clients::Swarm(all), Some(requested)) = (&mut script.config.clients, networks) {
        *all = requested;
    }
    if let Some((count, seed, protected)) = random {
        errors.extend(protected.iter().filter_map(|host| unknown_host(&script.config, host)).map(|why| format!("{name}: keep: {why}")));
        script.is_random = true;
        script.steps.extend(random::steps(&script.config, count, seed, &protected));
    }
    let unknown = named.iter().filter(|(_, host)| !ROLES.contains(&host.as_str()));
    errors.extend(unknown.filter_map(|(line, host)| Some(format!("{name}: line {line}: {}", unknown_host(&script.config, host)?))));
    if script.event.is_empty() {
        errors.push(format!("{name}: there is no line `event …` that says what this is about"));
    }
    errors.extend(validate(&script).into_iter().map(|why| format!("{name}: {why}")));
    if errors.is_empty() { Ok(script) } else { Err(errors) }
}

/// `random COUNT seed NUMBER keep HOST …`
fn random_line(count: &str, seed: &str, protected: &[&str], options: ParseOptions) -> Result<(u32, u64, Vec<String>), String> {
    let seed = options.seed.map_or_else(|| seed.parse().map_err(|_| format!("`{seed}` is no seed")), Ok)?;
    let protected = match protected {
        [] => Vec::new(),
        ["keep", hosts @ ..] if !hosts.is_empty() => hosts.iter().map(|h| host(h)).collect::<Result<_, _>>()?,
        _ => return Err("write `keep HOST …` behind the seed, for hosts that are never killed".to_owned()),
    };
    Ok((parse_integer(count, 1..=10_000, "events")?, seed, protected))
}

fn parse_config_line(config: &mut ScriptConfig, key: &str, rest: &[&str]) -> Result<(), String> {
    match (key, rest) {
        ("directors", [n]) => config.directors = parse_integer(n, 1..=16, "directors")?,
        ("backends", [n]) => config.backends = parse_integer(n, 1..=64, "backends")?,
        ("spares", [n]) => config.spares = parse_integer(n, 0..=63, "spare backends")?,
        ("transfers", [n]) => config.transfers = parse_integer(n, 1..=1_000_000, "transfers")?,
        ("concurrency", [n]) => config.concurrency = parse_integer(n, 1..=500, "transfers at a time")?,
        ("blksize", [n]) => config.blksize = parse_integer(n, 8..=65464, "bytes of a block")?,
        ("windowsize", [n]) => config.windowsize = parse_integer(n, 1..=65535, "blocks of a window")?,
        ("size", [size]) => config.size = parse_size(size, &(0..=4 << 30))?,
        ("for", [time]) => (config.duration, config.transfers) = (Some(parse_time(time)?), 1_000_000),
        ("timeout", [time]) => config.timeout = parse_time(time)?,
        ("takeover", ["on"]) => config.takeover = true,
        ("takeover", ["off"]) => config.takeover = false,
        ("takeover", ["on", "at-least", n]) => {
            (config.takeover, config.min_takeovers) = (true, parse_integer(n, 1..=1_000_000, "transfers taken over")?)
        }
        ("takeover", _) => return Err("write `takeover on`, `takeover on at-least COUNT` or `takeover off`".to_owned()),
        ("detection", [time]) => config.detection = Some(parse_time(time)?),
        ("local-servers", ["on"]) => config.local_servers = true,
        ("local-servers", ["off"]) => config.local_servers = false,
        ("local-servers", _) => return Err("write `local-servers on` or `local-servers off`".to_owned()),
        ("ranges", ["on"]) => config.ranges = true,
        ("ranges", ["off"]) => config.ranges = false,
        ("ranges", _) => return Err("write `ranges on` or `ranges off`".to_owned()),
        ("admission", rest) => config.admission = parse_admission(rest)?,
        ("server", ["guideway"]) => config.server = Server::GuidewayTunnel,
        ("server", [name]) => config.server = parse_value_enum::<Server>(name)?,
        ("client", ["swarm"]) => config.clients = Clients::Swarm(ClientNetworks { count: 1, sizes: vec![1] }),
        ("client", names) if !names.is_empty() => {
            config.clients = Clients::Real(names.iter().map(|name| parse_value_enum::<Client>(name)).collect::<Result<_, _>>()?);
        }
        ("allowed", [rest @ .., "with-error"]) if !rest.is_empty() && !config.with_error => {
            config.with_error = true;
            return parse_config_line(config, key, rest);
        }
        ("allowed", ["transfers-of", hosts @ ..]) if !hosts.is_empty() => {
            config.allowed = AllowedFailures::TransfersOf(hosts.iter().map(|h| backend(h)).collect::<Result<_, _>>()?);
        }
        ("allowed", [n]) => config.allowed = AllowedFailures::Count(parse_integer(n, 0..=1_000_000, "transfers")?),
        ("link", ["client", rest @ ..]) => config.link = parse_conditions(rest)?,
        _ => return Err(format!("`{}` is not understood: a line begins with {DIRECTIVES}", [&[key], rest].concat().join(" "))),
    }
    Ok(())
}

/// `40 sizes 1 2 10`: without sizes all are alike.
fn parse_networks(count: &str, rest: &[&str]) -> Result<ClientNetworks, String> {
    let sizes = match rest {
        [] => vec![1],
        ["sizes", sizes @ ..] if !sizes.is_empty() => {
            sizes.iter().map(|size| parse_integer(size, 1..=10_000, "the size of a network")).collect::<Result<_, _>>()?
        }
        _ => return Err("write `networks COUNT` or `networks COUNT sizes SIZE …`".to_owned()),
    };
    Ok(ClientNetworks { count: parse_integer(count, 1..=200, "networks")?, sizes })
}

/// `per_vip 500 per_backend 200 per_prefix 100`, in any order and number.
fn parse_admission(words: &[&str]) -> Result<Admission, String> {
    let mut limits = Admission::default();
    for pair in words.chunks(2) {
        let [key, rate] = pair else { return Err(format!("`{}`: a limit is a key and a number", pair.join(" "))) };
        let place = match *key {
            "per_vip" => &mut limits.per_vip,
            "per_backend" => &mut limits.per_backend,
            "per_prefix" => &mut limits.per_prefix,
            other => return Err(format!("`{other}` is no limit: use per_vip, per_backend or per_prefix")),
        };
        *place = Some(parse_integer(rate, 1..=10_000_000, "requests a second")?);
    }
    if limits.limits() {
        Ok(limits)
    } else {
        Err("write `admission` and pairs of per_vip, per_backend, per_prefix and a number".to_owned())
    }
}

fn parse_event_line(steps: &mut Vec<ScriptStep>, words: &[&str]) -> Result<(), String> {
    let (at, rest) = match words {
        ["also", rest @ ..] => (None, rest),
        ["after", time, rest @ ..] => (Some(Trigger::After(parse_time(time)?)), rest),
        ["at", share, "done", rest @ ..] if share.ends_with('%') => (Some(Trigger::Done(parse_percent(share)?)), rest),
        ["at", count, "takeovers", rest @ ..] => (Some(Trigger::Takeovers(parse_integer(count, 1..=1_000_000, "takeovers")?)), rest),
        ["at", share, rest @ ..] if share.ends_with('%') => (Some(Trigger::Bytes(parse_percent(share)?)), rest),
        ["at", time, rest @ ..] => (Some(Trigger::Time(parse_time(time)?)), rest),
        _ => {
            return Err("write `at TIME`, `at SHARE%`, `at SHARE% done`, `at COUNT takeovers`, `after TIME` or `also`, and then the event"
                .to_owned());
        }
    };
    let event = parse_event(rest)?;
    match (at, steps.last_mut()) {
        (None, None) => return Err("`also` stands behind another event: there is none yet".to_owned()),
        (None, Some(last)) => last.events.push(event),
        (Some(at), Some(last)) if at == last.at && !matches!(at, Trigger::After(_)) => last.events.push(event),
        (Some(at), _) => steps.push(ScriptStep { at, events: vec![event] }),
    }
    Ok(())
}

fn parse_event(words: &[&str]) -> Result<Event, String> {
    Ok(match words {
        ["kill", name] => Event::Kill(host_or_role(name)?),
        ["start", name] => Event::Start(host_or_role(name)?),
        ["restart", name] => Event::Restart(host_or_role(name)?, Duration::ZERO),
        ["restart", name, "after", time] => Event::Restart(host_or_role(name)?, parse_time(time)?),
        ["stop", name] => Event::Stop(host(name)?),
        ["cont", name] => Event::Cont(host(name)?),
        ["partition", name] => Event::Partition(host_or_role(name)?),
        ["block-receive", name] => Event::BlockReceive(backend(name)?),
        ["heal", name] => Event::Heal(host_or_role(name)?),
        ["down", name] => Event::Down(host_or_role(name)?),
        ["up", name] => Event::Up(host_or_role(name)?),
        ["drain", name] => Event::Drain(backend(name)?),
        ["add", name] => Event::Add(backend(name)?),
        ["remove", name] => Event::Remove(backend(name)?),
        ["weight", name, weight] => Event::Weight(backend(name)?, parse_integer(weight, 0..=1000, "a weight")?),
        ["change-mac", name] => Event::ChangeMac(director(name)?),
        ["change-mtu", name, mtu] => Event::ChangeMtu(director(name)?, parse_integer(mtu, 1280..=3500, "an MTU")?),
        ["change-queues", name, queues] => Event::ChangeQueues(director(name)?, parse_integer(queues, 1..=64, "a number of queues")?),
        ["reload", "broken", name] => Event::ReloadBroken(director(name)?),
        ["reshuffle"] => Event::Reshuffle,
        ["link", "client", rest @ ..] => Event::Link(parse_conditions(rest)?),
        ["change-file", names @ ..] if !names.is_empty() => {
            Event::ChangeFile(names.iter().map(|name| backend(name)).collect::<Result<_, _>>()?)
        }
        ["rolling-restart"] => Event::RollingRestart,
        ["clock-jump", ..] => {
            return Err("clock-jump is not offered: the clock of the wall is one for the whole machine, and a time namespace shifts the others only \
                        before a program starts; `stop` and `cont` show what a jump of the monotonic clock does"
                .to_owned());
        }
        _ => return Err(format!("`{}` is no event: use {EVENTS}", words.join(" "))),
    })
}

/// `delay 5ms loss 5% duplicate 2% reorder 3%`: what is not said is none.
fn parse_conditions(words: &[&str]) -> Result<LinkConditions, String> {
    let mut conditions = LinkConditions::default();
    if !words.len().is_multiple_of(2) {
        return Err("write `link client` and pairs of delay TIME, loss SHARE%, duplicate SHARE%, reorder SHARE%".to_owned());
    }
    for pair in words.chunks_exact(2) {
        match pair[0] {
            "delay" => conditions.delay = parse_time(pair[1])?,
            "loss" => conditions.loss = parse_share(pair[1])?,
            "duplicate" => conditions.duplicate = parse_share(pair[1])?,
            "reorder" => conditions.reorder = parse_share(pair[1])?,
            other => return Err(format!("`{other}` is nothing that a link does: use delay, loss, duplicate or reorder")),
        }
    }
    Ok(conditions)
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok()).filter(|n| (0.0..=100.0).contains(n));
    share.map(|n| n / 100.0).ok_or_else(|| format!("`{text}` is no share: use 0% to 100%"))
}

fn parse_percent(text: &str) -> Result<u8, String> {
    parse_integer(text.trim_end_matches('%'), 0..=100, "per cent")
}

/// Whole numbers with units, and fractions of a second such as `2.5s`.
fn parse_time(text: &str) -> Result<Duration, String> {
    if let Ok(time) = duration::parse(text) {
        return Ok(time);
    }
    let seconds = text.strip_suffix('s').and_then(|n| n.parse::<f64>().ok()).filter(|n| (0.0..=86_400.0).contains(n));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| format!("`{text}` is no time: write 300ms, 2s, 2.5s or 1m30s"))
}

fn parse_integer<T: TryFrom<u32> + Default>(text: &str, allowed: RangeInclusive<u32>, what: &str) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| allowed.contains(n));
    let refused = || format!("`{text}`: {what}: a whole number, {} to {}", allowed.start(), allowed.end());
    T::try_from(number.ok_or_else(refused)?).map_err(|_| refused())
}

fn parse_value_enum<T: ValueEnum>(name: &str) -> Result<T, String> {
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

fn host_or_role(name: &str) -> Result<String, String> {
    if ROLES.contains(&name) { Ok(name.to_owned()) } else { host(name) }
}

fn backend(name: &str) -> Result<String, String> {
    host(name).ok().filter(|name| name.starts_with('t')).ok_or_else(|| format!("`{name}` is no backend: they are t1, t2, …"))
}

fn director(name: &str) -> Result<String, String> {
    host(name).ok().filter(|name| name.starts_with('d')).ok_or_else(|| format!("`{name}` is no director: they are d1, d2, …"))
}

/// A sentence about a host that the script does not have.
fn unknown_host(config: &ScriptConfig, host: &str) -> Option<String> {
    let number: u32 = host[1..].parse().unwrap_or(0);
    let all = u32::from(config.backends) + u32::from(config.spares);
    let (count, what) = if host.starts_with('d') { (u32::from(config.directors), "directors") } else { (all, "backends") };
    (number > count).then(|| format!("there is no {host}: the script has {count} {what}"))
}

/// What no single line shows.
fn validate(script: &Script) -> Vec<String> {
    let (config, mut errors) = (&script.config, Vec::new());
    let all = u32::from(config.backends) + u32::from(config.spares);
    if all > 64 {
        errors.push(format!("{all} backends with the spare ones: at most 64"));
    }
    if config.local_servers && all > u32::from(config.directors) {
        errors.push(format!("`local-servers on` needs a director for each backend: {} directors, {all} backends", config.directors));
    }
    if config.takeover && !config.ranges {
        errors.push("takeover needs `ranges on`: a successor is found by the TID range of the server that died".to_owned());
    }
    if !config.ranges && config.server.decapsulates() {
        errors.push(format!("`ranges off` is for stock servers: {} has one port for all transfers", config.server.name()));
    }
    if let Clients::Swarm(networks) = &config.clients
        && u32::from(networks.count) > config.transfers
    {
        errors.push(format!("{} networks for {} transfers: at most one for each", networks.count, config.transfers));
    }
    if config.takeover && !config.server.supports_tid_range() {
        errors.push(format!("takeover needs a server with a port of its own, and {} has none", config.server.name()));
    }
    if let AllowedFailures::TransfersOf(hosts) = &config.allowed {
        errors.extend(hosts.iter().filter_map(|host| unknown_host(config, host)).map(|why| format!("allowed: {why}")));
    }
    errors
}

impl Event {
    /// The hosts that it names.
    pub fn hosts(&self) -> Vec<&str> {
        match self {
            Event::Kill(h) | Event::Start(h) | Event::Restart(h, _) | Event::Stop(h) | Event::Cont(h) | Event::Partition(h) => vec![h],
            Event::BlockReceive(h) | Event::Heal(h) | Event::Down(h) | Event::Up(h) | Event::Drain(h) | Event::Add(h) => vec![h],
            Event::Remove(h)
            | Event::Weight(h, _)
            | Event::ChangeMac(h)
            | Event::ChangeMtu(h, _)
            | Event::ChangeQueues(h, _)
            | Event::ReloadBroken(h) => vec![h],
            Event::ChangeFile(hosts) => hosts.iter().map(String::as_str).collect(),
            Event::Reshuffle | Event::Link(_) | Event::RollingRestart => Vec::new(),
        }
    }
}
