//! `guideway man`: manual pages of the commands and of the configuration files, from the definitions that the code uses.

use super::common::{failed, usage_error};
use super::reference::GROUPS;
use super::{DONE, print};
use clap::Command;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use guideway_config::text::did_you_mean;
use std::io;
use std::path::PathBuf;

const CONFIG_PAGE: &str = "guideway.toml";

/// Print a manual page, or write all of them into a directory
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  guideway man | man -l -\n  guideway man guideway.toml | man -l -\n  guideway man --output /usr/local/share/man"
)]
pub struct Args {
    /// The page: guideway, guideway-COMMAND, or guideway.toml for the configuration keys
    #[arg(value_name = "PAGE", default_value = "guideway")]
    page: String,
    /// Write every page below this directory, as man1/guideway.1 and so on
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    output: Option<PathBuf>,
}

/// A manual page.
struct Page {
    name: String,
    section: u8,
    roff: Vec<u8>,
}

/// Runs the command.
pub fn run(args: &Args, cli: Command) -> u8 {
    let pages = match pages(cli) {
        Ok(pages) => pages,
        Err(error) => return failed(&error.to_string()),
    };
    if let Some(directory) = &args.output {
        return match pages.iter().try_for_each(|page| write(page, directory.join(format!("man{}", page.section)))) {
            Ok(()) => DONE,
            Err(error) => failed(&format!("{}: {error}", directory.display())),
        };
    }
    match pages.iter().find(|page| page.name == args.page) {
        Some(page) if print::line(String::from_utf8_lossy(&page.roff).trim_end()) => DONE,
        Some(_) => failed("standard output cannot be written"),
        None => {
            let hint = did_you_mean(&args.page, pages.iter().map(|page| page.name.as_str()));
            usage_error(&format!("there is no page {}{hint}", args.page))
        }
    }
}

fn write(page: &Page, directory: PathBuf) -> io::Result<()> {
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(format!("{}.{}", page.name, page.section)), &page.roff)
}

fn pages(cli: Command) -> io::Result<Vec<Page>> {
    let mut cli = without_help(cli);
    cli.build();
    let mut pages = vec![config_page()?];
    command_pages(&cli, &mut pages)?;
    Ok(pages)
}

/// Removes the `help` that clap adds to commands with subcommands: it repeats them all.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

fn command_pages(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut roff = Vec::new();
    Man::new(command.clone()).title(&name).source(source()).manual("Guideway").render(&mut roff)?;
    pages.push(Page { name, section: 1, roff });
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| command_pages(below, pages))
}

fn source() -> String {
    format!("guideway {}", env!("CARGO_PKG_VERSION"))
}

/// The page of all configuration keys.
fn config_page() -> io::Result<Page> {
    let mut page = Roff::new();
    page.control("TH", [CONFIG_PAGE, "5", "", source().as_str(), "Guideway"]);
    page.control("SH", ["NAME"]).text([roman("guideway.toml - configuration of directors, TFTP servers and health controllers")]);
    page.control("SH", ["DESCRIPTION"]).text([roman(
        "Files are TOML. A name such as pool.backends.weight is the key weight of a table in the list backends of a [[pool]]. guideway check --config FILE \
         shows every error of a file with its line.",
    )]);
    for group in GROUPS {
        page.control("SH", [group.title.to_uppercase().as_str()]);
        for entry in group.entries() {
            let heading = entry.heading();
            let default = heading.strip_prefix(&entry.name).unwrap_or_default();
            page.control("TP", []).text([bold(&entry.name), roman(default)]).text([roman(entry.description())]);
        }
    }
    page.control("SH", ["SEE ALSO"]).text([roman("guideway(1), guideway-check(1), guideway-help(1)")]);
    let mut roff = Vec::new();
    page.to_writer(&mut roff)?;
    Ok(Page { name: CONFIG_PAGE.to_owned(), section: 5, roff })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_every_key_is_in_a_page() {
        let pages = pages(crate::command()).unwrap();
        let text = |name: &str| {
            let page = pages.iter().find(|page| page.name == name).unwrap_or_else(|| panic!("no page {name}"));
            String::from_utf8(page.roff.clone()).unwrap()
        };
        for command in crate::command().get_subcommands() {
            assert!(text(&format!("guideway-{}", command.get_name())).contains(".SH NAME"));
        }
        assert!(text("guideway-tftp-get").contains("guideway tftp get"), "{}", text("guideway-tftp-get"));
        assert!(!pages.iter().any(|page| page.name.ends_with("-help-get")));
        let keys = text(CONFIG_PAGE);
        assert!(keys.contains("director.io.workers") && keys.contains("handler.cache_size"), "{keys}");
    }
}
