//! Files that are sent from a mapping, and changes of them during a transfer.

use super::*;
use std::os::unix::fs::FileExt;
use std::path::Path;

const BLOCK: usize = 1024;
const WINDOW: u16 = 4;
/// The last block has one byte.
const SIZE: usize = (1 << 20) + 1;

fn bytes() -> Vec<u8> {
    (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Starts a server with such a file and a client that has its first window. Returns them and the server's port.
fn under_way(dir: &Path) -> (Running, Arc<Outcomes>, Client, SocketAddr) {
    std::fs::write(dir.join("image"), bytes()).unwrap();
    std::fs::write(dir.join("small"), "small").unwrap();
    let (running, outcomes) = serve(Config::listen(local(69)), Directory::new(dir, DirectoryOptions::default()).unwrap());
    // A time-out that does not expire while this thread is not scheduled.
    let client = Client::ask(local(69), "image", &[("blksize", "1024"), ("windowsize", "4"), ("timeout", "30")]);
    let (oack, tid) = client.receive();
    assert_eq!(oack, b"\0\x06blksize\x001024\0windowsize\x004\0timeout\x0030\0");
    client.ack(tid, 0);
    window(&client, 1, &bytes());
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    assert!(maps.contains(dir.join("image").to_str().unwrap()), "it is sent from a mapping");
    (running, outcomes, client, tid)
}

/// Expects blocks of `bytes` from this one on; returns the number of the last one.
fn window(client: &Client, first: u16, bytes: &[u8]) -> u16 {
    let blocks = bytes[usize::from(first - 1) * BLOCK..].chunks(BLOCK).zip(first..first + WINDOW);
    blocks.fold(0, |_, (data, block)| (client.data(block, data), block).1)
}

#[test]
fn a_file_is_sent_to_its_last_byte_and_lost_blocks_again() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let (running, _, client, tid) = under_way(dir.path());
        let mut last = WINDOW;
        while usize::from(last) * BLOCK < SIZE {
            // The last two blocks of some windows are lost.
            last -= if last.is_multiple_of(10) { 2 } else { 0 };
            client.ack(tid, last);
            last = window(&client, last + 1, &bytes());
        }
        client.ack(tid, last);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
    });
}

#[test]
fn a_truncated_file_ends_only_its_transfer() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let (running, outcomes, client, tid) = under_way(dir.path());
        std::fs::File::create(dir.path().join("image")).unwrap();
        client.ack(tid, WINDOW);
        client.error(ErrorCode::NOT_DEFINED);
        until(&running, "it fails", |totals| totals.get(Counter::Failed) == 1);
        let since = std::time::Instant::now();
        while !matches!(&outcomes.0.lock().unwrap()[..], [Outcome::Failed(why)] if why.contains("cut short")) {
            assert!(since.elapsed() < Duration::from_secs(10), "{:?}", outcomes.0.lock().unwrap());
        }
        Client::ask(local(69), "small", &[]).data(1, b"small");
    });
}

#[test]
fn a_changed_file_is_never_sent_to_its_end() {
    in_namespace(|| {
        let dir = tempfile::tempdir().unwrap();
        let (running, _, client, tid) = under_way(dir.path());
        let file = std::fs::OpenOptions::new().write(true).open(dir.path().join("image")).unwrap();
        file.write_all_at(b"other bytes", 600_000).unwrap();
        let mut last = 0;
        let code = loop {
            last += WINDOW;
            client.ack(tid, last);
            let ended = (1..=WINDOW).find_map(|ahead| match Packet::parse(&client.receive().0) {
                Ok(Packet::Error { code, .. }) => Some(code),
                Ok(Packet::Data { block, data }) if (block, data.len()) == (last + ahead, BLOCK) => None,
                other => panic!("after block {last}: {other:?}"),
            });
            if let Some(code) = ended {
                break code;
            }
        };
        assert_eq!(code, ErrorCode::NOT_DEFINED);
        until(&running, "it fails", |totals| totals.get(Counter::Failed) == 1);
    });
}
