//! The plainest client: bytes out, status and document back. It sends what no HTTP library would.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longer than any time-out of the director's: who answers later, hangs.
const TIMEOUT: Duration = Duration::from_secs(25);

/// An answer; `document` is null if there was none, `status` 0 if the connection was closed without a word.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub document: Value,
}

/// Sends bytes, says that there are no more, and reads to the end.
pub fn send(socket: &Path, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.set_write_timeout(Some(TIMEOUT)).unwrap();
    // Who is refused early may find the other end closed already: the answer counts.
    let _early = stream.write_all(bytes);
    let _early = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_ne!(
            error.kind(),
            std::io::ErrorKind::WouldBlock,
            "no answer to {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(200)])
        );
    }
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, document: serde_json::from_str(body).unwrap_or_default() }
}

/// A whole request with these headers, each ended by a line end, and this body.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{headers}").into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
