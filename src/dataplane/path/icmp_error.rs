//! ICMP errors that the director sends itself: a packet does not fit the way to its backend, or its TTL is used up.
//!
//! They come from the VIP. A director's own address is often private, and firewalls drop errors from there (RFC 6752 section 3).

use super::icmp::{TTL, back_to_router};
use super::outbox::Outbox;
use super::parse::Packet;
use crate::tables::Snapshot;
use guideway_packet::time::Time;
use guideway_packet::wire::checksum::{fold, sum};
use guideway_packet::wire::icmp::Message;
use guideway_packet::wire::ip::{ICMP, ICMPV6};
use guideway_packet::wire::layout::{icmp, ipv6};
use guideway_packet::wire::write::{ip_header, put16};
use std::convert::Infallible;

/// Errors of each kind a second that one worker sends at most (RFC 4443 section 2.4 (f), RFC 1812 section 4.3.2.8).
const ERRORS_A_SECOND: u64 = 100;
/// Errors that it may send at once after a silence.
const BURST: u64 = 50;
/// Bytes of an ICMP error at most: "the minimum IPv6 MTU" (RFC 4443 section 2.4 (c)), 576 for IPv4 (RFC 1812 section 4.3.2.3).
const ERROR_V6: usize = 1280;
const ERROR_V4: usize = 576;

/// What is wrong with a packet.
#[derive(Clone, Copy, Debug)]
pub enum IcmpError {
    /// It is longer than this many bytes: "fragmentation needed" (RFC 1191 section 4), "packet too big" (RFC 4443 section 3.2).
    TooBig(u16),
    /// Its TTL or hop limit ends here: "time to live exceeded in transit" (RFC 1812 section 5.3.1, RFC 4443 section 3.3).
    TimeExceeded,
}

/// Token buckets for ICMP errors, one for each kind: a flood of one kind leaves the other alone.
#[derive(Debug, Default)]
pub struct Limiters {
    too_big: Limiter,
    time_exceeded: Limiter,
}

/// A token bucket.
#[derive(Debug, Default)]
struct Limiter {
    /// Time up to which tokens were spent.
    spent: Time,
}

impl Limiter {
    fn take(&mut self, now: Time) -> bool {
        const ONE: u64 = 1_000_000_000 / ERRORS_A_SECOND;
        let spent = self.spent.0.max(now.0.saturating_sub(ONE * BURST)).saturating_add(ONE);
        let allowed = spent <= now.0.max(ONE * BURST);
        if allowed {
            self.spent = Time(spent);
        }
        allowed
    }
}

/// Tells the sender of `packet` what is wrong with it. Sends nothing when the limit is reached, the outbox is full, or no error may be sent about such a
/// packet (RFC 1122 section 3.2.2). Returns whether it was sent.
pub fn send_error(
    error: IcmpError,
    frame: &[u8],
    packet: &Packet,
    tables: &Snapshot,
    limiters: &mut Limiters,
    outbox: &mut Outbox,
    now: Time,
) -> bool {
    let ip = &packet.ip;
    let about_icmp =
        matches!(ip.protocol, ICMP | ICMPV6) && !matches!(Message::parse(ip.protocol, packet.payload(frame)), Message::EchoRequest);
    let limiter = match error {
        IcmpError::TooBig(_) => &mut limiters.too_big,
        IcmpError::TimeExceeded => &mut limiters.time_exceeded,
    };
    if ip.is_later_fragment() || about_icmp || !ip.source_is_one_host() || !limiter.take(now) {
        return false;
    }
    let v4 = ip.source.is_ipv4();
    let (header, limit) = (ip.base_len(), if v4 { ERROR_V4 } else { ERROR_V6 });
    let quoted = packet.bytes(frame);
    let quoted = &quoted[..quoted.len().min(limit - header - icmp::LEN)];
    let made = outbox.originate(packet.l2 + header + icmp::LEN + quoted.len(), |reply| {
        let to = reply.bytes_mut();
        back_to_router(&mut to[..packet.l2], frame, packet, tables);
        let (head, message) = to[packet.l2..].split_at_mut(header);
        message[icmp::LEN..].copy_from_slice(quoted);
        ip_header(head, ip.destination, ip.source, if v4 { ICMP } else { ICMPV6 }, TTL, 0, message.len());
        write_message(error, head, message, v4);
        Ok::<(), Infallible>(())
    });
    made.is_some()
}

/// Writes the first 8 bytes of an error, the quoted packet behind them. `head` is the IP header before it.
fn write_message(error: IcmpError, head: &[u8], message: &mut [u8], v4: bool) {
    message[..icmp::LEN].fill(0);
    (message[icmp::TYPE], message[icmp::CODE]) = match (error, v4) {
        (IcmpError::TooBig(_), true) => (icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED),
        (IcmpError::TooBig(_), false) => (icmp::V6_PACKET_TOO_BIG, 0),
        (IcmpError::TimeExceeded, true) => (icmp::TIME_EXCEEDED, 0),
        (IcmpError::TimeExceeded, false) => (icmp::V6_TIME_EXCEEDED, 0),
    };
    if let IcmpError::TooBig(mtu) = error {
        // For IPv6 the lower half of 4 bytes.
        put16(message, if v4 { icmp::MTU_V4 } else { icmp::MTU_V6 + 2 }, mtu);
    }
    let pseudo = if v4 { 0 } else { u64::from(sum(&head[ipv6::SOURCE..ipv6::LEN])) + u64::from(ICMPV6) + message.len() as u64 };
    let check = !fold(pseudo + u64::from(sum(message)));
    put16(message, icmp::CHECKSUM, check);
}
