//! One real server without GRE, and the test in the place of all others: what it says to them, what it takes from them, and what not.

mod change;
mod doubt;

use super::*;
use crate::options::{Rollover, Terms};
use crate::takeover::wire::{Place, Said, Signer};
use crate::takeover::{Id, Member, Note, Plan, Settings, memory};
use guideway_hash::FleetKey;

const VIP: &str = "192.0.2.69";
const KEY: [u8; 16] = [5; 16];
/// Ports of the server, and of the two others.
const TIDS: [u16; 3] = [20_001, 20_011, 20_021];

fn plan() -> Arc<Plan> {
    let member =
        |n: usize| Member { name: format!("t{n}"), notes: SocketAddr::from(([127, 0, 0, 20 + n as u8], 6970)), tids: (TIDS[n], TIDS[n]) };
    Arc::new(Plan::new(FleetKey::new(KEY), (0..3).map(member).collect(), "t0").unwrap())
}

fn config(wait: Duration, memory: memory::Limits) -> Config {
    let plan = plan();
    let takeover = Settings { listen: plan.me().notes, wait, memory, plan };
    let listen = SocketAddr::new(VIP.parse().unwrap(), 69);
    Config { takeover: Some(takeover), tid: Tid::Port(TIDS[0]), ..Config::listen(listen) }
}

/// Another server, played by the test.
struct Other {
    socket: UdpSocket,
    name: String,
    number: u64,
    token: u64,
}

impl Other {
    fn new(n: usize) -> Other {
        let socket = UdpSocket::bind(plan().members()[n].notes).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Other { socket, name: format!("t{n}"), number: 0, token: 0 }
    }

    fn bytes(&self, said: &Said) -> Vec<u8> {
        let mut bytes = Vec::new();
        Signer::new(&FleetKey::new(KEY)).write(&mut bytes, &self.name, 0, said);
        bytes
    }

    fn say(&self, said: &Said) {
        self.socket.send_to(&self.bytes(said), plan().me().notes).unwrap();
    }

    fn place(&mut self) -> Place {
        self.number += 1;
        Place { token: self.token, number: self.number }
    }

    fn hear(&self) -> Said {
        let mut bytes = [0; 2048];
        let (len, _) = self.socket.recv_from(&mut bytes).unwrap();
        Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().said
    }

    /// The next thing said that is no greeting and no doubt; those are answered.
    fn next(&self) -> Said {
        loop {
            match self.hear() {
                Said::Hello(place) => self.say(&Said::Acks(0, vec![place.number])),
                Said::Behind(_, nonce, ..) => self.say(&Said::Unknown(nonce)),
                said => return said,
            }
        }
    }

    /// Asks for a transfer.
    fn ask(&mut self, nonce: u64, id: Id) {
        let place = self.place();
        self.say(&Said::Query(place, nonce, id));
    }

    /// Gets to know the server's token.
    fn greet(&mut self) {
        let place = self.place();
        self.say(&Said::Hello(place));
        match self.next() {
            Said::Refused(_, token) => self.token = token,
            other => panic!("{other:?}"),
        }
    }

    fn note(&mut self, note: &Note) -> Place {
        let place = self.place();
        self.say(&Said::Note(place, Box::new(note.clone())));
        assert_eq!(self.next(), Said::Acks(self.token, vec![place.number]));
        place
    }
}

fn content() -> Bytes {
    Bytes::new((0..100_000u32).map(|n| (n % 251) as u8).collect::<Vec<u8>>())
}

