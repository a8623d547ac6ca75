//! The file of a health controller: `[health]`, and the backends to check.
//!
//! The backends are in the store that directors share; without a store, in this file or in the file that `intent` names.

use super::check::print_report;
use super::director::address;
use super::document::{Checked, LoadError, load_with, read_kind};
use super::host_checks::{HostRequirement, RequirementKind};
use super::load::{embedded_intent, load};
use super::reader::{Field, Reader};
use super::summary::addresses;
use super::text::{self, abbreviate_list, plural};
use super::{Addresses, FileKind, Intent, Probe, read_intent, store};
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
    /// Source of checks: addresses of this host, which must not be a VIP. At least one of the two families.
    pub source: Addresses,
    /// The control socket.
    pub socket: PathBuf,
    /// Address that serves metrics to Prometheus; none by default.
    pub metrics: Option<SocketAddr>,
    /// Maximum number of concurrent checks, 1–65,536; default 4096.
    pub concurrency: usize,
    /// Directories whose programs exec checks may run; none by default. The intent comes from elsewhere, and an operator who may change it
    /// must not be able to run any program on this host.
    pub exec_dirs: Vec<PathBuf>,
}

/// Where the intent is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntentSource {
    /// In the store, where the health is also published.
    Store(super::Store),
    /// In the same file.
    Inline(Intent),
    /// In the file of a director, or in a file with an intent only.
    File(PathBuf),
}

/// Reads and checks the file of a health controller.
///
/// # Errors
/// Returns an error when the file cannot be read. Errors *in* the file are in [`Checked::problems`].
pub fn load_health(path: &Path) -> Result<Checked<HealthFile>, LoadError> {
    load_with(path, read_health)
}

/// Reads and checks the text of a health controller's file.
pub fn read_health(text: &str) -> Checked<HealthFile> {
    read_kind(text, FileKind::Health, sections)
}

/// Reads and checks a file with an intent: a director's file, or one with `[[vip]]` and `[[pool]]` only.
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
        checked.check_host(path, host_requirements);
        checked
    });
    print_report(path, loaded, json, out, err, summary)
}

/// Returns the files and directories that the file expects on its host.
fn host_requirements(file: &HealthFile) -> Vec<HostRequirement> {
    let exec_dirs = file.health.exec_dirs.iter().enumerate();
    let mut host_requirements: Vec<HostRequirement> =
        exec_dirs.map(|(at, path)| HostRequirement::new(format!("health.exec_dirs[{at}]"), path, RequirementKind::Directory)).collect();
    match &file.intent {
        IntentSource::Store(store) => host_requirements.extend(store.host_requirements()),
        IntentSource::File(path) => host_requirements.push(HostRequirement::new("health.intent", path, RequirementKind::File)),
        IntentSource::Inline(_) => {}
    }
    host_requirements
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
        IntentSource::Inline(intent) => intent.pools.iter().try_for_each(|pool| {
            let how = pool.check.as_ref().map_or("not checked".to_owned(), |check| check.label());
            let count = pool.backends.len();
            writeln!(out, "  pool      {}: {count} {}, {how}", pool.name, plural(count, "backend"))
        }),
    }
}

