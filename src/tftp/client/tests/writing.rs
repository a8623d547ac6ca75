use super::*;

fn sent(write: &mut Write, now: Time) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    std::iter::from_fn(|| write.transmit(now, &mut out).map(|_| out.clone())).collect()
}

/// Supplies blocks from `left` while there is room.
fn supply(write: &mut Write, left: &mut &[u8]) {
    while let Some(length) = write.wants() {
        let (block, rest) = left.split_at(length.min(left.len()));
        write.supply(block);
        *left = rest;
    }
}

fn of_blocks(windowsize: u16) -> Write {
    let mut write = Write::new(plan(&[RequestOption::Blksize(8), RequestOption::Windowsize(windowsize)]), at(0));
    assert_eq!(sent(&mut write, at(0)).len(), 1);
    assert_eq!(write.wants(), None, "not before the server has answered");
    write.receive(at(1), tid(), &oack(&[("blksize", "8"), ("windowsize", &windowsize.to_string())]));
    write
}

#[test]
fn lock_step_without_options() {
    let mut write = Write::new(plan(&[]), at(0));
    assert_eq!(sent(&mut write, at(0)), [b"\0\x02f\0octet\0"]);
    write.receive(at(1), tid(), &ack(0));
    let mut left = &[1; 600][..];
    supply(&mut write, &mut left);
    assert_eq!(sent(&mut write, at(1)), [data(1, &[1; 512])]);
    write.receive(at(2), tid(), &ack(1));
    supply(&mut write, &mut left);
    assert_eq!(sent(&mut write, at(2)), [data(2, &[1; 88])]);
    write.receive(at(3), tid(), &ack(1));
    assert_eq!(sent(&mut write, at(3)), [] as [Vec<u8>; 0], "one DATA for one ACK");
    write.receive(at(3), tid(), &ack(77));
    assert_eq!(write.outcome(), None, "an ACK of an unsent block is ignored");
    write.receive(at(4), tid(), &ack(2));
    assert_eq!(write.outcome(), Some(&Ok(())));
    assert_eq!((write.counters().bytes, write.deadline()), (600, None));
}

#[test]
fn a_window_goes_on_behind_what_was_acknowledged() {
    let mut write = of_blocks(4);
    let mut left = &[1; 44][..];
    supply(&mut write, &mut left);
    assert_eq!(sent(&mut write, at(1)).len(), 4);
    write.receive(at(2), tid(), &ack(2));
    supply(&mut write, &mut left);
    let again: Vec<_> = sent(&mut write, at(2)).iter().map(|bytes| bytes[3]).collect();
    assert_eq!(again, [3, 4, 5, 6]);
    assert_eq!((write.counters().gaps, write.counters().retransmits), (1, 2));
    write.receive(at(3), tid(), &ack(2));
    assert_eq!(sent(&mut write, at(3)).len(), 0, "that ACK was just answered");
    write.receive(at(900), tid(), &ack(2));
    assert_eq!(sent(&mut write, at(900)).len(), 4, "the first of the window is missing");
    write.receive(at(901), tid(), &ack(6));
    assert_eq!(write.outcome(), Some(&Ok(())), "44 bytes are five blocks and a short one");
}

#[test]
fn an_exact_multiple_ends_with_an_empty_block() {
    let mut write = of_blocks(4);
    let mut left = &[1; 16][..];
    supply(&mut write, &mut left);
    assert_eq!(sent(&mut write, at(1)).last(), Some(&data(3, b"")));
    write.receive(at(2), tid(), &ack(3));
    assert_eq!(write.outcome(), Some(&Ok(())));
}

#[test]
fn an_error_and_a_time_out_end_it() {
    let mut write = Write::new(plan(&[]), at(0));
    write.receive(at(1), tid(), &error(2, "read only"));
    assert!(write.outcome().unwrap().as_ref().unwrap_err().to_string().contains("error 2 (access violation): read only"));

    let mut write = of_blocks(1);
    supply(&mut write, &mut &[1; 4][..]);
    let mut blocks = sent(&mut write, at(1)).len();
    while let Some(deadline) = write.deadline() {
        write.expire(deadline);
        blocks += sent(&mut write, deadline).iter().filter(|bytes| bytes[1] == 3).count();
    }
    assert_eq!(write.outcome(), Some(&Err(Failure::Unresponsive { block: 0, tries: blocks as u32 - 1 })));
    assert!((7..16).contains(&blocks), "{blocks}");
}

#[test]
fn an_unknown_tid_gets_an_error() {
    let mut write = of_blocks(1);
    let unknown_tid: SocketAddr = "192.0.2.69:4001".parse().unwrap();
    write.receive(at(2), unknown_tid, &ack(1));
    let mut out = Vec::new();
    assert_eq!(write.transmit(at(2), &mut out), Some(unknown_tid));
    assert_eq!(out, error(5, "unknown transfer"));
}
