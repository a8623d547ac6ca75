//! `guideway check` for the file of a TFTP server.

use super::{Action, Config, Kind, Server};
use guideway_config::host_checks::{HostRequirement, RequirementKind};
use guideway_config::print_report;
use guideway_tftp::handlers::template::Source;
use std::io::{self, Write};
use std::path::Path;

/// Checks a file and reports on it, as [`guideway_config::check_command`] does for a director's.
pub fn check_command(path: &Path, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let loaded = super::load(path).map(|mut checked| {
        checked.check_host(path, |(config, server)| host_requirements(config, server.as_ref()));
        checked
    });
    print_report(path, loaded, json, out, err, |(config, server), out| summary(config, server.as_ref(), out))
}

/// Returns the files, directories and users of the configuration that the server's host must have.
fn host_requirements(config: &Config, server: Option<&Server>) -> Vec<HostRequirement> {
    let mut requirements = Vec::new();
    let mut add = |key: String, name: &Path, wanted| requirements.push(HostRequirement::new(key, name, wanted));
    if let Some(server) = server {
        server.writable.iter().for_each(|path| add("server.writable".to_owned(), path, RequirementKind::Directory));
        server.user.iter().for_each(|name| add("server.user".to_owned(), Path::new(name), RequirementKind::User));
    }
    if let Some(reports) = &config.reports {
        let parent = |path: &Path| path.parent().map(Path::to_owned);
        reports.file.as_deref().and_then(parent).iter().for_each(|path| add("reports.file".to_owned(), path, RequirementKind::Directory));
        reports.hook.iter().flat_map(|hook| &hook.ca).for_each(|path| add("reports.ca".to_owned(), path, RequirementKind::File));
    }
    if let Some(takeover) = &config.takeover {
        takeover.config.iter().for_each(|path| add("takeover.config".to_owned(), path, RequirementKind::File));
        takeover.key_file.iter().for_each(|path| add("takeover.key_file".to_owned(), path, RequirementKind::Secret));
    }
    for (at, handler) in config.handlers.iter().enumerate() {
        let key = |name: &str| format!("handler[{at}].{name}");
        match &handler.kind {
            Kind::Directory { root, .. } => add(key("root"), root, RequirementKind::Directory),
            Kind::Http(settings) => settings.ca.iter().for_each(|path| add(key("ca"), path, RequirementKind::File)),
            Kind::Template(settings) => {
                add(key("directory"), &settings.directory, RequirementKind::Directory);
                add(key("template"), &settings.directory.join(&settings.template), RequirementKind::File);
                match settings.inventory.as_ref().map(|machines| &machines.source) {
                    Some(Source::Csv(path)) => add(key("inventory.csv"), path, RequirementKind::File),
                    Some(Source::Json(path)) => add(key("inventory.json"), path, RequirementKind::File),
                    Some(Source::Http { ca: Some(path), .. }) => add(key("inventory.ca"), path, RequirementKind::File),
                    Some(Source::Http { ca: None, .. }) | None => {}
                }
            }
            Kind::Exec { settings, .. } => add(key("program"), &settings.program, RequirementKind::Program),
            Kind::Hook { settings, .. } => settings.ca.iter().for_each(|path| add(key("ca"), path, RequirementKind::File)),
        }
    }
    requirements
}

/// Prints a summary of the file.
fn summary(config: &Config, server: Option<&Server>, out: &mut dyn Write) -> io::Result<()> {
    if let Some(server) = server {
        writeln!(out, "server {}: {}", server.name(), addresses(server))?;
        if let Ok(Some((path, settings))) = server.writable() {
            let total = settings.total.map(|total| format!(" and {total} bytes")).unwrap_or_default();
            writeln!(
                out,
                "uploads of at most {} bytes are stored in {}, at most {} files{total}",
                settings.limit,
                path.display(),
                settings.files
            )?;
        }
    }
    if let Some(takeover) = &config.takeover {
        let me = takeover.name.as_deref().or(server.map(Server::name)).unwrap_or_default();
        let file = takeover.config.as_ref().map_or_else(|| "this file".to_owned(), |file| file.display().to_string());
        // The director's file may exist only on the server's host.
        match takeover.membership(me) {
            Ok(membership) => {
                let others: Vec<&str> = membership.others().map(|member| member.name.as_str()).collect();
                writeln!(out, "{me} takes over transfers of {}, according to {file}", others.join(", "))?;
            }
            Err(why) => writeln!(out, "{why}")?,
        }
    }
    for handler in &config.handlers {
        let what = match &handler.kind {
            Kind::Directory { root, .. } => format!("files below {}", root.display()),
            Kind::Http(settings) => format!("files of {}, cached in {}", settings.url, settings.cache.display()),
            Kind::Template(settings) => format!("rendered from {}", settings.directory.join(&settings.template).display()),
            Kind::Exec { settings, .. } => format!("decisions of {}", settings.program.display()),
            Kind::Hook { settings, .. } => format!("decisions of {}", settings.url),
        };
        writeln!(out, "handler {}: {what}", handler.name)?;
    }
    for (number, rule) in config.rules.iter().enumerate() {
        let what = match &rule.action {
            Action::FallThrough => "rewrites names".to_owned(),
            Action::Deny => "denies".to_owned(),
            Action::Serve(names) => format!("uses {}", names.join(", then ")),
        };
        writeln!(out, "rule {number}: {what}")?;
    }
    Ok(())
}

/// Describes the listening addresses.
fn addresses(server: &Server) -> String {
    let list = |addresses: &[std::net::IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let tunnel = server.gre.iter().zip(&server.vip).map(|(gre, vip)| format!("{} in GRE to {}", list(vip), list(gre)));
    let plain = server.listen.iter().flatten().map(ToString::to_string);
    let all: Vec<String> = plain.chain(tunnel).collect();
    let all = if all.is_empty() { "the addresses of the command line, or port 69".to_owned() } else { all.join(", ") };
    let http: Vec<String> = server.http.iter().flatten().map(ToString::to_string).collect();
    let http = if http.is_empty() { String::new() } else { format!(", by HTTP at {}", http.join(", ")) };
    format!("requests at {all}{http}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_describes_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("tftpd.toml");
        std::fs::write(&file, include_str!("sample.toml")).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(check_command(&file, false, &mut out, &mut err), 0);
        let summary_text = String::from_utf8(out).unwrap();
        assert!(
            summary_text.starts_with("server tftpd: requests at 127.0.0.1:6969\nuploads of at most 4194304 bytes are stored in /srv/backups, at most 10000 files and 1073741824 bytes\nhandler files: files below /srv/tftp\nhandler images: files of http://10.0.0.5:8080/images/, cached in"),
            "{summary_text}"
        );
        assert!(
            summary_text.contains("rule 3: uses pxelinux, then files, then images\n") && summary_text.contains(": good, "),
            "{summary_text}"
        );
        // No host has all of these programs.
        assert!(
            summary_text.contains("warning: handler[3].program[0]") || summary_text.contains("warning: handler[3].program"),
            "{summary_text}"
        );
        std::fs::write(&file, "[[handler]]\nname = 1\n").unwrap();
        assert_eq!(check_command(&file, false, &mut Vec::new(), &mut err), 2);
        assert!(String::from_utf8(err).unwrap().contains("tftpd.toml:2: handler[0].name = 1: expected a name"));
    }
}
