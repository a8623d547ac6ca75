//! Requests in GRE.

use super::*;

#[test]
fn gre_from_a_director_is_answered_from_the_vip() {
    in_namespace(|| {
        // The "director" and the client share the namespace with the server; no interface has the VIP.
        run("ip", &["address", "add", "10.0.0.21/32", "dev", "lo"]);
        run("ip", &["address", "add", "198.51.100.7/32", "dev", "lo"]);
        let vip: SocketAddr = "192.0.2.69:69".parse().unwrap();
        let tunnel = TunnelConfig { locals: vec!["10.0.0.21".parse().unwrap()], vips: vec![vip.ip()], port: 69 };
        let config = Config { tunnel: Some(tunnel), tid: Tid::Port(20001), ..Config::default() };
        let (running, _) = serve(config, handler_fn(|_| Ok(Content::bytes(vec![7; 600]))));
        let client = Client(UdpSocket::bind("198.51.100.7:0").unwrap());
        client.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(47.into())).unwrap();
        let send = |to: SocketAddr, payload: &[u8]| {
            let inner = guideway_packet::wire::build::udp(client.0.local_addr().unwrap(), to, payload);
            let gre = [&[0, 0, 8, 0][..], inner.bytes()].concat();
            raw.send_to(&gre, &SocketAddr::from(([10, 0, 0, 21], 0)).into()).unwrap();
        };
        send(vip, b"\0\x01f\0octet\0");
        let tid = client.data(1, &[7; 512]);
        assert_eq!(tid, SocketAddr::new(vip.ip(), 20001));
        send(tid, b"\0\x04\0\x01");
        client.data(2, &[7; 88]);
        send(tid, b"\0\x04\0\x02");
        until(&running, "it ends", |totals| totals.get(Counter::Done) == 1);
    });
}
