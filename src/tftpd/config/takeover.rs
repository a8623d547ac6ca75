//! `[takeover]`: which servers go on with one another's transfers. They are the backends of a pool, and its description is the directors' own: either the
//! very file of a director, or the same `[[pool]]` sections in this file.

use super::values::{path, size};
use guideway_config::reader::{Reader, Table};
use guideway_config::{self as config, Intent, Pool, duration_within, text};
use guideway_hash::FleetKey;
use guideway_store as store;
use guideway_tftp::engine::{Config as Engine, Tid};
use guideway_tftp::takeover::{Member, PORT, Plan, Settings, WAIT, memory};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Keys in one file: the one in use, and those that are believed.
const MOST_KEYS: usize = 4;
/// How long the store may take at the start.
const PATIENCE: Duration = Duration::from_secs(10);

/// `[takeover]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Takeover {
    /// This server's name as a backend; default: that of the server.
    pub name: Option<String>,
    /// The pool, when there are several with `takeover = true`.
    pub pool: Option<String>,
    /// The fleet's key; default: the one in the director's file.
    pub key: Option<FleetKey>,
    /// The key that the fleet had or is going to have: notes signed with it are believed.
    pub next_key: Option<FleetKey>,
    /// A file with the key, and in further lines those that are believed as well.
    pub key_file: Option<PathBuf>,
    /// A director's file, or one with `[[vip]]` and `[[pool]]` only.
    pub config: Option<PathBuf>,
    /// `[[pool]]` in this file.
    pub pools: Vec<Pool>,
    /// The port that notes are sent to, the same on every server of the pool; default 6970.
    pub port: u16,
    /// Longest time that a first answer waits for an heir, 0–100 ms; default 3 ms.
    pub wait: Duration,
    /// What is kept for others.
    pub memory: memory::Limits,
    /// The file that this was read from.
    pub file: Option<PathBuf>,
}

/// Reads `[takeover]` and `[[pool]]`, neither of which need be there.
pub(super) fn read(reader: &Reader, root: &mut Table<'_, '_>) -> Option<Option<Takeover>> {
    let no_pool = root.about("pool");
    let field = root.optional("takeover");
    let pools = config::pools(reader, root);
    let Some(field) = field else {
        if !pools.is_empty() {
            reader.error(&no_pool, "needs [takeover], too: what else would a server know pools for?");
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
    let wait = t.optional("wait").map(|f| duration_within(f, Duration::ZERO..=Duration::from_millis(100)));
    let memory = t.optional("memory").map(|f| f.table("a table such as { transfers = 200000, bytes = \"64MiB\" }").and_then(limits));
    keep(
        name != Some(None)
            && pool != Some(None)
            && key != Some(None)
            && next_key != Some(None)
            && key_file != Some(None)
            && file != Some(None),
    );
    keep(port != Some(None) && wait != Some(None) && memory != Some(None));
    match (&config_field, pools.is_empty()) {
        (Some(field), false) => field.error("is there, and [[pool]], too; keep one of the two"),
        (None, true) => {
            table.missing("config", "config = \"/etc/guideway/director.toml\", or the pool itself as directors have it: [[pool]]")
        }
        _ => {}
    }
    match (&key, &key_file, &config_field) {
        (Some(_), Some(_), _) => table.missing("key", "only one of the two: key or key_file"),
        (None, None, None) => {
            table.missing("key", "the key of the directors: key = \"…\" with 32 hex digits, or key_file = \"/etc/guideway/key\"")
        }
        _ => {}
    }
    if next_key.is_some() && key.is_none() {
        table.missing("key", "next_key stands beside key; in key_file the next key is the second line, and a director's file has its own");
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
        wait: wait.flatten().unwrap_or(WAIT),
        memory: memory.flatten().unwrap_or_default(),
        file: None,
    }))
}

fn limits(mut table: Table<'_, '_>) -> Option<memory::Limits> {
    let default = memory::Limits::default();
    let transfers = table.optional("transfers").map_or(Some(default.transfers), |f| f.integer("transfers", 1..=100_000_000));
    let bytes = table.optional("bytes").map_or(Some(default.bytes as u64), |f| size(f, 1 << 10..=1 << 40));
    table.finish();
    Some(memory::Limits { transfers: transfers?, bytes: usize::try_from(bytes?).ok()? })
}

