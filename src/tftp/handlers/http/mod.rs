//! Files of an HTTP origin, sent while they come, and kept on the local disk for everyone who asks later.
//!
//! | file | is |
//! |---|---|
//! | `meta` | what the origin says of a file: size and validators |
//! | `spans`, `object` | one version of a file, in part or whole, read by many while it comes |
//! | `disk` | the cache's directory, taken over from an earlier server |
//! | `index` | what is here, what is asked for, what is missing |
//! | `origin`, `fetch` | questions to the origin; the bytes of one version, continued when the stream breaks |
//!
//! One answer of the origin serves everyone who waits for it, and one stream everyone who reads. Bytes of two versions never meet: a fetch is
//! continued only by a validator (RFC 9110 section 13.1.5, `If-Range`), and when the origin has another version by then, the transfers of the
//! old one end with an error. A file without a validator is served only when all of it is here, and its tag is the hash of its bytes.

mod disk;
mod fetch;
mod index;
mod meta;
mod object;
mod origin;
mod spans;
#[cfg(test)]
mod tests;

use super::background::Background;
use super::client::Client;
use super::name::normal;
use crate::handler::{Handler, Opened, Opening, Refusal, Request};
use fetch::{FetchError, Stream, fill, hashed};
use futures_util::FutureExt;
use hyper::Uri;
use index::{Asked, Index, Known, Version};
use meta::Meta;
use object::{Object, Stage};
use origin::{Answer, Origin, Question};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, oneshot};

/// Different files that may be asked for at once; the next is refused. Clients choose the names, so there must be an end.
const MOST_ASKED: usize = 4096;

/// What an [`Http`] handler is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What names are put behind; it ends with a slash.
    pub url: Uri,
    /// Certificate authorities of an https origin; without, those that the host trusts.
    pub ca: Option<PathBuf>,
    /// Directory of the cache, for this handler alone.
    pub cache: PathBuf,
    /// Bytes of files in the cache.
    pub cache_size: u64,
    /// For how long a file is served without asking the origin whether it has changed.
    pub fresh: Duration,
    /// For how long the origin's word that there is no such file holds.
    pub missing: Duration,
    /// Whether a whole file in the cache is served when the origin cannot be asked.
    pub stale: bool,
    /// The origin's time for connecting, for the head of an answer, and for each piece of it.
    pub timeout: Duration,
    /// Files that are fetched at once; others wait.
    pub connections: usize,
}

/// Serves files of an HTTP origin.
pub struct Http {
    shared: Arc<Shared>,
    background: Background,
}

struct Shared {
    settings: Settings,
    origin: Origin,
    disk: disk::Disk,
    index: Mutex<Index>,
    connections: Semaphore,
    uses: Uses,
}

/// How requests met the cache.
#[derive(Debug, Default)]
struct Uses {
    hits: AtomicU64,
    misses: AtomicU64,
    joined: AtomicU64,
    absent: AtomicU64,
}

/// Looks into the cache of a handler while it serves.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

/// How a cache is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheReport {
    /// Requests answered without asking the origin.
    pub hits: u64,
    /// Requests for which the origin was asked.
    pub misses: u64,
    /// Requests that joined a question to the origin that was under way.
    pub joined: u64,
    /// Requests refused because the origin had said shortly before that there is no such file.
    pub absent: u64,
    /// Files that are there, in part or whole.
    pub files: u64,
    /// Bytes that they take, or will when they are whole.
    pub bytes: u64,
    /// Bytes that there is room for.
    pub limit: u64,
}

impl Cache {
    /// The numbers now.
    pub fn report(&self) -> CacheReport {
        let uses = &self.0.uses;
        let [hits, misses, joined, absent] = [&uses.hits, &uses.misses, &uses.joined, &uses.absent].map(|number| number.load(Relaxed));
        let index = self.0.index();
        let (files, bytes) = (index.files(), index.bytes());
        CacheReport { hits, misses, joined, absent, files, bytes, limit: self.0.settings.cache_size }
    }
}

