//! The engine against any datagrams in any order.

use super::super::event_loop::{EventLoop, EventLoopParts};
use super::super::sys::Received;
use super::*;
use crate::handler::{Opened, SharedHandler};
use crate::handlers::testing::runtime;
use crate::packet::put_data_header;
use crate::writable::{Settings, WithUploads, Writable};
use guideway_packet::time::Time;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[derive(Clone, Debug)]
enum Event {
    Bytes(u8, Vec<u8>),
    Request(u8, u8, u16, u16),
    Ack(u8, u16),
    Error(u8, u16),
    Write(u8, u8, u16, u16),
    Data(u8, u16, u16),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u8..6, proptest::collection::vec(any::<u8>(), 0..60)).prop_map(|(c, b)| Event::Bytes(c, b)),
        (0u8..6, 0u8..5, 0u16..3000, 0u16..70).prop_map(|(c, f, b, w)| Event::Request(c, f, b, w)),
        (0u8..6, prop_oneof![0u16..70, any::<u16>()]).prop_map(|(c, n)| Event::Ack(c, n)),
        (0u8..6, 0u16..10).prop_map(|(c, n)| Event::Error(c, n)),
        (0u8..6, 0u8..6, 0u16..40, 0u16..5).prop_map(|(c, f, b, w)| Event::Write(c, f, b, w)),
        (0u8..6, 0u16..9, 0u16..40).prop_map(|(c, n, len)| Event::Data(c, n, len)),
        (1u64..3000).prop_map(Event::Wait),
    ]
}

/// Opens some files at once and others later.
struct Files;

impl Handler for Files {
    async fn open(&self, request: Request) -> Opened {
        match request.file().first() {
            Some(b'2') => std::future::pending().await,
            Some(b'3') => Ok(Content::from_source(Arc::new(Stream(Mutex::new((vec![1; 3000], false, None)))))),
            _ => Err(Refusal::not_found()),
        }
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        match request.file().first()? {
            b'0' => Some(Ok(Content::bytes(vec![1; 100_000]))),
            b'1' => Some(Ok(Content::bytes(""))),
            _ => None,
        }
    }
}

/// For any datagrams in any order, the loop does not panic, loses no session, and keeps its limits.
fn hostile(events: &[Event]) -> Result<(), TestCaseError> {
    let directory = tempfile::tempdir().unwrap();
    let writable = Writable::new(directory.path(), Settings { limit: 60, concurrent: 2, ..Settings::default() }).unwrap();
    let handler = SharedHandler::new(WithUploads::new(Files, writable));
    let config = Config { max_transfers: 4, max_per_client: 3, ..Config::listen(local(0)) };
    let _in_runtime = runtime().enter();
    let channel = Arc::new(EventChannel::new().unwrap());
    let sockets = sockets::open(&config, 0).unwrap();
    let counters = Arc::new(Counters::default());
    let statistics = Statistics::new(vec![Arc::clone(&counters)]);
    let parts = EventLoopParts {
        config,
        sockets,
        tunnel: None,
        openers: Openers::new(runtime().handle().clone(), handler, Arc::clone(&channel), false),
        reports: Reports::new(None),
        counters,
        channel,
    };
    let mut event_loop = EventLoop::new(parts);
    let mut due = Vec::new();
    for event in events {
        let mut bytes = Vec::new();
        let client = match event {
            Event::Wait(ms) => {
                event_loop.now = Time(event_loop.now.0 + ms * 1_000_000);
                event_loop.timers(&mut due);
                continue;
            }
            Event::Bytes(client, raw) => {
                bytes.extend(raw);
                client
            }
            Event::Request(client, file, blksize, window) => {
                let (blksize, window) = (blksize.to_string(), window.to_string());
                let options = [(&b"blksize"[..], blksize.as_bytes()), (b"windowsize", window.as_bytes())];
                put_request(&mut bytes, false, file.to_string().as_bytes(), if file % 2 == 0 { b"octet" } else { b"netascii" }, options);
                client
            }
            Event::Ack(client, number) => {
                put_ack(&mut bytes, *number);
                client
            }
            Event::Write(client, file, blksize, window) => {
                let (blksize, window) = (blksize.to_string(), window.to_string());
                let options = [(&b"blksize"[..], blksize.as_bytes()), (b"windowsize", window.as_bytes()), (b"tsize", b"50")];
                let name = ["a", "b", "../c", "d/e", ".f", ""][usize::from(*file)];
                put_request(&mut bytes, true, name.as_bytes(), if file % 2 == 0 { b"octet" } else { b"netascii" }, options);
                client
            }
            Event::Data(client, number, length) => {
                put_data_header(&mut bytes, *number);
                bytes.resize(bytes.len() + usize::from(*length), b'\r');
                client
            }
            Event::Error(client, code) => {
                put_error(&mut bytes, ErrorCode(*code), b"text");
                client
            }
        };
        let from = SocketAddr::from(([127, 0, 0, 2 + client / 4], 9 + u16::from(*client)));
        for index in [0, 1] {
            event_loop.datagram(index, &Received { from, local: None, bytes: &bytes, truncated: false, broadcast: false });
        }
        event_loop.drain_channel();
        prop_assert!(event_loop.sessions.len() <= 4);
        event_loop.sessions.check(3);
        prop_assert_eq!(statistics.totals().open(), event_loop.sessions.len() as u64);
    }
    event_loop.close_all();
    for entry in directory.path().read_dir().unwrap().map(|entry| entry.unwrap()) {
        prop_assert!(["a", "b"].contains(&entry.file_name().to_str().unwrap()), "{entry:?}");
        prop_assert!(entry.metadata().unwrap().len() <= 60, "{entry:?}");
    }
    prop_assert_eq!((event_loop.sessions.len(), statistics.totals().open()), (0, 0));
    Ok(())
}

#[test]
fn hostile_datagrams() {
    in_namespace(|| {
        let mut runner = TestRunner::default();
        runner.run(&proptest::collection::vec(event(), 0..80), |events| hostile(&events)).unwrap();
    });
}