fn sections(reader: &Reader, document: &DeTable<'_>) -> Option<HealthFile> {
    let mut root = reader.root(document);
    let missing_location = root.key_location("pool");
    let inline = document.contains_key("vip") || document.contains_key("pool");
    let table = root.required("health", "[health]").and_then(|f| f.table("a table: [health]"));
    let mut intent_path = None;
    let health = table.and_then(|mut table| {
        let name = table.required("name", "name = \"h1\"").and_then(|f| f.parse("a name in quotes", text::name)).map(|s| s.value);
        let source = table.required("source", "source = \"10.0.1.9\"").and_then(|f| address(f).0);
        let socket = match table.optional("socket") {
            Some(field) => field.parse("a path in quotes", text::socket_path).map(|s| s.value),
            None => name.as_ref().map(|name| text::default_socket(name)),
        };
        let metrics = match table.optional("metrics") {
            Some(field) => field.parse("an address with a port in quotes", text::socket_address).map(|s| Some(s.value)),
            None => Some(None),
        };
        let concurrency = table.optional("concurrency").map_or(Some(CONCURRENCY), |f| f.integer("a number of checks", 1..=65_536));
        let exec_dirs = table.optional("exec_dirs").map_or(Some(Vec::new()), |f| directories(&f));
        intent_path = table.optional("intent").map(|field| {
            if inline {
                field.error("names another file, but this one has a [[vip]] or [[pool]]: keep the intent in one place");
            }
            field.parse("the path of a file in quotes", absolute).map(|s| s.value)
        });
        table.finish();
        Some(HealthSection {
            name: name?,
            source: source?,
            socket: socket?,
            metrics: metrics?,
            concurrency: concurrency?,
            exec_dirs: exec_dirs?,
        })
    });
    let store = root.optional("store");
    if let Some(field) = store.as_ref().filter(|_| inline || intent_path.is_some()) {
        field.error("conflicts with health.intent, [[vip]] and [[pool]]: with a store the intent is only in the store; remove one of them");
    }
    let store = store.map(|field| store::read_section(&field));
    let intent = embedded_intent(reader, root);
    if !inline && intent_path.is_none() && store.is_none() {
        reader.unless_broken(|| {
            reader.error(
                &missing_location,
                "is missing, and so are [store] and health.intent: write [store], a [[pool]] with a check, or intent = \"FILE\"",
            )
        });
    }
    let (health, intent) = (health?, intent?);
    let intent = match intent_path {
        None if store.is_some() => IntentSource::Store(store??),
        Some(path) => IntentSource::File(path?),
        None => IntentSource::Inline(intent),
    };
    if let IntentSource::Inline(intent) = &intent {
        health.unsupported(intent).into_iter().for_each(|message| reader.warning(&missing_location, message));
    }
    (!reader.has_errors()).then_some(HealthFile { health, intent })
}

impl HealthSection {
    /// Returns the parts of an intent that this controller cannot check, as sentences.
    pub fn unsupported(&self, intent: &Intent) -> Vec<String> {
        let mut messages = Vec::new();
        let unchecked: Vec<&str> = intent.pools.iter().filter(|pool| pool.check.is_none()).map(|pool| pool.name.as_str()).collect();
        if !unchecked.is_empty() {
            messages.push(format!("{} has no check: its backends always count as up", abbreviate_list(&unchecked)));
        }
        for vip in intent.vips.iter().map(|vip| vip.address).filter(|vip| self.source.contains(*vip)) {
            messages.push(format!(
                "health.source contains the VIP {vip}: a host drops packets whose source is its own VIP, so every tftp check fails; remove the VIP from health.source"
            ));
        }
        for pool in &intent.pools {
            let Some(check) = &pool.check else { continue };
            let vip = matches!(check.probe, Probe::Tftp(_)).then(|| intent.vip_of_check(pool)).flatten();
            let unsupported_family = |address: &IpAddr| self.source.same_family(*address).is_none();
            if let Some(address) = pool.backends.iter().map(|backend| backend.address).chain(vip).find(unsupported_family) {
                messages.push(format!("{} cannot be checked: health.source has no address of the family of {address}; add one", pool.name));
            }
            if let Probe::Exec { command } = &check.probe
                && let Some(program) = command.first()
                && !self.exec_dirs.iter().any(|directory| Path::new(program).parent() == Some(directory))
            {
                messages.push(format!(
                    "{} cannot be checked: {program} is not in a directory of health.exec_dirs; add its directory",
                    pool.name
                ));
            }
        }
        messages
    }
}

fn directories(field: &Field<'_, '_>) -> Option<Vec<PathBuf>> {
    let items = field.items("a list of directories in quotes")?;
    let read: Vec<_> = items.into_iter().map(|item| item.parse("the absolute path of a directory", absolute).map(|s| s.value)).collect();
    read.into_iter().collect()
}

