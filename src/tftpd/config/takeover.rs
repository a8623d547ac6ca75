//! `[takeover]`: the servers that take over each other's transfers. They are the backends of a pool. The pool is described as for directors:
//! in a director's file, or in `[[pool]]` sections of this file.

use super::values::{path, size};
use guideway_config::reader::{Reader, Table};
use guideway_config::{self as config, Intent, Pool, duration_within, text};
use guideway_hash::FleetKey;
use guideway_store as store;
use guideway_tftp::engine::{Config as Engine, Tid};
use guideway_tftp::takeover::{CHECKPOINT_TIMEOUT, Member, Membership, PORT, Settings, checkpoint_store};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Largest number of keys in a file: the active one and further accepted ones.
const MAX_KEYS: usize = 4;
/// Longest wait for the store at the start.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);

/// `[takeover]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// This server's name as a backend; default: that of the server.
    pub name: Option<String>,
    /// The pool, when there are several with `takeover = true`.
    pub pool: Option<String>,
    /// The fleet's key; default: the one in the director's file.
    pub key: Option<FleetKey>,
    /// The fleet's previous or next key: checkpoints signed with it are accepted.
    pub next_key: Option<FleetKey>,
    /// A file with the key in its first line and further accepted keys in the next lines.
    pub key_file: Option<PathBuf>,
    /// A director's file, or one with `[[vip]]` and `[[pool]]` only.
    pub config: Option<PathBuf>,
    /// `[[pool]]` in this file.
    pub pools: Vec<Pool>,
    /// UDP port for checkpoints, the same on every server of the pool; default 6970.
    pub port: u16,
    /// Longest time for which a first answer waits for a successor, 0–100 ms; default 3 ms.
    pub checkpoint_timeout: Duration,
    /// Limits of the checkpoints stored for other servers.
    pub memory: checkpoint_store::Limits,
    /// The file that contains this section.
    pub file: Option<PathBuf>,
}

/// Reads the optional sections `[takeover]` and `[[pool]]`.
pub(super) fn read(reader: &Reader, root: &mut Table<'_, '_>) -> Option<Option<Takeover>> {
    let no_pool = root.key_location("pool");
    let field = root.optional("takeover");
    let pools = config::pools(reader, root);
    let Some(field) = field else {
        if !pools.is_empty() {
            reader.error(&no_pool, "requires [takeover]: without it a server does not use pools");
        }
        return Some(None);
    };
    let mut table = field.table("a table: [takeover]")?;
    let t = &mut table;
    let mut good = true;
    let mut keep = |read: bool| good &= read;
    let name = t.optional("name").map(|f| f.parse("a name in quotes", text::name).map(|s| s.value));
    let pool = t.optional("pool").map(|f| f.parse("a name in quotes", text::name).map(|s| s.value));
    let key = t.optional("key").map(config::fleet_key);
    let next_key = t.optional("next_key").map(config::fleet_key);
    let key_file = t.optional("key_file").map(|f| f.parse("a path in quotes", path).map(|s| s.value));
    let config_field = t.optional("config");
    let file = config_field.clone().map(|f| f.parse("a path in quotes", path).map(|s| s.value));
    let port = t.optional("port").map(|f| f.integer("a port", 1..=65535));
    let checkpoint_timeout = t.optional("checkpoint_timeout").map(|f| duration_within(f, Duration::ZERO..=Duration::from_millis(100)));
    let memory = t.optional("memory").map(|f| f.table("a table such as { transfers = 200000, bytes = \"64MiB\" }").and_then(limits));
    keep(
        name != Some(None)
            && pool != Some(None)
            && key != Some(None)
            && next_key != Some(None)
            && key_file != Some(None)
            && file != Some(None),
    );
    keep(port != Some(None) && checkpoint_timeout != Some(None) && memory != Some(None));
    match (&config_field, pools.is_empty()) {
        (Some(field), false) => field.error("contradicts [[pool]]; keep one of the two"),
        (None, true) => {
            table.missing("config", "is missing; write config = \"/etc/guideway/director.toml\", or the pool itself as [[pool]]")
        }
        _ => {}
    }
    match (&key, &key_file, &config_field) {
        (Some(_), Some(_), _) => table.missing("key", "contradicts key_file; keep one of the two"),
        (None, None, None) => table.missing(
            "key",
            "is missing: the key of the directors; write key = \"…\" with 32 hex digits, or key_file = \"/etc/guideway/key\"",
        ),
        _ => {}
    }
    if next_key.is_some() && key.is_none() {
        table.missing("key", "is missing, but next_key requires it; with key_file, write the next key into the second line of that file");
    }
    table.finish();
    let pools = pools.into_iter().collect::<Option<Vec<Pool>>>();
    good.then_some(())?;
    Some(Some(Takeover {
        name: name.flatten(),
        pool: pool.flatten(),
        key: key.flatten(),
        next_key: next_key.flatten(),
        key_file: key_file.flatten(),
        config: file.flatten(),
        pools: pools?,
        port: port.flatten().unwrap_or(PORT),
        checkpoint_timeout: checkpoint_timeout.flatten().unwrap_or(CHECKPOINT_TIMEOUT),
        memory: memory.flatten().unwrap_or_default(),
        file: None,
    }))
}

