//! Handler that serves files of an HTTP origin while they are fetched, and caches them on the local disk.
//!
//! | File | Contents |
//! |---|---|
//! | `meta` | metadata of a file at the origin: size and validators |
//! | `range_set`, `object` | one version of a file, partial or complete, read by many while it is fetched |
//! | `disk` | the cache's directory, reused after a restart |
//! | `index` | cached files, running fetches, missing files |
//! | `redirects` | where redirects may lead |
//! | `origin`, `fetch` | requests to the origin; the bytes of one version, continued when the stream breaks |
//!
//! One answer of the origin serves all waiting requests, and one stream serves all readers. Bytes of two versions never mix: a fetch is
//! continued only with a validator (RFC 9110 section 13.1.5, `If-Range`). If the origin has another version by then, transfers of the old
//! one end with an error. A file without a validator is served only when it is complete, and its tag is the hash of its bytes.

mod disk;
mod fetch;
mod index;
mod meta;
mod object;
mod origin;
mod range_set;
mod redirects;
#[cfg(test)]
mod tests;

use super::client::Client;
use crate::content::Content;
use crate::handler::{Handler, Opened, Refusal, run_blocking};
use crate::name::normalize;
use crate::request::Request;
use fetch::{FetchError, Stream, fill, hash_file};
use futures_util::FutureExt;
use hyper::Uri;
use hyper::header::HeaderName;
use index::{Index, Lookup, SharedFetch, Version};
use meta::Meta;
use object::{Object, Stage};
use origin::{Origin, OriginRequest, OriginResponse, Target};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Largest number of different files that are requested at once; further ones are not answered. Clients choose the names, so a limit is needed.
const MAX_IN_FLIGHT: usize = 4096;

/// Settings of an [`Http`] handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Prefix of the URLs of files; it ends with a slash.
    pub url: Uri,
    /// File with the certificate authorities of an https origin; `None` for those that the host trusts.
    pub ca: Option<PathBuf>,
    /// Directory of the cache, used by this handler alone.
    pub cache: PathBuf,
    /// Largest size of the cache in bytes.
    pub cache_size: u64,
    /// How long a file is served without asking the origin whether it has changed.
    pub max_age: Duration,
    /// How long the origin's answer that a file does not exist stays valid.
    pub negative_ttl: Duration,
    /// Whether a complete cached file is served when the origin is not available.
    pub stale_if_error: bool,
    /// Time limit for connecting, for the head of an answer, and for each chunk of its body.
    pub timeout: Duration,
    /// Hosts beside that of `url` that redirects may lead to, as `name` or `name:port`.
    pub redirect_hosts: Vec<String>,
    /// Field of requests to the origin with the address of the client, such as `X-Forwarded-For`.
    pub forward_client: Option<HeaderName>,
    /// Largest number of files fetched at once; others wait.
    pub max_connections: usize,
}

/// Serves files of an HTTP origin.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    origin: Origin,
    disk: disk::Disk,
    index: Mutex<Index>,
    connections: Semaphore,
    cache_counters: CacheCounters,
}

/// Counters of the cache.
#[derive(Debug, Default)]
struct CacheCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    coalesced: AtomicU64,
    negative_hits: AtomicU64,
}

/// A view of a handler's cache while it serves.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

/// Use of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Requests answered without asking the origin.
    pub hits: u64,
    /// Requests for which the origin was asked.
    pub misses: u64,
    /// Requests that shared a running fetch.
    pub coalesced: u64,
    /// Requests refused because the origin had just said that the file does not exist.
    pub negative_hits: u64,
    /// Files in the cache, partial ones included.
    pub files: u64,
    /// Bytes that they take, or will take when they are complete.
    pub bytes: u64,
    /// Bytes for which there is room.
    pub limit: u64,
}