/// A transfer of `t1` with this client that is at block 50.
fn note(client: &Client, heard: bool) -> Note {
    Note {
        id: Id { vip: VIP.parse().unwrap(), client: client.0.local_addr().unwrap(), tid: TIDS[1] },
        serial: 5,
        oack: false,
        heard,
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
    serve(config, |_: &Request<'_>| Opening::content(content())).0
}

fn block(n: u32) -> Vec<u8> {
    ((n - 1) * 512..n * 512).map(|n| (n % 251) as u8).collect()
}

const WAIT: Duration = Duration::from_millis(3);

#[test]
fn a_noted_transfer_is_gone_on_with_from_its_owners_port() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (mut owner, client) = (Other::new(1), Client::new(tid(1)).0);
        owner.greet();
        owner.note(&note(&client, false));
        // Further than the note says.
        client.ack(tid(1), 60);
        assert_eq!(client.data(61, &block(61)), tid(1));
        client.ack(tid(1), 61);
        client.data(62, &block(62));
        // The owner is heard again, and is further: it goes on itself.
        owner.note(&Note { acked: 70, ..note(&client, true) });
        until(&running, "it is handed over", |totals| totals.get(Counter::HandedOver) == 1 && totals.open() == 0);
        client.ack(tid(1), 90);
        client.data(91, &block(91));
        let place = owner.place();
        owner.ask(77, note(&client, true).id);
        let known = Note { acked: 90, ..note(&client, true) };
        assert_eq!(
            std::iter::from_fn(|| Some(owner.next())).find(|said| matches!(said, Said::Known(..))),
            Some(Said::Known(77, Box::new(known)))
        );
        until(&running, "who asks goes on with it", |totals| totals.get(Counter::HandedOver) == 2);
        owner.say(&Said::Ended(place, vec![note(&client, true).id]));
        owner.ask(78, note(&client, true).id);
        assert_eq!(std::iter::from_fn(|| Some(owner.next())).find(|said| !matches!(said, Said::Acks(..))), Some(Said::Unknown(78)));
    });
}

#[test]
fn what_was_captured_is_not_taken_and_answers_go_to_nobody_else() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (mut owner, client) = (Other::new(1), Client::new(tid(1)).0);
        owner.greet();
        let place = owner.note(&note(&client, true));
        let captured = owner.bytes(&Said::Note(place, Box::new(note(&client, true))));
        owner.socket.send_to(&captured, plan().me().notes).unwrap();
        until(&running, "it came before", |totals| totals.get(Counter::NotesReplayed) == 1);
        // In another life of the owner, too.
        let before = owner.token;
        (owner.token, owner.number) = (0, 7000);
        owner.greet();
        assert_ne!(before, owner.token);
        let second = owner.place();
        owner.say(&Said::Hello(second));
        assert_eq!(owner.next(), Said::Acks(owner.token, vec![second.number]));
        owner.socket.send_to(&captured, plan().me().notes).unwrap();
        assert!(matches!(owner.next(), Said::Refused(refused, _) if refused == place));
        assert_eq!(running.statistics().totals().get(Counter::NotesKept), 1);
        // From another address, or under another key.
        let stranger = UdpSocket::bind("127.0.0.99:0").unwrap();
        stranger.send_to(&owner.bytes(&Said::Query(Place::default(), 1, note(&client, true).id)), plan().me().notes).unwrap();
        let mut forged = Vec::new();
        Signer::new(&FleetKey::new([6; 16])).write(&mut forged, "t1", 0, &Said::Query(Place::default(), 1, note(&client, true).id));
        owner.socket.send_to(&forged, plan().me().notes).unwrap();
        until(&running, "neither is answered", |totals| totals.get(Counter::NotesInvalid) == 2);
    });
}

