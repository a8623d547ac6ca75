//! Requests over sockets, byte by byte.

use super::{HttpServer, Limits};
use crate::report::{Observer, Totals, TransferReport};
use crate::{Config, Content, Counter, Handler, Opened, Protocol, Refusal, Request, Running, Server};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const LONG: usize = 8 << 20;

/// Answers in every way there is.
struct Every;

impl Handler for Every {
    async fn open(&self, request: Request) -> Opened {
        assert_eq!((request.protocol, request.write), (Protocol::Http, false));
        match &*request.name() {
            "digits" | "a b/\u{e4}" => Ok(Content::bytes("0123456789")),
            "empty" => Ok(Content::bytes("")),
            "long" => {
                let file = tempfile::tempfile().unwrap();
                file.set_len(LONG as u64).unwrap();
                Ok(Content::file(file).unwrap())
            }
            "changed" => {
                let file = tempfile::NamedTempFile::new().unwrap();
                file.as_file().set_len(LONG as u64).unwrap();
                let content = Content::file(file.reopen().unwrap());
                std::io::Write::write_all(&mut file.as_file(), b"x").unwrap();
                Ok(content.unwrap())
            }
            "stream" => Ok(Content::reader(&b"streamed"[..], None)),
            "short" => Ok(Content::reader(&b"streamed"[..], Some(9))),
            "stuck" => Ok(Content::reader(tokio::io::empty().chain(tokio::io::duplex(1).0), Some(9))),
            "never" => std::future::pending().await,
            "panic" => panic!("a mistake of the handler"),
            "denied" => Err(Refusal::access()),
            "silent" => Err(Refusal::silent()),
            "failed" => Err(Refusal::failed("no luck")),
            _ => Err(Refusal::not_found()),
        }
    }
}

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<Ended>>>);

