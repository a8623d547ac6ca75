//! An owner that was cut off for a while.

use super::*;
use std::cell::Cell;
use std::sync::LazyLock;

/// Enough blocks of 8 bytes that numbers repeat; each block contains its own number.
const BLOCKS: u64 = 150_000;

/// One content for all tests, so that its version, which needs all bytes, is computed once: on a busy machine that takes longest.
static NUMBERED: LazyLock<Bytes> = LazyLock::new(|| Bytes::new((1..=BLOCKS).flat_map(u64::to_be_bytes).collect::<Vec<u8>>()));

fn numbered() -> Bytes {
    NUMBERED.version();
    NUMBERED.clone()
}

/// A transfer of 8-byte blocks whose client has acknowledged block 100 and was then not received for a while.
struct CutOffOwner {
    running: Running,
    others: [FakePeer; 2],
    client: Client,
    checkpoint: Checkpoint,
    /// The last block that [`CutOffOwner::block`] received.
    received: Cell<Option<u64>>,
}

impl FakePeer {
    /// Answers received messages.
    fn answer(&self, answer: &impl Fn(&PeerMessage) -> Option<PeerMessage>) {
        let mut bytes = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            match &Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().message {
                PeerMessage::Hello(sequence) => self.say(&PeerMessage::Acks(0, vec![sequence.number])),
                message => answer(message).into_iter().for_each(|answer| self.say(&answer)),
            }
        }
    }
}

impl CutOffOwner {
    fn new() -> CutOffOwner {
        CutOffOwner::after(false)
    }

    /// Creates the transfer. With `resumed`, it is one from before a restart, which the server resumes from the others' checkpoints.
    fn after(resumed: bool) -> CutOffOwner {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config(WAIT, checkpoint_store::Limits::default()), handler_fn(|_| Ok(Content::bytes(numbered()))));
        let others = [FakePeer::new(1), FakePeer::new(2)];
        let timeout = |time| others.iter().for_each(|other| other.socket.set_read_timeout(Some(time)).unwrap());
        if resumed {
            let client = Client::new(tid(0)).0;
            let known = Checkpoint {
                id: Id { tid: TIDS[0], ..checkpoint(&client, true).id },
                terms: Terms { blksize: 8, ..checkpoint(&client, true).terms },
                size: 8 * BLOCKS,
                version: numbered().version(),
                acked: 0,
                ..checkpoint(&client, true)
            };
            timeout(Duration::from_millis(1));
            client.ack(tid(0), 0);
            let cut = CutOffOwner { running, others, client, checkpoint: known, received: Cell::new(None) };
            cut.answer(|message| {
                if let PeerMessage::TransferQuery(_, nonce, _) = message {
                    Some(PeerMessage::AnswerKnown(*nonce, Box::new(cut.checkpoint.clone())))
                } else {
                    None
                }
            });
            return cut.cut();
        }
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8")]);
        let mut checkpoint = None;
        for other in &others {
            let PeerMessage::Checkpoint(sequence, checkpoint_received) = other.next() else { panic!("no checkpoint") };
            other.say(&PeerMessage::Acks(0, vec![sequence.number]));
            checkpoint = Some(*checkpoint_received);
        }
        client.receive();
        timeout(Duration::from_millis(1));
        client.ack(tid(0), 0);
        CutOffOwner { running, others, client, checkpoint: checkpoint.unwrap(), received: Cell::new(None) }.cut()
    }

    /// The client, which has acknowledged block 0, advances to block 100 and is then not received.
    fn cut(self) -> CutOffOwner {
        let client = &self.client;
        while client.receive().0[..4] != [0, 3, 0, 1] {}
        for n in 1..=100u16 {
            client.ack(tid(0), n);
            // On a busy machine an ownership check may be due by now, and retransmissions arrive first.
            let next = [0, 3, ((n + 1) >> 8) as u8, (n + 1) as u8];
            let unknown = |message: &PeerMessage| {
                if let PeerMessage::OwnershipQuery(_, nonce, ..) = message { Some(PeerMessage::AnswerUnknown(*nonce)) } else { None }
            };
            while {
                self.answer(unknown);
                client.receive().0[..4] != next
            } {}
        }
        // At first a block is retransmitted. Once block numbers may have wrapped, an ownership check comes first.
        let asked = Cell::new(false);
        let notice = |message: &PeerMessage| {
            asked.set(asked.get() || matches!(message, PeerMessage::OwnershipQuery(_, _, _, 100)));
            None
        };
        let since = std::time::Instant::now();
        while !asked.get() {
            assert!(since.elapsed() < Duration::from_secs(20), "it starts no ownership check: {:?}", self.running.statistics().totals());
            self.others.iter().for_each(|other| other.answer(&notice));
        }
        client.0.set_nonblocking(true).unwrap();
        while client.0.recv_from(&mut [0; 100]).is_ok() {}
        client.0.set_nonblocking(false).unwrap();
        client.0.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        assert!(client.0.recv_from(&mut [0; 100]).is_err(), "nothing is sent during an ownership check");
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        self
    }

    /// Answers the queries to the others about the transfer until the client gets a packet.
    fn answer(&self, answer: impl Fn(&PeerMessage) -> Option<PeerMessage>) {
        self.client.0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let since = std::time::Instant::now();
        while self.client.0.peek(&mut [0; 100]).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "the client gets nothing");
            self.others.iter().for_each(|other| other.answer(&answer));
        }
        self.client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }

    /// Expects the next block, by number and content.
    ///
    /// If the test was not scheduled for a while, the previous block is retransmitted because its ACK was late.
    fn block(&self, number: u64) {
        let is = |bytes: &[u8], number: u64| bytes[2..4] == (number as u16).to_be_bytes() && bytes[4..] == number.to_be_bytes();
        let (mut bytes, _) = self.client.receive();
        while self.received.get() == Some(number - 1) && is(&bytes, number - 1) {
            bytes = self.client.receive().0;
        }
        assert!(is(&bytes, number), "{bytes:?} is not block {number}");
        self.received.set(Some(number));
    }
}

