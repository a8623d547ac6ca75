//! Tests of the handler against an origin that fails on demand.

use super::*;
use crate::handlers::client::prefix;
use crate::handlers::testing::{ask, in_namespace, read_all, read_at, settle, start, wait};
use crate::handlers::testing_origin::{Form, Origin, Page};
use std::path::Path;

fn settings(url: &str, cache: &Path) -> Settings {
    Settings {
        url: prefix(url).unwrap(),
        cache: cache.to_owned(),
        cache_size: 256 << 20,
        ca: None,
        max_age: Duration::from_secs(3600),
        negative_ttl: Duration::from_secs(3600),
        stale_if_error: true,
        redirect_hosts: Vec::new(),
        forward_client: None,
        timeout: Duration::from_secs(20),
        max_connections: 8,
    }
}

/// Pseudo-random bytes.
fn bytes(size: usize, seed: u64) -> Arc<Vec<u8>> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33).to_le_bytes()
    };
    Arc::new((0..size / 8 + 1).flat_map(|_| next()).take(size).collect())
}

fn page(bytes: &Arc<Vec<u8>>, etag: &'static str) -> Page {
    Page { bytes: bytes.clone(), etag: Some(etag), ..Page::default() }
}

struct Fixture {
    origin: Origin,
    directory: tempfile::TempDir,
}

/// Runs a test with an origin, in a separate network namespace.
fn fixture(body: impl FnOnce(&Fixture) + Send + 'static) {
    in_namespace(|| {
        body(&Fixture { origin: Origin::start(), directory: tempfile::tempdir().unwrap() });
    });
}

impl Fixture {
    fn handler(&self, change: impl FnOnce(&mut Settings)) -> Http {
        let mut settings = settings(&self.origin.url(), self.directory.path());
        change(&mut settings);
        Http::new(settings).unwrap()
    }
}

/// Waits until the index has a file as complete, which may be later than its last byte is read.
fn whole(handler: &Http, name: &str) {
    let url = handler.shared.origin.url(name.as_bytes());
    let look_up = || handler.shared.index().look_up(&url, Duration::from_secs(3600), Instant::now());
    while !matches!(look_up(), Lookup::Fresh(object) if object.stage() == Stage::Complete) {
        std::thread::yield_now();
    }
}

fn get(handler: &Http, name: &str) -> Result<Vec<u8>, String> {
    let content = ask(handler, name.as_bytes()).map_err(|refusal| refusal.text.into_owned())?;
    let all = read_all(&content).map_err(|error| error.to_string())?;
    assert_eq!(content.size(), Some(all.len() as u64), "exactly the announced size");
    Ok(all)
}

#[test]
fn a_file_is_sent_during_the_fetch() {
    fixture(|w| {
        let file = bytes(1 << 20, 1);
        w.origin.put("/a%20b", page(&file, "\"1\""));
        w.origin.allow(Some(100_000));
        let handler = w.handler(|_| {});
        let content = ask(&handler, b"/a b").unwrap();
        assert_eq!(content.size(), Some(1 << 20), "known from the head of the answer");
        let mut buffer = vec![0; 100_000];
        let mut read = 0;
        while read < buffer.len() {
            read += read_at(&*content.0, read as u64, &mut buffer[read..]).unwrap();
        }
        assert!(buffer == file[..100_000]);
        w.origin.allow(None);
        assert!(read_all(&content).unwrap() == **file);
        assert_eq!(w.origin.log(), ["/a%20b"]);
    });
}

