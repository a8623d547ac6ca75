//! `[store]`: where VIPs, pools and health are when several processes share them. Directors and health controllers have the same section.

use super::document::{Checked, read_sections};
use super::host_checks::{HostRequirement, RequirementKind};
use super::reader::{Field, Table};
use super::text::{abbreviate_list, plural};
use std::path::{Path, PathBuf};

/// Default prefix of the etcd keys of a fleet.
const PREFIX: &str = "/guideway/";
/// Maximum number of endpoints. A cluster has three, five or seven members; more is a mistake.
const MAX_ENDPOINTS: usize = 16;

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// `kind = "file"`: a directory of this host.
    File {
        /// The directory.
        path: PathBuf,
        /// File with a copy of the last valid cluster state, as [`Etcd::cache`].
        cache: Option<PathBuf>,
    },
    /// `kind = "etcd"`
    Etcd(Etcd),
}

/// `[store]` of kind `etcd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Etcd {
    /// `http://HOST:PORT` or `https://HOST:PORT` of each member, without a trailing slash.
    pub endpoints: Vec<String>,
    /// Prefix of every key, with a trailing slash. Default `/guideway/`.
    pub prefix: String,
    /// Trusted certificate authorities, PEM; default: those of the host.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The user, and the file that contains only the password.
    pub login: Option<(String, PathBuf)>,
    /// File with a copy of the last valid cluster state. A director starts with it when etcd is unavailable, or holds an older state.
    pub cache: Option<PathBuf>,
}

/// Reads and checks the `[store]` of a file and ignores its other sections.
pub fn read_store(text: &str) -> Checked<Store> {
    read_sections(text, |reader, document| {
        let store = reader.root(document).required("store", "[store]").and_then(|field| read_section(&field));
        store.filter(|_| !reader.has_errors())
    })
}

/// Reads `[store]`.
pub fn read_section(field: &Field<'_, '_>) -> Option<Store> {
    let mut table = field.table("a table: [store]")?;
    let etcd = table.required("kind", "kind = \"etcd\"").and_then(|f| f.choice(&[("file", false), ("etcd", true)]))?;
    let store = if etcd {
        etcd_section(&mut table).map(Store::Etcd)
    } else {
        let path = table.required("path", "path = \"/var/lib/guideway\"").and_then(|f| file(f, "of a directory"));
        let cache = valid_if_present(table.optional("cache").map(|f| file(f, "of a file")));
        path.zip(cache).map(|(path, cache)| Store::File { path, cache })
    };
    table.finish();
    store
}

impl Store {
    /// Returns the file with a copy of the last valid cluster state.
    pub fn cache(&self) -> Option<&Path> {
        match self {
            Store::File { cache, .. } => cache.as_deref(),
            Store::Etcd(etcd) => etcd.cache.as_deref(),
        }
    }

    /// Returns the same store with a copy in `file`, unless it names another.
    pub fn or_cache(self, file: PathBuf) -> Store {
        match self {
            Store::File { path, cache: None } => Store::File { path, cache: Some(file) },
            Store::Etcd(etcd) if etcd.cache.is_none() => Store::Etcd(Etcd { cache: Some(file), ..etcd }),
            named => named,
        }
    }

    /// Returns the same store without a copy on this host.
    pub fn without_cache(self) -> Store {
        match self {
            Store::File { path, .. } => Store::File { path, cache: None },
            Store::Etcd(etcd) => Store::Etcd(Etcd { cache: None, ..etcd }),
        }
    }

    /// Returns the files that the section expects on its host.
    pub fn host_requirements(&self) -> Vec<HostRequirement> {
        let cache = self.cache().map(|cache| HostRequirement::new("store.cache", cache, RequirementKind::Creatable));
        let Store::Etcd(etcd) = self else { return cache.into_iter().collect() };
        let (cert, key) = etcd.identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        let files = [
            ("ca", etcd.ca.as_ref(), RequirementKind::File),
            ("cert", cert, RequirementKind::File),
            ("key", key, RequirementKind::Secret),
            ("password_file", etcd.login.as_ref().map(|(_, file)| file), RequirementKind::Secret),
        ];
        let files = files.into_iter().filter_map(|(name, file, wanted)| Some(HostRequirement::new(format!("store.{name}"), file?, wanted)));
        files.chain(cache).collect()
    }
}

/// Summarises the store in one line.
pub fn summary(store: &Store) -> String {
    match store {
        Store::File { path, cache } => format!("file, {}{}", path.display(), copy_in(cache.as_deref())),
        Store::Etcd(etcd) => {
            let count = etcd.endpoints.len();
            let endpoints: Vec<&str> = etcd.endpoints.iter().map(String::as_str).collect();
            let user = etcd.login.as_ref().map(|(user, _)| format!(", user {user}")).unwrap_or_default();
            let cache = copy_in(etcd.cache.as_deref());
            format!("etcd, {count} {} ({}), keys {}{user}{cache}", plural(count, "endpoint"), abbreviate_list(&endpoints), etcd.prefix)
        }
    }
}

