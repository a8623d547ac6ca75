//! `guideway init`: writes the commented files of a host for a shape of deployment, and says what to do next.

mod files;
#[cfg(test)]
mod tests;

use super::common::{failed, print_result, usage_error};
use files::{HostName, Shape, Site};
use guideway_config::text;
use std::fmt::Write;
use std::io::{BufRead, IsTerminal, Read, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Write the files of a new director, and of the server on its host, for a shape of deployment
///
/// Run it on each host with the same flags but --name. Existing files stay as they are. What is missing is asked for, on a terminal only. The key is made on the
/// first host, in /etc/guideway/key: copy it to the others before you run the command there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
    guideway init pair --vip 10.0.1.69 --host boot1=10.0.1.11 --host boot2=10.0.1.12 --name boot1 --interface eth0\n  \
    guideway init bgp --vip 192.0.2.69 --host d1=10.0.1.11 --host d2=10.0.1.12 --server t1=10.0.2.21 --router 10.0.0.1 --name d1 --interface eth0")]
pub struct Args {
    /// The shape
    #[arg(value_enum, value_name = "SHAPE")]
    shape: Shape,
    /// The virtual address that clients use
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<IpAddr>,
    /// Name and address of each director; may be repeated
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = host)]
    host: Vec<HostName>,
    /// Name and address of each server, where these are not the directors
    #[arg(long, value_name = "NAME=ADDRESS", value_parser = host)]
    server: Vec<HostName>,
    /// The host, among the directors, whose files are written
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The interface on which clients' packets come
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Address of a router: the BGP neighbour, or who sends GRE
    #[arg(long, value_name = "ADDRESS")]
    router: Option<IpAddr>,
    /// Directory with the files for clients
    #[arg(long, value_name = "DIR", default_value = "/srv/tftp")]
    root: PathBuf,
    /// Directory that stands for /, in images and tests
    #[arg(long, value_name = "DIR", default_value = "/")]
    prefix: PathBuf,
}

fn host(text: &str) -> Result<HostName, String> {
    let (name, address) = text.split_once('=').ok_or("is not NAME=ADDRESS, such as boot1=10.0.1.11")?;
    Ok(HostName {
        name: text::name(name).map_err(|why| why.to_string())?,
        address: address.parse().map_err(|_| format!("`{address}` is no address"))?,
    })
}

/// Runs the command.
pub fn run(args: &Args) -> u8 {
    let site = match site(args, &mut ask) {
        Ok(site) => site,
        Err(why) => return usage_error(&why),
    };
    match write_all(&site) {
        Ok(text) => print_result(&text),
        Err(why) => failed(&why),
    }
}

/// Asks the operator; `None` when there is no terminal.
fn ask(question: &str) -> Option<String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return None;
    }
    eprint!("{question}: ");
    let _shown = std::io::stderr().flush();
    let mut line = String::new();
    stdin.lock().read_line(&mut line).ok()?;
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// Collects what the files need from the flags and the answers.
fn site(args: &Args, ask: &mut dyn FnMut(&str) -> Option<String>) -> Result<Site, String> {
    let missing = |flag: &str| format!("{flag} is missing");
    let mut address = |given: Option<IpAddr>, flag: &str, question: &str| match given {
        Some(address) => Ok(address),
        None => ask(question).ok_or_else(|| missing(flag))?.parse().map_err(|_| format!("{flag}: that is no address")),
    };
    let vip = address(args.vip, "--vip", "Virtual address that clients use")?;
    let needs_router = args.shape.announces() || args.shape == Shape::Routers;
    let router = if needs_router { Some(address(args.router, "--router", "Address of the router")?) } else { None };
    let mut hosts = |given: &[HostName], flag: &str, question: &str| match given {
        [] => ask(question).ok_or_else(|| missing(flag))?.split_whitespace().map(host).collect::<Result<Vec<_>, _>>(),
        given => Ok(given.to_vec()),
    };
    let directors = hosts(&args.host, "--host", "Directors, as NAME=ADDRESS NAME=ADDRESS")?;
    let servers = match (args.shape.has_local_servers(), &args.server[..]) {
        (true, []) => directors.clone(),
        (true, _) => return Err("--server: in this shape the directors are the servers".to_owned()),
        (false, given) => hosts(given, "--server", "Servers, as NAME=ADDRESS NAME=ADDRESS")?,
    };
    if args.shape == Shape::Pair && directors.len() != 2 {
        return Err(format!("--host: a pair has two hosts, and there are {}", directors.len()));
    }
    if servers.len() > 40 {
        return Err("--server: at most 40 servers have a range of 1000 ports each; write the pool yourself".to_owned());
    }
    let mut text =
        |given: &Option<String>, flag: &str, question: &str| given.clone().or_else(|| ask(question)).ok_or_else(|| missing(flag));
    let name = text(&args.name, "--name", "Name of this host among them")?;
    let interface = text(&args.interface, "--interface", "Interface on which clients' packets come")?;
    let number = directors.iter().position(|director| director.name == name);
    let number = number.ok_or_else(|| format!("--name: {name} is none of the directors in --host"))?;
    Ok(Site { shape: args.shape, vip, router, directors, servers, number, interface, root: args.root.clone(), prefix: args.prefix.clone() })
}

/// Returns the fleet's key: that of the file, or a new one.
fn key(path: &Path) -> Result<String, String> {
    match std::fs::read_to_string(path) {
        Ok(key) => Ok(key.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut bytes = [0; 16];
            std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(|why| why.to_string())?;
            Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
        }
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Writes the files that do not exist yet; what was done, and what comes next.
fn write_all(site: &Site) -> Result<String, String> {
    let mut said = String::new();
    for file in site.files(&key(&site.key_file())?) {
        // Writing to a string cannot fail.
        let _infallible = match write_new(&file.path, &file.text, file.mode) {
            Ok(true) => writeln!(said, "wrote {}", file.path.display()),
            Ok(false) => writeln!(said, "left {} as it is", file.path.display()),
            Err(why) => return Err(format!("{}: {why}", file.path.display())),
        };
    }
    said.push_str("\nNext:\n");
    for (number, step) in site.next_steps().iter().enumerate() {
        let _infallible = writeln!(said, "  {}. {step}", number + 1);
    }
    Ok(said.trim_end().to_owned())
}

/// Returns whether the file is new.
fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<bool> {
    std::fs::create_dir_all(path.parent().unwrap_or(path))?;
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| true),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}
