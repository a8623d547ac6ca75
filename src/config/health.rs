//! The file of a health controller: `[health]`, and what is to be checked.
//!
//! That is in the store that directors share; without one in this file, or in that of a director that `intent` names.

use super::check::tell;
use super::director::address;
use super::here::{Named, Wanted};
use super::load::{Checked, LoadError, intent_of, load, load_with, read_kind};
use super::reader::{Field, Reader};
use super::summary::addresses;
use super::text::{self, plural, some_of};
use super::{Addresses, Intent, Kind, Probe, read_intent, store};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

const CONCURRENCY: usize = 4096;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthFile {
    /// `[health]`
    pub health: HealthSection,
    /// Where the intent is.
    pub intent: IntentSource,
}

/// `[health]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSection {
    /// 1–63 characters as for a director's name.
    pub name: String,
    /// Where checks come from: addresses of this host, which must not hold a VIP. At least one of the two families.
    pub source: Addresses,
    /// The control socket.
    pub socket: PathBuf,
    /// Where metrics are served to Prometheus; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// Checks that may be under way at a time, 1–65,536; default 4096.
    pub concurrency: usize,
    /// Directories whose programs checks of kind exec may run; none by default. The intent comes from elsewhere, and whoever may change it must
    /// not thereby be able to run anything here.
    pub exec: Vec<PathBuf>,
}

/// Where the intent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntentSource {
    /// In the store, where what is seen is published, too.
    Store(super::Store),
    /// In the same file.
    Here(Intent),
    /// In this one, of a director or with an intent alone.
    File(PathBuf),
}

/// Reads and checks the file of a health controller.
///
/// # Errors
/// When it cannot be looked at. Errors *in* it are in [`Checked::problems`].
pub fn load_health(path: &Path) -> Result<Checked<HealthFile>, LoadError> {
    load_with(path, read_health)
}

/// Reads and checks the text of such a file.
pub fn read_health(text: &str) -> Checked<HealthFile> {
    read_kind(text, Kind::Health, sections)
}

/// Reads and checks a file with an intent: a director's, or one with `[[vip]]` and `[[pool]]` alone.
///
/// # Errors
/// As [`load_health`].
pub fn load_intent(path: &Path) -> Result<Checked<Intent>, LoadError> {
    let director = |text: String| DeTable::parse_recoverable(&text).0.get_ref().contains_key("director");
    if !std::fs::read_to_string(path).is_ok_and(director) {
        return load_with(path, read_intent);
    }
    let Checked { config, problems } = load(path)?;
    Ok(Checked { config: config.map(|config| config.intent()), problems })
}

/// `guideway check` for the file of a health controller.
pub fn check_health_command(path: &Path, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let loaded = load_health(path).map(|mut checked| {
        checked.look(path, named);
        checked
    });
    tell(path, loaded, json, out, err, summary)
}

/// What it names that should be on its host.
fn named(file: &HealthFile) -> Vec<Named> {
    let exec = file.health.exec.iter().enumerate();
    let mut named: Vec<Named> = exec.map(|(at, path)| Named::new(format!("health.exec[{at}]"), path, Wanted::Directory)).collect();
    match &file.intent {
        IntentSource::Store(store) => named.extend(store.named()),
        IntentSource::File(path) => named.push(Named::new("health.intent", path, Wanted::File)),
        IntentSource::Here(_) => {}
    }
    named
}

