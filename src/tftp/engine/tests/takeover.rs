//! One real server without GRE; the test plays all others: messages that the server sends, accepts and rejects.

mod change;
mod ownership_check;

use super::*;
use crate::options::{Rollover, Terms};
use crate::takeover::wire::{PeerMessage, Sequence, Signer};
use crate::takeover::{Checkpoint, Id, Member, Membership, Settings, checkpoint_store};
use guideway_hash::FleetKey;

const VIP: &str = "192.0.2.69";
const KEY: [u8; 16] = [5; 16];
/// TID ports of the server and of the two others.
const TIDS: [u16; 3] = [20_001, 20_011, 20_021];

fn membership() -> Arc<Membership> {
    let member = |n: usize| Member {
        name: format!("t{n}"),
        checkpoint_address: SocketAddr::from(([127, 0, 0, 20 + n as u8], 6970)),
        tid_range: (TIDS[n], TIDS[n]),
    };
    Arc::new(Membership::new(FleetKey::new(KEY), (0..3).map(member).collect(), "t0").unwrap())
}

fn config(checkpoint_timeout: Duration, checkpoint_store: checkpoint_store::Limits) -> Config {
    let membership = membership();
    let takeover = Settings { listen: membership.me().checkpoint_address, checkpoint_timeout, checkpoint_store, membership };
    let listen = SocketAddr::new(VIP.parse().unwrap(), 69);
    Config { takeover: Some(takeover), tid: Tid::Port(TIDS[0]), ..Config::listen(listen) }
}

/// Another server, played by the test.
struct FakePeer {
    socket: UdpSocket,
    name: String,
    number: u64,
    token: u64,
}

impl FakePeer {
    fn new(n: usize) -> FakePeer {
        let socket = UdpSocket::bind(membership().members()[n].checkpoint_address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        FakePeer { socket, name: format!("t{n}"), number: 0, token: 0 }
    }

    fn bytes(&self, message: &PeerMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        Signer::new(&FleetKey::new(KEY)).write(&mut bytes, &self.name, 0, message);
        bytes
    }

    fn say(&self, message: &PeerMessage) {
        self.socket.send_to(&self.bytes(message), membership().me().checkpoint_address).unwrap();
    }

    fn sequence(&mut self) -> Sequence {
        self.number += 1;
        Sequence { token: self.token, number: self.number }
    }

    fn receive(&self) -> PeerMessage {
        let mut bytes = [0; 2048];
        let (len, _) = self.socket.recv_from(&mut bytes).unwrap();
        Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().message
    }

    /// Returns the next message. Hellos and ownership queries are answered and skipped.
    fn next(&self) -> PeerMessage {
        loop {
            match self.receive() {
                PeerMessage::Hello(sequence) => self.say(&PeerMessage::Acks(0, vec![sequence.number])),
                PeerMessage::OwnershipQuery(_, nonce, ..) => self.say(&PeerMessage::AnswerUnknown(nonce)),
                message => return message,
            }
        }
    }

    /// Sends a query about a transfer.
    fn ask(&mut self, nonce: u64, id: Id) {
        let sequence = self.sequence();
        self.say(&PeerMessage::TransferQuery(sequence, nonce, id));
    }

    /// Learns the server's token.
    fn complete_hello(&mut self) {
        let sequence = self.sequence();
        self.say(&PeerMessage::Hello(sequence));
        match self.next() {
            PeerMessage::TokenMismatch(_, token) => self.token = token,
            other => panic!("{other:?}"),
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Sequence {
        let sequence = self.sequence();
        self.say(&PeerMessage::Checkpoint(sequence, Box::new(checkpoint.clone())));
        assert_eq!(self.next(), PeerMessage::Acks(self.token, vec![sequence.number]));
        sequence
    }
}

fn content() -> Bytes {
    Bytes::new((0..100_000u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>())
}

/// A checkpoint of a transfer of `t1` with this client at block 50.
fn checkpoint(client: &Client, established: bool) -> Checkpoint {
    Checkpoint {
        id: Id { vip: VIP.parse().unwrap(), client: client.0.local_addr().unwrap(), tid: TIDS[1] },
        serial: 5,
        oack: false,
        established,
        terms: Terms { blksize: 512, window: 1, timeout: None, rollover: Rollover::Zero },
        size: 100_000,
        version: content().version(),
        acked: 50,
        request: (*b"\0\x01f\0octet\0").into(),
    }
}

fn tid(n: usize) -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), TIDS[n])
}

fn started(config: Config) -> Running {
    run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
    serve(config, handler_fn(|_| Ok(Content::bytes(content())))).0
}

fn block(n: u32) -> Vec<u8> {
    ((n - 1) * 512..n * 512).map(|n| (n % 251) as u8).collect()
}

const WAIT: Duration = Duration::from_millis(3);

#[test]
fn a_transfer_with_a_checkpoint_is_resumed_from_its_owners_port() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (mut owner, client) = (FakePeer::new(1), Client::new(tid(1)).0);
        owner.complete_hello();
        owner.checkpoint(&checkpoint(&client, false));
        // Further ahead than the checkpoint.
        client.ack(tid(1), 60);
        assert_eq!(client.data(61, &block(61)), tid(1));
        client.ack(tid(1), 61);
        client.data(62, &block(62));
        // The owner is back, and is further ahead: it continues itself.
        owner.checkpoint(&Checkpoint { acked: 70, ..checkpoint(&client, true) });
        until(&running, "it is handed over", |totals| totals.get(Counter::HandedOver) == 1 && totals.open() == 0);
        client.ack(tid(1), 90);
        client.data(91, &block(91));
        let sequence = owner.sequence();
        owner.ask(77, checkpoint(&client, true).id);
        let known = Checkpoint { acked: 90, ..checkpoint(&client, true) };
        assert_eq!(
            std::iter::from_fn(|| Some(owner.next())).find(|message| matches!(message, PeerMessage::AnswerKnown(..))),
            Some(PeerMessage::AnswerKnown(77, Box::new(known)))
        );
        until(&running, "the querying server continues it", |totals| totals.get(Counter::HandedOver) == 2);
        owner.say(&PeerMessage::Ended(sequence, vec![checkpoint(&client, true).id]));
        owner.ask(78, checkpoint(&client, true).id);
        assert_eq!(
            std::iter::from_fn(|| Some(owner.next())).find(|message| !matches!(message, PeerMessage::Acks(..))),
            Some(PeerMessage::AnswerUnknown(78))
        );
    });
}

