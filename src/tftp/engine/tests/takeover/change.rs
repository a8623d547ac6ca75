//! Changes during transfers: the pool, free room, keys, and new requests of a client.

use super::*;
use crate::rto::RetransmissionPolicy;

#[test]
fn a_pool_may_shrink_during_a_query_and_a_transfer() {
    in_namespace(|| {
        // No block is retransmitted, however long the test takes.
        let retransmission = RetransmissionPolicy {
            initial_rto: Duration::from_secs(10),
            max_rto: Duration::from_secs(10),
            ..RetransmissionPolicy::default()
        };
        let running = started(Config { retransmission, ..config(WAIT, checkpoint_store::Limits::default()) });
        let (_one, _two, client) = (FakePeer::new(1), FakePeer::new(2), Client::new(tid(0)).0);
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let served = Client::ask(server, "f", &[]);
        served.data(1, &block(1));
        client.ack(tid(0), 60);
        until(&running, "queried", |totals| totals.get(Counter::TransferQueries) == 1);
        let members = membership().members()[..2].to_vec();
        running.handle().set_membership(&Arc::new(Membership::new(FleetKey::new(KEY), members, "t0").unwrap()));
        until(&running, "the query is closed", |totals| totals.get(Counter::TransferQueriesUnanswered) == 1);
        served.ack(tid(0), 1);
        served.data(2, &block(2));
        assert!(!running.has_ended());
    });
}

#[test]
fn a_full_successor_reports_it_and_stores_nothing() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits { transfers: 4, bytes: 1 << 20 }));
        let mut owner = FakePeer::new(1);
        owner.complete_hello();
        let clients: Vec<Client> = (0..5).map(|_| Client::new(tid(1)).0).collect();
        owner.checkpoint(&checkpoint(&clients[0], false));
        for client in &clients[1..] {
            owner.checkpoint(&checkpoint(client, true));
        }
        let sequence = owner.sequence();
        owner.say(&PeerMessage::Checkpoint(sequence, Box::new(checkpoint(&clients[0], true))));
        assert_eq!(owner.next(), PeerMessage::NotStored(sequence));
        owner.ask(1, checkpoint(&clients[0], true).id);
        assert_eq!(owner.next(), PeerMessage::AnswerUnknown(1));
        assert_eq!(running.statistics().totals().get(Counter::CheckpointsNotStored), 1);
    });
}