fn copy_in(cache: Option<&Path>) -> String {
    cache.map(|cache| format!(", copy in {}", cache.display())).unwrap_or_default()
}

fn etcd_section(table: &mut Table<'_, '_>) -> Option<Etcd> {
    let endpoints = table.required("endpoints", "endpoints = [\"https://10.0.0.5:2379\"]").and_then(|f| endpoints(&f));
    let prefix =
        table.optional("prefix").map_or(Some(PREFIX.to_owned()), |f| f.parse("the beginning of keys in quotes", prefix).map(|s| s.value));
    let tls = endpoints.as_ref().is_none_or(|all| all.iter().any(|e| e.starts_with("https:")));
    let ca = with_tls(table.optional("ca"), tls).map(|f| f.map(|f| file(f, "of a PEM file")));
    let (cert, key) = (with_tls(table.optional("cert"), tls), with_tls(table.optional("key"), tls));
    let identity = paired(cert?, "cert", key?, "key")
        .map(|paired| paired.map(|(cert, key)| Some((file(cert, "of a PEM file")?, file(key, "of a PEM file")?))));
    let login = paired(table.optional("user"), "user", table.optional("password_file"), "password_file").map(|paired| {
        paired.map(|(user, password)| {
            let user = user
                .parse("a user of etcd in quotes", |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) });
            let clear = endpoints.iter().flatten().find(|e| e.starts_with("http:") && !is_loopback(e));
            if let Some(endpoint) = clear {
                password.warning(format!("goes to {endpoint} unencrypted: the password can be read on the network; use https"));
            }
            Some((user?.value, file(password, "of a file")?))
        })
    });
    let cache = table.optional("cache").map(|f| file(f, "of a file"));
    Some(Etcd {
        endpoints: endpoints?,
        prefix: prefix?,
        ca: valid_if_present(ca?)?,
        identity: valid_if_present(identity?)?,
        login: valid_if_present(login?)?,
        cache: valid_if_present(cache)?,
    })
}

/// Turns an optional value around: absent is fine, invalid is not.
fn valid_if_present<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(good) => Some(good),
        None => Some(None),
    }
}

/// Reports keys that have an effect with TLS only. Outer `None`: an error was reported.
fn with_tls<'r, 't>(field: Option<Field<'r, 't>>, tls: bool) -> Option<Option<Field<'r, 't>>> {
    match field {
        Some(field) if !tls => {
            field.error("has no effect: no endpoint begins with https://");
            None
        }
        field => Some(field),
    }
}

/// Reads two keys that need each other. Outer `None`: an error was reported.
fn paired<'r, 't>(
    one: Option<Field<'r, 't>>,
    one_name: &str,
    other: Option<Field<'r, 't>>,
    other_name: &str,
) -> Option<Option<(Field<'r, 't>, Field<'r, 't>)>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Some((one, other))),
        (None, None) => Some(None),
        (Some(alone), None) => {
            alone.error(format!("needs `{other_name}`: give both or neither"));
            None
        }
        (None, Some(alone)) => {
            alone.error(format!("needs `{one_name}`: give both or neither"));
            None
        }
    }
}

fn endpoints(field: &Field<'_, '_>) -> Option<Vec<String>> {
    let items = field.items("a list of URLs, such as [\"https://10.0.0.5:2379\"]")?;
    if items.is_empty() || items.len() > MAX_ENDPOINTS {
        field.error(format!("has {} entries; 1 to {MAX_ENDPOINTS} members of the etcd cluster are allowed", items.len()));
        return None;
    }
    let read: Vec<_> = items.into_iter().map(|f| f.parse("a URL in quotes", endpoint).map(|s| s.value)).collect();
    read.into_iter().collect()
}

fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || "is not an endpoint; write it like https://10.0.0.5:2379 or http://127.0.0.1:2379".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    match uri.scheme_str() {
        Some(scheme @ ("http" | "https")) if matches!(uri.path(), "" | "/") && uri.query().is_none() => Ok(format!("{scheme}://{host}")),
        _ => Err(wrong()),
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn prefix(text: &str) -> Result<String, String> {
    if text.trim_matches('/').is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("is not a key prefix; write a name between slashes, like {PREFIX}"));
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

fn file(field: Field<'_, '_>, what: &str) -> Option<PathBuf> {
    let absolute = |text: &str| {
        let good = text.starts_with('/') && !text.contains('\0');
        if good { Ok(PathBuf::from(text)) } else { Err("is not an absolute path; begin it with /".to_owned()) }
    };
    field.parse(&format!("the path {what} in quotes"), absolute).map(|s| s.value)
}
