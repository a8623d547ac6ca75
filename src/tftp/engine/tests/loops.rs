//! Several event loops, each with its own TID port, and time-outs requested by clients.

use super::*;
use std::collections::HashMap;

#[test]
fn every_loop_answers_from_its_own_port_and_knows_its_own_transfers() {
    in_namespace(|| {
        let config = Config { loops: 3, tid: Tid::Port(20001), ..Config::listen("[::]:69".parse().unwrap()) };
        let (running, _) = serve(config, handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let clients: Vec<_> = (0..90).map(|_| Client::ask(local(69), "f", &[])).collect();
        let tids: Vec<_> = clients.iter().map(|client| client.data(1, &[7; 512])).collect();
        let mut of_port: HashMap<u16, usize> = HashMap::new();
        tids.iter().for_each(|tid| *of_port.entry(tid.port()).or_default() += 1);
        // The kernel spreads requests by their ports.
        assert!((20001..=20003).all(|port| of_port.get(&port).is_some_and(|&count| count > 5)) && of_port.len() == 3, "{of_port:?}");
        // Another loop answers a packet of an unknown transfer with an ERROR, and does not disturb the transfer.
        let elsewhere = SocketAddr::new(tids[0].ip(), if tids[0].port() == 20001 { 20002 } else { 20001 });
        clients[0].ack(elsewhere, 1);
        let error = std::iter::repeat_with(|| clients[0].receive()).find(|(_, from)| *from == elsewhere).unwrap().0;
        assert!(matches!(Packet::parse(&error), Ok(Packet::Error { code: ErrorCode::UNKNOWN_TID, .. })), "{error:?}");
        for (client, tid) in clients.iter().zip(&tids) {
            client.ack(*tid, 1);
            // On a busy machine block 1 may have been retransmitted before.
            let data = std::iter::repeat_with(|| client.receive()).find(|(bytes, _)| bytes[..4] != [0, 3, 0, 1]).unwrap();
            assert_eq!((Packet::parse(&data.0), data.1), (Ok(Packet::Data { block: 2, data: &[7; 88] }), *tid));
            client.ack(*tid, 2);
        }
        until(&running, "all end", |totals| totals.get(Counter::Done) == 90);
    });
}

#[test]
fn retransmissions_follow_the_requested_time_out() {
    in_namespace(|| {
        let (_running, _) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(*b"hello"))));
        let since = std::time::Instant::now();
        let client = Client::ask(local(69), "f", &[("utimeout", "50000")]);
        for _ in 0..5 {
            assert_eq!(client.receive().0, b"\0\x06utimeout\x0050000\0");
        }
        // Four time-outs; without the option they would be 300, 600, 1200 and 2400 ms.
        let took = since.elapsed();
        assert!((Duration::from_millis(200)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    });
}

#[test]
fn an_address_in_use_is_refused() {
    in_namespace(|| {
        let config = Config { loops: 3, ..Config::listen(local(69)) };
        let handler = SharedHandler::new(handler_fn(|_| Err(Refusal::not_found())));
        let (running, _) = serve(config.clone(), handler.clone());
        let error = Server::bind(config, handler, Arc::new(Outcomes::default())).err().unwrap();
        assert!(error.to_string().contains("listening on 127.0.0.1:69"), "{error}");
        running.stop().unwrap();
    });
}
