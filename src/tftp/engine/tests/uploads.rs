//! Uploads, by clients that send exactly the packets that a test specifies.

use super::*;
use crate::handler::{Accepted, Destination, Opened};
use crate::packet::put_data_header;
use crate::writable::{Settings, WithUploads, Writable};
use std::sync::Condvar;

/// Starts a server that accepts files of up to 1000 bytes, `concurrent` at once.
fn taking(concurrent: usize) -> (tempfile::TempDir, Running, Arc<Outcomes>) {
    let directory = tempfile::tempdir().unwrap();
    let writable = Writable::new(directory.path(), Settings { limit: 1000, concurrent, ..Settings::default() }).unwrap();
    let files = handler_fn(|_| Err(Refusal::not_found()));
    let (running, outcomes) = serve(Config::listen(local(69)), WithUploads::new(files, writable));
    (directory, running, outcomes)
}

impl Client {
    fn write(file: &str, options: &[(&str, &str)]) -> Client {
        let (client, server) = Client::new(local(69));
        client.write_again(server, file, options);
        client
    }

    fn write_again(&self, server: SocketAddr, file: &str, options: &[(&str, &str)]) {
        let mut bytes = Vec::new();
        put_request(&mut bytes, true, file.as_bytes(), b"octet", options.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
        self.0.send_to(&bytes, server).unwrap();
    }

    fn send(&self, tid: SocketAddr, block: u16, data: &[u8]) {
        let mut bytes = Vec::new();
        put_data_header(&mut bytes, block);
        bytes.extend(data);
        self.0.send_to(&bytes, tid).unwrap();
    }

    /// Expects this ACK as the next packet and returns its sender. On a busy machine the server may have retransmitted the previous ACK.
    fn acked(&self, block: u16) -> SocketAddr {
        loop {
            let (bytes, from) = self.receive();
            match Packet::parse(&bytes) {
                Ok(Packet::Ack { block: got }) if got == block => return from,
                Ok(Packet::Ack { block: got }) if got < block => {}
                other => panic!("{other:?} instead of an ACK of {block}"),
            }
        }
    }
}

#[test]
fn a_repeated_write_request_that_crosses_the_repeated_answer_changes_nothing() {
    in_namespace(|| {
        let (directory, running, outcomes) = taking(4);
        let client = Client::write("f", &[("tsize", "522")]);
        let (oack, tid) = client.receive();
        let (repeated, _) = client.receive();
        assert_eq!(oack, repeated);
        client.send(tid, 1, &[7; 512]);
        assert_eq!(client.acked(1), tid);
        client.write_again(local(69), "f", &[("tsize", "522")]);
        until(&running, "the duplicate is counted", |totals| totals.get(Counter::RequestsRepeated) == 1);
        client.send(tid, 2, &[8; 10]);
        client.acked(2);
        outcomes.expect(&[Outcome::Done]);
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap().len(), 522);
    });
}

#[test]
fn a_stored_file_is_acknowledged_and_again_if_the_ack_was_lost() {
    in_namespace(|| {
        let (directory, running, outcomes) = taking(4);
        let client = Client::write("f", &[]);
        let tid = client.acked(0);
        // A repeated request before the first block changes nothing.
        client.write_again(local(69), "f", &[]);
        until(&running, "the duplicate is counted", |totals| totals.get(Counter::RequestsRepeated) == 1);
        client.send(tid, 1, &[7; 512]);
        assert_eq!(client.acked(1), tid);
        client.send(tid, 2, &[8; 100]);
        client.acked(2);
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), [vec![7; 512], vec![8; 100]].concat());
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
        client.send(tid, 2, &[8; 100]);
        client.acked(2);
        client.send(tid, 1, &[7; 512]);
        until(&running, "older blocks are not answered", |totals| totals.get(Counter::AcksIgnored) == 1);
        // An unknown TID has no last block.
        let (unknown_tid, _) = Client::new(tid);
        unknown_tid.send(tid, 2, &[8; 100]);
        unknown_tid.error(ErrorCode::UNKNOWN_TID);
        let totals = running.statistics().totals();
        assert_eq!((totals.get(Counter::Stored), totals.get(Counter::BytesReceived)), (1, 612));
        outcomes.expect(&[Outcome::Done]);
    });
}

#[test]
fn a_window_with_a_gap_is_written_from_the_gap_on() {
    in_namespace(|| {
        let (directory, running, _) = taking(4);
        let client = Client::write("f", &[("blksize", "100"), ("windowsize", "4"), ("tsize", "550")]);
        let (oack, tid) = client.receive();
        assert_eq!(oack, b"\0\x06blksize\x00100\0windowsize\x004\0tsize\x00550\0");
        let block = |number: u16| client.send(tid, number, &[number as u8; 100]);
        [1, 3, 4].into_iter().for_each(block);
        client.acked(1);
        [2, 3, 4, 5].into_iter().for_each(block);
        client.acked(5);
        client.send(tid, 6, &[6; 50]);
        client.acked(6);
        let expected: Vec<u8> = (1..=5).flat_map(|number| [number; 100]).chain([6; 50]).collect();
        assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), expected);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
    });
}