#[test]
fn replayed_messages_are_rejected_and_answers_go_to_servers_only() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (mut owner, client) = (FakePeer::new(1), Client::new(tid(1)).0);
        owner.complete_hello();
        let sequence = owner.checkpoint(&checkpoint(&client, true));
        let captured = owner.bytes(&PeerMessage::Checkpoint(sequence, Box::new(checkpoint(&client, true))));
        owner.socket.send_to(&captured, membership().me().checkpoint_address).unwrap();
        until(&running, "it is a replay", |totals| totals.get(Counter::PeerMessagesReplayed) == 1);
        // Also after a restart of the owner.
        let before = owner.token;
        (owner.token, owner.number) = (0, 7000);
        owner.complete_hello();
        assert_ne!(before, owner.token);
        let second = owner.sequence();
        owner.say(&PeerMessage::Hello(second));
        assert_eq!(owner.next(), PeerMessage::Acks(owner.token, vec![second.number]));
        owner.socket.send_to(&captured, membership().me().checkpoint_address).unwrap();
        assert!(matches!(owner.next(), PeerMessage::TokenMismatch(refused, _) if refused == sequence));
        assert_eq!(running.statistics().totals().get(Counter::CheckpointsStored), 1);
        // From another address, or under another key.
        let unknown_tid = UdpSocket::bind("127.0.0.99:0").unwrap();
        unknown_tid
            .send_to(
                &owner.bytes(&PeerMessage::TransferQuery(Sequence::default(), 1, checkpoint(&client, true).id)),
                membership().me().checkpoint_address,
            )
            .unwrap();
        let mut forged = Vec::new();
        Signer::new(&FleetKey::new([6; 16])).write(
            &mut forged,
            "t1",
            0,
            &PeerMessage::TransferQuery(Sequence::default(), 1, checkpoint(&client, true).id),
        );
        owner.socket.send_to(&forged, membership().me().checkpoint_address).unwrap();
        until(&running, "neither is answered", |totals| totals.get(Counter::PeerMessagesInvalid) == 2);
    });
}

