//! A client of the daemons: HTTP over their Unix sockets, or over TCP, for the commands and for the lab.

mod error;
mod remote;

pub use error::Error;
pub use remote::{Credentials, Remote};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use remote::Stream;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an answer may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to a change may take: it waits until the workers have it.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(40);
/// Longest answer that is read, in bytes.
const MAX_RESPONSE: usize = 64 << 20;

/// The daemon to ask.
#[derive(Clone, Debug)]
pub enum Client {
    /// Over a Unix socket.
    Socket(PathBuf),
    /// Over TCP.
    Remote(Box<Remote>),
}

/// Gets `path` (such as `/v1/status`) from the control socket `socket`. Waits at most 5 s; must not be called from async code.
///
/// # Errors
/// When nobody listens, the answer is no JSON, or its status is not 2xx.
pub fn get<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Error> {
    Client::Socket(socket.to_owned()).get(path)
}

impl Client {
    /// Gets a document. Waits at most 5 s; must not be called from async code, as all that asks here.
    ///
    /// # Errors
    /// When nobody listens, the answer is no JSON, or its status is not 2xx.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.with_timeout(path, REQUEST_TIMEOUT, self.request("GET", path, None))
    }

    /// Asks for a change; gives its plan. Waits at most 40 s.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn change<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<T, Error> {
        self.with_timeout(path, CHANGE_TIMEOUT, self.request(method, path, body))
    }

    /// Follows a stream of lines until `each` says `false` or the stream ends.
    ///
    /// # Errors
    /// As [`Client::get`], and when the stream breaks off.
    pub fn follow(&self, path: &str, mut each: impl FnMut(&str) -> bool) -> Result<(), Error> {
        self.block_on(path, async {
            let mut body = self.send("GET", path, None).await?;
            let mut rest = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|e| self.invalid_response(path, e.to_string()))?;
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !each(String::from_utf8_lossy(&line).trim_end()) {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    /// The socket or URL, for people.
    pub fn endpoint(&self) -> String {
        match self {
            Client::Socket(path) => path.display().to_string(),
            Client::Remote(remote) => remote.url(),
        }
    }

    fn invalid_response(&self, path: &str, reason: String) -> Error {
        Error::InvalidResponse { endpoint: self.endpoint(), path: path.to_owned(), reason }
    }

    fn block_on<T>(&self, path: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| self.invalid_response(path, e.to_string()))?.block_on(work)
    }

    fn with_timeout<T>(&self, path: &str, timeout: Duration, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let late = || self.invalid_response(path, format!("no answer within {} s", timeout.as_secs()));
        self.block_on(path, async { tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| Err(late())) })
    }

    async fn request<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<T, Error> {
        let body = self.send(method, path, body).await?;
        let body = Limited::new(body, MAX_RESPONSE).collect().await.map_err(|e| self.invalid_response(path, e.to_string()))?.to_bytes();
        let wrong = |e: serde_json::Error| {
            let what = if e.is_data() { "the answer is another document than expected" } else { "the answer is no JSON" };
            self.invalid_response(path, format!("{what}: {e}"))
        };
        serde_json::from_slice(&body).map_err(wrong)
    }

    /// Sends a request; gives the body of an answer that is 2xx.
    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Incoming, Error> {
        let failed = |reason| Error::Connect { endpoint: self.endpoint(), reason };
        let stream: Box<dyn Stream> = match self {
            Client::Socket(socket) => Box::new(tokio::net::UnixStream::connect(socket).await.map_err(failed)?),
            Client::Remote(remote) => remote.connect().await.map_err(failed)?,
        };
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.invalid_response(path, e.to_string()))?;
        tokio::spawn(connection);
        let mut request = hyper::Request::builder().method(method).uri(path);
        request = match self {
            Client::Socket(_) => request.header(HOST, "director"),
            Client::Remote(remote) => {
                let request = request.header(HOST, remote.authority());
                remote.token().into_iter().fold(request, |request, token| request.header(AUTHORIZATION, format!("Bearer {token}")))
            }
        };
        let bytes = match body {
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(body.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(bytes)).map_err(|e| self.invalid_response(path, e.to_string()))?;
        let response = sender.send_request(request).await.map_err(|e| self.invalid_response(path, e.to_string()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), MAX_RESPONSE)
            .collect()
            .await
            .map_err(|e| self.invalid_response(path, e.to_string()))?
            .to_bytes();
        let refusal = serde_json::from_slice::<guideway_api::error::Error>(&body);
        let why = refusal.map_or_else(|_| String::from_utf8_lossy(&body).into_owned(), |refusal| refusal.to_string());
        let document = serde_json::from_slice(&body).unwrap_or_default();
        Err(Error::Refused { endpoint: self.endpoint(), path: path.to_owned(), status: status.as_u16(), why, document: Box::new(document) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn stub_server(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d1.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /v1/status HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (directory, socket)
    }

    #[test]
    fn an_answer_is_read() {
        let (_directory, socket) = stub_server("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"ready\":true}");
        assert_eq!(get::<Value>(&socket, "/v1/status").unwrap()["ready"], true);
        let (_directory, socket) = stub_server("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"ready\":true}");
        let wrong = get::<guideway_api::Status>(&socket, "/v1/status").unwrap_err().to_string();
        assert!(wrong.contains("another document than expected"), "{wrong}");
    }

    #[test]
    fn a_stream_is_followed_line_by_line() {
        let (_directory, socket) = stub_server("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\nid: 1\r\n\ndata: 2\n");
        let mut lines = Vec::new();
        Client::Socket(socket)
            .follow("/v1/status", |line| {
                lines.push(line.to_owned());
                line != "data: 2"
            })
            .unwrap();
        assert_eq!(lines, ["id: 1", "", "data: 2"]);
    }

    #[test]
    fn a_refusal_and_a_broken_answer_are_told_apart() {
        let (_directory, socket) = stub_server("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone");
        assert!(matches!(get::<Value>(&socket, "/v1/status"), Err(Error::Refused { status: 404, why, .. }) if why == "none"));
        let (_directory, socket) = stub_server("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnone");
        assert!(matches!(get::<Value>(&socket, "/v1/status"), Err(Error::InvalidResponse { .. })));
    }

    #[test]
    fn nobody_there_is_said() {
        let said = get::<Value>(Path::new("/nowhere/d1.sock"), "/v1/status").unwrap_err().to_string();
        assert!(said.contains("/nowhere/d1.sock") && said.contains("does it run"), "{said}");
    }
}
