//! What the test router sees of every transfer: who serves it, how far it got, its longest pause, and whether packets breed packets.

use guideway_packet::wire::flow::{self as packet, Flow};
use guideway_packet::wire::l4::UDP;
use guideway_tftp::packet::Packet;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many blocks in a row, each sent again at once, are no coincidence but a Sorcerer's Apprentice: every duplicate answered, every answer a
/// duplicate (RFC 1123 section 4.2.3.1).
pub const APPRENTICE: u32 = 8;
/// An answer comes so soon after what is answered; a machine with much to do may see a time-out's repetition come close behind a duplicate.
const AN_ANSWER: Duration = Duration::from_millis(10);
/// What is sent again sooner was not sent for a time-out: that of our server is at least 40 ms.
const AT_ONCE: Duration = Duration::from_millis(30);

/// One transfer, as seen on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The client's address and port.
    pub client: (IpAddr, u16),
    /// The name that it asked for.
    pub file: String,
    /// When it first asked.
    pub asked: Instant,
    /// When its requests reached the servers' side.
    pub requests: Vec<Instant>,
    /// When it last got on: a block, or the answer to its request, reached the client.
    pub last: Instant,
    /// The longest time without getting on that ended after [`Ledger::arm`], or at all if that was never called.
    pub pause: Duration,
    /// When the first answer to its request reached the client.
    pub answered: Option<Instant>,
    /// Who got it on: server port and TTL of the packet, by which hosts are told apart ([`super::plan::Plan::sender`]), each pair once, in the order in
    /// which they came. A transfer that is taken over keeps its port.
    pub served: Vec<(u16, u8)>,
    /// The TTL of the packet that last got it on.
    pub server: u8,
    /// Blocks that the servers sent, each counted once.
    pub blocks: u32,
    /// DATA packets that they sent.
    pub sent: u32,
    /// Acknowledgements that reached the servers' side.
    pub acks: u32,
    /// Of these, the ones that came again.
    pub duplicates: u32,
    /// Blocks, but for the first, that were sent again at once when such a one had come: a duplicate was answered.
    pub answered_twice: u32,
    /// Most blocks in a row that were sent again at once.
    pub apprentice: u32,
    /// Bytes of file that reached the client.
    pub bytes: u64,
    /// The error that a server sent.
    pub error: Option<String>,
    sending: Sending,
    /// The last block that was acknowledged, and when it was once more.
    acked: Option<(u16, Option<Instant>)>,
    /// The number of the last block that reached the client.
    delivered: u16,
}

/// The last block that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sending {
    /// Its number.
    block: u16,
    /// When it was last sent.
    at: Instant,
    /// Whether it was sent again at once.
    again: bool,
    /// How many in a row were, up to this one.
    row: u32,
}

impl Record {
    fn new(client: (IpAddr, u16), file: String, now: Instant) -> Self {
        Record {
            client,
            file,
            asked: now,
            requests: vec![now],
            last: now,
            pause: Duration::ZERO,
            answered: None,
            served: Vec::new(),
            server: 0,
            blocks: 0,
            sent: 0,
            acks: 0,
            duplicates: 0,
            answered_twice: 0,
            apprentice: 0,
            bytes: 0,
            error: None,
            sending: Sending { block: 0, at: now, again: false, row: 0 },
            acked: None,
            delivered: 0,
        }
    }

    fn sends(&mut self, block: u16, now: Instant) {
        let last = &mut self.sending;
        self.sent += 1;
        if self.blocks > 0 && block == last.block {
            if !last.again && now - last.at < AT_ONCE {
                (last.again, last.row) = (true, last.row + 1);
                self.apprentice = self.apprentice.max(last.row);
                // The first block comes again when the request does.
                self.answered_twice +=
                    u32::from(self.blocks > 1 && self.acked.is_some_and(|(_, again)| again.is_some_and(|at| now - at < AN_ANSWER)));
            }
            last.at = now;
        } else if self.blocks == 0 || is_ahead(block, last.block) {
            self.blocks += 1;
            self.sending = Sending { block, at: now, again: false, row: if last.again { last.row } else { 0 } };
        }
    }

    fn acknowledges(&mut self, block: u16, now: Instant) {
        self.acks += 1;
        let again = self.acked.is_some_and(|(last, _)| last == block);
        self.duplicates += u32::from(again);
        self.acked = Some((block, again.then_some(now)));
    }

    /// How many servers went on with it after the first.
    pub fn takeovers(&self) -> usize {
        let first = self.served.first().map(|(tid, _)| *tid);
        self.served.iter().filter(|(tid, _)| Some(*tid) == first).count().saturating_sub(1)
    }

    fn gets_on(&mut self, now: Instant) {
        self.answered.get_or_insert(now);
        self.pause = self.pause.max(now.duration_since(self.last));
        self.last = now;
    }
}