#[test]
fn a_thousand_clients_are_one_download() {
    fixture(|w| {
        let file = bytes(64 << 20, 2);
        w.origin.put("/big", page(&file, "\"1\""));
        w.origin.silent(true);
        let handler = w.handler(|_| {});
        let open = || start(&handler, b"big");
        let openings: Vec<_> = (0..500).map(|_| open()).collect();
        while handler.cache().report().coalesced < 499 {
            std::thread::yield_now();
        }
        w.origin.allow(Some(1 << 20));
        w.origin.silent(false);
        let mut contents: Vec<_> = openings.into_iter().map(|opening| settle(opening).unwrap()).collect();
        // The others arrive during the fetch.
        contents.extend((0..500).map(|_| settle(open()).unwrap()));
        w.origin.allow(None);
        // All of them read block by block, each at its own speed.
        let mut at = vec![0u64; contents.len()];
        let mut buffer = vec![0; 1 << 20];
        while at.iter().any(|at| *at < file.len() as u64) {
            for (index, (content, at)) in contents.iter().zip(&mut at).enumerate() {
                let len =
                    if index < 3 { read_at(&*content.0, *at, &mut buffer).unwrap() } else { buffer.len().min(file.len() - *at as usize) };
                if index < 3 {
                    assert!(buffer[..len] == file[*at as usize..][..len]);
                }
                *at += len as u64;
            }
        }
        // All of them have the end, which arrived last.
        for content in &contents {
            let from = file.len() - 1000;
            assert_eq!(read_at(&*content.0, from as u64, &mut buffer).unwrap(), 1000);
            assert!(buffer[..1000] == file[from..]);
        }
        assert_eq!(w.origin.log(), ["/big"]);
        let report = handler.cache().report();
        assert_eq!((report.misses, report.coalesced, report.hits, report.files, report.bytes), (1, 499, 500, 1, 64 << 20));
    });
}

#[test]
fn a_broken_fetch_is_continued_by_a_range() {
    fixture(|w| {
        let file = bytes(3 << 20, 3);
        w.origin.put("/f", page(&file, "\"1\""));
        w.origin.allow(Some(1 << 20));
        let handler = w.handler(|_| {});
        let content = ask(&handler, b"f").unwrap();
        read_at(&*content.0, (1 << 20) - 1, &mut [0]).unwrap();
        w.origin.cut(false);
        w.origin.allow(None);
        assert!(read_all(&content).unwrap() == **file);
        assert_eq!(w.origin.log(), ["/f", "/f range: bytes=1048576-3145727 if-range: \"1\""]);
    });
}

#[test]
fn an_origin_without_ranges_is_read_again_and_a_date_will_do_as_validator() {
    fixture(|w| {
        let file = bytes(3 << 20, 4);
        w.origin.put("/f", Page { bytes: file.clone(), dated: true, form: Form::Length, ..Page::default() });
        w.origin.allow(Some(1 << 20));
        let handler = w.handler(|_| {});
        let content = ask(&handler, b"f").unwrap();
        read_at(&*content.0, (1 << 20) - 1, &mut [0]).unwrap();
        w.origin.cut(false);
        w.origin.allow(None);
        assert!(read_all(&content).unwrap() == **file);
        assert_eq!(w.origin.log().len(), 2);
    });
}

#[test]
fn two_versions_are_never_mixed() {
    fixture(|w| {
        let (old, new) = (bytes(3 << 20, 5), bytes(3 << 20, 6));
        w.origin.put("/f", page(&old, "\"1\""));
        w.origin.allow(Some(1 << 20));
        let handler = w.handler(|_| {});
        let content = ask(&handler, b"f").unwrap();
        let mut buffer = vec![0; 4 << 20];
        read_at(&*content.0, (1 << 20) - 1, &mut buffer).unwrap();
        w.origin.put("/f", page(&new, "\"2\""));
        w.origin.cut(false);
        w.origin.allow(None);
        let error = read_all(&content).unwrap_err().to_string();
        assert!(error.contains("changed"), "{error}");
        let len = read_at(&*content.0, 0, &mut buffer).unwrap();
        assert!(buffer[..len] == old[..len], "available bytes are still of the old version");
        assert!(get(&handler, "f").unwrap() == **new, "the next transfer gets the new one");
    });
}

#[test]
fn with_a_dead_origin_cached_files_are_served_and_others_are_errors() {
    fixture(|w| {
        let (file, part) = (bytes(200_000, 7), bytes(3 << 20, 8));
        w.origin.put("/whole", page(&file, "\"1\""));
        w.origin.put("/part", page(&part, "\"1\""));
        let handler = w.handler(|settings| settings.max_age = Duration::ZERO);
        assert!(get(&handler, "whole").unwrap() == **file);
        whole(&handler, "whole");
        w.origin.allow(Some(1 << 20));
        let content = ask(&handler, b"part").unwrap();
        read_at(&*content.0, (1 << 20) - 1, &mut [0]).unwrap();
        w.origin.cut(true);
        let mut came: Vec<u8> = Vec::new();
        let error = loop {
            let mut buffer = vec![0; 100_000];
            match read_at(&*content.0, came.len() as u64, &mut buffer) {
                Ok(len) => came.extend(&buffer[..len]),
                Err(error) => break error.to_string(),
            }
        };
        assert!(came == part[..1 << 20]);
        assert!(error.contains("failed"), "{error}");
        assert!(get(&handler, "whole").unwrap() == **file, "stale, as configured");
        assert_eq!(get(&handler, "part"), Err("the origin of the file failed".into()));
        assert_eq!(get(&handler, "other"), Err("the origin of the file failed".into()));
        // The origin is back: the available part is not fetched again.
        w.origin.allow(None);
        w.origin.cut(false);
        assert!(get(&handler, "part").unwrap() == **part);
        assert_eq!(w.origin.log().last().unwrap(), "/part range: bytes=1048576-3145727 if-range: \"1\"");
    });
}

