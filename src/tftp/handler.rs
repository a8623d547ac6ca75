//! The interface of servers: a [`Handler`] turns a request into content or a refusal.

use super::content::Content;
use super::packet::{ErrorCode, Mode, Options};
use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

/// A read request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The client. The port distinguishes transfers of one client.
    pub client: SocketAddr,
    /// The destination address of the request; behind a director, the VIP.
    pub vip: IpAddr,
    /// The source port of answers.
    pub tid: u16,
    /// The file name as received. It need not be UTF-8; see [`Request::name`].
    pub file: &'a [u8],
    /// The transfer mode. The engine translates; content is always untranslated.
    pub mode: Mode,
    /// All options of the client, known or not, in the order of the request.
    pub options: Options<'a>,
}

impl Request<'_> {
    /// Returns the file name for output and comparison, without the trailing 0xFF bytes of some firmware.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(without_garbage(self.file))
    }
}

/// Removes trailing 0xFF bytes, the end mark of DHCP options that some firmware copies with the name.
pub fn without_garbage(file: &[u8]) -> &[u8] {
    let len = file.iter().rposition(|&b| b != 0xff).map_or(0, |last| last + 1);
    &file[..len]
}

/// Result of opening a file.
pub type Opened = Result<Arc<dyn Content>, Refusal>;

/// The way in which a handler opens a file.
///
/// The event loop never waits, so there are three ways. An immediate answer costs no allocation and no change of thread. A future is polled
/// on the event loop when it wakes. Blocking work runs on a separate thread. The client is answered when there is content with its first
/// block, or a refusal, within [`Config::open_timeout`](crate::engine::Config::open_timeout).
pub enum Opening {
    /// Known at once.
    Now(Opened),
    /// Known when the future is ready. It is polled on the event loop and must not block; it may be dropped before it is ready.
    Later(Pin<Box<dyn Future<Output = Opened> + Send>>),
    /// Known after work that may block. It runs on a thread of the engine's opener pool.
    Job(Box<dyn FnOnce() -> Opened + Send>),
}

impl Opening {
    /// Opens with this content.
    pub fn content(content: impl Content + 'static) -> Opening {
        Opening::Now(Ok(Arc::new(content)))
    }

    /// Refuses the request.
    pub fn refuse(refusal: Refusal) -> Opening {
        Opening::Now(Err(refusal))
    }

    /// Opens with the output of a future.
    pub fn later(future: impl Future<Output = Opened> + Send + 'static) -> Opening {
        Opening::Later(Box::pin(future))
    }

    /// Opens with the result of work that may block.
    pub fn job(job: impl FnOnce() -> Opened + Send + 'static) -> Opening {
        Opening::Job(Box::new(job))
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Opening::Now(Ok(_)) => "Now(content)",
            Opening::Now(Err(_)) => "Now(refusal)",
            Opening::Later(_) => "Later",
            Opening::Job(_) => "Job",
        })
    }
}

/// Serves files. Closures `Fn(&Request) -> Opening` implement it.
pub trait Handler: Send + Sync {
    /// Opens the requested file. Runs on the event loop and must not block; see [`Opening`].
    fn open(&self, request: &Request<'_>) -> Opening;
}

impl<F: Fn(&Request<'_>) -> Opening + Send + Sync> Handler for F {
    fn open(&self, request: &Request<'_>) -> Opening {
        self(request)
    }
}

/// A reason why a client does not get its file. Firmware reads the code, operators read the text. It should not name paths of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the ERROR packet; `None` if the client gets no answer.
    pub code: Option<ErrorCode>,
    /// The text of the ERROR packet.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// Refuses with this code and text.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code: Some(code), text: text.into() }
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
        Refusal { code: None, text: Cow::Borrowed("not answered") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailing_garbage_of_names_is_removed() {
        assert_eq!(without_garbage(b"undionly.kpxe\xff"), b"undionly.kpxe");
        assert_eq!(without_garbage(b"a\xffb\xff\xff"), b"a\xffb");
        assert_eq!(without_garbage(b"\xff"), b"");
    }
}
