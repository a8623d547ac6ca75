//! `[store]`: where VIPs, pools and health live when several processes share them. Directors and health controllers have the same section.

use super::here::{Named, Wanted};
use super::load::{Checked, read_sections};
use super::reader::{Field, Table};
use super::text::{plural, some_of};
use std::path::PathBuf;

/// etcd's keys of one fleet, unless the file says otherwise.
const PREFIX: &str = "/guideway/";
/// A cluster has three, five or seven; this is for slips.
const MOST_ENDPOINTS: usize = 16;

/// `[store]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// `kind = "file"`: a directory of this host.
    File {
        /// The directory.
        path: PathBuf,
    },
    /// `kind = "etcd"`
    Etcd(Etcd),
}

/// `[store]` of kind `etcd`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Etcd {
    /// `http://HOST:PORT` or `https://HOST:PORT` of each member, without a slash at the end.
    pub endpoints: Vec<String>,
    /// Every key begins with it; ends with a slash. Default `/guideway/`.
    pub prefix: String,
    /// Authorities whose certificates are believed, PEM; without, those that the host trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The user, and the file that holds the password alone.
    pub login: Option<(String, PathBuf)>,
    /// A copy of the last good set, with which a director starts when etcd is away.
    pub cache: Option<PathBuf>,
}

/// Reads and checks the `[store]` of a file; its other sections are not looked at.
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
        path.map(|path| Store::File { path })
    };
    table.finish();
    store
}

impl Store {
    /// What the section names that should be on its host.
    pub fn named(&self) -> Vec<Named> {
        let Store::Etcd(etcd) = self else { return Vec::new() };
        let (cert, key) = etcd.identity.as_ref().map(|(cert, key)| (cert, key)).unzip();
        let files = [
            ("ca", etcd.ca.as_ref(), Wanted::File),
            ("cert", cert, Wanted::File),
            ("key", key, Wanted::File),
            ("password_file", etcd.login.as_ref().map(|(_, file)| file), Wanted::File),
            ("cache", etcd.cache.as_ref(), Wanted::Made),
        ];
        files.into_iter().filter_map(|(name, file, wanted)| Some(Named::new(format!("store.{name}"), file?, wanted))).collect()
    }
}

/// The store in a few words.
pub fn summary(store: &Store) -> String {
    match store {
        Store::File { path } => format!("file, {}", path.display()),
        Store::Etcd(etcd) => {
            let count = etcd.endpoints.len();
            let endpoints: Vec<&str> = etcd.endpoints.iter().map(String::as_str).collect();
            let user = etcd.login.as_ref().map(|(user, _)| format!(", user {user}")).unwrap_or_default();
            let cache = etcd.cache.as_ref().map(|cache| format!(", copy in {}", cache.display())).unwrap_or_default();
            format!("etcd, {count} {} ({}), keys {}{user}{cache}", plural(count, "endpoint"), some_of(&endpoints), etcd.prefix)
        }
    }
}

fn etcd_section(table: &mut Table<'_, '_>) -> Option<Etcd> {
    let endpoints = table.required("endpoints", "endpoints = [\"https://10.0.0.5:2379\"]").and_then(|f| endpoints(&f));
    let prefix =
        table.optional("prefix").map_or(Some(PREFIX.to_owned()), |f| f.parse("the beginning of keys in quotes", prefix).map(|s| s.value));
    let tls = endpoints.as_ref().is_none_or(|all| all.iter().any(|e| e.starts_with("https:")));
    let ca = with_tls(table.optional("ca"), tls).map(|f| f.map(|f| file(f, "of a PEM file")));
    let (cert, key) = (with_tls(table.optional("cert"), tls), with_tls(table.optional("key"), tls));
    let identity = both(cert?, "cert", key?, "key")
        .map(|both| both.map(|(cert, key)| Some((file(cert, "of a PEM file")?, file(key, "of a PEM file")?))));
    let login = both(table.optional("user"), "user", table.optional("password_file"), "password_file").map(|both| {
        both.map(|(user, password)| {
            let user = user
                .parse("a user of etcd in quotes", |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) });
            let clear = endpoints.iter().flatten().find(|e| e.starts_with("http:") && !local(e));
            if let Some(endpoint) = clear {
                password.warning(format!("goes to {endpoint} unencrypted: anybody on the way can read the password; use https"));
            }
            Some((user?.value, file(password, "of a file")?))
        })
    });
    let cache = table.optional("cache").map(|f| file(f, "of a file"));
    Some(Etcd {
        endpoints: endpoints?,
        prefix: prefix?,
        ca: given(ca?)?,
        identity: given(identity?)?,
        login: given(login?)?,
        cache: given(cache)?,
    })
}

/// What need not be there, but must be good if it is.
fn given<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(good) => Some(good),
        None => Some(None),
    }
}

/// Keys that mean something with TLS only. Outer `None`: an error was noted.
fn with_tls<'r, 't>(field: Option<Field<'r, 't>>, tls: bool) -> Option<Option<Field<'r, 't>>> {
    match field {
        Some(field) if !tls => {
            field.error("means nothing here: no endpoint begins with https://");
            None
        }
        field => Some(field),
    }
}

/// Two keys of which none stands alone. Outer `None`: an error was noted.
fn both<'r, 't>(
    one: Option<Field<'r, 't>>,
    one_name: &str,
    other: Option<Field<'r, 't>>,
    other_name: &str,
) -> Option<Option<(Field<'r, 't>, Field<'r, 't>)>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Some((one, other))),
        (None, None) => Some(None),
        (Some(alone), None) => {
            alone.error(format!("stands without `{other_name}`: give both or neither"));
            None
        }
        (None, Some(alone)) => {
            alone.error(format!("stands without `{one_name}`: give both or neither"));
            None
        }
    }
}

fn endpoints(field: &Field<'_, '_>) -> Option<Vec<String>> {
    let items = field.items("a list of URLs, such as [\"https://10.0.0.5:2379\"]")?;
    if items.is_empty() || items.len() > MOST_ENDPOINTS {
        field.error(format!("has {} entries; 1 to {MOST_ENDPOINTS} members of the etcd cluster are wanted", items.len()));
        return None;
    }
    let read: Vec<_> = items.into_iter().map(|f| f.parse("a URL in quotes", endpoint).map(|s| s.value)).collect();
    read.into_iter().collect()
}

fn endpoint(text: &str) -> Result<String, String> {
    let wrong = || "is no endpoint; write it like https://10.0.0.5:2379 or http://127.0.0.1:2379".to_owned();
    let uri: http::Uri = text.parse().map_err(|_| wrong())?;
    let host = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    match uri.scheme_str() {
        Some(scheme @ ("http" | "https")) if matches!(uri.path(), "" | "/") && uri.query().is_none() => Ok(format!("{scheme}://{host}")),
        _ => Err(wrong()),
    }
}

fn local(endpoint: &str) -> bool {
    let host = endpoint.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn prefix(text: &str) -> Result<String, String> {
    if text.trim_matches('/').is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(format!("is no beginning for keys; write a word between slashes, like {PREFIX}"));
    }
    Ok(format!("{}/", text.trim_end_matches('/')))
}

fn file(field: Field<'_, '_>, what: &str) -> Option<PathBuf> {
    let absolute = |text: &str| {
        let good = text.starts_with('/') && !text.contains('\0');
        if good { Ok(PathBuf::from(text)) } else { Err("is no absolute path; a daemon may be started anywhere: begin with /".to_owned()) }
    };
    field.parse(&format!("the path {what} in quotes"), absolute).map(|s| s.value)
}
