use super::*;
use guideway_tftp::packet::{Packet, data_header, put_error, put_oack};
use proptest::prelude::*;

const CANARY: &[u8] = b"0123456789abcdefghij";

fn vip() -> IpAddr {
    "192.0.2.69".parse().unwrap()
}

fn at(milliseconds: u64) -> Time {
    Time(milliseconds * 1_000_000)
}

fn probe() -> TftpProbe {
    TftpProbe {
        file: "canary".into(),
        sha256: Some(Sha256::digest(CANARY).into()),
        size: Some(CANARY.len() as u64),
        blksize: 8,
        windowsize: 1,
        vip: None,
    }
}

fn check(probe: &TftpProbe) -> TftpCheck {
    TftpCheck::new(probe, vip(), Duration::from_secs(1), at(0))
}

/// Returns the datagrams that the check sends now.
fn sent(check: &mut TftpCheck) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    std::iter::from_fn(|| check.transmit(&mut out).map(|to| (to.port(), out.clone()))).collect()
}

fn tid() -> SocketAddr {
    SocketAddr::new(vip(), 20001)
}

fn oack(options: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_oack(&mut bytes, options.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
    bytes
}

fn block(number: u16, data: &[u8]) -> Vec<u8> {
    [&data_header(number)[..], data].concat()
}

/// Runs a whole transfer of `content` in blocks of 8 from a server that grants everything.
fn transfer(check: &mut TftpCheck, content: &[u8]) {
    sent(check);
    check.receive(at(1), tid(), &oack(&[("tsize", &content.len().to_string()), ("blksize", "8")]));
    for (index, data) in content.chunks(8).enumerate() {
        if check.outcome().is_none() {
            assert_eq!(sent(check), [(20001, vec![0, 4, 0, index as u8])]);
            check.receive(at(2), tid(), &block(index as u16 + 1, data));
        }
    }
}

#[test]
fn a_canary_that_is_right_ends_with_an_acknowledgement() {
    let mut check = check(&probe());
    transfer(&mut check, CANARY);
    assert_eq!(check.outcome(), Some(&Outcome::Passed));
    assert_eq!(sent(&mut check), [(20001, vec![0, 4, 0, 3])], "the last block is acknowledged");
}

#[test]
fn a_server_without_options_and_with_any_tid_passes() {
    let mut check = check(&TftpProbe { sha256: None, size: None, ..probe() });
    let request = sent(&mut check);
    let Ok(Packet::Request(parsed)) = Packet::parse(&request[0].1) else { panic!("{request:?}") };
    let options: Vec<_> = parsed.options.iter().map(|(name, _)| name.to_vec()).collect();
    assert_eq!((request[0].0, parsed.file, options), (69, &b"canary"[..], vec![b"tsize".to_vec(), b"blksize".to_vec()]));
    check.receive(at(1), SocketAddr::new(vip(), 33333), &block(1, b"short"));
    assert_eq!(check.outcome(), Some(&Outcome::Passed));
}

#[test]
fn wrong_content_is_reported_and_the_server_is_stopped() {
    let mut other = check(&probe());
    transfer(&mut other, b"0123456789ABCDEFGHIJ");
    assert!(matches!(other.outcome(), Some(Outcome::Failed(Failure::WrongContent(why))) if why.contains("SHA-256")));
    let mut longer = check(&probe());
    transfer(&mut longer, &[CANARY, CANARY].concat());
    assert!(
        matches!(longer.outcome(), Some(Outcome::Failed(Failure::WrongContent(why))) if why.contains("announces 40 bytes, expected 20"))
    );
    let last = sent(&mut longer);
    assert!(matches!(Packet::parse(&last[0].1), Ok(Packet::Error { .. })), "{last:?}");
    // A server that announces no size is stopped by the first byte too many.
    let mut without_size = check(&TftpProbe { size: Some(4), sha256: None, ..probe() });
    sent(&mut without_size);
    without_size.receive(at(1), tid(), &oack(&[("blksize", "8")]));
    without_size.receive(at(1), tid(), &block(1, b"01234567"));
    assert!(
        matches!(without_size.outcome(), Some(Outcome::Failed(Failure::WrongContent(why))) if why.contains("more than the expected 4 bytes"))
    );
}

#[test]
fn a_tftp_error_is_not_a_timeout() {
    let mut check = check(&probe());
    let mut error = Vec::new();
    put_error(&mut error, ErrorCode::NOT_FOUND, b"File not found\x1b[2J");
    check.receive(at(1), tid(), &error);
    let outcome_text = check.outcome().map(ToString::to_string);
    assert_eq!(outcome_text.as_deref(), Some("refused: TFTP error 1 (file not found): \"File not found·[2J\""));
}

#[test]
fn a_timeout_and_a_stall_are_distinguished_and_lost_packets_are_repeated() {
    let mut check_of_dead = check(&probe());
    let mut requests = 0;
    while check_of_dead.outcome().is_none() {
        requests += sent(&mut check_of_dead).len();
        let deadline = check_of_dead.deadline();
        check_of_dead.expire(deadline);
    }
    assert_eq!(requests, 4);
    assert_eq!(check_of_dead.outcome().map(ToString::to_string).as_deref(), Some("timeout: no answer within 1s"));
    assert_eq!(sent(&mut check_of_dead), [], "there is no server to stop");

    let mut stalled = check(&probe());
    sent(&mut stalled);
    stalled.receive(at(1), tid(), &oack(&[("blksize", "8")]));
    stalled.receive(at(2), tid(), &block(1, b"01234567"));
    while stalled.outcome().is_none() {
        sent(&mut stalled);
        let deadline = stalled.deadline();
        stalled.expire(deadline);
    }
    assert_eq!(stalled.outcome().map(ToString::to_string).as_deref(), Some("stalled: in block 2, with 8 bytes after 1s"));
    assert!(matches!(Packet::parse(&sent(&mut stalled)[0].1), Ok(Packet::Error { .. })), "the server's transfer is ended");
}

proptest! {
    #[test]
    fn any_datagrams_end_in_an_outcome(
        datagrams in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..40), 0u64..400, any::<bool>(), 1u8..7), 0..40),
    ) {
        let mut check = check(&probe());
        let mut now = 0;
        for (mut bytes, pause, ours, opcode) in datagrams {
            now += pause;
            if bytes.len() > 1 {
                (bytes[0], bytes[1]) = (0, opcode);
            }
            let from = if ours { tid() } else { "198.51.100.1:9".parse().unwrap() };
            check.receive(at(now), from, &bytes);
            sent(&mut check);
        }
        let mut steps = 0;
        while check.outcome().is_none() {
            let deadline = check.deadline();
            prop_assert!(deadline <= at(1000));
            check.expire(deadline);
            sent(&mut check);
            steps += 1;
            prop_assert!(steps < 100);
        }
    }
}

#[test]
fn a_server_that_answers_from_a_port_of_another_backend_fails() {
    let outcome = |tid_range| {
        let mut check = check(&probe()).with_tid_range(tid_range);
        transfer(&mut check, CANARY);
        assert_eq!(sent(&mut check), [(20001, vec![0, 4, 0, 3])], "the transfer ends cleanly in any case");
        check.outcome().unwrap().clone()
    };
    assert_eq!(outcome(Some((20000, 20999))), Outcome::Passed);
    assert_eq!(outcome(None), Outcome::Passed);
    let wrong = outcome(Some((21000, 21999)));
    assert!(wrong.name() == "wrong_port" && wrong.to_string().contains("port 20001, which is not in its tid_range 21000-21999"), "{wrong}");
}