impl Http {
    /// A handler with its cache, which it takes over as an earlier server left it.
    ///
    /// # Errors
    /// When the directory cannot be used, or is used by another handler; when there is no authority to trust an https origin by.
    pub fn new(settings: Settings, background: &Background) -> io::Result<Http> {
        let (disk, mut found) = disk::Disk::open(&settings.cache)?;
        let mut index = Index::new(settings.cache_size);
        found.sort_by_key(|found| found.written);
        for disk::Found { url, kept, .. } in found {
            let size = kept.size;
            index.keep(&url, Version::Settled(kept, Weak::new()), size, None);
        }
        index.gone.drain(..).for_each(|path| disk::remove(&path));
        let origin = Origin::new(settings.url.clone(), Client::new(&settings.url, settings.ca.as_deref(), settings.timeout)?);
        let connections = Semaphore::new(settings.connections.clamp(1, Semaphore::MAX_PERMITS));
        let shared = Shared { settings, origin, disk, index: Mutex::new(index), connections, uses: Uses::default() };
        Ok(Http { shared: Arc::new(shared), background: background.clone() })
    }

    /// Looks into its cache from elsewhere.
    pub fn cache(&self) -> Cache {
        Cache(self.shared.clone())
    }
}

impl Handler for Http {
    fn open(&self, request: &Request<'_>) -> Opening {
        let name = match normal(request.file) {
            Ok(name) => name,
            Err(error) => return Opening::refuse(error.into()),
        };
        let url = self.shared.origin.url(&name);
        let uses = &self.shared.uses;
        let count = |number: &AtomicU64| number.fetch_add(1, Relaxed);
        let mut index = self.shared.index();
        if let Some(asked) = index.asking.get(&url) {
            count(&uses.joined);
            return later(asked.clone());
        }
        match index.look_up(&url, self.shared.settings.fresh, Instant::now()) {
            Known::Fresh(object) => {
                count(&uses.hits);
                Opening::Now(Ok(object))
            }
            Known::Missing => {
                count(&uses.absent);
                Opening::refuse(Refusal::not_found())
            }
            Known::Ask(_) if index.asking.len() >= MOST_ASKED => Opening::refuse(Refusal::failed("the server is busy, try again")),
            Known::Ask(here) => {
                count(&uses.misses);
                let (sender, receiver) = oneshot::channel();
                let answer = receiver.map(|answer| answer.unwrap_or_else(|_| Err(Refusal::failed("the server failed"))));
                let asked = answer.boxed().shared();
                index.asking.insert(url.clone(), asked.clone());
                drop(index);
                let asking = Asking { shared: self.shared.clone(), url, sender: Some(sender) };
                self.background.spawn(asking.run(here));
                later(asked)
            }
        }
    }
}

fn later(asked: Asked) -> Opening {
    Opening::later(asked.map(|answer| -> Opened { Ok(answer?) }))
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index, and removes afterwards what is not in it any more. It may block.
    fn change<T>(&self, change: impl FnOnce(&mut Index) -> T) -> T {
        let mut index = self.index();
        let changed = change(&mut index);
        let gone = std::mem::take(&mut index.gone);
        drop(index);
        gone.iter().for_each(|path| disk::remove(path));
        changed
    }
}

/// One question to the origin and what follows from it.
struct Asking {
    shared: Arc<Shared>,
    url: String,
    sender: Option<oneshot::Sender<Result<Arc<Object>, Refusal>>>,
}

impl Drop for Asking {
    /// However the task ends, nobody waits for it any longer.
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.shared.index().asking.remove(&self.url);
        }
    }
}

impl Asking {
    /// Answers those who wait. Those who come from now on find it in the index.
    fn answer(&mut self, answer: Result<Arc<Object>, Refusal>, note: impl FnOnce(&mut Index)) {
        self.shared.change(|index| {
            note(index);
            index.asking.remove(&self.url);
        });
        if let Some(sender) = self.sender.take() {
            // That nobody waits any more is no concern: the file is kept for the next one.
            let _ = sender.send(answer);
        }
    }