#[test]
fn the_first_answer_waits_for_a_successor_but_not_long() {
    in_namespace(|| {
        let running = started(config(Duration::from_millis(100), checkpoint_store::Limits::default()));
        let others = [FakePeer::new(1), FakePeer::new(2)];
        // Both answer its hellos from here on.
        for other in &others {
            let PeerMessage::Hello(sequence) = other.receive() else { panic!("no hello") };
            other.say(&PeerMessage::Acks(0, vec![sequence.number]));
        }
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[]);
        let checkpoints = others.each_ref().map(FakePeer::next);
        let (PeerMessage::Checkpoint(_, first), PeerMessage::Checkpoint(sequence, _)) = (&checkpoints[0], &checkpoints[1]) else {
            panic!("{checkpoints:?}")
        };
        assert_eq!((first.acked, first.size, &*first.request, first.established), (0, 100_000, &b"\0\x01f\0octet\0"[..], false));
        assert_eq!(running.statistics().totals().get(Counter::PacketsSent), 0, "it waits");
        others[1].say(&PeerMessage::Acks(0, vec![sequence.number]));
        assert_eq!(client.data(1, &block(1)), tid(0));
        assert_eq!(running.statistics().totals().get(Counter::CheckpointsUnconfirmed), 0);
        // No successor answers this time.
        let second = Client::ask(server, "f", &[]);
        second.data(1, &block(1));
        assert_eq!(running.statistics().totals().get(Counter::CheckpointsUnconfirmed), 1);
        // The client answers: a second later the successors get a checkpoint.
        client.ack(tid(0), 1);
        client.data(2, &block(2));
        let confirmed = std::iter::from_fn(|| Some(others[0].next()))
            .find(|message| matches!(message, PeerMessage::Checkpoint(_, checkpoint) if checkpoint.established));
        assert!(matches!(confirmed, Some(PeerMessage::Checkpoint(_, checkpoint)) if checkpoint.acked == 1));
        // A transfer that cannot be resumed has no checkpoint, and is counted.
        let mut ask = Vec::new();
        put_request(&mut ask, false, b"f", b"netascii", std::iter::empty());
        let netascii = Client::new(server).0;
        netascii.0.send_to(&ask, server).unwrap();
        netascii.receive();
        assert_eq!(running.statistics().totals().get(Counter::NotResumableNetascii), 1);
    });
}

#[test]
fn a_query_fails_only_when_all_have_answered() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (one, two, client) = (FakePeer::new(1), FakePeer::new(2), Client::new(tid(0)).0);
        let asked = |other: &FakePeer, wanted: Id| loop {
            match other.next() {
                PeerMessage::TransferQuery(_, nonce, id) if id == wanted => return nonce,
                _ => {}
            }
        };
        let id = Id { tid: TIDS[0], ..checkpoint(&client, true).id };
        client.ack(tid(0), 60);
        let nonce = asked(&one, id);
        assert_eq!(asked(&two, id), nonce);
        one.say(&PeerMessage::AnswerUnknown(nonce));
        until(&running, "the other one does not answer", |totals| totals.get(Counter::TransferQueriesUnanswered) == 1);
        assert_eq!(running.statistics().totals().get(Counter::UnknownTidErrors), 0);
        client.ack(tid(0), 60);
        let nonce = asked(&one, id);
        one.say(&PeerMessage::AnswerKnown(nonce + 1, Box::new(Checkpoint { id, ..checkpoint(&client, true) })));
        one.say(&PeerMessage::AnswerKnown(nonce, Box::new(Checkpoint { id, ..checkpoint(&client, true) })));
        assert_eq!(client.data(61, &block(61)), tid(0));
        assert_eq!(running.statistics().totals().get(Counter::Resumed), 1);
        let lost = Client::new(tid(0)).0;
        lost.ack(tid(0), 9);
        let id = Id { tid: TIDS[0], ..checkpoint(&lost, true).id };
        [&one, &two].into_iter().for_each(|other| other.say(&PeerMessage::AnswerUnknown(asked(other, id))));
        lost.error(ErrorCode::UNKNOWN_TID);
    });
}

#[test]
fn a_restarted_peer_gets_all_checkpoints_at_once() {
    in_namespace(|| {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config(WAIT, checkpoint_store::Limits::default()), handler_fn(|_| Ok(Content::bytes(vec![7; 8 * 900]))));
        let mut other = FakePeer::new(1);
        // The peer is known with this token, and has a checkpoint of a transfer.
        let PeerMessage::Hello(sequence) = other.receive() else { panic!("no hello") };
        other.say(&PeerMessage::TokenMismatch(sequence, 71));
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8")]);
        let PeerMessage::Checkpoint(sequence, first) = other.next() else { panic!("no checkpoint") };
        assert_eq!(sequence.token, 71);
        other.say(&PeerMessage::Acks(0, vec![sequence.number]));
        client.receive();
        client.ack(tid(0), 0);
        // The peer is restarted. The next hello is due in a second.
        let began = std::time::Instant::now();
        let sequence = other.sequence();
        other.say(&PeerMessage::Hello(sequence));
        let PeerMessage::TokenMismatch(..) = other.receive() else { panic!("no token") };
        let PeerMessage::Hello(sequence) = other.receive() else { panic!("no hello") };
        other.say(&PeerMessage::TokenMismatch(sequence, 72));
        let PeerMessage::Checkpoint(sequence, again) = other.next() else { panic!("no checkpoint") };
        assert_eq!((sequence.token, again.id), (72, first.id));
        assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
        drop(running);
    });
}