impl Takeover {
    /// The pool and the keys, read where they are.
    ///
    /// # Errors
    /// A sentence, when a file cannot be used, the pool is none for takeover, or this server is not in it.
    pub fn plan(&self, me: &str) -> Result<Plan, String> {
        let described = match &self.config {
            Some(file) => director(file)?,
            None => Described { pools: self.pools.clone(), keys: Vec::new(), store: None },
        };
        let Some(store) = &described.store else { return self.plan_of(&described, me) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("takeover: the store cannot be asked: {error}"))?;
        let opened = runtime.block_on(store::open_within(&store.at, PATIENCE)).map_err(|error| format!("takeover: {error}"))?;
        let intent = opened.watch().borrow().set.intent.clone();
        self.plan_of(&store.described(&intent), me)
    }

    /// The store in which the pool is described, if it is in one.
    ///
    /// # Errors
    /// When the director's file cannot be used.
    pub fn store(&self) -> Result<Option<InStore>, String> {
        self.config.as_deref().map_or(Ok(None), |file| director(file).map(|described| described.store))
    }

    /// The plan of a pool that is described so.
    ///
    /// # Errors
    /// As for [`Takeover::plan`].
    pub fn plan_of(&self, described: &Described, me: &str) -> Result<Plan, String> {
        let pools = &described.pools;
        let keys = match (&self.key_file, self.key) {
            (Some(file), _) => keys_of(file)?,
            (None, Some(key)) => std::iter::once(key).chain(self.next_key).collect(),
            (None, None) => described.keys.clone(),
        };
        let why = "takeover: the key of the directors is missing: write key or key_file; or it is in a director's file that does not know the active_key";
        let (key, also) = keys.split_first().ok_or(why)?;
        let me = self.name.as_deref().unwrap_or(me);
        let wanted = |pool: &&Pool| self.pool.as_ref().map_or(pool.takeover, |name| pool.name == *name);
        let has_me = |pool: &&Pool| pool.backends.iter().any(|backend| backend.name == me);
        let pool = pools.iter().filter(wanted).find(has_me);
        let pool = pool.ok_or_else(|| format!("takeover: there is no pool with takeover = true that has a backend {me:?}; say the name of this server as a backend: [takeover] name"))?;
        if !pool.takeover {
            return Err(format!("takeover: the pool {} has no takeover = true, so directors send nobody else its transfers", pool.name));
        }
        let members = pool.backends.iter().filter_map(|backend| {
            let notes = SocketAddr::new(backend.address, self.port);
            Some(Member { name: backend.name.clone(), notes, tids: backend.tid_range? })
        });
        let plan = Plan::new(*key, members.collect(), me).map(|plan| plan.believing(also.iter().copied()));
        plan.ok_or_else(|| format!("takeover: {me} has no tid_range in the pool {}", pool.name))
    }

    /// What the engine needs.
    ///
    /// # Errors
    /// As for [`Takeover::plan`], and when the server's ports are not those that the pool says.
    pub fn settings(&self, me: &str, engine: &Engine) -> Result<Settings, String> {
        let plan = self.plan(me)?;
        let loops = u16::try_from(engine.loops.max(1)).unwrap_or(u16::MAX);
        let (first, last) = plan.me().tids;
        let own = matches!(engine.tid, Tid::Port(port) if port >= first && port.checked_add(loops - 1).is_some_and(|end| end <= last));
        if !own {
            return Err(format!(
                "takeover: the server's ports are not those that its pool says: write tid_port = {first} and at most {} loops under [server]",
                last - first + 1
            ));
        }
        Ok(Settings { listen: plan.me().notes, wait: self.wait, memory: self.memory, plan: Arc::new(plan) })
    }

    /// The pool as the files say it now.
    ///
    /// # Errors
    /// As for [`Takeover::plan`], and when what only a restart can change has changed.
    pub fn again(&self, me: &str, before: &Settings) -> Result<Plan, String> {
        follows(before, self.as_it_is()?.plan(me)?)
    }