fn limits(mut table: Table<'_, '_>) -> Option<checkpoint_store::Limits> {
    let default = checkpoint_store::Limits::default();
    let transfers = table.optional("transfers").map_or(Some(default.transfers), |f| f.integer("transfers", 1..=100_000_000));
    let bytes = table.optional("bytes").map_or(Some(default.bytes as u64), |f| size(f, 1 << 10..=1 << 40));
    table.finish();
    Some(checkpoint_store::Limits { transfers: transfers?, bytes: usize::try_from(bytes?).ok()? })
}

impl Takeover {
    /// Reads the pool and the keys from their file or store.
    ///
    /// # Errors
    /// A sentence, when a file cannot be used, the pool has no takeover, or this server is not in it.
    pub fn membership(&self, me: &str) -> Result<Membership, String> {
        let pool_source = match &self.config {
            Some(file) => director(file)?,
            None => PoolSource { pools: self.pools.clone(), keys: Vec::new(), store: None },
        };
        let Some(store) = &pool_source.store else { return self.membership_of(&pool_source, me) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("takeover: the store cannot be used: {error}"))?;
        let opened = runtime.block_on(store::open_timeout(&store.at, STORE_TIMEOUT)).map_err(|error| format!("takeover: {error}"))?;
        let intent = opened.watch().borrow().cluster.intent.clone();
        self.membership_of(&store.pool_source(&intent), me)
    }

    /// Returns the store that contains the pool; `None` if a file does.
    ///
    /// # Errors
    /// When the director's file cannot be used.
    pub fn store(&self) -> Result<Option<StoreSource>, String> {
        self.config.as_deref().map_or(Ok(None), |file| director(file).map(|pool_source| pool_source.store))
    }

    /// Returns the membership that `pool_source` describes.
    ///
    /// # Errors
    /// As for [`Takeover::membership`].
    pub fn membership_of(&self, pool_source: &PoolSource, me: &str) -> Result<Membership, String> {
        let pools = &pool_source.pools;
        let keys = match (&self.key_file, self.key) {
            (Some(file), _) => keys_of(file)?,
            (None, Some(key)) => std::iter::once(key).chain(self.next_key).collect(),
            (None, None) => pool_source.keys.clone(),
        };
        let why = "takeover: the key of the directors is missing: write key or key_file, or correct active_key in the director's file";
        let (key, also) = keys.split_first().ok_or(why)?;
        let me = self.name.as_deref().unwrap_or(me);
        let wanted = |pool: &&Pool| self.pool.as_ref().map_or(pool.takeover, |name| pool.name == *name);
        let has_me = |pool: &&Pool| pool.backends.iter().any(|backend| backend.name == me);
        let pool = pools.iter().filter(wanted).find(has_me);
        let pool = pool.ok_or_else(|| {
            format!(
                "takeover: no pool with takeover = true has a backend {me:?}; set [takeover] name to the name of this server as a backend"
            )
        })?;
        if !pool.takeover {
            return Err(format!(
                "takeover: the pool {} has no takeover = true, so directors do not send its transfers to successors",
                pool.name
            ));
        }
        let members = pool.backends.iter().filter_map(|backend| {
            let checkpoint_address = SocketAddr::new(backend.address, self.port);
            Some(Member { name: backend.name.clone(), checkpoint_address, tid_range: backend.tid_range? })
        });
        let membership = Membership::new(*key, members.collect(), me).map(|membership| membership.accepting_keys(also.iter().copied()));
        membership.ok_or_else(|| format!("takeover: {me} has no tid_range in the pool {}", pool.name))
    }