#[test]
fn stale_files_are_not_served_unless_configured() {
    fixture(|w| {
        w.origin.put("/f", page(&bytes(10, 9), "\"1\""));
        let handler = w.handler(|settings| (settings.stale_if_error, settings.max_age) = (false, Duration::ZERO));
        assert!(get(&handler, "f").is_ok());
        whole(&handler, "f");
        w.origin.put("/f", Page { status: 500, ..Page::default() });
        assert_eq!(get(&handler, "f"), Err("the origin of the file failed".into()));
    });
}

#[test]
fn an_unchanged_file_is_not_fetched_again() {
    fixture(|w| {
        let (old, new) = (bytes(100_000, 10), bytes(90_000, 11));
        w.origin.put("/f", page(&old, "\"1\""));
        let handler = w.handler(|settings| settings.max_age = Duration::ZERO);
        assert!(get(&handler, "f").unwrap() == **old);
        whole(&handler, "f");
        assert!(get(&handler, "f").unwrap() == **old);
        w.origin.put("/f", page(&new, "\"2\""));
        assert!(get(&handler, "f").unwrap() == **new);
        let changed = "/f if-none-match: \"1\"";
        assert_eq!(w.origin.log(), ["/f", changed, changed]);
    });
}

#[test]
fn missing_files_are_remembered_for_a_while() {
    fixture(|w| {
        let handler = w.handler(|_| {});
        for _ in 0..3 {
            assert_eq!(ask(&handler, b"none").err(), Some(Refusal::not_found()));
        }
        assert_eq!(w.origin.log(), ["/none"]);
        assert_eq!(ask(&handler, b"a/../../b").err(), Some(Refusal::access()));
        w.origin.put("/secret", Page { status: 403, ..Page::default() });
        assert_eq!(ask(&handler, b"secret").err(), Some(Refusal::access()));
        w.origin.put("/moved", Page { status: 302, ..Page::default() });
        assert_eq!(ask(&handler, b"moved").err(), Some(Refusal::failed("the origin of the file failed")));
    });
}

#[test]
fn without_size_or_validator_nothing_is_sent_before_the_file_is_complete() {
    fixture(|w| {
        let file = bytes(300_000, 12);
        for (form, etag) in [(Form::Chunked, Some("\"1\"")), (Form::Chunked, None), (Form::Length, None), (Form::Ranges, Some("W/\"1\""))] {
            w.origin.put("/f", Page { bytes: file.clone(), etag, form, ..Page::default() });
            let directory = tempfile::tempdir().unwrap();
            let handler = w.handler(|settings| settings.cache = directory.path().into());
            let requests = w.origin.log().len();
            w.origin.allow(Some(200_000));
            let opening = start(&handler, b"f");
            w.origin.wait_requests(requests + 1);
            w.origin.allow(None);
            let content = settle(opening).unwrap();
            assert_eq!(content.size(), Some(300_000));
            assert_eq!(content.version(), Content::bytes(&file[..]).version(), "the tag of the bytes");
            assert!(read_all(&content).unwrap() == **file);
        }
        w.origin.put("/cut", Page { bytes: file.clone(), form: Form::Chunked, ..Page::default() });
        let handler = w.handler(|_| {});
        w.origin.allow(Some(1000));
        let requests = w.origin.log().len();
        let opening = start(&handler, b"cut");
        w.origin.wait_requests(requests + 1);
        w.origin.cut(false);
        assert!(settle(opening).is_err(), "a truncated answer is not a complete file");
        w.origin.allow(None);
        w.origin.put("/endless", Page { bytes: file.clone(), form: Form::NoLength, ..Page::default() });
        assert!(ask(&handler, b"endless").is_err());
    });
}