/// Whether block number `a` comes behind `b`, modulo 65536.
fn is_ahead(a: u16, b: u16) -> bool {
    a != b && a.wrapping_sub(b) < 0x8000
}

#[derive(Debug, Default)]
struct Book {
    open: HashMap<(IpAddr, u16), Record>,
    past: Vec<Record>,
    bytes: u64,
    taken_over: usize,
    armed: bool,
}

/// What was seen so far.
#[derive(Debug)]
pub struct Ledger {
    vip: IpAddr,
    book: Mutex<Book>,
}

impl Ledger {
    /// An empty ledger of transfers with `vip`.
    pub fn new(vip: IpAddr) -> Self {
        Ledger { vip, book: Mutex::default() }
    }

    /// From now on pauses count, if they end later: an event is about to happen. Only the first call says so.
    pub fn arm(&self) {
        self.with(|book| {
            if !std::mem::replace(&mut book.armed, true) {
                book.open.values_mut().for_each(|record| record.pause = Duration::ZERO);
            }
        });
    }

    /// Bytes of files that reached clients.
    pub fn bytes(&self) -> u64 {
        self.with(|book| book.bytes)
    }

    /// Transfers that another server went on with.
    pub fn taken_over(&self) -> usize {
        self.with(|book| book.taken_over)
    }

    /// Every transfer, in no order. A port that was used again has several.
    pub fn records(&self) -> Vec<Record> {
        self.with(|book| book.past.iter().chain(book.open.values()).cloned().collect())
    }

    /// A packet that comes to the link from the servers.
    pub fn sent(&self, ip: &[u8], now: Instant) {
        if let Some((flow, Packet::Data { block, .. })) = tftp(ip)
            && flow.source == self.vip
            && let Some((_, to)) = flow.ports
        {
            self.record((flow.destination, to), |record| record.sends(block, now));
        }
    }

    /// A packet that has travelled along the link, in either direction.
    pub fn delivered(&self, ip: &[u8], now: Instant) {
        let Some((flow, packet)) = tftp(ip) else { return };
        let Some((from, to)) = flow.ports else { return };
        match packet {
            Packet::Request(request) if flow.destination == self.vip && to == 69 => {
                self.asks((flow.source, from), String::from_utf8_lossy(request.file).into_owned(), now);
            }
            Packet::Ack { block } if flow.destination == self.vip => {
                self.record((flow.source, from), |record| record.acknowledges(block, now));
            }
            Packet::Data { .. } | Packet::Oack(_) | Packet::Error { .. } if flow.source == self.vip => {
                let server = (from, packet::ttl(ip).unwrap_or(0));
                self.with(|book| book.reaches((flow.destination, to), server, packet, now));
            }
            _ => {}
        }
    }

    fn asks(&self, client: (IpAddr, u16), file: String, now: Instant) {
        self.with(|book| {
            if let Some(record) = book.open.get_mut(&client).filter(|record| record.file == file && record.bytes == 0) {
                record.requests.push(now);
            } else if let Some(old) = book.open.insert(client, Record::new(client, file, now)) {
                book.past.push(old);
            }
        });
    }

    fn record(&self, client: (IpAddr, u16), change: impl FnOnce(&mut Record)) {
        self.with(|book| book.open.get_mut(&client).map(change));
    }