#[test]
fn the_first_answer_waits_for_an_heir_but_not_long() {
    in_namespace(|| {
        let running = started(config(Duration::from_millis(100), memory::Limits::default()));
        let others = [Other::new(1), Other::new(2)];
        // Both answer its greetings from here on.
        for other in &others {
            let Said::Hello(place) = other.hear() else { panic!("no greeting") };
            other.say(&Said::Acks(0, vec![place.number]));
        }
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[]);
        let notes = others.each_ref().map(Other::next);
        let (Said::Note(_, told), Said::Note(place, _)) = (&notes[0], &notes[1]) else { panic!("{notes:?}") };
        assert_eq!((told.acked, told.size, &*told.request, told.heard), (0, 100_000, &b"\0\x01f\0octet\0"[..], false));
        assert_eq!(running.statistics().totals().get(Counter::PacketsSent), 0, "it waits");
        others[1].say(&Said::Acks(0, vec![place.number]));
        assert_eq!(client.data(1, &block(1)), tid(0));
        assert_eq!(running.statistics().totals().get(Counter::NotesUnanswered), 0);
        // Nobody answers this time.
        let second = Client::ask(server, "f", &[]);
        second.data(1, &block(1));
        assert_eq!(running.statistics().totals().get(Counter::NotesUnanswered), 1);
        // The client is heard: a second later the heirs know.
        client.ack(tid(0), 1);
        client.data(2, &block(2));
        let confirmed = std::iter::from_fn(|| Some(others[0].next())).find(|said| matches!(said, Said::Note(_, note) if note.heard));
        assert!(matches!(confirmed, Some(Said::Note(_, note)) if note.acked == 1));
        // What cannot be gone on with is not offered, and counted.
        let mut ask = Vec::new();
        put_request(&mut ask, false, b"f", b"netascii", std::iter::empty());
        let netascii = Client::new(server).0;
        netascii.0.send_to(&ask, server).unwrap();
        netascii.receive();
        assert_eq!(running.statistics().totals().get(Counter::NotOfferedNetascii), 1);
    });
}

#[test]
fn who_asks_back_needs_an_answer_of_all_to_give_up() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (one, two, client) = (Other::new(1), Other::new(2), Client::new(tid(0)).0);
        let asked = |other: &Other, wanted: Id| loop {
            match other.next() {
                Said::Query(_, nonce, id) if id == wanted => return nonce,
                _ => {}
            }
        };
        let id = Id { tid: TIDS[0], ..note(&client, true).id };
        client.ack(tid(0), 60);
        let nonce = asked(&one, id);
        assert_eq!(asked(&two, id), nonce);
        one.say(&Said::Unknown(nonce));
        until(&running, "the other one does not answer", |totals| totals.get(Counter::AskedUnanswered) == 1);
        assert_eq!(running.statistics().totals().get(Counter::StrangersTold), 0);
        client.ack(tid(0), 60);
        let nonce = asked(&one, id);
        one.say(&Said::Known(nonce + 1, Box::new(Note { id, ..note(&client, true) })));
        one.say(&Said::Known(nonce, Box::new(Note { id, ..note(&client, true) })));
        assert_eq!(client.data(61, &block(61)), tid(0));
        assert_eq!(running.statistics().totals().get(Counter::Resumed), 1);
        let lost = Client::new(tid(0)).0;
        lost.ack(tid(0), 9);
        let id = Id { tid: TIDS[0], ..note(&lost, true).id };
        [&one, &two].into_iter().for_each(|other| other.say(&Said::Unknown(asked(other, id))));
        lost.error(ErrorCode::UNKNOWN_TID);
    });
}

#[test]
fn a_peer_that_begins_a_new_life_is_told_of_all_transfers_at_once() {
    in_namespace(|| {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config(WAIT, memory::Limits::default()), |_: &Request<'_>| Opening::content(Bytes::new(vec![7; 8 * 900])));
        let mut other = Other::new(1);
        // It is known, by this token, and has a note of a transfer.
        let Said::Hello(place) = other.hear() else { panic!("no greeting") };
        other.say(&Said::Refused(place, 71));
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8")]);
        let Said::Note(place, first) = other.next() else { panic!("no note") };
        assert_eq!(place.token, 71);
        other.say(&Said::Acks(0, vec![place.number]));
        client.receive();
        client.ack(tid(0), 0);
        // It is restarted. The next greeting is due in a second.
        let began = std::time::Instant::now();
        let place = other.place();
        other.say(&Said::Hello(place));
        let Said::Refused(..) = other.hear() else { panic!("no token") };
        let Said::Hello(place) = other.hear() else { panic!("no greeting") };
        other.say(&Said::Refused(place, 72));
        let Said::Note(place, again) = other.next() else { panic!("no note") };
        assert_eq!((place.token, again.id), (72, first.id));
        assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
        drop(running);
    });
}