    /// What its file says now.
    ///
    /// # Errors
    /// When it cannot be read or used, or has no `[takeover]` any more.
    fn as_it_is(&self) -> Result<Takeover, String> {
        let file = self.file.as_deref().ok_or("there is no file to read again")?;
        let checked = super::load(file).map_err(|error| error.to_string())?;
        if let Some(problem) = checked.errors().next() {
            return Err(problem.in_file(file).to_string());
        }
        Ok(checked.config.and_then(|(config, _)| config.takeover).ok_or("[takeover] is not there any more; that needs a restart")?)
    }

    /// The same section and its store as the files of server and director say them now.
    ///
    /// # Errors
    /// When one of them cannot be read or used, as when the server has become a user who may not, or the pool is in no store any more.
    pub fn in_store_now(&self) -> Result<(Takeover, InStore), String> {
        let now = self.as_it_is()?;
        let store = now.store()?.ok_or("the pool is in no store any more; that needs a restart")?;
        Ok((now, store))
    }
}

/// A plan that may take the place of the one that the server was started with.
///
/// # Errors
/// When what only a restart can change has changed.
pub fn follows(before: &Settings, plan: Plan) -> Result<Plan, String> {
    let (old, new) = (before.plan.me(), plan.me());
    if old.notes != new.notes || old.tids != new.tids || old.name != new.name {
        return Err("takeover: this server's own name, address, port and tid_range need a restart".to_owned());
    }
    Ok(plan)
}

/// Pools, and the keys of the directors if they stand beside them: first the one in use.
#[derive(Clone, Debug)]
pub struct Described {
    pools: Vec<Pool>,
    keys: Vec<FleetKey>,
    /// Where the pools are, if not here.
    store: Option<InStore>,
}

/// A store of directors that describes the pool.
#[derive(Clone, Debug)]
pub struct InStore {
    /// Where it is.
    pub at: config::Store,
    director: Box<config::Config>,
}

impl InStore {
    /// The pools and the key of this intent.
    pub fn described(&self, intent: &Intent) -> Described {
        let config = self.director.with(intent);
        Described { keys: keys_in(&config), pools: config.pools, store: None }
    }
}

/// What a director's file says, or one with an intent alone.
fn director(file: &Path) -> Result<Described, String> {
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
        let store = config.store.clone().map(|at| InStore { at, director: Box::new(config.clone()) });
        return Ok(Described { keys: keys_in(&config), pools: config.pools, store });
    }
    let checked = config::read_intent(&text);
    let first = bad(checked.errors().next());
    checked.config.map(|intent| Described { pools: intent.pools, keys: Vec::new(), store: None }).ok_or(first)
}

/// The keys that a director's file knows: first the one in use. None when that is not among them.
fn keys_in(config: &config::Config) -> Vec<FleetKey> {
    let Some(active) = config.active_key() else { return Vec::new() };
    std::iter::once(active).chain(config.director.keys().filter(|key| *key != active)).collect()
}