    /// Returns the settings of the engine.
    ///
    /// # Errors
    /// As for [`Takeover::membership`], and when the server's ports differ from its `tid_range` in the pool.
    pub fn settings(&self, me: &str, engine: &Engine) -> Result<Settings, String> {
        let membership = self.membership(me)?;
        let loops = u16::try_from(engine.loops.max(1)).unwrap_or(u16::MAX);
        let (first, last) = membership.me().tid_range;
        let own = matches!(engine.tid, Tid::Port(port) if port >= first && port.checked_add(loops - 1).is_some_and(|end| end <= last));
        if !own {
            return Err(format!(
                "takeover: the server's ports differ from its tid_range in the pool: write tid_port = {first} and at most {} loops under [server]",
                last - first + 1
            ));
        }
        Ok(Settings {
            listen: membership.me().checkpoint_address,
            checkpoint_timeout: self.checkpoint_timeout,
            checkpoint_store: self.memory,
            membership: Arc::new(membership),
        })
    }
}

/// Pools, and the keys of the directors if the same source has them, the active one first.
#[derive(Clone, Debug)]
pub struct PoolSource {
    pools: Vec<Pool>,
    keys: Vec<FleetKey>,
    /// The store that contains the pools, if the file does not.
    store: Option<StoreSource>,
}

/// A store of directors that describes the pool.
#[derive(Clone, Debug)]
pub struct StoreSource {
    /// Its location.
    pub at: config::Store,
    director: Box<config::Config>,
}

impl StoreSource {
    /// Returns the pools and the keys of this intent.
    pub fn pool_source(&self, intent: &Intent) -> PoolSource {
        let config = self.director.with_intent(intent);
        PoolSource { keys: keys_in(&config), pools: config.pools, store: None }
    }
}

/// Reads a director's file, or a file with an intent alone.
fn director(file: &Path) -> Result<PoolSource, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("takeover: cannot read {}: {error}", file.display()))?;
    let has_director = toml::de::DeTable::parse_recoverable(&text).0.get_ref().contains_key("director");
    let bad = |problem: Option<&config::Problem>| {
        let problem = problem.map(|problem| problem.in_file(file).to_string()).unwrap_or_default();
        format!("takeover: {} cannot be used: {problem}", file.display())
    };
    if has_director {
        let checked = config::read(&text);
        let first = bad(checked.errors().next());
        let config = checked.config.ok_or(first)?;
        let store = config.store.clone().map(|at| StoreSource { at, director: Box::new(config.clone()) });
        return Ok(PoolSource { keys: keys_in(&config), pools: config.pools, store });
    }
    let checked = config::read_intent(&text);
    let first = bad(checked.errors().next());
    checked.config.map(|intent| PoolSource { pools: intent.pools, keys: Vec::new(), store: None }).ok_or(first)
}

/// The keys in a director's file, the active one first. Empty when the active one is not among them.
fn keys_in(config: &config::Config) -> Vec<FleetKey> {
    let Some(active) = config.active_key() else { return Vec::new() };
    std::iter::once(active).chain(config.director.keys().filter(|key| *key != active)).collect()
}

