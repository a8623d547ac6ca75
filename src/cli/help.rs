//! `guideway help`: the help of a command, the configuration keys, drop reasons and events, from the definitions that the code uses.

use super::common::{print_result, usage_error};
use super::print;
use super::reference::{Entry, GROUPS, plain};
use clap::Command;
use guideway_api::event_kinds::event_kinds;
use guideway_config::text::did_you_mean;
use guideway_packet::loss::Loss;
use guideway_packet::verdict::Reason;
use serde_json::{Value, json};
use std::fmt::Write;

/// Lines of descriptions are filled up to this column.
const WIDTH: usize = 100;

/// Explain a command, configuration keys, drop reasons or events
///
/// Topics: a command with its subcommands; `config`, or the keys of one section, such as `config pool` or `config director.io`; `reasons`, or one
/// reason for which packets are dropped; `events`, which directors report.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guideway help tftp get\n  guideway help config director\n  guideway help config pool.check --json\n  \
    guideway help reasons no_backend\n  guideway help events"
)]
pub struct Args {
    /// COMMAND…, config [SECTION], reasons [NAME], or events
    #[arg(value_name = "TOPIC")]
    topic: Vec<String>,
    /// Print config, reasons or events as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args, cli: Command) -> u8 {
    let words: Vec<&str> = args.topic.iter().map(String::as_str).collect();
    let found = match words.as_slice() {
        ["config", wanted @ ..] if wanted.len() <= 1 => config(wanted.first().copied(), args.json),
        ["reasons", wanted @ ..] if wanted.len() <= 1 => reasons(wanted.first().copied(), args.json),
        ["events"] => Ok(events(args.json)),
        _ if args.json => Err("--json is for config, reasons and events".to_owned()),
        words => command(cli, words),
    };
    match found {
        Ok(text) => print_result(&text),
        Err(why) => usage_error(&why),
    }
}

/// Returns the help of the command that `words` name; of the program, if there are none.
fn command(mut cli: Command, words: &[&str]) -> Result<String, String> {
    cli.build();
    let mut found = cli;
    for word in words {
        let Some(next) = found.find_subcommand(word).cloned() else {
            let known = found.get_subcommands().map(Command::get_name).chain(["config", "reasons"]);
            return Err(format!("unknown command or topic {word}{}", did_you_mean(word, known)));
        };
        found = next;
    }
    Ok(found.render_long_help().to_string())
}

/// Returns the keys of the section, group or name `wanted`; all keys without it.
fn config(wanted: Option<&str>, json: bool) -> Result<String, String> {
    let entries = || GROUPS.iter().flat_map(|group| group.entries().map(move |entry| (group, entry)));
    let rules: [fn(&Entry, &str) -> bool; 3] = [
        |entry, text| !text.is_empty() && entry.section.is_called(text),
        |entry, text| entry.name == text,
        |entry, text| entry.key.name == text,
    ];
    let found = match wanted.map(|text| text.trim_matches(['[', ']'])) {
        None => entries().collect(),
        Some(text) => {
            let by_rule = rules.iter().map(|rule| entries().filter(|(_, entry)| rule(entry, text)).collect::<Vec<_>>());
            let of_group = entries().filter(|(group, _)| group.name == text).collect();
            by_rule.chain([of_group]).find(|found| !found.is_empty()).ok_or_else(|| {
                let paths = GROUPS.iter().flat_map(|group| group.sections).flat_map(|section| section.path.split('.'));
                format!("unknown section or key {text}{}; guideway help config shows all", did_you_mean(text, paths))
            })?
        }
    };
    if json {
        return Ok(format!("{:#}", found.iter().map(|(group, entry)| key_json(group.name, entry)).collect::<Value>()));
    }
    let (mut text, mut title) = (String::new(), "");
    for (group, entry) in &found {
        if title != group.title {
            title = group.title;
            let _ = writeln!(text, "{}{title}\n", if text.is_empty() { "" } else { "\n" });
        }
        let _ = writeln!(text, "{}", entry.heading());
        fill(&mut text, &entry.description());
    }
    Ok(text)
}

fn key_json(group: &str, entry: &Entry) -> Value {
    let Entry { name, section, key } = entry;
    json!({
        "name": name, "group": group, "section": section.path, "kinds": section.kinds, "key": key.name,
        "default": plain(key.default), "description": plain(key.description),
    })
}