impl Cache {
    /// Returns the current numbers.
    pub fn report(&self) -> CacheReport {
        let cache_counters = &self.0.cache_counters;
        let [hits, misses, coalesced, negative_hits] =
            [&cache_counters.hits, &cache_counters.misses, &cache_counters.coalesced, &cache_counters.negative_hits]
                .map(|number| number.load(Relaxed));
        let index = self.0.index();
        let (files, bytes) = (index.files(), index.bytes());
        CacheReport { hits, misses, coalesced, negative_hits, files, bytes, limit: self.0.settings.cache_size }
    }
}

impl Http {
    /// Creates a handler with its cache, which may contain files of an earlier server process.
    ///
    /// # Errors
    /// When the directory cannot be used or is used by another handler, and when there is no trusted authority for an https origin.
    pub fn new(settings: Settings) -> io::Result<Http> {
        let (disk, mut found) = disk::Disk::open(&settings.cache)?;
        let mut index = Index::new(settings.cache_size);
        found.sort_by_key(|found| found.written);
        for disk::Found { url, cached, .. } in found {
            let size = cached.size;
            index.keep(&url, Version::Settled(cached, Weak::new()), size, None);
        }
        index.gone.drain(..).for_each(|path| disk::remove(&path));
        let client = Client::new(&settings.url, settings.ca.as_deref(), settings.timeout)?;
        let origin = Origin::new(settings.url.clone(), client, settings.redirect_hosts.clone(), settings.forward_client.clone());
        let connections = Semaphore::new(settings.max_connections.clamp(1, Semaphore::MAX_PERMITS));
        let shared = Shared { settings, origin, disk, index: Mutex::new(index), connections, cache_counters: CacheCounters::default() };
        Ok(Http { shared: Arc::new(shared) })
    }

    /// Returns a view of its cache.
    pub fn cache(&self) -> Cache {
        Cache(self.shared.clone())
    }
}

/// What the index says about a request.
enum Found {
    Opened(Arc<Object>),
    Fetching(SharedFetch),
    Refused(Refusal),
}

impl Handler for Http {
    async fn open(&self, request: Request) -> Opened {
        let url = self.shared.origin.url(&normalize(request.file())?);
        let (shared, client) = (self.shared.clone(), request.client.ip());
        // The index may open a cached file.
        let found = run_blocking(move || Ok(shared.find(url, client))).await?;
        let object = match found {
            Found::Opened(object) => object,
            Found::Fetching(fetch) => fetch.await?,
            Found::Refused(refusal) => return Err(refusal),
        };
        Ok(Content(object))
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        let url = match normalize(request.file()) {
            Ok(name) => self.shared.origin.url(&name),
            Err(error) => return Some(Err(error.into())),
        };
        let (settings, counters) = (&self.shared.settings, &self.shared.cache_counters);
        let mut index = self.shared.index.try_lock().ok()?;
        match index.look_up_open(&url, settings.max_age, Instant::now())? {
            Lookup::Fresh(object) => {
                counters.hits.fetch_add(1, Relaxed);
                Some(Ok(Content(object)))
            }
            Lookup::Missing => {
                counters.negative_hits.fetch_add(1, Relaxed);
                Some(Err(Refusal::not_found()))
            }
            Lookup::Revalidate(_) => None,
        }
    }
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks a file up, and starts to fetch it if needed. May block.
    fn find(self: Arc<Self>, url: String, client: IpAddr) -> Found {
        let count = |number: &AtomicU64| number.fetch_add(1, Relaxed);
        let mut index = self.index();
        if let Some(shared_fetch) = index.in_flight.get(&url) {
            count(&self.cache_counters.coalesced);
            return Found::Fetching(shared_fetch.clone());
        }
        match index.look_up(&url, self.settings.max_age, Instant::now()) {
            Lookup::Fresh(object) => {
                count(&self.cache_counters.hits);
                Found::Opened(object)
            }
            Lookup::Missing => {
                count(&self.cache_counters.negative_hits);
                Found::Refused(Refusal::not_found())
            }
            Lookup::Revalidate(_) if index.in_flight.len() >= MAX_IN_FLIGHT => Found::Refused(Refusal::overloaded()),
            Lookup::Revalidate(here) => {
                count(&self.cache_counters.misses);
                let (sender, receiver) = oneshot::channel();
                let answer = receiver.map(|answer| answer.unwrap_or_else(|_| Err(Refusal::failed("the server failed"))));
                let shared_fetch = answer.boxed().shared();
                index.in_flight.insert(url.clone(), shared_fetch.clone());
                drop(index);
                let in_flight = OriginFetch { shared: self.clone(), target: Target { url, client }, sender: Some(sender) };
                tokio::spawn(in_flight.run(here));
                Found::Fetching(shared_fetch)
            }
        }
    }