/// The keys in a file, one in a line.
fn keys_of(file: &Path) -> Result<Vec<FleetKey>, String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("takeover: cannot read {}: {error}", file.display()))?;
    let key = |line: &str| config::fleet_key_of(line.trim()).map_err(|why| format!("takeover: the key in {} {why}", file.display()));
    let keys = text.lines().filter(|line| !line.trim().is_empty()).map(key).collect::<Result<Vec<_>, _>>()?;
    if keys.len() > MOST_KEYS {
        return Err(format!("takeover: {} has {} keys; {MOST_KEYS} are allowed", file.display(), keys.len()));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, read};
    use guideway_config::Severity;
    use guideway_tftp::takeover::wire::{Said, Signer};

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
    fn the_pool_is_described_as_directors_have_it() {
        let config =
            good(&format!("{FILES}[takeover]\nkey = \"{KEY}\"\nwait = \"5ms\"\nmemory = {{ transfers = 9, bytes = \"1MiB\" }}\n{POOL}"));
        let takeover = config.takeover.unwrap();
        let settings = takeover.settings("t2", &engine(Tid::Port(20_020), 10)).unwrap();
        assert_eq!((settings.listen, settings.wait), ("10.0.2.22:6970".parse().unwrap(), Duration::from_millis(5)));
        assert_eq!(settings.memory, memory::Limits { transfers: 9, bytes: 1 << 20 });
        assert!(settings.plan.is_own(20_029) && settings.plan.is_foreign(20_010));
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
    fn a_directors_file_gives_pool_and_key() {
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
        assert_eq!(before.plan.key(), config::fleet_key_of(KEY).unwrap());
        // A third one joins.
        let third = POOL.replace("} ]", "},\n{ name = \"t3\", address = \"10.0.2.23\", tid_range = \"20030-20039\" } ]");
        std::fs::write(&director, format!("{head}{vip}{third}")).unwrap();
        assert_eq!(takeover.again("tftpd", &before).unwrap().members().len(), 3);
        let moved = third.replace("10.0.2.21", "10.0.2.29");
        std::fs::write(&director, format!("{head}{vip}{moved}")).unwrap();
        assert!(takeover.again("tftpd", &before).unwrap_err().contains("need a restart"));
        std::fs::write(&director, format!("{head}{vip}{}", POOL.replace("takeover = true", ""))).unwrap();
        assert!(takeover.again("tftpd", &before).unwrap_err().contains("takeover = true"));
        std::fs::write(&director, "[director]\n").unwrap();
        assert!(takeover.again("tftpd", &before).unwrap_err().contains("director.toml"));
        // The same without [director], and with the key in a file of its own.
        std::fs::write(&director, format!("{vip}{POOL}")).unwrap();
        let key = directory.path().join("key");
        std::fs::write(&key, format!("{KEY}\n")).unwrap();
        std::fs::write(&file, format!("{text}key_file = \"{}\"\n", key.display())).unwrap();
        assert_eq!(takeover.again("tftpd", &before).unwrap().members().len(), 2);
        // A new key: known first, then used; the old one is still believed when its turn is over.
        let [old, new] = [KEY, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"].map(|key| config::fleet_key_of(key).unwrap());
        std::fs::write(&key, format!("{KEY}\nf0f1f2f3f4f5f6f7f8f9fafbfcfdfeff\n")).unwrap();
        let both = takeover.again("tftpd", &before).unwrap();
        std::fs::write(&key, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").unwrap();
        let last = takeover.again("tftpd", &before).unwrap();
        assert_eq!((both.key(), last.key()), (old, new));
        let said = |key: &FleetKey| {
            let mut bytes = Vec::new();
            Signer::new(key).write(&mut bytes, "t2", 0, &Said::Unknown(1));
            bytes
        };
        let hears = |plan: &Plan, before: &Plan, key: &FleetKey| {
            let signer = Signer::new(&plan.key()).believing(&plan.believed(before));
            signer.read(&said(key)).is_some()
        };
        assert!(hears(&both, &before.plan, &new) && hears(&both, &before.plan, &old));
        assert!(hears(&last, &both, &old) && hears(&last, &both, &new) && !hears(&last, &last, &old));
        std::fs::write(&key, format!("{KEY}\n\n").repeat(5)).unwrap();
        assert!(takeover.again("tftpd", &before).unwrap_err().contains("has 5 keys; 4 are allowed"));
        std::fs::write(&key, "0").unwrap();
        assert!(takeover.again("tftpd", &before).unwrap_err().contains("32 hex digits"));
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        for (text, wrong) in [
            (format!("[takeover]\nkey = \"{KEY}\"\n"), "config"),
            (format!("[takeover]\n{POOL}"), "key"),
            (format!("[takeover]\nkey = \"{KEY}\"\nconfig = \"/d.toml\"\n{POOL}"), "keep one of the two"),
            (POOL.to_owned(), "needs [takeover]"),
            ("[takeover]\nkey = \"12\"\nconfig = \"/d.toml\"\n".to_owned(), "32 hex digits"),
            ("[takeover]\nconfig = \"/d.toml\"\nwait = \"1s\"\n".to_owned(), "wait"),
            ("[takeover]\nconfig = \"/d.toml\"\nmemory = { transfers = 0 }\n".to_owned(), "transfers"),
            ("[takeover]\nconfig = \"/d.toml\"\npeers = []\n".to_owned(), "peers"),
            (format!("[takeover]\nconfig = \"/d.toml\"\nnext_key = \"{KEY}\"\n"), "next_key stands beside key"),
            (format!("[takeover]\nconfig = \"/d.toml\"\nkey = \"{KEY}\"\nnext_key = \"1\"\n"), "32 hex digits"),
        ] {
            let said = errors(&format!("{FILES}{text}"));
            assert!(said.len() == 1 && said[0].contains(wrong), "{text}: {said:?}");
        }
    }
}
