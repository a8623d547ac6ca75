//! One slow file, handler, observer or reader stops no other client.

use super::*;
use crate::content::ReadAt;
use nix::mount::{MsFlags, mount};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Condvar;
use std::time::Instant;

/// Longest pause of an honest transfer.
const PAUSE: Duration = Duration::from_millis(100);

/// Fetches a small file ten times and returns the median of the times that it took: single ones are those of a busy machine.
fn honest(file: &str) -> Duration {
    let fetch = || {
        let since = Instant::now();
        let client = Client::ask(local(69), file, &[]);
        let tid = client.data(1, b"hello");
        client.ack(tid, 1);
        since.elapsed()
    };
    let mut times: Vec<Duration> = (0..10).map(|_| fetch()).collect();
    times.sort_unstable();
    times[5]
}

/// Mounts a file system whose server never answers, in a mount namespace of this thread. It ends with the returned file.
fn hanging_mount(at: &Path) -> std::fs::File {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    let fuse = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
    let data = format!("fd={},rootmode=40755,user_id=0,group_id=0", fuse.as_raw_fd());
    mount(Some("hanging"), at, Some("fuse"), MsFlags::empty(), Some(data.as_str())).unwrap();
    fuse
}

#[test]
fn a_mount_that_hangs_delays_no_other_file() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "hello").unwrap();
        std::fs::create_dir(dir.path().join("nfs")).unwrap();
        let fuse = hanging_mount(&dir.path().join("nfs"));
        let (running, _) = serve(Config::listen(local(69)), Directory::new(dir.path(), DirectoryOptions::default()).unwrap());
        // More names than threads that may wait for them, and each from several clients.
        let _hanging: Vec<Client> = (0..100).map(|n| Client::ask(local(69), &format!("nfs/{}", n % 25), &[])).collect();
        until(&running, "they are being opened", |totals| totals.get(Counter::Started) == 100);
        let median = honest("f");
        assert!(median < PAUSE, "{median:?}");
        // Also a file whose name the kernel has not cached.
        std::fs::write(dir.path().join("new"), "hello").unwrap();
        let median = honest("new");
        assert!(median < PAUSE, "{median:?}");
        drop(fuse);
    });
}

#[test]
fn a_handler_or_observer_that_panics_is_counted_and_the_others_go_on() {
    struct Mistaken;
    impl Observer for Mistaken {
        fn started(&self, _: &Request) {
            panic!("an observer panics");
        }
        fn finished(&self, _: &TransferReport) {
            panic!("an observer panics");
        }
    }
    in_namespace(|| {
        let handler = |request: Request| {
            assert_ne!(&*request.name(), "early", "a handler panics before it returns a future");
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                assert_ne!(&*request.name(), "late", "a handler panics in its future");
                Ok(Content::bytes("hello"))
            }
        };
        let running = Server::bind(Config::listen(local(69)), handler, Mistaken).unwrap().start().unwrap();
        for file in ["early", "late"] {
            Client::ask(local(69), file, &[]).error(ErrorCode::NOT_DEFINED);
        }
        let median = honest("f");
        assert!(median < PAUSE, "{median:?}");
        until(&running, "all are counted", |totals| {
            totals.get(Counter::HandlerPanics) == 2 && totals.get(Counter::ObserverPanics) == 24 && totals.get(Counter::Done) == 10
        });
        assert!(!running.has_ended());
    });
}

#[test]
fn an_observer_or_a_reader_that_hangs_delays_no_transfer() {
    /// Hangs until it is released.
    #[derive(Clone, Default)]
    struct Hanging(Arc<(Mutex<bool>, Condvar)>);
    impl Hanging {
        fn wait(&self) {
            let _released = self.0.1.wait_while(self.0.0.lock().unwrap(), |released| !*released).unwrap();
        }
    }
    impl ReadAt for Hanging {
        fn size(&self) -> Option<u64> {
            Some(5)
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<usize> {
            self.wait();
            Ok(0)
        }
    }
    impl Observer for Hanging {
        fn finished(&self, _: &TransferReport) {
            self.wait();
        }
    }
    in_namespace(|| {
        let hanging = Hanging::default();
        let reader = hanging.clone();
        let handler = handler_fn(move |request| match &*request.name() {
            "hangs" => Ok(Content::random_access(reader.clone())),
            _ => Ok(Content::bytes("hello")),
        });
        let running = Server::bind(Config::listen(local(69)), handler, hanging.clone()).unwrap().start().unwrap();
        let _clients: Vec<Client> = (0..20).map(|_| Client::ask(local(69), "hangs", &[])).collect();
        let median = honest("f");
        assert!(median < PAUSE, "{median:?}");
        until(&running, "they end", |totals| totals.get(Counter::Done) == 10);
        *hanging.0.0.lock().unwrap() = true;
        hanging.0.1.notify_all();
    });
}

#[test]
fn content_in_memory_is_not_hashed_for_reports() {
    struct Versions(Mutex<Vec<Option<Version>>>);
    impl Observer for Versions {
        fn finished(&self, report: &TransferReport) {
            self.0.lock().unwrap().push(report.version);
        }
    }
    in_namespace(|| {
        let versions = Arc::new(Versions(Mutex::default()));
        let handler = handler_fn(|_| Ok(Content::bytes("hello")));
        let running = Server::bind(Config::listen(local(69)), handler, versions.clone()).unwrap().start().unwrap();
        honest("f");
        running.stop().unwrap();
        assert_eq!(*versions.0.lock().unwrap(), [None; 10]);
    });
}

#[test]
fn a_server_that_is_shut_down_lets_transfers_end() {
    in_namespace(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let handler = handler_fn(|_| Ok(Content::bytes(vec![7; 600])));
        let mut config = Config::listen(local(69));
        config.runtime = Some(runtime.handle().clone());
        let server = Server::bind(config, handler, ()).unwrap();
        let (handle, statistics) = (server.handle(), server.statistics().clone());
        let served = runtime.spawn(server.serve());
        let client = Client::ask(local(69), "f", &[]);
        let tid = client.data(1, &[7; 512]);
        handle.shutdown(Duration::from_secs(60));
        // The order reaches the loop before this request, which is not answered.
        while statistics.totals().get(Counter::Shed) == 0 {
            let _late = Client::ask(local(69), "g", &[]);
            std::thread::yield_now();
        }
        client.ack(tid, 1);
        client.data(2, &[7; 88]);
        client.ack(tid, 2);
        runtime.block_on(served).unwrap().unwrap();
        assert_eq!(statistics.totals().get(Counter::Done), 1);
    });
}
