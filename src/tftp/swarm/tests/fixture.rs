//! Tests against our own server, in this process.

use super::*;
use crate::directory::{Directory, DirectoryOptions};
use crate::engine::{Config, Running, Server as Engine};
use crate::options::{Limits, Rollover};
use std::sync::Arc;

/// Serves a directory at a loopback port chosen by the kernel.
fn serve(address: &str, limits: Limits) -> (Running, tempfile::TempDir, SocketAddr) {
    let directory = tempfile::tempdir().unwrap();
    let handler = Directory::new(directory.path(), DirectoryOptions::default()).unwrap();
    let config = Config { limits, ..Config::listen(address.parse().unwrap()) };
    let running = Engine::bind(config, Arc::new(handler), Arc::new(())).unwrap().start().unwrap();
    let server = running.addresses()[0];
    (running, directory, server)
}

fn file(directory: &tempfile::TempDir, name: &str, length: usize) -> digests::Sha256Sum {
    let mut content = vec![0; length];
    fastrand::Rng::with_seed(length as u64).fill(&mut content);
    std::fs::write(directory.path().join(name), &content).unwrap();
    Sha256::digest(&content).into()
}

#[test]
fn every_block_and_window_size_over_both_families() {
    let limits = Limits { blksize_by_mtu: false, ..Limits::default() };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (_running, directory, server) = serve(address, limits);
        for length in [0, 7, 65464, 1_000_001] {
            let sum = file(&directory, "f", length);
            for blksize in [512, 1428, 8192, 65464] {
                for windowsize in [1, 16, 64] {
                    let ask = vec![RequestOption::Tsize(0), RequestOption::Blksize(blksize), RequestOption::Windowsize(windowsize)];
                    let (done, _) = fetch(TransferPlan { ask, ..TransferPlan::new(server, "f") }).unwrap();
                    // The server caps windows at 1 MiB.
                    let granted = windowsize.min(u16::try_from((1 << 20) / u32::from(blksize)).unwrap());
                    assert_eq!((done.sha256, done.negotiated.blksize, done.negotiated.windowsize), (sum, blksize, granted));
                }
            }
        }
    }
}

#[test]
fn more_than_65535_blocks_with_both_rollovers() {
    for rollover in [Rollover::Zero, Rollover::One] {
        let (_running, directory, server) = serve("127.0.0.1:0", Limits { rollover, ..Limits::default() });
        let sum = file(&directory, "f", 8 * 66_000 + 5);
        for windowsize in [1, 16] {
            // In lock-step the client learns the rollover.
            let known = (windowsize > 1).then_some(rollover);
            let plan = TransferPlan {
                ask: vec![RequestOption::Blksize(8), RequestOption::Windowsize(windowsize)],
                rollover: known,
                ..TransferPlan::new(server, "f")
            };
            assert_eq!(fetch(plan).unwrap().0.sha256, sum, "{rollover:?} {windowsize}");
        }
    }
}

#[test]
fn a_swarm_of_all_kinds_through_a_bad_network() {
    let (_running, directory, server) = serve("127.0.0.1:0", Limits::default());
    let list = HashMap::from([("a".to_owned(), file(&directory, "a", 40_000)), ("b".to_owned(), file(&directory, "b", 1468 * 4))]);
    let bad = Rates { lose: 0.02, duplicate: 0.02, reorder: 0.02 };
    for faults in [Rates::default(), bad] {
        let settings = Settings {
            server,
            clients: 44,
            transfers: 400,
            files: vec!["a".into(), "b".into()],
            mix: Mix::default(),
            faults,
            bind: Some("127.0.0.0/24".parse().unwrap()),
            rate: None,
            timing: Timing::default(),
            seed: 3,
            limit: Duration::from_secs(60),
            threads: 2,
        };
        let tally = run(&settings, &Expected::new(&settings.files, &list), &mut || {}, &mut |_| {}).unwrap();
        assert_eq!((tally.transfers().verified, tally.transfers().failed), (400, 0), "{}", tally.text());
        assert!(faults.is_clean() || tally.wire.retransmits > 0);
    }
}