/// Reads a file with one key in each line.
fn keys_of(file: &Path) -> Result<Vec<FleetKey>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("takeover: cannot read {}: {error}", file.display()))?;
    let key = |line: &str| config::parse_fleet_key(line.trim()).map_err(|why| format!("takeover: the key in {} {why}", file.display()));
    let keys = text.lines().filter(|line| !line.trim().is_empty()).map(key).collect::<Result<Vec<_>, _>>()?;
    if keys.len() > MAX_KEYS {
        return Err(format!("takeover: {} has {} keys; {MAX_KEYS} are allowed", file.display(), keys.len()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, read};
    use guideway_config::Severity;
    use guideway_tftp::takeover::wire::{PeerMessage, Signer};

    const KEY: &str = "000102030405060708090a0b0c0d0e0f";
    const FILES: &str = "[[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"/srv/tftp\"\n";
    const POOL: &str = "[[pool]]\nname = \"boot\"\ntakeover = true\nbackends = [\n\
        { name = \"t1\", address = \"10.0.2.21\", tid_range = \"20010-20019\" },\n\
        { name = \"t2\", address = \"10.0.2.22\", tid_range = \"20020-20029\" } ]\n";

    fn good(text: &str) -> Config {
        let checked = read(text);
        assert!(checked.problems.is_empty(), "{:?}", checked.problems);
        checked.config.unwrap().0
    }

    fn errors(text: &str) -> Vec<String> {
        let problems = read(text).problems.into_iter().filter(|problem| problem.severity == Severity::Error);
        problems.map(|problem| problem.to_string()).collect()
    }

    fn engine(tid: Tid, loops: usize) -> Engine {
        Engine { tid, loops, ..Engine::default() }
    }

    #[test]
    fn the_pool_is_described_as_in_a_directors_file() {
        let config = good(&format!(
            "{FILES}[takeover]\nkey = \"{KEY}\"\ncheckpoint_timeout = \"5ms\"\nmemory = {{ transfers = 9, bytes = \"1MiB\" }}\n{POOL}"
        ));
        let takeover = config.takeover.unwrap();
        let settings = takeover.settings("t2", &engine(Tid::Port(20_020), 10)).unwrap();
        assert_eq!((settings.listen, settings.checkpoint_timeout), ("10.0.2.22:6970".parse().unwrap(), Duration::from_millis(5)));
        assert_eq!(settings.checkpoint_store, checkpoint_store::Limits { transfers: 9, bytes: 1 << 20 });
        assert!(settings.membership.is_own(20_029) && settings.membership.is_foreign(20_010));
        for (me, tid, loops, wrong) in [
            ("t3", Tid::Port(20_020), 1, "a backend \"t3\""),
            ("t2", Tid::Any, 1, "tid_port = 20020 and at most 10 loops"),
            ("t2", Tid::Port(20_010), 1, "tid_port = 20020"),
            ("t2", Tid::Port(20_020), 11, "at most 10 loops"),
        ] {
            let why = takeover.settings(me, &engine(tid, loops)).unwrap_err();
            assert!(why.contains(wrong), "{why}");
        }
        assert!(good(FILES).takeover.is_none());
    }

    #[test]
    fn a_directors_file_has_pool_and_key() {
        let directory = tempfile::tempdir().unwrap();
        let director = directory.path().join("director.toml");
        let head = format!(
            "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"{KEY}\"\nio = {{ kind = \"af_xdp\", interface = \"eth0\" }}\n"
        );
        let vip = "[[vip]]\naddress = \"192.0.2.69\"\nservice = \"tftp\"\npool = \"boot\"\n";
        std::fs::write(&director, format!("{head}{vip}{POOL}")).unwrap();
        let file = directory.path().join("tftpd.toml");
        let text = format!("{FILES}[takeover]\nname = \"t1\"\nconfig = \"{}\"\n", director.display());
        std::fs::write(&file, &text).unwrap();
        let takeover = crate::config::load(&file).unwrap().config.unwrap().0.takeover.unwrap();
        let before = takeover.settings("tftpd", &engine(Tid::Port(20_010), 1)).unwrap();
        assert_eq!(before.membership.key(), config::parse_fleet_key(KEY).unwrap());
        // A third server joins.
        let third = POOL.replace("} ]", "},\n{ name = \"t3\", address = \"10.0.2.23\", tid_range = \"20030-20039\" } ]");
        std::fs::write(&director, format!("{head}{vip}{third}")).unwrap();
        assert_eq!(takeover.reload("tftpd", &before).unwrap().members().len(), 3);
        let moved = third.replace("10.0.2.21", "10.0.2.29");
        std::fs::write(&director, format!("{head}{vip}{moved}")).unwrap();
        assert!(takeover.reload("tftpd", &before).unwrap_err().contains("requires a restart"));
        std::fs::write(&director, format!("{head}{vip}{}", POOL.replace("takeover = true", ""))).unwrap();
        assert!(takeover.reload("tftpd", &before).unwrap_err().contains("takeover = true"));
        std::fs::write(&director, "[director]\n").unwrap();
        assert!(takeover.reload("tftpd", &before).unwrap_err().contains("director.toml"));
        // The same without [director], with the key in its own file.
        std::fs::write(&director, format!("{vip}{POOL}")).unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, format!("{KEY}\n")).unwrap();
        std::fs::write(&file, format!("{text}key_file = \"{}\"\n", key.display())).unwrap();
        assert_eq!(takeover.reload("tftpd", &before).unwrap().members().len(), 2);
        // A key change: the new key is first accepted, then active; the old one is still accepted afterwards.
        let [old, new] = [KEY, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"].map(|key| config::parse_fleet_key(key).unwrap());
        std::fs::write(&key, format!("{KEY}\nf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff\n")).unwrap();
        let both = takeover.reload("tftpd", &before).unwrap();
        std::fs::write(&key, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let last = takeover.reload("tftpd", &before).unwrap();
        assert_eq!((both.key(), last.key()), (old, new));
        let signed = |key: &FleetKey| {
            let mut bytes = Vec::new();
            Signer::new(key).write(&mut bytes, "t2", 0, &PeerMessage::AnswerUnknown(1));
            bytes
        };
        let accepts = |membership: &Membership, before: &Membership, key: &FleetKey| {
            let signer = Signer::new(&membership.key()).accepting_keys(&membership.accepted_keys(before));
            signer.read(&signed(key)).is_some()
        };
        assert!(accepts(&both, &before.membership, &new) && accepts(&both, &before.membership, &old));
        assert!(accepts(&last, &both, &old) && accepts(&last, &both, &new) && !accepts(&last, &last, &old));
        std::fs::write(&key, format!("{KEY}\n\n").repeat(5)).unwrap();
        assert!(takeover.reload("tftpd", &before).unwrap_err().contains("has 5 keys; 4 are allowed"));
        std::fs::write(&key, "0").unwrap();
        assert!(takeover.reload("tftpd", &before).unwrap_err().contains("32 hex digits"));
    }

    #[test]
    fn missing_and_contradicting_keys_are_reported() {
        for (text, wrong) in [
            (format!("[takeover]\nkey = \"{KEY}\"\n"), "config"),
            (format!("[takeover]\n{POOL}"), "key"),
            (format!("[takeover]\nkey = \"{KEY}\"\nconfig = \"/d.toml\"\n{POOL}"), "keep one of the two"),
            (POOL.to_owned(), "requires [takeover]"),
            ("[takeover]\nkey = \"12\"\nconfig = \"/d.toml\"\n".to_owned(), "32 hex digits"),
            ("[takeover]\nconfig = \"/d.toml\"\ncheckpoint_timeout = \"1s\"\n".to_owned(), "checkpoint_timeout"),
            ("[takeover]\nconfig = \"/d.toml\"\nmemory = { transfers = 0 }\n".to_owned(), "transfers"),
            ("[takeover]\nconfig = \"/d.toml\"\npeers = []\n".to_owned(), "peers"),
            (format!("[takeover]\nconfig = \"/d.toml\"\nnext_key = \"{KEY}\"\n"), "next_key requires it"),
            (format!("[takeover]\nconfig = \"/d.toml\"\nkey = \"{KEY}\"\nnext_key = \"1\"\n"), "32 hex digits"),
        ] {
            let messages = errors(&format!("{FILES}{text}"));
            assert!(messages.len() == 1 && messages[0].contains(wrong), "{text}: {messages:?}");
        }
    }
}
