//! An owner that was cut off for a while.

use super::*;

/// Enough blocks of 8 bytes that numbers come again; each block holds its own number.
const BLOCKS: u64 = 150_000;

fn numbered() -> Bytes {
    Bytes::new((1..=BLOCKS).flat_map(u64::to_be_bytes).collect::<Vec<u8>>())
}

/// A transfer of 8-byte blocks, whose client has acknowledged block 100 and was then not heard for a while.
struct Cut {
    running: Running,
    others: [Other; 2],
    client: Client,
    note: Note,
}

impl Other {
    /// Answers what came.
    fn answer(&self, answer: &impl Fn(&Said) -> Option<Said>) {
        let mut bytes = [0; 2048];
        while let Ok(len) = self.socket.recv(&mut bytes) {
            match &Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().said {
                Said::Hello(place) => self.say(&Said::Acks(0, vec![place.number])),
                said => answer(said).into_iter().for_each(|answer| self.say(&answer)),
            }
        }
    }
}

impl Cut {
    fn new() -> Cut {
        Cut::after(false)
    }

    /// `resumed`: in an earlier life of the server, of which the others tell it.
    fn after(resumed: bool) -> Cut {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let (running, _) = serve(config(WAIT, memory::Limits::default()), |_: &Request<'_>| Opening::content(numbered()));
        let others = [Other::new(1), Other::new(2)];
        let timeout = |time| others.iter().for_each(|other| other.socket.set_read_timeout(Some(time)).unwrap());
        if resumed {
            let client = Client::new(tid(0)).0;
            let known = Note {
                id: Id { tid: TIDS[0], ..note(&client, true).id },
                terms: Terms { blksize: 8, ..note(&client, true).terms },
                size: 8 * BLOCKS,
                version: numbered().version(),
                acked: 0,
                ..note(&client, true)
            };
            timeout(Duration::from_millis(1));
            client.ack(tid(0), 0);
            let cut = Cut { running, others, client, note: known };
            cut.answer(
                |said| if let Said::Query(_, nonce, _) = said { Some(Said::Known(*nonce, Box::new(cut.note.clone()))) } else { None },
            );
            return cut.cut();
        }
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8")]);
        let mut note = None;
        for other in &others {
            let Said::Note(place, told) = other.next() else { panic!("no note") };
            other.say(&Said::Acks(0, vec![place.number]));
            note = Some(*told);
        }
        client.receive();
        timeout(Duration::from_millis(1));
        client.ack(tid(0), 0);
        Cut { running, others, client, note: note.unwrap() }.cut()
    }

    /// The client, which has acknowledged block 0, goes on to block 100, and is not heard then.
    fn cut(self) -> Cut {
        let client = &self.client;
        while client.receive().0[..4] != [0, 3, 0, 1] {}
        for n in 1..=100u16 {
            client.ack(tid(0), n);
            // On a busy machine it may be in doubt by now, and what was sent again comes first.
            let next = [0, 3, ((n + 1) >> 8) as u8, (n + 1) as u8];
            let unknown = |said: &Said| if let Said::Behind(_, nonce, ..) = said { Some(Said::Unknown(*nonce)) } else { None };
            while {
                self.answer(unknown);
                client.receive().0[..4] != next
            } {}
        }
        // At first a block is sent again. When numbers could have come again, it is asked about first.
        let asked = std::cell::Cell::new(false);
        let notice = |said: &Said| {
            asked.set(asked.get() || matches!(said, Said::Behind(_, _, _, 100)));
            None
        };
        let since = std::time::Instant::now();
        while !asked.get() {
            assert!(since.elapsed() < Duration::from_secs(20), "it is not in doubt: {:?}", self.running.statistics().totals());
            self.others.iter().for_each(|other| other.answer(&notice));
        }
        client.0.set_nonblocking(true).unwrap();
        while client.0.recv_from(&mut [0; 100]).is_ok() {}
        client.0.set_nonblocking(false).unwrap();
        client.0.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        assert!(client.0.recv_from(&mut [0; 100]).is_err(), "nothing is sent in doubt");
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        self
    }

    /// Answers what the others are asked about the transfer until the client gets something.
    fn answer(&self, answer: impl Fn(&Said) -> Option<Said>) {
        self.client.0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let since = std::time::Instant::now();
        while self.client.0.peek(&mut [0; 100]).is_err() {
            assert!(since.elapsed() < Duration::from_secs(20), "the client gets nothing");
            self.others.iter().for_each(|other| other.answer(&answer));
        }
        self.client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }

    /// The next block, by number and content.
    fn block(&self, number: u64) {
        let (bytes, _) = self.client.receive();
        assert_eq!(bytes[2..4], (number as u16).to_be_bytes());
        assert_eq!(bytes[4..], number.to_be_bytes(), "block {number}");
    }
}

#[test]
fn who_was_overtaken_by_more_than_all_numbers_asks_and_sends_what_the_client_waits_for() {
    is_overtaken(false);
}

#[test]
fn it_does_so_although_it_has_gone_on_with_the_transfer_before_and_remembers_nothing() {
    is_overtaken(true);
}

fn is_overtaken(resumed: bool) {
    in_namespace(move || {
        let cut = Cut::after(resumed);
        // An heir has served it up to block 65,786, whose number is 250.
        cut.client.ack(tid(0), 250);
        let further = Note { acked: 65_780, heard: true, ..cut.note.clone() };
        cut.answer(|said| match said {
            Said::Behind(_, nonce, id, _) | Said::Query(_, nonce, id) if *id == further.id => {
                Some(Said::Known(*nonce, Box::new(further.clone())))
            }
            _ => None,
        });
        cut.block(65_787);
        cut.client.ack(tid(0), 251);
        cut.block(65_788);
        assert_eq!(cut.running.statistics().totals().get(Counter::HandedOver), 1, "it gave up what it had");
    });
}

#[test]
fn where_nobody_went_on_it_goes_on_itself() {
    in_namespace(|| {
        let cut = Cut::new();
        // By itself, for the client may wait for a repetition.
        cut.answer(|said| if let Said::Behind(_, nonce, ..) = said { Some(Said::Unknown(*nonce)) } else { None });
        cut.block(101);
        cut.client.ack(tid(0), 101);
        cut.block(102);
        assert_eq!(cut.running.statistics().totals().get(Counter::HandedOver), 0);
    });
}

#[test]
fn where_nobody_answers_it_goes_on_when_the_client_speaks_to_it_and_not_before() {
    in_namespace(|| {
        let cut = Cut::new();
        cut.client.0.set_read_timeout(Some(Duration::from_millis(2500))).unwrap();
        assert!(cut.client.0.recv_from(&mut [0; 100]).is_err(), "a client that is not heard may be somebody else's");
        cut.client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        cut.client.ack(tid(0), 100);
        cut.block(101);
    });
}

#[test]
fn an_heir_says_how_far_it_went() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let (mut owner, client) = (Other::new(1), Client::new(tid(1)).0);
        let behind = |owner: &mut Other, nonce, block| {
            let place = owner.place();
            owner.say(&Said::Behind(place, nonce, note(&client, true).id, block));
            std::iter::from_fn(|| Some(owner.next())).find(|said| matches!(said, Said::Known(..) | Said::Unknown(_))).unwrap()
        };
        owner.greet();
        assert_eq!(behind(&mut owner, 1, 50), Said::Unknown(1));
        owner.note(&note(&client, true));
        assert_eq!(behind(&mut owner, 2, 50), Said::Unknown(2), "it knows what it was told and no more");
        client.ack(tid(1), 60);
        client.data(61, &block(61));
        assert_eq!(behind(&mut owner, 3, 50), Said::Known(3, Box::new(Note { acked: 60, ..note(&client, true) })));
        assert_eq!(running.statistics().totals().get(Counter::HandedOver), 0, "to say it hands nothing over");
    });
}
