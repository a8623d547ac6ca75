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
pub const SORCERERS_APPRENTICE_LIMIT: u32 = 8;
/// An answer comes so soon after what is answered; a machine with much to do may see a time-out's repetition come close behind a duplicate.
const ANSWER_WINDOW: Duration = Duration::from_millis(10);
/// What is sent again sooner was not sent for a time-out: that of our server is at least 40 ms.
const IMMEDIATE_RESEND: Duration = Duration::from_millis(30);

/// One transfer, as seen on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferRecord {
    /// The client's address and port.
    pub client: (IpAddr, u16),
    /// The name that it requested.
    pub file: String,
    /// Time of its first request.
    pub requested_at: Instant,
    /// When its requests reached the servers' side.
    pub requests: Vec<Instant>,
    /// When it last got on: a block, or the answer to its request, reached the client.
    pub last_progress: Instant,
    /// The longest time without getting on that ended after [`TransferLog::start_measuring`], or at all if that was never called.
    pub pause: Duration,
    /// When the first answer to its request reached the client.
    pub answered_at: Option<Instant>,
    /// The servers that made progress: server port and TTL of the packet, which distinguishes hosts ([`super::plan::Plan::backend_by_ttl`]), each pair once, in the order in
    /// which they came. A transfer that is taken over keeps its port.
    pub servers: Vec<(u16, u8)>,
    /// The TTL of the packet that last got it on.
    pub server_ttl: u8,
    /// Blocks that the servers sent, each counted once.
    pub blocks: u32,
    /// DATA packets that they sent.
    pub sent: u32,
    /// Acknowledgements that reached the servers' side.
    pub acks: u32,
    /// Of these, the ones that came again.
    pub duplicates: u32,
    /// Blocks, but for the first, that were sent again at once when such a one had come: a duplicate was answered.
    pub duplicates_answered: u32,
    /// Most blocks in a row that were sent again at once.
    pub longest_resend_run: u32,
    /// Bytes of file that reached the client.
    pub bytes: u64,
    /// The error that a server sent.
    pub error: Option<String>,
    last_data: LastData,
    /// The last block that was acknowledged, and when it was once more.
    last_ack: Option<(u16, Option<Instant>)>,
    /// The number of the last block that reached the client.
    last_delivered: u16,
}

/// The last block that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LastData {
    /// Its number.
    block: u16,
    /// When it was last sent.
    at: Instant,
    /// Whether it was sent again at once.
    resent: bool,
    /// How many in a row were, up to this one.
    run_length: u32,
}

impl TransferRecord {
    fn new(client: (IpAddr, u16), file: String, now: Instant) -> Self {
        TransferRecord {
            client,
            file,
            requested_at: now,
            requests: vec![now],
            last_progress: now,
            pause: Duration::ZERO,
            answered_at: None,
            servers: Vec::new(),
            server_ttl: 0,
            blocks: 0,
            sent: 0,
            acks: 0,
            duplicates: 0,
            duplicates_answered: 0,
            longest_resend_run: 0,
            bytes: 0,
            error: None,
            last_data: LastData { block: 0, at: now, resent: false, run_length: 0 },
            last_ack: None,
            last_delivered: 0,
        }
    }

    fn on_data(&mut self, block: u16, now: Instant) {
        let last = &mut self.last_data;
        self.sent += 1;
        if self.blocks > 0 && block == last.block {
            if !last.resent && now - last.at < IMMEDIATE_RESEND {
                (last.resent, last.run_length) = (true, last.run_length + 1);
                self.longest_resend_run = self.longest_resend_run.max(last.run_length);
                // The first block comes again when the request does.
                self.duplicates_answered +=
                    u32::from(self.blocks > 1 && self.last_ack.is_some_and(|(_, again)| again.is_some_and(|at| now - at < ANSWER_WINDOW)));
            }
            last.at = now;
        } else if self.blocks == 0 || is_ahead(block, last.block) {
            self.blocks += 1;
            self.last_data = LastData { block, at: now, resent: false, run_length: if last.resent { last.run_length } else { 0 } };
        }
    }

    fn on_ack(&mut self, block: u16, now: Instant) {
        self.acks += 1;
        let again = self.last_ack.is_some_and(|(last, _)| last == block);
        self.duplicates += u32::from(again);
        self.last_ack = Some((block, again.then_some(now)));
    }

    /// How many servers went on with it after the first.
    pub fn takeovers(&self) -> usize {
        let first = self.servers.first().map(|(tid, _)| *tid);
        self.servers.iter().filter(|(tid, _)| Some(*tid) == first).count().saturating_sub(1)
    }