    async fn run(mut self, here: Option<Arc<Object>>) {
        let shared = self.shared.clone();
        let Ok(_permit) = shared.connections.acquire().await else { return };
        let url = self.url.clone();
        let part = here.as_ref().filter(|object| object.stage() == Stage::Failed && object.meta.validator().is_some());
        let part = part.and_then(|object| Some((object, object.hole(0, object.meta.size?)?)));
        let question = match (&part, &here) {
            (Some((object, hole)), _) => Question::Part(&object.meta, hole.clone()),
            (None, Some(object)) if object.stage() == Stage::Whole => Question::Changed(&object.meta),
            _ => Question::Whole,
        };
        let now = Instant::now;
        match (shared.origin.ask(&url, question).await, here.as_ref()) {
            (Ok(Answer::Unchanged), Some(object)) => {
                self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
            }
            (Ok(Answer::Part(body, skip)), Some(object)) => {
                let at = part.map_or(0, |(_, hole)| hole.start);
                object.go_on();
                self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
                self.fetch(object, Stream { body, at, skip }).await;
            }
            (Ok(Answer::Whole(meta, body)), _) => self.begin(meta, Stream { body, at: 0, skip: 0 }).await,
            (Ok(Answer::Missing), _) => {
                let until = now() + shared.settings.missing;
                self.answer(Err(Refusal::not_found()), |index| index.missing(&url, until));
            }
            (Ok(Answer::Forbidden), _) => self.answer(Err(Refusal::access()), |_| {}),
            (Ok(Answer::Unchanged | Answer::Part(..)), None) => self.answer(Err(Refusal::failed("the origin failed")), |_| {}),
            (Err(error), here) => match here.filter(|object| shared.settings.stale && object.stage() == Stage::Whole) {
                Some(object) => {
                    tracing::warn!(url, %error, "the origin cannot be asked; the file is served as it was");
                    self.answer(Ok(object.clone()), |index| index.checked(&url, object, now()));
                }
                None => {
                    tracing::warn!(url, %error, "a file cannot be had from its origin");
                    self.answer(Err(Refusal::failed("the origin of the file failed")), |_| {});
                }
            },
        }
    }

    /// Begins a version that is not here yet.
    async fn begin(&mut self, meta: Meta, stream: Stream) {
        let object = match self.shared.disk.create(meta) {
            Ok(object) => Arc::new(object),
            Err(error) => {
                tracing::error!(url = self.url, %error, "the cache cannot be written");
                return self.answer(Err(Refusal::failed("the server's cache cannot be written")), |_| {});
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

    /// Keeps the object and answers with it, when there is room.
    fn keep(&mut self, object: &Arc<Object>, size: u64) -> bool {
        let url = self.url.clone();
        let kept = self.shared.change(|index| index.keep(&url, Version::Held(object.clone()), size, Some(Instant::now())));
        if kept {
            self.answer(Ok(object.clone()), |_| {});
        } else {
            tracing::error!(url, size, "the file does not fit into the cache; make cache_size larger");
            self.answer(Err(Refusal::failed("the file does not fit into the server's cache")), |_| {});
        }
        kept
    }

    /// Fetches what is missing of an object that transfers may read already.
    async fn fetch(&self, object: &Arc<Object>, stream: Stream) {
        match fill(&self.shared.origin, &self.url, object, stream).await {
            Ok(size) => self.settle(object, size).await,
            Err(error) => self.failed(object, &error),
        }
    }

    /// Fetches an object of which the size or the tag is known only when it is whole.
    async fn fetch_before_answering(&mut self, object: &Arc<Object>, stream: Stream) {
        let filled = fill(&self.shared.origin, &self.url, object, stream).await;
        let hashed = match filled {
            Ok(size) => {
                let object = object.clone();
                let hashed = tokio::task::spawn_blocking(move || hashed(&object, size)).await;
                hashed.unwrap_or_else(|error| Err(io::Error::other(error))).map(|version| (size, version)).map_err(FetchError::from)
            }
            Err(error) => Err(error),
        };
        match hashed {
            Ok((size, version)) => {
                object.finish(size, version);
                if self.keep(object, size) {
                    self.settle(object, size).await;
                }
            }
            Err(error) => {
                tracing::warn!(url = self.url, %error, "a file cannot be had from its origin");
                disk::remove(&object.path());
                self.answer(Err(Refusal::failed("the origin of the file failed")), |_| {});
            }
        }
    }

    fn failed(&self, object: &Arc<Object>, error: &FetchError) {
        tracing::warn!(url = self.url, %error, "the rest of a file does not come");
        object.fail(&format!("the rest of {} does not come: {error}", self.url));
        self.shared.change(|index| index.failed(&self.url, object, error.is_continuable()));
    }

    /// Every byte is here: it is put to the disk for later servers, while transfers read on.
    async fn settle(&self, object: &Arc<Object>, size: u64) {
        let version = crate::content::Content::version(&**object);
        object.finish(size, version);
        self.shared.change(|index| index.whole(&self.url, object));
        let (task_object, url) = (object.clone(), self.url.clone());
        let settled = tokio::task::spawn_blocking(move || disk::settle(&task_object, &url, size, version)).await;
        let settled = settled.unwrap_or_else(|error| Err(io::Error::other(error)));
        self.shared.change(|index| match settled {
            Ok(kept) => index.settled(&self.url, object, kept),
            Err(error) => {
                if index.unsettled(&self.url, object) {
                    tracing::error!(url = self.url, %error, "a file cannot be kept in the cache");
                }
            }
        });
    }
}