#[test]
fn a_transfer_far_ahead_does_not_wait_for_earlier_bytes() {
    fixture(|w| {
        let file = bytes(40 << 20, 13);
        w.origin.put("/f", page(&file, "\"1\""));
        w.origin.allow(Some(1 << 20));
        let handler = w.handler(|_| {});
        let content = ask(&handler, b"f").unwrap();
        // As after a takeover: the first read is at the end.
        let (mut buffer, at) = (vec![0; 1000], (39u64 << 20) + 5);
        let mut first = true;
        let len = wait(|context| {
            let poll = content.0.poll_read_at(context, at, &mut buffer);
            if std::mem::take(&mut first) {
                w.origin.allow(None);
            }
            poll
        });
        let len = len.unwrap();
        assert!(buffer[..len] == file[at as usize..][..len]);
        assert!(read_all(&content).unwrap() == **file, "the rest is fetched, too");
        assert!(w.origin.log()[1].starts_with("/f range: bytes=40894469-"), "{:?}", w.origin.log());
    });
}

#[test]
fn the_cache_outlives_the_server() {
    fixture(|w| {
        let file = bytes(100_000, 14);
        w.origin.put("/f", page(&file, "\"1\""));
        let directory = w.directory.path().join("deep/cache");
        {
            let handler = w.handler(|settings| settings.cache = directory.clone());
            assert!(get(&handler, "f").unwrap() == **file);
            // A file is complete for readers before it is on disk.
            while !directory.join("0.whole").exists() {
                std::thread::yield_now();
            }
        }
        let handler = loop {
            let mut settings = settings(&w.origin.url(), &directory);
            settings.max_age = Duration::from_secs(3600);
            // The task that wrote the file may still hold the directory for a moment.
            match Http::new(settings) {
                Ok(handler) => break handler,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}"),
            }
        };
        assert!(get(&handler, "f").unwrap() == **file);
        assert!(get(&handler, "f").unwrap() == **file);
        assert_eq!(w.origin.log(), ["/f", "/f if-none-match: \"1\""], "asked whether it has changed, once");
    });
}

#[test]
fn a_file_that_does_not_fit_is_refused() {
    fixture(|w| {
        w.origin.put("/big", page(&bytes(9000, 15), "\"1\""));
        w.origin.put("/small", page(&bytes(8000, 16), "\"1\""));
        let handler = w.handler(|settings| settings.cache_size = 8192);
        assert!(get(&handler, "big").is_err_and(|e| e.contains("does not fit")));
        assert!(get(&handler, "small").is_ok());
    });
}

#[test]
fn redirects_are_followed_and_the_client_is_named() {
    fixture(|w| {
        let (file, elsewhere) = (bytes(100_000, 9), Origin::start());
        let to = |location: String| Page { status: 302, location, ..Page::default() };
        elsewhere.put("/cdn/f", page(&file, "\"1\""));
        w.origin.put("/f", to("/g".into()));
        w.origin.put("/g", to(format!("{}cdn/f", elsewhere.url())));
        w.origin.put("/loop", to("/loop".into()));
        w.origin.put("/nowhere", Page { status: 302, ..Page::default() });
        let host = elsewhere.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
        let name = || Some(HeaderName::from_static("x-client"));
        let strict = w.handler(|settings| settings.forward_client = name());
        assert!(get(&strict, "f").is_err());
        assert_eq!(
            (w.origin.log(), elsewhere.log()),
            (vec!["/f x-client: 10.0.0.7".into(), "/g x-client: 10.0.0.7".into()], Vec::<String>::new())
        );
        drop(strict);
        let other = tempfile::tempdir().unwrap();
        let handler = w.handler(|settings| {
            (settings.cache, settings.redirect_hosts, settings.forward_client) = (other.path().to_owned(), vec![host], name());
            settings.max_age = Duration::ZERO;
        });
        assert!(get(&handler, "f").unwrap() == *file);
        whole(&handler, "f");
        assert!(get(&handler, "f").unwrap() == *file, "asked again, and unchanged");
        let asked = elsewhere.log();
        assert_eq!(asked, ["/cdn/f x-client: 10.0.0.7", "/cdn/f if-none-match: \"1\" x-client: 10.0.0.7"]);
        let before = w.origin.log().len();
        assert!(get(&handler, "loop").is_err() && get(&handler, "nowhere").is_err());
        assert_eq!(w.origin.log().len() - before, redirects::MAX_REDIRECTS + 1 + 1, "bounded");
    });
}
