//! The connected socket of the busiest client.

use super::*;

const BLOCKS: u16 = 1000;

fn content() -> Vec<u8> {
    (0..usize::from(BLOCKS) * 512).map(|at| (at / 512 * 7 + at) as u8).collect()
}

/// Returns the remote ports of the connected UDP sockets at this port in this namespace.
fn connected(port: u16) -> Vec<u16> {
    let at = |field: &str| u16::from_str_radix(field.rsplit(':').next().unwrap(), 16).unwrap();
    let lists = ["udp", "udp6"].map(|list| std::fs::read_to_string(format!("/proc/thread-self/net/{list}")).unwrap());
    let fields = lists.iter().flat_map(|list| list.lines().skip(1)).map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.filter(|fields| at(fields[1]) == port && at(fields[2]) != 0).map(|fields| at(fields[2])).collect()
}

/// Fetches blocks in lock-step. Retransmissions of earlier blocks are skipped.
fn lock_step(client: &Client, tid: SocketAddr, blocks: std::ops::RangeInclusive<u16>) {
    let content = content();
    for block in blocks {
        let data = loop {
            let (bytes, from) = client.receive();
            assert_eq!(from, tid, "block {block}");
            match Packet::parse(&bytes) {
                Ok(Packet::Data { block: got, .. }) if got < block => {}
                Ok(Packet::Data { block: got, data }) if got == block => break data.to_vec(),
                other => panic!("in place of block {block}: {other:?}"),
            }
        };
        assert!(data == content[(usize::from(block) - 1) * 512..][..data.len()], "content of block {block}");
        assert_eq!(data.len(), 512 * usize::from(block <= BLOCKS), "length of block {block}");
        client.ack(tid, block);
    }
}

/// Requests a file and acknowledges the first block; returns its source.
fn begin(client: &Client, server: SocketAddr) -> SocketAddr {
    client.request(server, "file", &[]);
    let tid = client.data(1, &content()[..512]);
    client.ack(tid, 1);
    tid
}

fn a_client_alone_gets_a_connected_socket(listen: &'static str, requested: &'static str) {
    in_namespace(move || {
        let handler = handler_fn(|_| Ok(Content::bytes(content())));
        let (running, outcomes) = serve(Config::listen(listen.parse().unwrap()), handler);
        let mut server: SocketAddr = requested.parse().unwrap();
        server.set_port(running.addresses()[0].port());
        let client = || {
            let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            Client(socket)
        };
        let own_port = |client: &Client| client.0.local_addr().unwrap().port();

        let first = client();
        let tid = begin(&first, server);
        assert_eq!(tid.ip(), server.ip());
        lock_step(&first, tid, 2..=400);
        assert_eq!(connected(tid.port()), [own_port(&first)], "alone for 400 blocks");

        // Packets of others are received meanwhile.
        let unknown_tid = client();
        unknown_tid.ack(tid, 7);
        unknown_tid.error(ErrorCode::UNKNOWN_TID);
        let second = client();
        assert_eq!(begin(&second, server), tid);
        lock_step(&second, tid, 2..=900);
        assert!(!connected(tid.port()).contains(&own_port(&first)), "the second client is the busiest one now");

        lock_step(&first, tid, 401..=BLOCKS + 1);
        lock_step(&second, tid, 901..=BLOCKS + 1);
        until(&running, "both end", |totals| totals.get(Counter::Done) == 2);
        running.stop().unwrap();
        outcomes.expect(&[Outcome::Done, Outcome::Done]);
    });
}

#[test]
fn at_a_wildcard() {
    a_client_alone_gets_a_connected_socket("0.0.0.0:0", "127.0.0.2:0");
}

#[test]
fn at_an_address_of_ipv6() {
    a_client_alone_gets_a_connected_socket("[::1]:0", "[::1]:0");
}

#[test]
fn it_is_closed_with_the_transfer_and_the_next_one_gets_another() {
    in_namespace(|| {
        let handler = handler_fn(|_| Ok(Content::bytes(content())));
        let (running, _) = serve(Config::listen(local(0)), handler);
        for round in 1..=3 {
            let (client, server) = Client::new(running.addresses()[0]);
            let tid = begin(&client, server);
            lock_step(&client, tid, 2..=BLOCKS);
            assert_eq!(connected(tid.port()).len(), 1, "round {round}");
            lock_step(&client, tid, BLOCKS + 1..=BLOCKS + 1);
            until(&running, "it ends", |totals| totals.get(Counter::Done) == round);
            let since = std::time::Instant::now();
            while !connected(tid.port()).is_empty() {
                assert!(since.elapsed() < Duration::from_secs(5), "still connected");
                std::thread::yield_now();
            }
        }
        running.stop().unwrap();
    });
}