/// Returns (name, stage, explanation) of every drop reason, and before them of every reason for which an io loses a frame.
fn every_reason() -> impl Iterator<Item = [&'static str; 3]> {
    let losses = Loss::ALL.iter().map(|loss| [loss.name(), "lost before", loss.explain()]);
    losses.chain(Reason::ALL.iter().map(|reason| [reason.name(), reason.stage(), reason.explain()]))
}

/// Returns the reason `wanted`; all of them without it.
fn reasons(wanted: Option<&str>, json: bool) -> Result<String, String> {
    let found: Vec<[&str; 3]> = every_reason().filter(|[name, ..]| wanted.is_none_or(|wanted| *name == wanted)).collect();
    if found.is_empty() {
        let name = wanted.unwrap_or_default();
        let known = every_reason().map(|[name, ..]| name);
        return Err(format!("unknown drop reason {name}{}; guideway help reasons shows all", did_you_mean(name, known)));
    }
    if json {
        let row = |[name, stage, explain]: &[&str; 3]| json!({"reason": name, "stage": stage, "description": plain(explain)});
        return Ok(format!("{:#}", found.iter().map(row).collect::<Value>()));
    }
    let row = |[name, stage, explain]: &[&str; 3]| [(*name).to_owned(), (*stage).to_owned(), plain(explain)];
    let heading = ["REASON", "STAGE", "DESCRIPTION"].map(str::to_owned);
    Ok(print::columns(std::iter::once(heading).chain(found.iter().map(row)), &[]))
}

/// Returns the kinds of events.
fn events(json: bool) -> String {
    let kinds = event_kinds();
    if json {
        return format!("{:#}", json!(kinds));
    }
    let mut text = "Events of a director, as guideway events prints them (its flags: guideway events --help)\n\n".to_owned();
    for kind in &kinds {
        let _ = writeln!(text, "{}", kind.event);
        fill(&mut text, &kind.description);
        if !kind.changes.is_empty() {
            fill(&mut text, &format!("Changes: {}", kind.changes.join(", ")));
        }
    }
    text
}

/// Appends a paragraph, indented, in lines of at most [`WIDTH`] columns.
fn fill(text: &mut String, paragraph: &str) {
    let mut column = WIDTH;
    for word in paragraph.split_whitespace() {
        let width = word.chars().count();
        if column + 1 + width > WIDTH {
            text.push_str(if column == WIDTH { "    " } else { "\n    " });
            column = 4 + width;
        } else {
            text.push(' ');
            column += 1 + width;
        }
        text.push_str(word);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_by_section_name_and_group() {
        let text = |wanted| config(Some(wanted), false).unwrap();
        assert!(text("[[pool]]").contains("pool.check.kind  (required)\n    \"tftp\","));
        assert!(text("check").starts_with("Health checks of a pool"));
        assert!(!text("director.io").contains("director.name"));
        assert!(text("retire").contains("director.retire  (default: \"10m\")\n    how long"));
        assert!(text("tftpd").contains("handler.url  (required)\n    http: "));
        assert!(config(None, false).unwrap().contains("takeover.memory.bytes"));
        assert!(config(Some("direktor"), false).unwrap_err().contains("did you mean \"director\"?"));
        let json: Value = serde_json::from_str(&config(Some("workers"), true).unwrap()).unwrap();
        assert_eq!((json[0]["name"].as_str(), json[0]["kinds"][0].as_str()), (Some("director.io.workers"), Some("af_packet")));
    }

    #[test]
    fn reasons_and_events_are_explained() {
        assert_eq!(reasons(Some("shed"), false).unwrap().lines().count(), 2);
        assert!(reasons(Some("sched"), false).unwrap_err().contains("did you mean \"shed\"?"));
        assert_eq!(reasons(None, false).unwrap().lines().count(), Reason::COUNT + Loss::ALL.len() + 1);
        assert!(events(false).contains("\nreload\n    ") && events(true).contains("backend_down"));
    }

    #[test]
    fn a_command_is_explained_by_its_words() {
        let help = |words: &[&str]| command(crate::command(), words);
        assert!(help(&[]).unwrap().contains("Usage: guideway"));
        assert!(help(&["tftp", "get"]).unwrap().contains("Usage: guideway tftp get"));
        assert!(help(&["statsu"]).unwrap_err().contains("did you mean \"status\"?"));
    }

    #[test]
    fn paragraphs_are_filled() {
        let mut text = String::new();
        fill(&mut text, &"word ".repeat(40));
        assert!(text.lines().count() == 3 && text.lines().all(|line| line.starts_with("    word") && line.len() <= WIDTH), "{text}");
    }
}
