//! An HTTP origin for tests: it logs requests, supports ranges and validators, and can pause or fail in the middle.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

/// A file of the origin.
#[derive(Clone, Default)]
pub struct Page {
    pub bytes: Arc<Vec<u8>>,
    pub etag: Option<&'static str>,
    /// Whether it has a `Last-Modified` one second before the answer.
    pub dated: bool,
    pub form: Form,
    /// Status; 0 means 200.
    pub status: u16,
    pub kind: &'static str,
    /// `Location`, if not empty.
    pub location: String,
}

/// How a body is sent.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// With a length, and ranges.
    #[default]
    Ranges,
    /// With a length, without ranges.
    Length,
    Chunked,
    /// Without a length, until the connection ends.
    NoLength,
}

#[derive(Default)]
struct State {
    pages: HashMap<String, Page>,
    log: Vec<String>,
    /// Bytes of bodies that may be sent until more are allowed.
    allowed: Option<u64>,
    /// Whether requests are accepted and not answered.
    silent: bool,
    dead: bool,
    connections: Vec<TcpStream>,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

pub struct Origin {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepting: Option<JoinHandle<()>>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn wait_while(&self, condition: impl Fn(&mut State) -> bool) -> MutexGuard<'_, State> {
        self.changed.wait_while(self.state(), condition).unwrap()
    }
}

impl Origin {
    pub fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner { state: Mutex::default(), changed: Condvar::new() });
        let accepting = std::thread::spawn({
            let inner = inner.clone();
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let mut state = inner.state();
                    if state.dead {
                        if Arc::strong_count(&inner) == 1 {
                            return;
                        }
                        continue;
                    }
                    state.connections.push(stream.try_clone().unwrap());
                    let inner = inner.clone();
                    // Broken connections are part of the test.
                    std::thread::spawn(move || drop(serve(&inner, stream)));
                }
            }
        });
        Origin { address, inner, accepting: Some(accepting) }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.inner.state().pages.insert(path.to_owned(), page);
    }

    /// Returns the requests in order: path, range and conditions.
    pub fn log(&self) -> Vec<String> {
        self.inner.state().log.clone()
    }

    /// Allows `bytes` more bytes of bodies; `None` removes the limit.
    pub fn allow(&self, bytes: Option<u64>) {
        self.inner.state().allowed = bytes;
        self.inner.changed.notify_all();
    }

    /// Sets whether requests are accepted and not answered.
    pub fn silent(&self, silent: bool) {
        self.inner.state().silent = silent;
        self.inner.changed.notify_all();
    }

    /// Waits until `requests` requests have arrived.
    pub fn wait_requests(&self, requests: usize) {
        drop(self.inner.wait_while(|state| state.log.len() < requests));
    }

    /// Ends every connection and, if `dead`, accepts no more until the next call.
    pub fn cut(&self, dead: bool) {
        let mut state = self.inner.state();
        state.dead = dead;
        for stream in state.connections.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(state);
        self.inner.changed.notify_all();
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.allow(None);
        self.silent(false);
        self.cut(true);
        // The accepting thread ends when it holds the last reference to the state.
        self.inner = Arc::new(Inner { state: Mutex::default(), changed: Condvar::new() });
        while self.accepting.as_ref().is_some_and(|thread| !thread.is_finished()) {
            let _ = TcpStream::connect(self.address);
            std::thread::yield_now();
        }
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

fn serve(inner: &Inner, mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            lines.push(line);
        }
        let header = |name: &str| {
            lines.iter().filter_map(|l| l.split_once(": ")).find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
        };
        let mut sent = String::new();
        let length = header("content-length").map_or(0, |text| text.parse().unwrap());
        (&mut reader).take(length).read_to_string(&mut sent)?;
        let path = lines[0].split(' ').nth(1).unwrap_or_default().to_owned();
        let mut entry = path.clone();
        for name in ["range", "if-range", "if-none-match", "if-modified-since", "x-client"] {
            header(name).iter().for_each(|value| entry += &format!(" {name}: {value}"));
        }
        if !sent.is_empty() {
            entry += &format!(" {sent}");
        }
        let page = {
            let mut state = inner.state();
            state.log.push(entry);
            inner.changed.notify_all();
            state.pages.get(&path).cloned()
        };
        drop(inner.wait_while(|state| state.silent));
        answer(inner, &mut stream, page, header)?;
    }
}

const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const NOW: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

fn answer(inner: &Inner, stream: &mut TcpStream, page: Option<Page>, header: impl Fn(&str) -> Option<String>) -> std::io::Result<()> {
    let Some(page) = page else { return stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n") };
    let mut head = format!("date: {NOW}\r\n");
    page.etag.iter().for_each(|etag| head += &format!("etag: {etag}\r\n"));
    if page.dated {
        head += &format!("last-modified: {CHANGED}\r\n");
    }
    if !page.kind.is_empty() {
        head += &format!("content-type: {}\r\n", page.kind);
    }
    if !page.location.is_empty() {
        head += &format!("location: {}\r\n", page.location);
    }
    let validator = page.etag.map(str::to_owned).or(page.dated.then(|| CHANGED.to_owned()));
    let unchanged = page.etag.is_some() && header("if-none-match").as_deref() == page.etag
        || page.dated && header("if-modified-since").as_deref() == Some(CHANGED);
    let size = page.bytes.len();
    let range = header("range").filter(|_| page.form == Form::Ranges && header("if-range").is_none_or(|v| Some(v) == validator));
    let range = range.and_then(|text| {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse::<usize>().ok()?..(last.parse::<usize>().ok()? + 1).min(size))
    });
    let (status, part) = match (page.status, range) {
        (0, _) if unchanged => return write!(stream, "HTTP/1.1 304 Not Modified\r\n{head}\r\n"),
        (0, Some(part)) => {
            head += &format!("content-range: bytes {}-{}/{size}\r\n", part.start, part.end - 1);
            (206, part)
        }
        (status, _) => (if status == 0 { 200 } else { status }, 0..size),
    };
    head += &match page.form {
        Form::Chunked => "transfer-encoding: chunked\r\n".to_owned(),
        Form::NoLength => "connection: close\r\n".to_owned(),
        Form::Ranges | Form::Length => format!("content-length: {}\r\n", part.len()),
    };
    write!(stream, "HTTP/1.1 {status} Some\r\n{head}\r\n")?;
    let mut left = &page.bytes[part];
    while !left.is_empty() {
        let mut state = inner.wait_while(|state| state.allowed == Some(0) && !state.connections.is_empty());
        let most = state.allowed.map_or(64 << 10, |allowed| allowed.min(64 << 10));
        let (now, later) = left.split_at(left.len().min(most as usize));
        state.allowed = state.allowed.map(|allowed| allowed - now.len() as u64);
        drop(state);
        if now.is_empty() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        match page.form {
            Form::Chunked => {
                write!(stream, "{:x}\r\n", now.len())?;
                stream.write_all(now)?;
                stream.write_all(b"\r\n")?;
            }
            _ => stream.write_all(now)?,
        }
        left = later;
    }
    match page.form {
        Form::Chunked => stream.write_all(b"0\r\n\r\n"),
        Form::NoLength => stream.shutdown(Shutdown::Both),
        _ => Ok(()),
    }
}
