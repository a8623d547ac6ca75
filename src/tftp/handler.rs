//! The interface of servers: a [`Handler`] turns a request into content or a refusal.

use super::content::Content;
use super::packet::ErrorCode;
use super::request::Request;
use std::borrow::Cow;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Result of opening a file.
pub type Opened = Result<Content, Refusal>;
/// Result of accepting a file.
pub type Accepted = Result<Box<dyn Destination>, Refusal>;

/// Serves files, and accepts them.
///
/// Its futures run on the server's runtime, never on an event loop, so they may wait, and sockets and timers of Tokio work in them. Work that
/// blocks belongs to [`tokio::task::spawn_blocking`] or a [`blocking`] handler. The client is answered when there is content with its first block,
/// or a refusal, within [`Config::open_timeout`](crate::engine::Config::open_timeout). A future is dropped when its client is gone. A panic becomes an
/// ERROR for this client and is counted.
///
/// Closures that return a future are handlers; [`handler_fn`] and [`blocking`] make handlers of plain closures.
pub trait Handler: Send + Sync + 'static {
    /// Opens the requested file.
    fn open(&self, request: Request) -> impl Future<Output = Opened> + Send;

    /// Returns whether write requests are passed to [`Handler::store`]. Otherwise they are refused with ERROR 2.
    fn accepts_uploads(&self) -> bool {
        false
    }

    /// Accepts a file that a client writes.
    fn store(&self, request: Request) -> impl Future<Output = Accepted> + Send {
        drop(request);
        ready(Err(Refusal::access()))
    }

    /// Opens the file at once if that needs no wait at all. Runs on the event loop: it must not block, call foreign code, or read a disk.
    #[doc(hidden)]
    fn open_now(&self, request: &Request) -> Option<Opened> {
        let _never = request;
        None
    }
}

impl<F, R> Handler for F
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Opened> + Send,
{
    fn open(&self, request: Request) -> impl Future<Output = Opened> + Send {
        self(request)
    }
}

/// Takes the bytes of an upload, in order. Its methods run on threads that may block, one at a time. Dropping it without `finish` discards the file.
pub trait Destination: Send {
    /// Returns the largest file in bytes, if there is a limit. A longer one is refused with ERROR 3 at once. Must not block.
    fn limit(&self) -> Option<u64> {
        None
    }

    /// Prepares for the first bytes, when the client has sent some: a request alone may be forged, and should take no resources.
    ///
    /// # Errors
    /// A [silent](Refusal::silent) refusal lets the client try again; any other one ends the upload.
    fn begin(&mut self) -> Result<(), Refusal> {
        Ok(())
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// The refusal that the client gets.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal>;

    /// Stores the complete file. The last block is acknowledged afterwards.
    ///
    /// # Errors
    /// The refusal that the client gets.
    fn finish(self: Box<Self>) -> Result<(), Refusal>;
}

/// A handler of any type. A clone refers to the same handler.
#[derive(Clone)]
pub struct SharedHandler(Arc<dyn Erased>);

/// [`Handler`] as a trait object.
trait Erased: Send + Sync {
    fn open(&self, request: Request) -> Boxed<'_, Opened>;
    fn store(&self, request: Request) -> Boxed<'_, Accepted>;
    fn accepts_uploads(&self) -> bool;
    fn open_now(&self, request: &Request) -> Option<Opened>;
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<H: Handler> Erased for H {
    fn open(&self, request: Request) -> Boxed<'_, Opened> {
        Box::pin(Handler::open(self, request))
    }

    fn store(&self, request: Request) -> Boxed<'_, Accepted> {
        Box::pin(Handler::store(self, request))
    }

    fn accepts_uploads(&self) -> bool {
        Handler::accepts_uploads(self)
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        Handler::open_now(self, request)
    }
}

impl SharedHandler {
    /// Wraps a handler.
    pub fn new(handler: impl Handler) -> SharedHandler {
        SharedHandler(Arc::new(handler))
    }
}

impl fmt::Debug for SharedHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedHandler")
    }
}