fn summary(file: &HealthFile, out: &mut dyn Write) -> io::Result<()> {
    let health = &file.health;
    writeln!(out, "health controller {}", health.name)?;
    writeln!(out, "  source    {}", addresses(health.source))?;
    writeln!(out, "  socket    {}", health.socket.display())?;
    if let Some(metrics) = health.metrics {
        writeln!(out, "  metrics   http://{metrics}/metrics")?;
    }
    match &file.intent {
        IntentSource::Store(store) => writeln!(out, "  store     {}", store::summary(store)),
        IntentSource::File(path) => writeln!(out, "  intent    in {}", path.display()),
        IntentSource::Here(intent) => intent.pools.iter().try_for_each(|pool| {
            let how = pool.check.as_ref().map_or("not checked".to_owned(), |check| check.label());
            let count = pool.backends.len();
            writeln!(out, "  pool      {}: {count} {}, {how}", pool.name, plural(count, "backend"))
        }),
    }
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<HealthFile> {
    let mut root = reader.root(document);
    let nothing = root.about("pool");
    let inline = document.contains_key("vip") || document.contains_key("pool");
    let table = root.required("health", "[health]").and_then(|f| f.table("a table: [health]"));
    let mut elsewhere = None;
    let health = table.and_then(|mut table| {
        let name = table.required("name", "name = \"h1\"").and_then(|f| f.parse("a name in quotes", text::name)).map(|s| s.value);
        let source = table.required("source", "source = \"10.0.1.9\"").and_then(|f| address(f).0);
        let socket = match table.optional("socket") {
            Some(field) => field.parse("a path in quotes", text::socket_path).map(|s| s.value),
            None => name.as_ref().map(|name| text::socket_of(name)),
        };
        let metrics = match table.optional("metrics") {
            Some(field) => field.parse("an address with a port in quotes", text::socket_address).map(|s| Some(s.value)),
            None => Some(None),
        };
        let concurrency = table.optional("concurrency").map_or(Some(CONCURRENCY), |f| f.integer("a number of checks", 1..=65_536));
        let exec = table.optional("exec").map_or(Some(Vec::new()), |f| directories(&f));
        elsewhere = table.optional("intent").map(|field| {
            if inline {
                field.error("names another file, but this one has a [[vip]] or [[pool]]: keep the intent in one place");
            }
            field.parse("the path of a file in quotes", absolute).map(|s| s.value)
        });
        table.finish();
        Some(HealthSection { name: name?, source: source?, socket: socket?, metrics: metrics?, concurrency: concurrency?, exec: exec? })
    });
    let store = root.optional("store");
    if let Some(field) = store.as_ref().filter(|_| inline || elsewhere.is_some()) {
        field.error("stands beside health.intent, a [[vip]] or a [[pool]]: with a store the intent is in the store, and nowhere else");
    }
    let store = store.map(|field| store::read_section(&field));
    let intent = intent_of(reader, root);
    if !inline && elsewhere.is_none() && store.is_none() {
        reader.unless_broken(|| {
            reader.error(
                &nothing,
                "is missing, and so are [store] and health.intent: write [store], a [[pool]] with a check, or intent = \"FILE\"",
            )
        });
    }
    let (health, intent) = (health?, intent?);
    let intent = match elsewhere {
        None if store.is_some() => IntentSource::Store(store??),
        Some(path) => IntentSource::File(path?),
        None => IntentSource::Here(intent),
    };
    if let IntentSource::Here(intent) = &intent {
        health.cannot(intent).into_iter().for_each(|message| reader.warning(&nothing, message));
    }
    (!reader.has_errors()).then_some(HealthFile { health, intent })
}

impl HealthSection {
    /// What of an intent this controller cannot check, in sentences.
    pub fn cannot(&self, intent: &Intent) -> Vec<String> {
        let mut said = Vec::new();
        let unchecked: Vec<&str> = intent.pools.iter().filter(|pool| pool.check.is_none()).map(|pool| pool.name.as_str()).collect();
        if !unchecked.is_empty() {
            said.push(format!("{} has no check: its backends always count as up", some_of(&unchecked)));
        }
        for vip in intent.vips.iter().map(|vip| vip.address).filter(|vip| self.source.contains(*vip)) {
            said.push(format!(
                "health.source has the VIP {vip}: a host that holds a VIP drops what comes from it, and every tftp check fails"
            ));
        }
        for pool in &intent.pools {
            let Some(check) = &pool.check else { continue };
            let vip = matches!(check.probe, Probe::Tftp(_)).then(|| intent.vip_of_check(pool)).flatten();
            let strange = |address: &IpAddr| self.source.same_family(*address).is_none();
            if let Some(address) = pool.backends.iter().map(|backend| backend.address).chain(vip).find(strange) {
                said.push(format!("{} cannot be checked: {address} is of a family that health.source has no address of", pool.name));
            }
            if let Probe::Exec { command } = &check.probe
                && let Some(program) = command.first()
                && !self.exec.iter().any(|directory| Path::new(program).parent() == Some(directory))
            {
                said.push(format!("{} cannot be checked: {program} is in no directory that health.exec names", pool.name));
            }
        }
        said
    }
}

fn directories(field: &Field<'_, '_>) -> Option<Vec<PathBuf>> {
    let items = field.items("a list of directories in quotes")?;
    let read: Vec<_> = items.into_iter().map(|item| item.parse("the absolute path of a directory", absolute).map(|s| s.value)).collect();
    read.into_iter().collect()
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err("is no absolute path; it begins with '/'".to_owned());
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[health]\nname = \"h1\"\nsource = [\"10.0.1.9\", \"2001:db8::9\"]\n";
    const POOL: &str = "[[vip]]\naddress = \"192.0.2.80\"\nservice = { protocol = \"tcp\", ports = [80] }\npool = \"web\"\n[[pool]]\nname = \"web\"\ncheck = { kind = \"tcp\", port = 80 }\nbackends = [{ name = \"w1\", address = \"10.0.2.31\" }]\n";

    fn said(text: &str) -> Vec<String> {
        read_health(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_controller_has_its_intent_in_one_place() {
        let file = read_health(&format!("{HEAD}{POOL}")).config.unwrap();
        assert_eq!((file.health.concurrency, file.health.socket.to_str()), (4096, Some("/run/guideway/h1.sock")));
        assert!(matches!(file.intent, IntentSource::Here(intent) if intent.pools[0].check.is_some()));
        let elsewhere = read_health(&format!("{HEAD}intent = \"/etc/guideway/d1.toml\"\n")).config.unwrap();
        assert_eq!(elsewhere.intent, IntentSource::File("/etc/guideway/d1.toml".into()));
        assert!(said(HEAD)[0].contains("a [[pool]] with a check"), "{:?}", said(HEAD));
        let both = said(&format!("{HEAD}intent = \"/a\"\n{POOL}"));
        assert!(both.len() == 1 && both[0].contains("keep the intent in one place"), "{both:?}");
        let stored = "[store]\nkind = \"file\"\npath = \"/var/lib/guideway/boot\"\n";
        let file = read_health(&format!("{HEAD}{stored}")).config.unwrap();
        assert!(matches!(file.intent, IntentSource::Store(_)));
        let both = said(&format!("{HEAD}{stored}{POOL}"));
        assert!(both.len() == 1 && both[0].contains("with a store the intent is in the store"), "{both:?}");
        assert_eq!([HEAD, "[director]\n[health]\n", POOL].map(Kind::of_text), [Some(Kind::Health), Some(Kind::Director), None]);
    }

    #[test]
    fn what_cannot_be_checked_is_said() {
        let exec = POOL.replace("kind = \"tcp\", port = 80", "kind = \"exec\", command = [\"/opt/checks/a\"]");
        let only_v6 = HEAD.replace("\"10.0.1.9\", ", "");
        assert!(said(&format!("{HEAD}{exec}"))[0].contains("/opt/checks/a is in no directory that health.exec names"));
        assert_eq!(said(&format!("{HEAD}exec = [\"/opt/checks\"]\n{exec}")), [""; 0]);
        assert!(said(&format!("{only_v6}{POOL}"))[0].contains("10.0.2.31 is of a family"));
        let unchecked = POOL.replace("check = { kind = \"tcp\", port = 80 }\n", "");
        assert!(said(&format!("{HEAD}{unchecked}"))[0].contains("web has no check"));
        let vip = POOL.replace("192.0.2.80", "10.0.1.9");
        assert!(said(&format!("{HEAD}{vip}")).iter().any(|said| said.contains("has the VIP 10.0.1.9")));
        for (line, part) in [
            ("source = []", "empty list"),
            ("concurrency = 0", "1 to 65536"),
            ("exec = [\"bin\"]", "absolute path"),
            ("nmae = 1", "is no key"),
        ] {
            let text = if line.starts_with("source") {
                format!("[health]\nname = \"h1\"\n{line}\n{POOL}")
            } else {
                format!("{HEAD}{line}\n{POOL}")
            };
            assert!(said(&text).iter().any(|said| said.contains(part)), "{line}: {:?}", said(&text));
        }
    }

    #[test]
    fn the_example_of_the_readme_is_good() {
        let readme = include_str!("../../README.md");
        let (_, text) = readme.split_once("# /etc/guideway/health.toml\n").unwrap();
        let (text, _) = text.split_once("```").unwrap();
        assert_eq!(said(text), [""; 0]);
    }

    #[test]
    fn an_intent_is_read_from_the_file_of_a_director_too() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("d1.toml"), include_str!("tests/sample.toml")).unwrap();
        std::fs::write(at("intent.toml"), POOL).unwrap();
        assert!(!load_intent(&at("d1.toml")).unwrap().config.unwrap().vips.is_empty());
        assert_eq!(load_intent(&at("intent.toml")).unwrap().config.unwrap().pools[0].name, "web");
        assert!(load_intent(&at("none.toml")).is_err());
    }
}