#[test]
fn a_transfer_does_not_leave_its_heirs_behind() {
    in_namespace(|| {
        let config = config(WAIT, memory::Limits::default());
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config, |_: &Request<'_>| Opening::content(Bytes::new(vec![7; 8 * 90_000])));
        let others = [Other::new(1), Other::new(2)];
        for other in &others {
            let Said::Hello(place) = other.hear() else { panic!("no greeting") };
            other.say(&Said::Acks(0, vec![place.number]));
        }
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[("blksize", "8"), ("windowsize", "64")]);
        // One heir has the first note and no other; the other one has none.
        let Said::Note(place, _) = others[0].next() else { panic!("no note") };
        others[0].say(&Said::Acks(0, vec![place.number]));
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
        assert!(client.0.recv_from(&mut [0; 100]).is_err(), "it waits for the heir");
        // The heir hears of it, or is not heard any more: it goes on.
        let told = std::iter::from_fn(|| Some(others[0].next())).find_map(|said| match said {
            Said::Note(place, note) if note.acked >= 16_384 => Some(place.number),
            _ => None,
        });
        others[0].say(&Said::Acks(0, vec![told.unwrap()]));
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(client.receive().0[2..4], 32_769u16.to_be_bytes());
        drop(running);
    });
}

#[test]
fn a_question_is_answered_once() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (mut owner, client) = (Other::new(1), Client::new(tid(1)).0);
        owner.greet();
        owner.note(&note(&client, true));
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        let place = owner.place();
        let captured = owner.bytes(&Said::Query(place, 77, note(&client, true).id));
        owner.socket.send_to(&captured, plan().me().notes).unwrap();
        until(&running, "it is handed over", |totals| totals.get(Counter::HandedOver) == 1);
        client.ack(tid(1), 61);
        client.data(62, &block(62));
        let replayed = running.statistics().totals().get(Counter::NotesReplayed);
        owner.socket.send_to(&captured, plan().me().notes).unwrap();
        until(&running, "it came before", |totals| totals.get(Counter::NotesReplayed) == replayed + 1);
        assert_eq!(running.statistics().totals().get(Counter::HandedOver), 1, "the same question takes nothing away twice");
        client.ack(tid(1), 62);
        client.data(63, &block(63));
    });
}

#[test]
fn an_heir_that_serves_an_earlier_file_stops_when_the_owner_tells_of_another() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (mut owner, client) = (Other::new(1), Client::new(tid(1)).0);
        owner.greet();
        owner.note(&note(&client, true));
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        owner.note(&Note { serial: 6, acked: 0, ..note(&client, false) });
        until(&running, "it stops", |totals| totals.get(Counter::HandedOver) == 1 && totals.open() == 0);
        client.ack(tid(1), 1);
        client.data(2, &block(2));
    });
}

#[test]
fn an_old_answer_makes_nobody_alive() {
    in_namespace(|| {
        let running = started(config(Duration::from_secs(4), memory::Limits::default()));
        let others = [Other::new(1), Other::new(2)];
        // As of an earlier life: nothing that was said in this one.
        others.iter().for_each(|other| other.say(&Said::Acks(0, (0..20).collect())));
        others.iter().for_each(|other| other.say(&Said::Refused(Place { token: 7, number: 3 }, 9)));
        std::thread::sleep(Duration::from_millis(100));
        let asked = std::time::Instant::now();
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[]);
        client.data(1, &block(1));
        assert!(asked.elapsed() < Duration::from_secs(3), "it waited for the dead");
        assert_eq!(running.statistics().totals().get(Counter::NotesUnanswered), 1);
    });
}
