//! What changes between servers while transfers run: the pool, room, and what a client wants.

use super::*;
use crate::transfer::Pace;

#[test]
fn a_pool_may_shrink_while_a_question_is_open_and_a_transfer_runs() {
    in_namespace(|| {
        // No block comes again, however long the test takes.
        let pace = Pace { first: Duration::from_secs(10), ceiling: Duration::from_secs(10), ..Pace::default() };
        let running = started(Config { pace, ..config(WAIT, memory::Limits::default()) });
        let (_one, _two, client) = (Other::new(1), Other::new(2), Client::new(tid(0)).0);
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let served = Client::ask(server, "f", &[]);
        served.data(1, &block(1));
        client.ack(tid(0), 60);
        until(&running, "asked", |totals| totals.get(Counter::Asked) == 1);
        let members = plan().members()[..2].to_vec();
        running.set_plan(&Arc::new(Plan::new(FleetKey::new(KEY), members, "t0").unwrap()));
        until(&running, "the question is given up", |totals| totals.get(Counter::AskedUnanswered) == 1);
        served.ack(tid(0), 1);
        served.data(2, &block(2));
        assert!(!running.has_ended());
    });
}

#[test]
fn a_full_heir_says_so_and_keeps_nothing() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits { transfers: 4, bytes: 1 << 20 }));
        let mut owner = Other::new(1);
        owner.greet();
        let clients: Vec<Client> = (0..5).map(|_| Client::new(tid(1)).0).collect();
        owner.note(&note(&clients[0], false));
        for client in &clients[1..] {
            owner.note(&note(client, true));
        }
        let place = owner.place();
        owner.say(&Said::Note(place, Box::new(note(&clients[0], true))));
        assert_eq!(owner.next(), Said::NotKept(place));
        owner.ask(1, note(&clients[0], true).id);
        assert_eq!(owner.next(), Said::Unknown(1));
        assert_eq!(running.statistics().totals().get(Counter::NotesNotKept), 1);
    });
}

#[test]
fn an_owner_does_not_wait_for_an_heir_that_is_full() {
    in_namespace(|| {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let content = |_: &Request<'_>| Opening::content(Bytes::new(vec![7; 8 * 90_000]));
        let (_running, _) = serve(config(WAIT, memory::Limits::default()), content);
        let heir = Other::new(1);
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8"), ("windowsize", "64")]);
        let Said::Note(place, _) = heir.next() else { panic!("no note") };
        heir.say(&Said::Acks(0, vec![place.number]));
        client.receive();
        client.ack(tid(0), 0);
        let mut refused = 0;
        heir.socket.set_nonblocking(true).unwrap();
        loop {
            let mut bytes = [0; 2048];
            while let Ok((len, _)) = heir.socket.recv_from(&mut bytes) {
                match Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().said {
                    Said::Hello(place) => heir.say(&Said::Acks(0, vec![place.number])),
                    Said::Behind(_, nonce, ..) => heir.say(&Said::Unknown(nonce)),
                    Said::Note(place, _) => {
                        refused += 1;
                        heir.say(&Said::NotKept(place));
                    }
                    _ => {}
                }
            }
            let (bytes, _) = client.receive();
            let number = u16::from_be_bytes([bytes[2], bytes[3]]);
            if number % 64 == 0 {
                client.ack(tid(0), number);
            }
            if number >= 40_000 {
                break;
            }
        }
        assert!(refused > 0, "it was told how far the transfer is");
    });
}

#[test]
fn who_asks_for_another_file_from_the_same_port_waits_until_every_heir_knows() {
    in_namespace(|| {
        let running = started(config(WAIT, memory::Limits::default()));
        let others = [Other::new(1), Other::new(2)];
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[]);
        let note = |other: &Other, file: u8| {
            std::iter::from_fn(|| Some(other.next()))
                .find_map(|said| match said {
                    Said::Note(place, note) if note.request[2] == file => Some((place, note)),
                    _ => None,
                })
                .unwrap()
        };
        let first = others.each_ref().map(|other| note(other, b'f'));
        others.iter().zip(&first).for_each(|(other, (place, _))| other.say(&Said::Acks(0, vec![place.number])));
        client.data(1, &block(1));
        let asked = std::time::Instant::now();
        client.request(server, "g", &[]);
        let second = others.each_ref().map(|other| note(other, b'g'));
        assert_ne!(first[0].1.serial, second[0].1.serial);
        // On a busy machine the first file's block may have come again before.
        client.0.set_nonblocking(true).unwrap();
        while client.0.recv_from(&mut [0; 600]).is_ok() {}
        client.0.set_nonblocking(false).unwrap();
        others[0].say(&Said::Acks(0, vec![second[0].0.number]));
        until(&running, "it begins anew", |totals| totals.get(Counter::Restarted) == 1);
        client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let waits = client.0.recv_from(&mut [0; 600]).is_err();
        // Every heir is waited for, but not for ever: 2 s.
        assert!(waits || asked.elapsed() > Duration::from_millis(1900), "the second heir would go on with the first file");
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        others[1].say(&Said::Acks(0, vec![second[1].0.number]));
        client.data(1, &block(1));
    });
}