    fn on_progress(&mut self, now: Instant) {
        self.answered_at.get_or_insert(now);
        self.pause = self.pause.max(now.duration_since(self.last_progress));
        self.last_progress = now;
    }
}

/// Whether block number `a` comes behind `b`, modulo 65536.
fn is_ahead(a: u16, b: u16) -> bool {
    a != b && a.wrapping_sub(b) < 0x8000
}

#[derive(Debug, Default)]
struct LogState {
    open: HashMap<(IpAddr, u16), TransferRecord>,
    finished: Vec<TransferRecord>,
    bytes: u64,
    taken_over: usize,
    measuring: bool,
}

/// What was seen so far.
#[derive(Debug)]
pub struct TransferLog {
    vip: IpAddr,
    state: Mutex<LogState>,
}

impl TransferLog {
    /// An empty log of transfers with `vip`.
    pub fn new(vip: IpAddr) -> Self {
        TransferLog { vip, state: Mutex::default() }
    }

    /// From now on pauses count, if they end later: an event is about to happen. Only the first call says so.
    pub fn start_measuring(&self) {
        self.with(|state| {
            if !std::mem::replace(&mut state.measuring, true) {
                state.open.values_mut().for_each(|record| record.pause = Duration::ZERO);
            }
        });
    }

    /// Bytes of files that reached clients.
    pub fn bytes(&self) -> u64 {
        self.with(|state| state.bytes)
    }

    /// Transfers that another server went on with.
    pub fn taken_over(&self) -> usize {
        self.with(|state| state.taken_over)
    }

    /// Every transfer, in no order. A port that was used again has several.
    pub fn records(&self) -> Vec<TransferRecord> {
        self.with(|state| state.finished.iter().chain(state.open.values()).cloned().collect())
    }

    /// A packet that comes to the link from the servers.
    pub fn on_sent(&self, ip: &[u8], now: Instant) {
        if let Some((flow, Packet::Data { block, .. })) = tftp(ip)
            && flow.source == self.vip
            && let Some((_, to)) = flow.ports
        {
            self.record((flow.destination, to), |record| record.on_data(block, now));
        }
    }

    /// A packet that has travelled along the link, in either direction.
    pub fn on_delivered(&self, ip: &[u8], now: Instant) {
        let Some((flow, packet)) = tftp(ip) else { return };
        let Some((from, to)) = flow.ports else { return };
        match packet {
            Packet::Request(request) if flow.destination == self.vip && to == 69 => {
                self.on_request((flow.source, from), String::from_utf8_lossy(request.file).into_owned(), now);
            }
            Packet::Ack { block } if flow.destination == self.vip => {
                self.record((flow.source, from), |record| record.on_ack(block, now));
            }
            Packet::Data { .. } | Packet::Oack(_) | Packet::Error { .. } if flow.source == self.vip => {
                let server = (from, packet::ttl(ip).unwrap_or(0));
                self.with(|state| state.on_reply((flow.destination, to), server, packet, now));
            }
            _ => {}
        }
    }

    fn on_request(&self, client: (IpAddr, u16), file: String, now: Instant) {
        self.with(|state| {
            if let Some(record) = state.open.get_mut(&client).filter(|record| record.file == file && record.bytes == 0) {
                record.requests.push(now);
            } else if let Some(old) = state.open.insert(client, TransferRecord::new(client, file, now)) {
                state.finished.push(old);
            }
        });
    }

    fn record(&self, client: (IpAddr, u16), change: impl FnOnce(&mut TransferRecord)) {
        self.with(|state| state.open.get_mut(&client).map(change));
    }

