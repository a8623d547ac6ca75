//! What a server serves: a [`Handler`] turns a request into content or a refusal.

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
    /// Who asks; the port tells the transfers of one client apart.
    pub client: SocketAddr,
    /// The address that was asked: the VIP behind a director.
    pub vip: IpAddr,
    /// The port that the answers come from.
    pub tid: u16,
    /// The file's name as it came. It need not be UTF-8; see [`Request::name`].
    pub file: &'a [u8],
    /// How the bytes are to travel. The engine translates: content is always the bytes as they are.
    pub mode: Mode,
    /// Every option of the client, known or not, in the order asked.
    pub options: Options<'a>,
}

impl Request<'_> {
    /// The file's name for people and for comparison, without the 0xFF bytes that some firmware leaves behind it.
    pub fn name(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(without_garbage(self.file))
    }
}

/// A file's name without the 0xFF bytes behind it, which firmware took from DHCP together with the end mark of its options.
pub fn without_garbage(file: &[u8]) -> &[u8] {
    let len = file.iter().rposition(|&b| b != 0xff).map_or(0, |last| last + 1);
    &file[..len]
}

/// What comes of opening.
pub type Opened = Result<Arc<dyn Content>, Refusal>;

/// How a handler opens.
///
/// Three ways, because a server that never waits must know which it is: an answer at hand costs neither an allocation nor a change of
/// thread, an answer from an asynchronous source is polled on the event loop when it wakes, and work that blocks runs on a thread for such
/// work. The client is answered when there is content and its first block, or a refusal; either way within the engine's time for opening.
pub enum Opening {
    /// Known at once.
    Now(Opened),
    /// Known when the future is ready. It is polled on the event loop and must not block; it may be dropped before it is ready.
    Later(Pin<Box<dyn Future<Output = Opened> + Send>>),
    /// Known after work that may block. It runs on a thread of the engine's opener pool.
    Job(Box<dyn FnOnce() -> Opened + Send>),
}

impl Opening {
    /// This content, at once.
    pub fn content(content: impl Content + 'static) -> Opening {
        Opening::Now(Ok(Arc::new(content)))
    }

    /// This refusal, at once.
    pub fn refuse(refusal: Refusal) -> Opening {
        Opening::Now(Err(refusal))
    }

    /// The output of a future.
    pub fn later(future: impl Future<Output = Opened> + Send + 'static) -> Opening {
        Opening::Later(Box::pin(future))
    }

    /// The result of work that may block.
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

/// Serves files. A closure `Fn(&Request) -> Opening` is one too.
pub trait Handler: Send + Sync {
    /// Opens what is asked for. It runs on the event loop and must not block; see [`Opening`].
    fn open(&self, request: &Request<'_>) -> Opening;
}

impl<F: Fn(&Request<'_>) -> Opening + Send + Sync> Handler for F {
    fn open(&self, request: &Request<'_>) -> Opening {
        self(request)
    }
}

/// Why a client does not get its file. Firmware decides by the code; people read the text, which should not name paths of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code of the ERROR packet; nothing for a client that gets no answer at all.
    pub code: Option<ErrorCode>,
    /// The text of the ERROR packet.
    pub text: Cow<'static, str>,
}

impl Refusal {
    /// An ERROR with this code and text.
    pub fn new(code: ErrorCode, text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { code: Some(code), text: text.into() }
    }

    /// ERROR 1: there is no such file.
    pub fn not_found() -> Refusal {
        Refusal::new(ErrorCode::NOT_FOUND, "file not found")
    }

    /// ERROR 2: not for this client.
    pub fn access() -> Refusal {
        Refusal::new(ErrorCode::ACCESS, "access denied")
    }

    /// ERROR 0: the server failed.
    pub fn failed(text: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(ErrorCode::NOT_DEFINED, text)
    }

    /// No answer at all.
    pub fn silent() -> Refusal {
        Refusal { code: None, text: Cow::Borrowed("not answered") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_behind_names() {
        assert_eq!(without_garbage(b"undionly.kpxe\xff"), b"undionly.kpxe");
        assert_eq!(without_garbage(b"a\xffb\xff\xff"), b"a\xffb");
        assert_eq!(without_garbage(b"\xff"), b"");
    }
}
