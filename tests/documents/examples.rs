//! Configuration files and commands in the examples of the guides.

use super::Document;
use super::markdown::parts;
use clap::Command;
use clap::error::ErrorKind;
use guideway_config::{self as config, Checked, FileKind, Problem};

/// Returns a sentence for each error of a whole configuration file in an example. It is whole if its first line names it.
pub fn rejected_files(document: &Document) -> Vec<String> {
    let mut wrong = Vec::new();
    for block in parts(&document.text).blocks.iter().filter(|block| block.language == "toml") {
        let Some((line, _)) = block.lines.first().filter(|(_, first)| first.starts_with("# /etc/guideway/")) else { continue };
        let text: String = block.lines.iter().map(|(_, text)| format!("{text}\n")).collect();
        wrong.extend(errors(&text).iter().map(|problem| format!("{}, block at line {line}: {problem}", document.name)));
    }
    wrong
}

fn errors(text: &str) -> Vec<Problem> {
    fn of<T>(checked: &Checked<T>) -> Vec<Problem> {
        checked.errors().cloned().collect()
    }
    match FileKind::of_text(text) {
        Some(FileKind::Health) => of(&config::health::read_health(text)),
        Some(FileKind::Server) => of(&guideway_tftpd::config::read(text)),
        Some(FileKind::Director) | None => of(&config::read(text)),
    }
}

/// Returns a sentence for each command of ours in an example that the program would not understand.
pub fn unknown_commands(document: &Document) -> Vec<String> {
    let mut wrong = Vec::new();
    for (line, text) in parts(&document.text).blocks.iter().filter(|block| block.language == "sh").flat_map(|block| &block.lines) {
        for words in commands(text) {
            if let Err(why) = check(&words) {
                wrong.push(format!("{}, line {line}: `{}`: {why}", document.name, words.join(" ")));
            }
        }
    }
    wrong
}

/// Splits a line of a shell into commands, and these into words. Redirections and comments are left out.
fn commands(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars().chain([' ']) {
        match (quote, c) {
            (Some(open), _) if open == c => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '|' | '&' | ';' | '>' | '<' | ' ') => {
                commands.last_mut().unwrap().extend(word.take());
                if c != ' ' {
                    commands.push(Vec::new());
                }
            }
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    commands.into_iter().filter(|words| !words.is_empty()).collect()
}

/// Checks a command, if it is one of ours.
fn check(words: &[String]) -> Result<(), String> {
    let program: fn() -> Command = match words.first().map(String::as_str) {
        Some("guideway") => guideway::command,
        Some("guideway-lab" | "tools/demo") => guideway_lab::command,
        _ => return Ok(()),
    };
    // A value in capital letters or with dots stands for another.
    let has_placeholder = words.iter().any(|word| word.contains('…') || word.chars().all(|c| c.is_ascii_uppercase()));
    match program().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Ok(()),
            ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => Err(error.to_string()),
            _ if has_placeholder => Ok(()),
            _ => Err(error.to_string()),
        },
    }
}

#[test]
fn a_line_is_split_as_a_shell_does() {
    let found = commands("guideway check --config 'a b' > x && tools/demo | head # guideway no");
    assert_eq!(found, [vec!["guideway", "check", "--config", "a b"], vec!["x"], vec!["tools/demo"], vec!["head"]]);
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let words = |line: &str| check(&commands(line)[0]);
    assert!(words("guideway check --config FILE").is_ok() && words("ip link").is_ok());
    assert!(words("guideway chekc --config FILE").is_err() && words("guideway check --konfig FILE").is_err());
}