    fn with<T>(&self, body: impl FnOnce(&mut Book) -> T) -> T {
        body(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Book {
    /// A packet of a server, with this port and TTL, reaches a client.
    fn reaches(&mut self, client: (IpAddr, u16), server: (u16, u8), packet: Packet<'_>, now: Instant) {
        let Some(record) = self.open.get_mut(&client) else { return };
        match packet {
            Packet::Data { block, data } if is_ahead(block, record.delivered) => {
                record.delivered = block;
                record.bytes += data.len() as u64;
                self.bytes += data.len() as u64;
            }
            Packet::Oack(_) if record.served.is_empty() => {}
            Packet::Error { text, .. } => {
                record.error = Some(String::from_utf8_lossy(text).into_owned());
                return;
            }
            _ => return,
        }
        record.server = server.1;
        if !record.served.contains(&server) {
            record.served.push(server);
            self.taken_over += usize::from(record.takeovers() == 1 && record.served.len() > 1 && record.served[0].0 == server.0);
        }
        record.gets_on(now);
    }
}

/// The packet of TFTP in a whole IP packet.
fn tftp(ip: &[u8]) -> Option<(Flow, Packet<'_>)> {
    let flow = packet::flow(ip).filter(|flow| flow.protocol == UDP && flow.ports.is_some())?;
    // What the IP header leaves out at the end is padding, and `flow` has checked the length that UDP states.
    let length = ip.get(flow.payload + 4..flow.payload + 6).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))?;
    let datagram = ip.get(flow.payload + 8..(flow.payload + length).min(ip.len()))?;
    Packet::parse(datagram).ok().map(|packet| (flow, packet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use guideway_packet::wire::build;
    use guideway_tftp::packet::{put_ack, put_data_header, put_error, put_request};

    const CLIENT: &str = "198.51.100.10";
    const VIP: &str = "192.0.2.69";

    fn ip(from: (&str, u16), to: (&str, u16), tftp: &[u8]) -> Vec<u8> {
        let mut udp = [from.1.to_be_bytes(), to.1.to_be_bytes(), (tftp.len() as u16 + 8).to_be_bytes(), [0, 0]].concat();
        udp.extend_from_slice(tftp);
        build::ip(from.0.parse().unwrap(), to.0.parse().unwrap(), UDP, &udp).bytes().to_vec()
    }

    fn made(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes);
        bytes
    }

    struct World {
        ledger: Ledger,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let world = World { ledger: Ledger::new(VIP.parse().unwrap()), now: Instant::now() };
            world.up(69, &made(|to| put_request(to, false, b"boot", b"octet", [])));
            world
        }

        fn wait(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn up(&self, port: u16, tftp: &[u8]) {
            self.ledger.delivered(&ip((CLIENT, 40000), (VIP, port), tftp), self.now);
        }

        fn data(&self, tid: u16, block: u16) {
            self.data_of(64, tid, block);
        }

        fn data_of(&self, ttl: u8, tid: u16, block: u16) {
            let mut bytes = ip((VIP, tid), (CLIENT, 40000), &made(|to| (put_data_header(to, block), to.extend([7; 100])).0));
            bytes[8] = ttl;
            self.ledger.sent(&bytes, self.now);
            self.ledger.delivered(&bytes, self.now);
        }

        fn record(&self) -> Record {
            let records = self.ledger.records();
            assert_eq!(records.len(), 1);
            records[0].clone()
        }
    }

    #[test]
    fn progress_pauses_and_owners_are_seen() {
        let mut world = World::new();
        for (wait, ttl, block) in [(5, 100, 1), (700, 100, 2), (3, 100, 2), (40, 100, 3), (300, 102, 4)] {
            world.wait(wait);
            if block == 3 {
                world.ledger.arm();
            }
            world.data_of(ttl, 20000, block);
            world.up(20000, &made(|to| put_ack(to, block)));
        }
        let record = world.record();
        assert_eq!((record.bytes, world.ledger.bytes(), record.acks), (400, 400, 5));
        assert_eq!(record.pause, Duration::from_millis(300), "the pause before the event does not count, nor a block again");
        assert_eq!((record.server, record.file.as_str()), (102, "boot"));
        assert_eq!((record.served.clone(), record.takeovers(), world.ledger.taken_over()), (vec![(20000, 100), (20000, 102)], 1, 1));
    }

    #[test]
    fn blocks_wrap() {
        let world = World::new();
        for block in 1..=70_000u32 {
            world.data(20000, (block % 65_536) as u16);
        }
        assert_eq!((world.record().blocks, world.record().bytes), (70_000, 7_000_000));
    }

    #[test]
    fn an_apprentice_is_told_from_losses() {
        let mut world = World::new();
        for block in 1..=100 {
            world.data(20000, block);
            world.wait(40);
            world.data(20000, block);
        }
        let record = world.record();
        assert_eq!((record.blocks, record.sent, record.apprentice), (100, 200, 0), "time-outs");
        for block in 101..=140 {
            world.data(20000, block);
            world.wait(if block == 120 { 40 } else { 3 });
            world.data(20000, block);
        }
        assert_eq!(world.record().apprentice, 20, "block 120 was not sent again at once");
    }

    #[test]
    fn a_duplicate_that_is_answered_is_told_from_one_that_is_not() {
        let mut world = World::new();
        let ack = |world: &World, block| world.up(20000, &made(|to| put_ack(to, block)));
        for (block, answered) in [(1, false), (2, false), (3, true), (4, false)] {
            world.data(20000, block);
            ack(&world, block - 1);
            world.wait(3);
            ack(&world, block - 1);
            if answered {
                world.data(20000, block);
            }
            world.wait(50);
            world.data(20000, block);
            ack(&world, block);
        }
        assert_eq!((world.record().duplicates, world.record().answered_twice), (7, 1));
    }

    #[test]
    fn an_error_is_kept_and_a_new_request_is_a_new_transfer() {
        let mut world = World::new();
        world.data(20000, 1);
        world.wait(9);
        let error = made(|to| put_error(to, guideway_tftp::packet::ErrorCode(0), b"the file has changed"));
        world.ledger.delivered(&ip((VIP, 20000), (CLIENT, 40000), &error), world.now);
        assert_eq!(world.record().error.as_deref(), Some("the file has changed"));
        world.up(69, &made(|to| put_request(to, false, b"boot", b"octet", [])));
        assert_eq!(world.ledger.records().len(), 2);
    }
}