/// File, outcome and bytes.
type Ended = (String, &'static str, u64);

impl Observer for Seen {
    fn finished(&self, report: &TransferReport) {
        assert_eq!(report.protocol, Protocol::Http);
        let file = String::from_utf8_lossy(report.file()).into_owned();
        self.0.lock().unwrap().push((file, report.outcome.name(), report.bytes_sent));
    }
}

struct Fixture {
    running: Running,
    address: SocketAddr,
    seen: Seen,
}

impl Fixture {
    fn start(limits: Limits) -> Fixture {
        let mut config = Config::listen("127.0.0.1:0".parse().unwrap());
        config.open_timeout = Duration::from_millis(300);
        config.retransmission.min_give_up = Duration::from_millis(300);
        let seen = Seen::default();
        let running = Server::bind(config, Every, seen.clone()).unwrap().start().unwrap();
        let mut http = HttpServer::new(limits);
        http.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = http.addresses()[0];
        http.start(&running.handle().service()).unwrap();
        Fixture { running, address, seen }
    }

    /// Sends bytes and returns all that comes until the server closes the connection.
    async fn ask(&self, bytes: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut got = Vec::new();
        timeout(Duration::from_secs(10), stream.read_to_end(&mut got)).await.unwrap().unwrap();
        String::from_utf8_lossy(&got).into_owned()
    }

    async fn get(&self, path: &str, fields: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n{fields}\r\n")).await
    }

    /// Ends the server; its counters, and what its observer has seen.
    async fn end(self) -> (Totals, Vec<Ended>) {
        let statistics = self.running.statistics().clone();
        self.running.shutdown(Duration::from_secs(5)).await.unwrap();
        let seen = std::mem::take(&mut *self.seen.0.lock().unwrap());
        (statistics.totals(), seen)
    }
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[tokio::test]
async fn each_answer_of_a_handler_has_its_status() {
    let server = Fixture::start(Limits::default());
    for (path, expected, text) in [
        ("/digits", "200", "0123456789"),
        ("/digits?mac=02", "200", "0123456789"),
        ("/a%20b%2F%C3%A4", "200", "0123456789"),
        ("http://other/digits", "200", "0123456789"),
        ("/empty", "200", ""),
        ("/missing", "404", "file not found\n"),
        ("/", "404", "file not found\n"),
        ("/denied", "403", "access denied\n"),
        ("/a%00b", "403", "the name holds a NUL\n"),
        ("/failed", "500", "no luck\n"),
        ("/panic", "500", "the server failed\n"),
        ("/silent", "503", "not answered\n"),
        ("/never", "503", "the server is overloaded\n"),
    ] {
        let answer = server.get(path, "").await;
        assert_eq!((status(&answer), body(&answer)), (expected, text), "{path}: {answer}");
        assert_eq!(answer.contains("Retry-After: "), expected == "503", "{answer}");
    }
    let answer = server.ask("PUT /digits HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxy").await;
    assert!(status(&answer) == "405" && answer.contains("Allow: GET, HEAD\r\n"), "{answer}");
    let streamed = server.get("/stream", "").await;
    assert!(
        streamed.contains("Transfer-Encoding: chunked") && body(&streamed).contains("streamed") && !streamed.contains("Etag"),
        "{streamed}"
    );
    let cut = server.get("/short", "").await;
    assert!(cut.contains("Content-Length: 9\r\n") && body(&cut).len() < 9, "the client sees that a byte is missing: {cut}");
    let (totals, seen) = server.end().await;
    let of = |counter| totals.get(counter);
    assert_eq!((of(Counter::HttpConnections), of(Counter::HttpRequests), of(Counter::HttpInvalid)), (16, 16, 2));
    assert_eq!((of(Counter::Started), of(Counter::Done), of(Counter::Refused), of(Counter::Failed)), (14, 6, 7, 1));
    assert_eq!((of(Counter::HandlerPanics), of(Counter::Overloaded), of(Counter::Requests), totals.open()), (1, 1, 0, 0));
    assert_eq!(of(Counter::BytesSent), 4 * 10 + 8 + 8);
    assert_eq!(seen.len(), 14);
    assert!(seen.contains(&("a b/\u{e4}".to_owned(), "done", 10)) && seen.contains(&("short".to_owned(), "failed", 8)), "{seen:?}");
}

#[tokio::test]
async fn heads_parts_and_versions() {
    let server = Fixture::start(Limits::default());
    let whole = server.get("/digits", "").await;
    let tag = whole.lines().find_map(|line| line.strip_prefix("Etag: ")).unwrap().to_owned();
    assert!(tag.len() == 34 && whole.contains("Accept-Ranges: bytes\r\n"), "{whole}");
    let head = server.ask("HEAD /digits HTTP/1.1\r\nHost: t\r\nRange: bytes=1-2\r\nConnection: close\r\n\r\n").await;
    assert!(status(&head) == "200" && head.contains("Content-Length: 10\r\n") && body(&head).is_empty(), "{head}");
    let head = server.ask("HEAD /stream HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n").await;
    assert!(status(&head) == "200" && !head.contains("Content-Length") && body(&head).is_empty(), "{head}");
    for (fields, expected, text, range) in [
        ("Range: bytes=2-4\r\n".to_owned(), "206", "234", "bytes 2-4/10"),
        ("Range: bytes=-2\r\n".to_owned(), "206", "89", "bytes 8-9/10"),
        (format!("Range: bytes=9-\r\nIf-Range: {tag}\r\n"), "206", "9", "bytes 9-9/10"),
        ("Range: bytes=9-\r\nIf-Range: \"other\"\r\n".to_owned(), "200", "0123456789", ""),
        ("Range: bytes=0-1,4-5\r\n".to_owned(), "200", "0123456789", ""),
        ("Range: bytes=10-\r\n".to_owned(), "416", "the range is not in the file\n", "bytes */10"),
        (format!("If-None-Match: {tag}\r\n"), "304", "", ""),
        (format!("If-None-Match: \"x\", W/{tag}\r\n"), "304", "", ""),
        ("If-None-Match: \"x\"\r\n".to_owned(), "200", "0123456789", ""),
    ] {
        let answer = server.get("/digits", &fields).await;
        assert_eq!((status(&answer), body(&answer)), (expected, text), "{fields}: {answer}");
        assert_eq!(answer.contains("Content-Range: "), !range.is_empty(), "{answer}");
        assert!(range.is_empty() || answer.contains(&format!("Content-Range: {range}\r\n")), "{answer}");
    }
    let mixed = server.get("/changed", "Range: bytes=0-9\r\n").await;
    assert!(body(&mixed).is_empty(), "a part may not be of two versions: {mixed}");
    let ignored = server.get("/stream", "Range: bytes=1-2\r\nIf-None-Match: \"00000000000000000000000000000000\"\r\n").await;
    assert!(status(&ignored) == "200" && body(&ignored).contains("streamed"), "a stream is only read from its front: {ignored}");
    let (totals, _) = server.end().await;
    assert_eq!([Counter::Done, Counter::Probed, Counter::Refused, Counter::Aborted].map(|counter| totals.get(counter)), [10, 2, 1, 0]);
}

#[tokio::test]
async fn clients_and_content_that_hang_are_given_up() {
    let server = Fixture::start(Limits { idle: Duration::from_millis(300), ..Limits::default() });
    let begun = Instant::now();
    // A client that takes nothing: the kernel buffers less than the file.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(server.address).await.unwrap();
    slow.write_all(b"GET /long HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let stuck = server.get("/stuck", "").await;
    assert!(status(&stuck) == "200" && body(&stuck).is_empty(), "{stuck}");
    // Idle before a request, in its head, and after an answer.
    for sent in ["", "GET /dig", "GET /digits HTTP/1.1\r\nHost: t\r\n\r\n"] {
        let answer = server.ask(sent).await;
        assert_eq!(answer.is_empty(), !sent.ends_with("\r\n"), "{answer}");
    }
    while server.running.statistics().totals().open() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the slow client is not given up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut got = Vec::new();
    // It was cut.
    let _reset = slow.read_to_end(&mut got).await;
    assert!(got.len() < LONG / 2, "{}", got.len());
    let (totals, seen) = server.end().await;
    assert_eq!([Counter::Done, Counter::Aborted, Counter::Failed].map(|counter| totals.get(counter)), [1, 1, 1], "{seen:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_get_503_and_others_stay() {
    let server = Fixture::start(Limits { per_client: 2, ..Limits::default() });
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // One connection serves several requests, also without a pause.
        stream.write_all(b"GET /digits HTTP/1.1\r\nHost: t\r\n\r\nGET /digits HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
        let mut got = String::new();
        while got.matches("0123456789").count() < 2 {
            let mut piece = [0; 1000];
            let len = timeout(Duration::from_secs(10), stream.read(&mut piece)).await.unwrap().unwrap();
            assert!(len > 0, "{got}");
            got.push_str(std::str::from_utf8(&piece[..len]).unwrap());
        }
        kept.push(stream);
    }
    let refused = server.ask("GET /digits HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert!(status(&refused) == "503" && refused.contains("Retry-After: 1\r\n") && refused.contains("onnection: close"), "{refused}");
    drop(kept.pop());
    let begun = Instant::now();
    while status(&server.get("/digits", "").await) != "200" {
        assert!(begun.elapsed() < Duration::from_secs(10), "a place is given back");
    }
    let (totals, _) = server.end().await;
    assert!(totals.get(Counter::HttpConnectionsRefused) >= 1);
}

#[tokio::test]
async fn a_reload_serves_anew_and_a_drain_ends_what_runs() {
    let server = Fixture::start(Limits::default());
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /long HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    let mut first = [0; 100];
    slow.read_exact(&mut first).await.unwrap();
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /digits HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    idle.read_exact(&mut first).await.unwrap();
    server.running.handle().set_handler(crate::handler_fn(|_: &Request| Ok("new".into())));
    assert_eq!(body(&server.get("/digits", "").await), "new");
    let address = server.address;
    let ending = tokio::spawn(server.end());
    let mut rest = Vec::new();
    timeout(Duration::from_secs(10), idle.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "no new connections");
    assert!(!ending.is_finished());
    slow.read_to_end(&mut rest).await.unwrap();
    assert!(rest.len() > LONG, "{}", rest.len());
    let (totals, _) = ending.await.unwrap();
    assert_eq!((totals.get(Counter::Done), totals.get(Counter::Stopped)), (3, 0));
}