#[test]
fn an_owner_does_not_wait_for_a_full_successor() {
    in_namespace(|| {
        run("ip", &["address", "add", "192.0.2.69/32", "dev", "lo"]);
        let content = handler_fn(|_| Ok(Content::bytes(vec![7; 8 * 90_000])));
        let (_running, _) = serve(config(WAIT, checkpoint_store::Limits::default()), content);
        let successor = FakePeer::new(1);
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[("blksize", "8"), ("windowsize", "64")]);
        let PeerMessage::Checkpoint(sequence, _) = successor.next() else { panic!("no checkpoint") };
        successor.say(&PeerMessage::Acks(0, vec![sequence.number]));
        client.receive();
        client.ack(tid(0), 0);
        let mut refused = 0;
        successor.socket.set_nonblocking(true).unwrap();
        loop {
            let mut bytes = [0; 2048];
            while let Ok((len, _)) = successor.socket.recv_from(&mut bytes) {
                match Signer::new(&FleetKey::new(KEY)).read(&bytes[..len]).unwrap().message {
                    PeerMessage::Hello(sequence) => successor.say(&PeerMessage::Acks(0, vec![sequence.number])),
                    PeerMessage::OwnershipQuery(_, nonce, ..) => successor.say(&PeerMessage::AnswerUnknown(nonce)),
                    PeerMessage::Checkpoint(sequence, _) => {
                        refused += 1;
                        successor.say(&PeerMessage::NotStored(sequence));
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
        assert!(refused > 0, "it got checkpoints of later positions");
    });
}

#[test]
fn another_request_from_the_same_port_waits_for_all_successors() {
    in_namespace(|| {
        let running = started(config(WAIT, checkpoint_store::Limits::default()));
        let others = [FakePeer::new(1), FakePeer::new(2)];
        let server = SocketAddr::new(VIP.parse().unwrap(), 69);
        let client = Client::ask(server, "f", &[]);
        let checkpoint = |other: &FakePeer, file: u8| {
            std::iter::from_fn(|| Some(other.next()))
                .find_map(|message| match message {
                    PeerMessage::Checkpoint(sequence, checkpoint) if checkpoint.request[2] == file => Some((sequence, checkpoint)),
                    _ => None,
                })
                .unwrap()
        };
        let first = others.each_ref().map(|other| checkpoint(other, b'f'));
        others.iter().zip(&first).for_each(|(other, (sequence, _))| other.say(&PeerMessage::Acks(0, vec![sequence.number])));
        client.data(1, &block(1));
        let asked = std::time::Instant::now();
        client.request(server, "g", &[]);
        let second = others.each_ref().map(|other| checkpoint(other, b'g'));
        assert_ne!(first[0].1.serial, second[0].1.serial);
        // On a busy machine the block of the first file may have been retransmitted before.
        client.0.set_nonblocking(true).unwrap();
        while client.0.recv_from(&mut [0; 600]).is_ok() {}
        client.0.set_nonblocking(false).unwrap();
        others[0].say(&PeerMessage::Acks(0, vec![second[0].0.number]));
        until(&running, "it restarts", |totals| totals.get(Counter::Restarted) == 1);
        client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let waits = client.0.recv_from(&mut [0; 600]).is_err();
        // It waits for every successor, but at most 2 s.
        assert!(waits || asked.elapsed() > Duration::from_millis(1900), "the second successor would continue the first file");
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        others[1].say(&PeerMessage::Acks(0, vec![second[1].0.number]));
        client.data(1, &block(1));
    });
}

/// The server and four others, in a fleet with this key.
fn five(key: [u8; 16]) -> Arc<Membership> {
    let member = |n: u16| {
        let checkpoint_address = SocketAddr::from(([127, 0, 0, 20 + n as u8], 6970));
        let tid_range = if n == 0 { TIDS[0] } else { 21_000 + n };
        Member { name: format!("t{n}"), checkpoint_address, tid_range: (tid_range, tid_range) }
    };
    Arc::new(Membership::new(FleetKey::new(key), (0..5).map(member).collect(), "t0").unwrap())
}

#[test]
fn former_successors_drop_a_transfer_once_a_new_one_has_confirmed() {
    in_namespace(|| {
        let retransmission = RetransmissionPolicy {
            initial_rto: Duration::from_secs(10),
            max_rto: Duration::from_secs(10),
            ..RetransmissionPolicy::default()
        };
        let running = started(Config { retransmission, ..config(WAIT, checkpoint_store::Limits::default()) });
        running.handle().set_membership(&five(KEY));
        let others: Vec<FakePeer> = (1..5)
            .map(|n| {
                let socket = UdpSocket::bind(five(KEY).members()[n].checkpoint_address).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                FakePeer { socket, name: format!("t{n}"), number: 0, token: 0 }
            })
            .collect();
        let client = Client::ask(SocketAddr::new(VIP.parse().unwrap(), 69), "f", &[]);
        let id = Id { vip: VIP.parse().unwrap(), client: client.0.local_addr().unwrap(), tid: TIDS[0] };
        let successors = |key: [u8; 16]| five(key).checkpoint_peers(id.vip, id.client, id.tid).map(Option::unwrap);
        let old = successors(KEY);
        let new_key =
            (6..=255).map(|byte| [byte; 16]).find(|key| successors(*key).iter().all(|successor| !old.contains(successor))).unwrap();
        // Returns the next message about transfers to this peer under this key; hellos are answered.
        let next_message = |successor: usize, key: [u8; 16]| {
            let (signer, other) = (Signer::new(&FleetKey::new(key)), &others[successor - 1]);
            for _ in 0..20 {
                let mut bytes = [0; 2048];
                let (len, _) = other.socket.recv_from(&mut bytes).unwrap();
                match signer.read(&bytes[..len]).map(|received| received.message) {
                    Some(PeerMessage::Hello(sequence)) => other.say(&PeerMessage::Acks(0, vec![sequence.number])),
                    Some(message) => return message,
                    None => {}
                }
            }
            panic!("t{successor} gets hellos only");
        };
        let ack = |successor: usize, message: &PeerMessage| match message {
            PeerMessage::Checkpoint(sequence, _) | PeerMessage::Ended(sequence, _) => {
                others[successor - 1].say(&PeerMessage::Acks(0, vec![sequence.number]))
            }
            other => panic!("{other:?}"),
        };
        old.into_iter().for_each(|successor| ack(successor, &next_message(successor, KEY)));
        client.data(1, &block(1));
        running.handle().set_membership(&five(new_key));
        let checkpoints = successors(new_key).map(|successor| (successor, next_message(successor, new_key)));
        assert!(
            checkpoints.iter().all(|(_, message)| matches!(message, PeerMessage::Checkpoint(_, checkpoint) if checkpoint.id == id)),
            "{checkpoints:?}"
        );
        // Until one of them has confirmed, the former successors still get checkpoints, and no `Ended`.
        others[old[0] - 1].socket.set_nonblocking(true).unwrap();
        let mut bytes = [0; 2048];
        while let Ok((len, _)) = others[old[0] - 1].socket.recv_from(&mut bytes) {
            let message = Signer::new(&FleetKey::new(new_key)).read(&bytes[..len]).map(|received| received.message);
            assert!(!matches!(message, Some(PeerMessage::Ended(..))), "{message:?}");
            // A late answer of them does not change that.
            if let Some(message @ PeerMessage::Checkpoint(..)) = message {
                ack(old[0], &message);
            }
        }
        others[old[0] - 1].socket.set_nonblocking(false).unwrap();
        ack(checkpoints[1].0, &checkpoints[1].1);
        for successor in old {
            let ended = std::iter::repeat_with(|| next_message(successor, new_key))
                .find_map(|message| if let PeerMessage::Ended(_, ids) = message { Some(ids) } else { None });
            assert_eq!(ended, Some(vec![id]));
        }
    });
}