/// The server and four others, in a fleet with this key.
fn five(key: [u8; 16]) -> Arc<Plan> {
    let member = |n: u16| {
        let notes = SocketAddr::from(([127, 0, 0, 20 + n as u8], 6970));
        let tids = if n == 0 { TIDS[0] } else { 21_000 + n };
        Member { name: format!("t{n}"), notes, tids: (tids, tids) }
    };
    Arc::new(Plan::new(FleetKey::new(key), (0..5).map(member).collect(), "t0").unwrap())
}

#[test]
fn whoever_is_no_heir_by_the_new_key_is_told_to_forget_when_an_heir_knows() {
    in_namespace(|| {
        let pace = Pace { first: Duration::from_secs(10), ceiling: Duration::from_secs(10), ..Pace::default() };
        let running = started(Config { pace, ..config(WAIT, memory::Limits::default()) });
        running.set_plan(&five(KEY));
        let others: Vec<Other> = (1..5)
            .map(|n| {
                let socket = UdpSocket::bind(five(KEY).members()[n].notes).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                Other { socket, name: format!("t{n}"), number: 0, token: 0 }
            })
            .collect();
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[]);
        let id = Id { vip: VIP.parse().unwrap(), client: client.0.local_addr().unwrap(), tid: TIDS[0] };
        let heirs = |key: [u8; 16]| five(key).confidants(id.vip, id.client, id.tid).map(Option::unwrap);
        let old = heirs(KEY);
        let new_key = (6..=255).map(|byte| [byte; 16]).find(|key| heirs(*key).iter().all(|heir| !old.contains(heir))).unwrap();
        // What this one is told next about transfers under this key; greetings are answered.
        let told = |heir: usize, key: [u8; 16]| {
            let (signer, other) = (Signer::new(&FleetKey::new(key)), &others[heir - 1]);
            for _ in 0..20 {
                let mut bytes = [0; 2048];
                let (len, _) = other.socket.recv_from(&mut bytes).unwrap();
                match signer.read(&bytes[..len]).map(|heard| heard.said) {
                    Some(Said::Hello(place)) => other.say(&Said::Acks(0, vec![place.number])),
                    Some(said) => return said,
                    None => {}
                }
            }
            panic!("t{heir} hears greetings only");
        };
        let ack = |heir: usize, said: &Said| match said {
            Said::Note(place, _) | Said::Ended(place, _) => others[heir - 1].say(&Said::Acks(0, vec![place.number])),
            other => panic!("{other:?}"),
        };
        old.into_iter().for_each(|heir| ack(heir, &told(heir, KEY)));
        client.data(1, &block(1));
        running.set_plan(&five(new_key));
        let notes = heirs(new_key).map(|heir| (heir, told(heir, new_key)));
        assert!(notes.iter().all(|(_, said)| matches!(said, Said::Note(_, note) if note.id == id)), "{notes:?}");
        // Until one of them is known to know, the former heirs are the only ones who do: they are told on, and not to forget.
        others[old[0] - 1].socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 2048];
        while let Ok((len, _)) = others[old[0] - 1].socket.recv_from(&mut bytes) {
            let said = Signer::new(&FleetKey::new(new_key)).read(&bytes[..len]).map(|heard| heard.said);
            assert!(!matches!(said, Some(Said::Ended(..))), "{said:?}");
            // Nor does a late answer of theirs make them forget.
            if let Some(said @ Said::Note(..)) = said {
                ack(old[0], &said);
            }
        }
        others[old[0] - 1].socket.set_nonblocking(false).unwrap();
        ack(notes[1].0, &notes[1].1);
        for heir in old {
            let ended = std::iter::repeat_with(|| told(heir, new_key))
                .find_map(|said| if let Said::Ended(_, ids) = said { Some(ids) } else { None });
            assert_eq!(ended, Some(vec![id]));
        }
    });
}