impl Handler for SharedHandler {
    async fn open(&self, request: Request) -> Opened {
        self.0.open(request).await
    }

    async fn store(&self, request: Request) -> Accepted {
        self.0.store(request).await
    }

    fn accepts_uploads(&self) -> bool {
        self.0.accepts_uploads()
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        self.0.open_now(request)
    }
}

impl<H: Handler> Handler for Arc<H> {
    fn open(&self, request: Request) -> impl Future<Output = Opened> + Send {
        H::open(self, request)
    }

    fn store(&self, request: Request) -> impl Future<Output = Accepted> + Send {
        H::store(self, request)
    }

    fn accepts_uploads(&self) -> bool {
        H::accepts_uploads(self)
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        H::open_now(self, request)
    }
}

/// Makes a handler of a closure that answers without waiting.
pub fn handler_fn(open: impl Fn(&Request) -> Opened + Send + Sync + 'static) -> impl Handler {
    move |request: Request| ready(open(&request))
}

/// Gives a handler a name, which the reports of its requests have.
pub fn named(name: impl Into<Arc<str>>, handler: impl Handler) -> impl Handler {
    Named { name: name.into(), handler }
}

struct Named<H> {
    name: Arc<str>,
    handler: H,
}

impl<H: Handler> Handler for Named<H> {
    fn open(&self, request: Request) -> impl Future<Output = Opened> + Send {
        request.handler.set(&self.name);
        self.handler.open(request)
    }

    fn store(&self, request: Request) -> impl Future<Output = Accepted> + Send {
        request.handler.set(&self.name);
        self.handler.store(request)
    }

    fn accepts_uploads(&self) -> bool {
        self.handler.accepts_uploads()
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        request.handler.set(&self.name);
        self.handler.open_now(request)
    }
}

/// Largest number of threads on which one [`blocking`] handler blocks.
const MAX_BLOCKING: usize = 64;

/// Makes a handler of a closure that may block. It runs on threads for that, at most 64 at once.
pub fn blocking(open: impl Fn(&Request) -> Opened + Send + Sync + 'static) -> impl Handler {
    let (open, permits) = (Arc::new(open), Arc::new(Semaphore::new(MAX_BLOCKING)));
    move |request: Request| {
        let (open, permits) = (Arc::clone(&open), Arc::clone(&permits));
        async move {
            let permit = permits.acquire_owned().await.map_err(|_| Refusal::overloaded())?;
            run_blocking(move || {
                let _held = permit;
                open(&request)
            })
            .await
        }
    }
}

/// Runs work that may block on a thread for that. A panic continues in the caller.
pub(crate) async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Refusal::silent()),
        },
    }
}

/// A reason why a client does not get its file. Firmware reads the code, operators read the text. It should not name paths of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The code of the ERROR packet; `None` if the client gets no answer.
    pub code: Option<ErrorCode>,
    /// The text of the ERROR packet.
    pub text: Cow<'static, str>,
    /// Whether the server lacks a resource now. Such requests are counted, and not answered: clients repeat them.
    pub overload: bool,
}

impl Refusal {
    /// Refuses with this code and text.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code: Some(code), text: text.into(), overload: false }
    }

    /// Refuses with ERROR 1: the file does not exist.
    pub fn not_found() -> Refusal {
        Refusal::new(ErrorCode::NOT_FOUND, "file not found")
    }

    /// Refuses with ERROR 2: access denied.
    pub fn access() -> Refusal {
        Refusal::new(ErrorCode::ACCESS, "access denied")
    }

    /// Refuses with ERROR 0: the server failed.
    pub fn failed(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(ErrorCode::NOT_DEFINED, text)
    }

    /// Refuses without an answer.
    pub fn silent() -> Refusal {
        Refusal { code: None, text: Cow::Borrowed("not answered"), overload: false }
    }

    /// Refuses without an answer because the server lacks a resource: descriptors, memory, connections, threads.
    pub fn overloaded() -> Refusal {
        Refusal { code: None, text: Cow::Borrowed("the server is overloaded"), overload: true }
    }
}
