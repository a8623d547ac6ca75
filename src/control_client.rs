//! Asks the control socket of a director or a TFTP server: HTTP over a Unix socket, for `guideway status` and for the lab.

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer that is read, in bytes.
const LONGEST: usize = 64 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("nobody answers at {}: {reason}; does it run, and may you open its socket?", .socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// What the kernel said.
        reason: std::io::Error,
    },
    /// The answer did not come in time, broke off, or was no HTTP.
    #[error("asking {} for {path}: {reason}", .socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// The director refused.
    #[error("{} answered {path} with {status}: {body}", .socket.display())]
    Refused {
        /// The socket.
        socket: PathBuf,
        /// What was asked for.
        path: String,
        /// The HTTP status code.
        status: u16,
        /// What it said.
        body: String,
    },
}

/// Gets `path` (such as `/v1/status`) from the control socket `socket`. Waits at most 5 s; must not be called from async code.
///
/// # Errors
/// When nobody listens, the answer is no JSON, or its status is not 2xx.
pub fn get(socket: &Path, path: &str) -> Result<serde_json::Value, Error> {
    let broken = |reason: String| Error::Broken { socket: socket.to_owned(), path: path.to_owned(), reason };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| broken(e.to_string()))?;
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(socket, path)).await });
    answer.unwrap_or_else(|_| Err(broken(format!("no answer within {} s", PATIENCE.as_secs()))))
}

async fn ask(socket: &Path, path: &str) -> Result<serde_json::Value, Error> {
    let broken = |reason: String| Error::Broken { socket: socket.to_owned(), path: path.to_owned(), reason };
    let stream = tokio::net::UnixStream::connect(socket).await;
    let stream = stream.map_err(|reason| Error::Connect { socket: socket.to_owned(), reason })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| broken(e.to_string()))?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header(hyper::header::HOST, "director").body(Empty::<Bytes>::new());
    let request = request.map_err(|e| broken(e.to_string()))?;
    let response = sender.send_request(request).await.map_err(|e| broken(e.to_string()))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LONGEST).collect().await.map_err(|e| broken(e.to_string()))?.to_bytes();
    if !status.is_success() {
        let body = String::from_utf8_lossy(&body).into_owned();
        return Err(Error::Refused { socket: socket.to_owned(), path: path.to_owned(), status: status.as_u16(), body });
    }
    serde_json::from_slice(&body).map_err(|e| broken(format!("the answer is no JSON: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    fn answering(answer: &'static str) -> (tempfile::TempDir, PathBuf) {
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
        let (_directory, socket) = answering("HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\n{\"ready\":true}");
        assert_eq!(get(&socket, "/v1/status").unwrap()["ready"], true);
    }

    #[test]
    fn a_refusal_and_a_broken_answer_are_told_apart() {
        let (_directory, socket) = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone");
        assert!(matches!(get(&socket, "/v1/status"), Err(Error::Refused { status: 404, .. })));
        let (_directory, socket) = answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnone");
        assert!(matches!(get(&socket, "/v1/status"), Err(Error::Broken { .. })));
    }

    #[test]
    fn nobody_there_is_said() {
        let said = get(Path::new("/nowhere/d1.sock"), "/v1/status").unwrap_err().to_string();
        assert!(said.contains("/nowhere/d1.sock") && said.contains("does it run"), "{said}");
    }
}