    fn with<T>(&self, body: impl FnOnce(&mut LogState) -> T) -> T {
        body(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl LogState {
    /// A packet of a server, with this port and TTL, reaches a client.
    fn on_reply(&mut self, client: (IpAddr, u16), server: (u16, u8), packet: Packet<'_>, now: Instant) {
        let Some(record) = self.open.get_mut(&client) else { return };
        match packet {
            Packet::Data { block, data } if is_ahead(block, record.last_delivered) => {
                record.last_delivered = block;
                record.bytes += data.len() as u64;
                self.bytes += data.len() as u64;
            }
            Packet::Oack(_) if record.servers.is_empty() => {}
            Packet::Error { text, .. } => {
                record.error = Some(String::from_utf8_lossy(text).into_owned());
                return;
            }
            _ => return,
        }
        record.server_ttl = server.1;
        if !record.servers.contains(&server) {
            record.servers.push(server);
            self.taken_over += usize::from(record.takeovers() == 1 && record.servers.len() > 1 && record.servers[0].0 == server.0);
        }
        record.on_progress(now);
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

    fn encode(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes);
        bytes
    }

    struct Fixture {
        transfer_log: TransferLog,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            let fixture = Fixture { transfer_log: TransferLog::new(VIP.parse().unwrap()), now: Instant::now() };
            fixture.up(69, &encode(|to| put_request(to, false, b"boot", b"octet", [])));
            fixture
        }

        fn wait(&mut self, ms: u64) {
            self.now += Duration::from_millis(ms);
        }

        fn up(&self, port: u16, tftp: &[u8]) {
            self.transfer_log.on_delivered(&ip((CLIENT, 40000), (VIP, port), tftp), self.now);
        }

        fn data(&self, tid: u16, block: u16) {
            self.data_of(64, tid, block);
        }

        fn data_of(&self, ttl: u8, tid: u16, block: u16) {
            let mut bytes = ip((VIP, tid), (CLIENT, 40000), &encode(|to| (put_data_header(to, block), to.extend([7; 100])).0));
            bytes[8] = ttl;
            self.transfer_log.on_sent(&bytes, self.now);
            self.transfer_log.on_delivered(&bytes, self.now);
        }

        fn record(&self) -> TransferRecord {
            let records = self.transfer_log.records();
            assert_eq!(records.len(), 1);
            records[0].clone()
        }
    }

    #[test]
    fn progress_pauses_and_owners_are_seen() {
        let mut fixture = Fixture::new();
        for (wait, ttl, block) in [(5, 100, 1), (700, 100, 2), (3, 100, 2), (40, 100, 3), (300, 102, 4)] {
            fixture.wait(wait);
            if block == 3 {
                fixture.transfer_log.start_measuring();
            }
            fixture.data_of(ttl, 20000, block);
            fixture.up(20000, &encode(|to| put_ack(to, block)));
        }
        let record = fixture.record();
        assert_eq!((record.bytes, fixture.transfer_log.bytes(), record.acks), (400, 400, 5));
        assert_eq!(record.pause, Duration::from_millis(300), "the pause before the event does not count, nor a block again");
        assert_eq!((record.server_ttl, record.file.as_str()), (102, "boot"));
        assert_eq!(
            (record.servers.clone(), record.takeovers(), fixture.transfer_log.taken_over()),
            (vec![(20000, 100), (20000, 102)], 1, 1)
        );
    }

    #[test]
    fn blocks_wrap() {
        let fixture = Fixture::new();
        for block in 1..=70_000u32 {
            fixture.data(20000, (block % 65_536) as u16);
        }
        assert_eq!((fixture.record().blocks, fixture.record().bytes), (70_000, 7_000_000));
    }

    #[test]
    fn the_sorcerers_apprentice_is_distinguished_from_losses() {
        let mut fixture = Fixture::new();
        for block in 1..=100 {
            fixture.data(20000, block);
            fixture.wait(40);
            fixture.data(20000, block);
        }
        let record = fixture.record();
        assert_eq!((record.blocks, record.sent, record.longest_resend_run), (100, 200, 0), "time-outs");
        for block in 101..=140 {
            fixture.data(20000, block);
            fixture.wait(if block == 120 { 40 } else { 3 });
            fixture.data(20000, block);
        }
        assert_eq!(fixture.record().longest_resend_run, 20, "block 120 was not sent again at once");
    }

    #[test]
    fn answered_duplicates_are_distinguished_from_others() {
        let mut fixture = Fixture::new();
        let ack = |fixture: &Fixture, block| fixture.up(20000, &encode(|to| put_ack(to, block)));
        for (block, answered) in [(1, false), (2, false), (3, true), (4, false)] {
            fixture.data(20000, block);
            ack(&fixture, block - 1);
            fixture.wait(3);
            ack(&fixture, block - 1);
            if answered {
                fixture.data(20000, block);
            }
            fixture.wait(50);
            fixture.data(20000, block);
            ack(&fixture, block);
        }
        assert_eq!((fixture.record().duplicates, fixture.record().duplicates_answered), (7, 1));
    }

    #[test]
    fn an_error_is_kept_and_a_new_request_is_a_new_transfer() {
        let mut fixture = Fixture::new();
        fixture.data(20000, 1);
        fixture.wait(9);
        let error = encode(|to| put_error(to, guideway_tftp::packet::ErrorCode(0), b"the file has changed"));
        fixture.transfer_log.on_delivered(&ip((VIP, 20000), (CLIENT, 40000), &error), fixture.now);
        assert_eq!(fixture.record().error.as_deref(), Some("the file has changed"));
        fixture.up(69, &encode(|to| put_request(to, false, b"boot", b"octet", [])));
        assert_eq!(fixture.transfer_log.records().len(), 2);
    }
}
