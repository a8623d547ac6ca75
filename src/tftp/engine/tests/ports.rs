//! What the engine ignores at which address and port, and what belongs to one client only.

use super::super::path_mtu::PathMtu;
use super::*;

#[test]
fn broadcast_requests_are_ignored() {
    in_namespace(|| {
        run("ip", &["address", "add", "10.9.0.1/24", "brd", "10.9.0.255", "dev", "lo"]);
        let config = Config::listen("0.0.0.0:69".parse().unwrap());
        let (running, _) = serve(config, handler_fn(|_| Ok(Content::bytes(*b"hello"))));
        let client = Client(UdpSocket::bind("10.9.0.1:0").unwrap());
        client.0.set_broadcast(true).unwrap();
        for to in ["10.9.0.255:69", "10.9.0.1:69"] {
            client.request(to.parse().unwrap(), "f", &[]);
        }
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.data(1, b"hello");
        until(&running, "the broadcast is counted", |totals| totals.get(Counter::Broadcasts) == 1);
        assert_eq!(running.statistics().totals().get(Counter::Started), 1);
    });
}

#[test]
fn the_port_of_requests_takes_no_packets_of_transfers() {
    in_namespace(|| {
        let (running, _) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client::ask(local(69), "f", &[]);
        let tid = client.data(1, &[7; 512]);
        client.ack(local(69), 1);
        let mut error = Vec::new();
        put_error(&mut error, ErrorCode::NOT_DEFINED, b"forged");
        client.0.send_to(&error, local(69)).unwrap();
        until(&running, "both are ignored", |totals| totals.get(Counter::Malformed) == 2);
        client.ack(tid, 1);
        client.data(2, &[7; 88]);
        client.ack(tid, 2);
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
    });
}

#[test]
fn an_error_after_data_is_no_probe() {
    in_namespace(|| {
        let (running, outcomes) = serve(Config::listen(local(69)), handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client::ask(local(69), "f", &[("tsize", "0")]);
        let (_, tid) = client.receive();
        client.ack(tid, 0);
        client.data(1, &[7; 512]);
        let mut error = Vec::new();
        put_error(&mut error, ErrorCode::NOT_DEFINED, b"disk full");
        client.0.send_to(&error, tid).unwrap();
        until(&running, "it ends", |totals| totals.get(Counter::Aborted) == 1);
        outcomes.expect(&[Outcome::Aborted(ErrorCode::NOT_DEFINED, "disk full".to_owned())]);
    });
}

#[test]
fn a_path_mtu_belongs_to_its_client() {
    in_namespace(|| {
        run("ip", &["address", "add", "10.0.0.1/32", "dev", "lo"]);
        run("ip", &["route", "add", "10.1.0.0/16", "dev", "lo", "src", "10.0.0.1", "mtu", "1500"]);
        run("ip", &["route", "add", "10.1.0.0/16", "dev", "lo", "mtu", "1280", "table", "100"]);
        run("ip", &["rule", "add", "from", "10.0.0.1", "lookup", "100"]);
        let mut mtu = PathMtu::new();
        let mut to = |client: &str| mtu.to(SocketAddr::new(client.parse().unwrap(), 2000), 0);
        assert!(to("127.0.0.9") >= 65535);
        assert_eq!(to("10.1.0.7"), 1280, "the earlier look-up had another source address");
        assert_eq!(to("192.0.2.1"), 576, "no route");
        assert_eq!(to("2001:db8::1"), 1280, "no route");
    });
}