#[test]
fn an_unresponsive_client_gets_acks_again_and_leaves_no_file() {
    in_namespace(|| {
        let (directory, running, outcomes) = taking(4);
        let client = Client::write("f", &[]);
        let tid = client.acked(0);
        client.acked(0);
        client.send(tid, 1, &[7; 512]);
        client.acked(1);
        client.acked(1);
        client.send(tid, 2, &[7; 512]);
        client.error(ErrorCode::DISK_FULL);
        until(&running, "it ends", |totals| totals.get(Counter::Refused) == 1);
        let client = Client::write("f", &[]);
        let tid = client.acked(0);
        client.send(tid, 1, &[7; 600]);
        client.error(ErrorCode::ILLEGAL);
        let client = Client::write("f", &[]);
        let tid = client.acked(0);
        client.send(tid, 1, &[7; 512]);
        client.acked(1);
        let mut error = Vec::new();
        put_error(&mut error, ErrorCode::NOT_DEFINED, b"stop");
        client.0.send_to(&error, tid).unwrap();
        until(&running, "it ends", |totals| totals.get(Counter::Aborted) == 1);
        let aborted = Outcome::Aborted(ErrorCode::NOT_DEFINED, "stop".to_owned());
        let since = std::time::Instant::now();
        while outcomes.0.lock().unwrap().last() != Some(&aborted) {
            assert!(since.elapsed() < Duration::from_secs(10));
        }
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
    });
}

#[test]
fn a_file_of_another_size_than_announced_is_not_stored() {
    in_namespace(|| {
        let (directory, running, _) = taking(4);
        for (size, sent, kept) in [("100", 99, false), ("100", 101, false), ("100", 100, true), ("0", 7, true)] {
            let client = Client::write("f", &[("tsize", size)]);
            let (oack, tid) = client.receive();
            assert_eq!(oack, format!("\0\x06tsize\0{size}\0").as_bytes());
            client.send(tid, 1, &vec![7; sent]);
            if kept {
                client.acked(1);
                assert_eq!(std::fs::read(directory.path().join("f")).unwrap(), vec![7; sent]);
                std::fs::remove_file(directory.path().join("f")).unwrap();
            } else {
                client.error(ErrorCode::NOT_DEFINED);
                assert_eq!(directory.path().read_dir().unwrap().count(), 0);
            }
        }
        until(&running, "they end", |totals| totals.get(Counter::Refused) == 2 && totals.get(Counter::Done) == 2);
    });
}

#[test]
fn requests_alone_take_no_slot_and_clients_without_one_try_again() {
    in_namespace(|| {
        let (directory, running, _) = taking(1);
        let _forged: Vec<Client> = (0..50).map(|_| Client::write("g", &[])).collect();
        let (first, second) = (Client::write("f", &[]), Client::write("f2", &[]));
        let (tid, _) = (first.acked(0), second.acked(0));
        first.send(tid, 1, &[1; 512]);
        first.acked(1);
        second.send(tid, 1, &[2; 10]);
        until(&running, "there is no slot", |totals| totals.get(Counter::Shed) == 1);
        first.send(tid, 2, &[]);
        first.acked(2);
        second.send(tid, 1, &[2; 10]);
        // The server may have repeated its ACK meanwhile.
        while second.receive().0 != b"\0\x04\0\x01" {}
        assert_eq!(std::fs::read(directory.path().join("f2")).unwrap(), [2; 10]);
    });
}

#[test]
fn an_upload_or_a_handler_whose_drop_hangs_delays_no_transfer() {
    /// Hangs in a write and when it is dropped, until it is released.
    #[derive(Clone, Default)]
    struct Hanging {
        write: Arc<Gate>,
        drop: Arc<Gate>,
    }
    #[derive(Default)]
    struct Gate(Mutex<(bool, bool)>, Condvar);
    impl Gate {
        fn pass(&self) {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            self.1.notify_all();
            let _open = self.1.wait_while(state, |(_, open)| !*open).unwrap();
        }
        fn entered(&self) {
            let waited = self.1.wait_timeout_while(self.0.lock().unwrap(), Duration::from_secs(10), |(entered, _)| !*entered).unwrap();
            assert!(waited.0.0);
        }
        fn open(&self) {
            self.0.lock().unwrap().1 = true;
            self.1.notify_all();
        }
    }
    struct Dropped(Hanging);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.drop.pass();
        }
    }
    impl Destination for Dropped {
        fn write(&mut self, _: &[u8]) -> Result<(), Refusal> {
            self.0.write.pass();
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<(), Refusal> {
            Ok(())
        }
    }
    struct Uploads(Hanging, #[expect(dead_code)] Dropped);
    impl Handler for Uploads {
        async fn open(&self, _: Request) -> Opened {
            Ok("hello".into())
        }
        fn accepts_uploads(&self) -> bool {
            true
        }
        async fn store(&self, _: Request) -> Accepted {
            Ok(Box::new(Dropped(self.0.clone())))
        }
    }
    in_namespace(|| {
        let (upload, handler) = (Hanging::default(), Hanging::default());
        let (running, _) = serve(Config::listen(local(69)), Uploads(upload.clone(), Dropped(handler.clone())));
        let client = Client::write("f", &[("blksize", "65464")]);
        let (_, tid) = client.receive();
        client.send(tid, 1, &[7; 65464]);
        client.acked(1);
        client.send(tid, 2, &[7; 65464]);
        client.acked(2);
        upload.write.entered();
        // The session ends while the write runs, so that its result comes too late.
        client.0.send_to(b"\0\x05\0\0enough\0", tid).unwrap();
        until(&running, "the client has given up", |totals| totals.open() == 0);
        upload.write.open();
        upload.drop.entered();
        running.handle().set_handler(handler_fn(|_: &Request| Ok("hello".into())));
        handler.drop.entered();
        let other = Client::ask(local(69), "g", &[]);
        other.data(1, b"hello");
        upload.drop.open();
        handler.drop.open();
    });
}