    /// Changes the index, then removes evicted files. May block.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = self.index();
        let changed = change(&mut index);
        let gone = std::mem::take(&mut index.gone);
        drop(index);
        gone.iter().for_each(|path| disk::remove(path));
        changed
    }
}

/// One request to the origin and its result.
struct OriginFetch {
    shared: Arc<Shared>,
    target: Target,
    sender: Option<oneshot::Sender<Result<Arc<Object>, Refusal>>>,
}

impl Drop for OriginFetch {
    /// Removes the running fetch from the index, however the task ends.
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.shared.index().in_flight.remove(&self.target.url);
        }
    }
}

impl OriginFetch {
    /// Answers the waiting requests. Later requests find the result in the index.
    fn answer(&mut self, answer: Result<Arc<Object>, Refusal>, note: impl FnOnce(&mut Index)) {
        self.shared.change(|index| {
            note(index);
            index.in_flight.remove(&self.target.url);
        });
        if let Some(sender) = self.sender.take() {
            // If no request waits any more, the file is cached for the next one.
            let _ = sender.send(answer);
        }
    }

    async fn run(mut self, here: Option<Arc<Object>>) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.connections.acquire().await else { return };
        let url = self.target.url.clone();
        let part = here.as_ref().filter(|object| object.stage() == Stage::Failed && object.meta.validator().is_some());
        let part = part.and_then(|object| Some((object, object.hole(0, object.meta.size?)?)));
        let request = match (&part, &here) {
            (Some((object, hole)), _) => OriginRequest::Part(&object.meta, hole.clone()),
            (None, Some(object)) if object.stage() == Stage::Complete => OriginRequest::IfChanged(&object.meta),
            _ => OriginRequest::Complete,
        };
        let now = Instant::now;
        match (shared.origin.send(&self.target, request).await, here.as_ref()) {
            (Ok(OriginResponse::Unchanged), Some(object)) => {
                self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
            }
            (Ok(OriginResponse::Part(body, skip)), Some(object)) => {
                let at = part.map_or(0, |(_, hole)| hole.start);
                object.restart_fill();
                self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
                self.fetch(object, Stream { body, at, skip }).await;
            }
            (Ok(OriginResponse::Complete(meta, body)), _) => self.begin(meta, Stream { body, at: 0, skip: 0 }).await,
            (Ok(OriginResponse::Missing), _) => {
                let until = now() + shared.settings.negative_ttl;
                self.answer(Err(Refusal::not_found()), |index| index.missing(&url, until));
            }
            (Ok(OriginResponse::Forbidden), _) => self.answer(Err(Refusal::access()), |_| {}),
            (Ok(OriginResponse::Unchanged | OriginResponse::Part(..)), None) => {
                self.answer(Err(Refusal::failed("the origin failed")), |_| {})
            }
            (Err(error), here) => match here.filter(|object| shared.settings.stale_if_error && object.stage() == Stage::Complete) {
                Some(object) => {
                    tracing::warn!(url, %error, "origin not available, serving the cached file");
                    self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
                }
                None => {
                    tracing::warn!(url, %error, "fetch from the origin failed");
                    self.answer(Err(Refusal::failed("the origin of the file failed")), |_| {});
                }
            },
        }
    }

    /// Starts to fetch a new version.
    async fn begin(&mut self, meta: Meta, stream: Stream) {
        let object = match self.shared.disk.create(meta) {
            Ok(object) => Arc::new(object),
            Err(error) => {
                tracing::error!(url = self.target.url, %error, "cannot write to the cache");
                let refusal = match error.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Refusal::overloaded(),
                    _ => Refusal::failed("the server's cache cannot be written"),
                };
                return self.answer(Err(refusal), |_| {});
            }
        };
        match object.meta.size.filter(|_| object.is_known()) {
            Some(size) => {
                if self.keep(&object, size) {
                    self.fetch(&object, stream).await;
                }
            }
            None => self.fetch_before_answering(&object, stream).await,
        }
    }

    /// Stores the object and answers with it, if there is room.
    fn keep(&mut self, object: &Arc<Object>, size: u64) -> bool {
        let url = self.target.url.clone();
        let cached = self.shared.change(|index| index.keep(&url, Version::Open(object.clone()), size, Some(Instant::now())));
        if cached {
            self.answer(Ok(object.clone()), |_| {});
        } else {
            tracing::error!(url, size, "file does not fit into the cache: raise cache_size");
            self.answer(Err(Refusal::failed("the file does not fit into the server's cache")), |_| {});
        }
        cached
    }

    /// Fetches the missing bytes of an object that transfers may already read.
    async fn fetch(&self, object: &Arc<Object>, stream: Stream) {
        match fill(&self.shared.origin, &self.target, object, stream).await {
            Ok(size) => self.settle(object, size).await,
            Err(error) => self.failed(object, &error),
        }
    }

    /// Fetches an object whose size or tag is known only when it is complete.
    async fn fetch_before_answering(&mut self, object: &Arc<Object>, stream: Stream) {
        let filled = fill(&self.shared.origin, &self.target, object, stream).await;
        let hash_file = match filled {
            Ok(size) => {
                let object = object.clone();
                let hash_file = tokio::task::spawn_blocking(move || hash_file(&object, size)).await;
                hash_file.unwrap_or_else(|error| Err(io::Error::other(error))).map(|version| (size, version)).map_err(FetchError::from)
            }
            Err(error) => Err(error),
        };
        match hash_file {
            Ok((size, version)) => {
                object.finish(size, version);
                if self.keep(object, size) {
                    self.settle(object, size).await;
                }
            }
            Err(error) => {
                tracing::warn!(url = self.target.url, %error, "fetch from the origin failed");
                disk::remove(&object.path());
                self.answer(Err(Refusal::failed("the origin of the file failed")), |_| {});
            }
        }
    }

    fn failed(&self, object: &Arc<Object>, error: &FetchError) {
        tracing::warn!(url = self.target.url, %error, "fetch failed");
        object.fail(&format!("fetch of {} failed: {error}", self.target.url));
        self.shared.change(|index| index.failed(&self.target.url, object, error.is_continuable()));
    }

    /// Puts a complete object on disk, while transfers continue to read it.
    async fn settle(&self, object: &Arc<Object>, size: u64) {
        let version = crate::content::Source::version(&**object);
        object.finish(size, version);
        self.shared.change(|index| index.whole(&self.target.url, object));
        let (task_object, url) = (object.clone(), self.target.url.clone());
        let settled = tokio::task::spawn_blocking(move || disk::settle(&task_object, &url, size, version)).await;
        let settled = settled.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.shared.change(|index| match settled {
            Ok(cached) => index.settled(&self.target.url, object, cached),
            Err(error) => {
                if index.unsettled(&self.target.url, object) {
                    tracing::error!(url = self.target.url, %error, "cannot store the file in the cache");
                }
            }
        });
    }
}