fn absolute(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err("is not an absolute path; begin it with '/'".to_owned());
    }
    Ok(PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "[health]\nname = \"h1\"\nsource = [\"10.0.1.9\", \"2001:db8::9\"]\n";
    const POOL: &str = "[[vip]]\naddress = \"192.0.2.80\"\nservice = { protocol = \"tcp\", ports = [80] }\npool = \"web\"\n[[pool]]\nname = \"web\"\ncheck = { kind = \"tcp\", port = 80 }\nbackends = [{ name = \"w1\", address = \"10.0.2.31\" }]\n";

    fn messages(text: &str) -> Vec<String> {
        read_health(text).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_controller_has_its_intent_in_one_place() {
        let file = read_health(&format!("{HEAD}{POOL}")).config.unwrap();
        assert_eq!((file.health.concurrency, file.health.socket.to_str()), (4096, Some("/run/guideway/h1.sock")));
        assert!(matches!(file.intent, IntentSource::Inline(intent) if intent.pools[0].check.is_some()));
        let intent_path = read_health(&format!("{HEAD}intent = \"/etc/guideway/d1.toml\"\n")).config.unwrap();
        assert_eq!(intent_path.intent, IntentSource::File("/etc/guideway/d1.toml".into()));
        assert!(messages(HEAD)[0].contains("a [[pool]] with a check"), "{:?}", messages(HEAD));
        let both = messages(&format!("{HEAD}intent = \"/a\"\n{POOL}"));
        assert!(both.len() == 1 && both[0].contains("keep the intent in one place"), "{both:?}");
        let stored = "[store]\nkind = \"file\"\npath = \"/var/lib/guideway/boot\"\n";
        let file = read_health(&format!("{HEAD}{stored}")).config.unwrap();
        assert!(matches!(file.intent, IntentSource::Store(_)));
        let both = messages(&format!("{HEAD}{stored}{POOL}"));
        assert!(both.len() == 1 && both[0].contains("with a store the intent is only in the store"), "{both:?}");
        assert_eq!([HEAD, "[director]\n[health]\n", POOL].map(FileKind::of_text), [Some(FileKind::Health), Some(FileKind::Director), None]);
    }

    #[test]
    fn backends_that_cannot_be_checked_give_warnings() {
        let exec_dirs = POOL.replace("kind = \"tcp\", port = 80", "kind = \"exec\", command = [\"/opt/checks/a\"]");
        let only_v6 = HEAD.replace("\"10.0.1.9\", ", "");
        assert!(
            messages(&format!("{HEAD}{exec_dirs}"))[0]
                .contains("/opt/checks/a is not in a directory of health.exec_dirs; add its directory")
        );
        assert_eq!(messages(&format!("{HEAD}exec_dirs = [\"/opt/checks\"]\n{exec_dirs}")), [""; 0]);
        assert!(messages(&format!("{only_v6}{POOL}"))[0].contains("no address of the family of 10.0.2.31"));
        let unchecked = POOL.replace("check = { kind = \"tcp\", port = 80 }\n", "");
        assert!(messages(&format!("{HEAD}{unchecked}"))[0].contains("web has no check"));
        let vip = POOL.replace("192.0.2.80", "10.0.1.9");
        assert!(messages(&format!("{HEAD}{vip}")).iter().any(|messages| messages.contains("contains the VIP 10.0.1.9")));
        for (line, part) in [
            ("source = []", "empty list"),
            ("concurrency = 0", "1 to 65536"),
            ("exec_dirs = [\"bin\"]", "absolute path"),
            ("nmae = 1", "unknown key"),
        ] {
            let text = if line.starts_with("source") {
                format!("[health]\nname = \"h1\"\n{line}\n{POOL}")
            } else {
                format!("{HEAD}{line}\n{POOL}")
            };
            assert!(messages(&text).iter().any(|messages| messages.contains(part)), "{line}: {:?}", messages(&text));
        }
    }

    #[test]
    fn the_example_of_the_readme_is_good() {
        let readme = include_str!("../health/README.md");
        let (_, text) = readme.split_once("# /etc/guideway/health.toml\n").unwrap();
        let (text, _) = text.split_once("```").unwrap();
        assert_eq!(messages(text), [""; 0]);
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
