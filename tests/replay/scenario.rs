//! A scenario: a sentence, a configuration, frames in, frames out, and the counters that changed.

use super::language::{Input, input};
use super::render::render;
use super::run::{BOOT, pcap, pcapng, replay};
use pcap_file::DataLink;
use std::path::Path;

/// A scenario as its file tells it.
pub struct Scenario {
    /// Everything before `out`.
    head: String,
    /// `out` and what follows.
    expected: String,
    configs: Vec<String>,
    pcapng: bool,
    pub inputs: Vec<Input>,
}

impl Scenario {
    /// Reads a scenario.
    pub fn parse(text: &str) -> Scenario {
        let (head, expected) = text.split_once("\nout\n").map_or((text.trim_end(), ""), |(head, rest)| (head, rest));
        let (about, frames) = head.split_once("\nin\n").expect("frames in");
        let mut configs = vec![BOOT.to_owned()];
        let mut pcapng = false;
        for line in about.lines().skip(1).filter(|l| !l.trim().is_empty()) {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "director" => configs[0] = replaced(&configs[0], "[director]\n", &format!("[director]\n{rest}\n")),
                "also" => configs.push(with_backend(&configs[0], rest)),
                "format" => pcapng = rest == "pcapng",
                other => panic!("{other} is no line before the frames"),
            }
        }
        let inputs = frames.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(input).collect();
        Scenario { head: head.trim_end().to_owned(), expected: format!("out\n{expected}"), configs, pcapng, inputs }
    }

    /// Runs it, and gives the whole file as it should be.
    pub fn run(&self) -> String {
        let capture = if self.pcapng { pcapng(&self.inputs) } else { pcap(&self.inputs, DataLink::ETHERNET) };
        let mut seen = self.configs.iter().map(|config| {
            let dir = tempfile::tempdir().unwrap();
            let done = replay(dir.path(), config, &capture);
            assert_eq!((done.code, done.stderr.as_str()), (Some(0), ""));
            let sum = ["transmitted", "to_host", "held"].iter().map(|name| done.counter(name)).sum::<u64>() + done.dropped();
            assert_eq!(done.counter("received"), sum, "the counters balance");
            assert_eq!(done.frames.len() as u64, done.counter("transmitted") + done.counter("originated"));
            let out: String = render(&done.frames, &self.inputs).iter().map(|line| format!("  {line}\n")).collect();
            let counters: String = done.counters.iter().filter(|c| c.1 > 0).map(|(name, n)| format!("  {name} {n}\n")).collect();
            format!("out\n{out}counters\n{counters}")
        });
        let first = seen.next().unwrap();
        for other in seen {
            assert_eq!(other, first, "the other set of backends makes no difference");
        }
        format!("{}\n{first}", self.head)
    }

    /// The file as it is.
    pub fn text(&self) -> String {
        format!("{}\n{}", self.head, self.expected)
    }
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// `pool { name = …, … }`: the configuration with another backend in that pool.
fn with_backend(config: &str, words: &str) -> String {
    let (pool, backend) = words.split_once(' ').unwrap();
    let list = format!("name = \"{pool}\"\nbackends = [");
    replaced(config, &list, &format!("{list}\n  {backend},"))
}

/// Every scenario beside this file, by name.
pub fn all() -> Vec<(String, Scenario)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "scenario"));
    files.sort();
    let named = files.iter().map(|path| (path.display().to_string(), Scenario::parse(&std::fs::read_to_string(path).unwrap())));
    named.collect()
}