#[test]
fn a_transfer_does_not_run_ahead_of_its_successors() {
    in_namespace(|| {
        let config = config(WAIT, checkpoint_store::Limits::default());
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config, handler_fn(|_| Ok(Content::bytes(vec![7; 8 * 90_000]))));
        let others = [FakePeer::new(1), FakePeer::new(2)];
        for other in &others {
            let PeerMessage::Hello(sequence) = other.receive() else { panic!("no hello") };
            other.say(&PeerMessage::Acks(0, vec![sequence.number]));
        }
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[("blksize", "8"), ("windowsize", "64")]);
        // One successor has the first checkpoint only; the other one has none.
        let PeerMessage::Checkpoint(sequence, _) = others[0].next() else { panic!("no checkpoint") };
        others[0].say(&PeerMessage::Acks(0, vec![sequence.number]));
        client.receive();
        let mut at = 0;
        client.ack(tid(0), 0);
        while at < 32_768 {
            let (bytes, _) = client.receive();
            let Ok(Packet::Data { block, .. }) = Packet::parse(&bytes) else { panic!("{bytes:?}") };
            at = at.max(u64::from(block));
            if at % 64 == 0 {
                client.ack(tid(0), block);
            }
        }
        client.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(client.0.recv_from(&mut [0; 100]).is_err(), "it waits for the successor");
        // The successor gets the checkpoint, or becomes unresponsive: the transfer continues.
        let acked = std::iter::from_fn(|| Some(others[0].next())).find_map(|message| match message {
            PeerMessage::Checkpoint(sequence, checkpoint) if checkpoint.acked >= 16_384 => Some(sequence.number),
            _ => None,
        });
        others[0].say(&PeerMessage::Acks(0, vec![acked.unwrap()]));
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(client.receive().0[2..4], 32_769u16.to_be_bytes());
        drop(running);
    });
}

#[test]
fn a_query_is_answered_once() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (mut owner, client) = (FakePeer::new(1), Client::new(tid(1)).0);
        owner.complete_hello();
        owner.checkpoint(&checkpoint(&client, true));
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        let sequence = owner.sequence();
        let captured = owner.bytes(&PeerMessage::TransferQuery(sequence, 77, checkpoint(&client, true).id));
        owner.socket.send_to(&captured, membership().me().checkpoint_address).unwrap();
        until(&running, "it is handed over", |totals| totals.get(Counter::HandedOver) == 1);
        client.ack(tid(1), 61);
        client.data(62, &block(62));
        let replayed = running.statistics().totals().get(Counter::PeerMessagesReplayed);
        owner.socket.send_to(&captured, membership().me().checkpoint_address).unwrap();
        until(&running, "it is a replay", |totals| totals.get(Counter::PeerMessagesReplayed) == replayed + 1);
        assert_eq!(running.statistics().totals().get(Counter::HandedOver), 1, "the same query hands over only once");
        client.ack(tid(1), 62);
        client.data(63, &block(63));
    });
}

#[test]
fn a_successor_with_an_earlier_file_stops_when_the_owner_starts_another() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let (mut owner, client) = (FakePeer::new(1), Client::new(tid(1)).0);
        owner.complete_hello();
        owner.checkpoint(&checkpoint(&client, true));
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        owner.checkpoint(&Checkpoint { serial: 6, acked: 0, ..checkpoint(&client, false) });
        until(&running, "it stops", |totals| totals.get(Counter::HandedOver) == 1 && totals.open() == 0);
        client.ack(tid(1), 1);
        client.data(2, &block(2));
    });
}

#[test]
fn an_old_answer_does_not_prove_a_peer_alive() {
    in_namespace(|| {
        let running = started(config(Duration::from_secs(4), checkpoint_store::Limits::default()));
        let others = [FakePeer::new(1), FakePeer::new(2)];
        // Acknowledgements for an earlier process, not for messages of this one.
        others.iter().for_each(|other| other.say(&PeerMessage::Acks(0, (0..20).collect())));
        others.iter().for_each(|other| other.say(&PeerMessage::TokenMismatch(Sequence { token: 7, number: 3 }, 9)));
        std::thread::sleep(Duration::from_millis(100));
        let asked = std::time::Instant::now();
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[]);
        client.data(1, &block(1));
        assert!(asked.elapsed() < Duration::from_secs(3), "it waited for a dead successor");
        assert_eq!(running.statistics().totals().get(Counter::CheckpointsUnconfirmed), 1);
    });
}