#[test]
fn an_overtaken_owner_checks_and_sends_the_block_that_the_client_expects() {
    is_overtaken(false);
}

#[test]
fn a_resumed_owner_checks_as_well() {
    is_overtaken(true);
}

fn is_overtaken(resumed: bool) {
    in_namespace(move || {
        let cut = CutOffOwner::after(resumed);
        // A successor has served it up to block 65,786, whose number is 250.
        cut.client.ack(tid(0), 250);
        let further = Checkpoint { acked: 65_780, established: true, ..cut.checkpoint.clone() };
        cut.answer(|message| match message {
            PeerMessage::OwnershipQuery(_, nonce, id, _) | PeerMessage::TransferQuery(_, nonce, id) if *id == further.id => {
                Some(PeerMessage::AnswerKnown(*nonce, Box::new(further.clone())))
            }
            _ => None,
        });
        cut.block(65_787);
        cut.client.ack(tid(0), 251);
        cut.block(65_788);
        assert_eq!(cut.running.statistics().totals().get(Counter::HandedOver), 1, "it gave up its session");
    });
}

#[test]
fn if_no_other_server_continued_the_owner_continues() {
    in_namespace(|| {
        let cut = CutOffOwner::new();
        // Without an ACK, because the client may wait for a retransmission.
        cut.answer(
            |message| if let PeerMessage::OwnershipQuery(_, nonce, ..) = message { Some(PeerMessage::AnswerUnknown(*nonce)) } else { None },
        );
        cut.block(101);
        cut.client.ack(tid(0), 101);
        cut.block(102);
        assert_eq!(cut.running.statistics().totals().get(Counter::HandedOver), 0);
    });
}

#[test]
fn without_any_answer_the_owner_continues_only_after_an_ack() {
    in_namespace(|| {
        let cut = CutOffOwner::new();
        cut.client.0.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        assert!(cut.client.0.recv_from(&mut [0; 100]).is_err(), "another server may serve a client that is not received");
        cut.client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        cut.client.ack(tid(0), 100);
        cut.block(101);
    });
}

#[test]
fn a_successor_reports_its_position() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (mut owner, client) = (FakePeer::new(1), Client::new(tid(1)).0);
        let behind = |owner: &mut FakePeer, nonce, block| {
            let sequence = owner.sequence();
            owner.say(&PeerMessage::OwnershipQuery(sequence, nonce, checkpoint(&client, true).id, block));
            std::iter::from_fn(|| Some(owner.next()))
                .find(|message| matches!(message, PeerMessage::AnswerKnown(..) | PeerMessage::AnswerUnknown(_)))
                .unwrap()
        };
        owner.complete_hello();
        assert_eq!(behind(&mut owner, 1, 50), PeerMessage::AnswerUnknown(1));
        owner.checkpoint(&checkpoint(&client, true));
        assert_eq!(behind(&mut owner, 2, 50), PeerMessage::AnswerUnknown(2), "it knows its checkpoint and no more");
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        assert_eq!(behind(&mut owner, 3, 50), PeerMessage::AnswerKnown(3, Box::new(Checkpoint { acked: 60, ..checkpoint(&client, true) })));
        assert_eq!(running.statistics().totals().get(Counter::HandedOver), 0, "an answer hands nothing over");
    });
}
