//! The XDP program that takes from an interface what is ours and leaves everything else to the host, written as instructions.
//!
//! It runs in the kernel on every received frame. What it cannot make sense of it leaves alone: the host's stack is the one to complain.

use super::asm::{Assembler, Error, If, Op, Width};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const XDP_PASS: i32 = 2;
const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;
const GRE: u32 = 47;
/// Protocol number of ICMPv6.
const ICMPV6: u32 = 58;

/// What the program is made for.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The link-layer address that frames must be for: what a bridge floods to everyone is nobody's.
    pub mac: [u8; 6],
    /// Where GRE over IPv4 to us arrives.
    pub v4: Option<Ipv4Addr>,
    /// Where GRE over IPv6 to us arrives.
    pub v6: Option<Ipv6Addr>,
    /// Take every GRE packet to our addresses, whatever is inside.
    pub take_all_gre: bool,
    /// File descriptor of the hash map of VIPs: keys as [`key`] makes them.
    pub vips: i32,
    /// File descriptor of the map from receive queue to socket.
    pub sockets: i32,
}

/// A VIP as the map knows it: IPv4 as IPv4-mapped IPv6 (RFC 4291, 2.5.5.2).
pub fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

// Registers that keep their meaning through the program.
const CONTEXT: u8 = 6;
/// The first byte of the header that is looked at.
const AT: u8 = 7;
/// The first byte behind the frame.
const END: u8 = 8;
const STACK: u8 = 10;
/// Where the key for the map of VIPs is put together on the stack.
const KEY: i16 = -16;

/// A value as it stands in a frame, as a load on this machine sees it.
fn wire16(value: u16) -> u32 {
    u32::from(value.to_be())
}

fn wire32(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

impl Program {
    /// The instructions.
    pub fn assemble(&self) -> Result<Vec<u64>, Error> {
        let mut asm = Assembler::default();
        asm.register(Op::Move, CONTEXT, 1);
        asm.load(Width::Word, AT, CONTEXT, 0); // xdp_md.data
        asm.load(Width::Word, END, CONTEXT, 4); // xdp_md.data_end
        self.ethernet(&mut asm);
        self.outer_v4(&mut asm);
        self.outer_v6(&mut asm);
        // The kernel refuses a program with instructions that nothing reaches.
        if !self.take_all_gre && (self.v4.is_some() || self.v6.is_some()) {
            gre(&mut asm);
        }

        asm.label("look up");
        asm.map(1, self.vips);
        asm.register(Op::Move, 2, STACK);
        asm.value(Op::Add, 2, i32::from(KEY));
        asm.call(HELPER_MAP_LOOKUP);
        asm.when_null(0, "pass");

        asm.label("take");
        asm.map(1, self.sockets);
        asm.load(Width::Word, 2, CONTEXT, 16); // xdp_md.rx_queue_index
        asm.value(Op::Move, 3, XDP_PASS); // where the queue has no socket
        asm.call(HELPER_REDIRECT_MAP);
        asm.exit();

        asm.label("pass");
        asm.value(Op::Move, 0, XDP_PASS);
        asm.exit();
        asm.finish()
    }

    /// Is the frame for us, and what is behind at most one tag?
    fn ethernet(&self, asm: &mut Assembler) {
        let [a, b, c, d, e, f] = self.mac;
        need(asm, 14);
        asm.load(Width::Word, 1, AT, 0);
        asm.when(If::NotEqual, 1, wire32([a, b, c, d]), "pass");
        asm.load(Width::Half, 1, AT, 4);
        asm.when(If::NotEqual, 1, u32::from(u16::from_ne_bytes([e, f])), "pass");
        asm.load(Width::Half, 2, AT, 12);
        asm.value(Op::Add, AT, 14);
        asm.when(If::NotEqual, 2, wire16(0x8100), "untagged");
        need(asm, 4);
        asm.load(Width::Half, 2, AT, 2);
        asm.value(Op::Add, AT, 4);
        asm.label("untagged");
        asm.when(If::Equal, 2, wire16(0x0800), "outer v4");
        asm.when(If::Equal, 2, wire16(0x86dd), "outer v6");
        asm.jump("pass");
    }

    fn outer_v4(&self, asm: &mut Assembler) {
        asm.label("outer v4");
        need(asm, 20);
        version(asm, 4);
        asm.load(Width::Byte, 3, AT, 0);
        asm.value(Op::And, 3, 15);
        asm.value(Op::Left, 3, 2);
        asm.when(If::Less, 3, 20, "pass");
        key_v4(asm);
        let Some(ours) = self.v4 else { return asm.jump("look up") };
        asm.load(Width::Byte, 4, AT, 9);
        asm.when(If::NotEqual, 4, GRE, "look up");
        asm.load(Width::Word, 1, AT, 16);
        asm.when(If::NotEqual, 1, wire32(ours.octets()), "look up");
        if self.take_all_gre {
            return asm.jump("take");
        }
        // A later fragment of a GRE packet has no GRE header.
        asm.load(Width::Half, 1, AT, 6);
        asm.when(If::AnyBit, 1, wire16(0x1fff), "pass");
        for (bytes, skip) in [(4, "no 4"), (8, "no 8"), (16, "no 16"), (32, "no 32")] {
            advance_if(asm, 3, bytes, bytes, skip);
        }
        asm.jump("gre");
    }

    fn outer_v6(&self, asm: &mut Assembler) {
        asm.label("outer v6");
        need(asm, 40);
        version(asm, 6);
        key_v6(asm);
        asm.load(Width::Byte, 4, AT, 6);
        asm.when(If::NotEqual, 4, ICMPV6, "not icmp");
        // Neighbour discovery is the kernel's, also when somebody asks for a VIP.
        need(asm, 41);
        asm.load(Width::Byte, 1, AT, 40);
        asm.when(If::Less, 1, 133, "look up");
        asm.when(If::Greater, 1, 137, "look up");
        asm.jump("pass");
        asm.label("not icmp");
        let Some(ours) = self.v6 else { return asm.jump("look up") };
        asm.when(If::NotEqual, 4, GRE, "look up");
        for (word, at) in ours.octets().chunks_exact(4).zip([24, 28, 32, 36]) {
            asm.load(Width::Word, 1, AT, at);
            asm.when(If::NotEqual, 1, wire32([word[0], word[1], word[2], word[3]]), "look up");
        }
        if self.take_all_gre {
            return asm.jump("take");
        }
        asm.value(Op::Add, AT, 40);
        asm.jump("gre");
    }
}

/// RFC 2784 and 2890: flags and version, then four bytes for each of checksum, key and sequence number. What is inside decides.
fn gre(asm: &mut Assembler) {
    asm.label("gre");
    need(asm, 4);
    asm.load(Width::Byte, 2, AT, 0);
    asm.load(Width::Byte, 3, AT, 1);
    asm.load(Width::Half, 4, AT, 2);
    asm.when(If::AnyBit, 2, 0x40, "pass"); // routing, of RFC 1701
    asm.when(If::AnyBit, 3, 0x07, "pass"); // version
    asm.value(Op::Add, AT, 4);
    for (flag, skip) in [(0x80, "no checksum"), (0x20, "no key"), (0x10, "no sequence number")] {
        advance_if(asm, 2, flag, 4, skip);
    }
    asm.when(If::Equal, 4, wire16(0x0800), "inner v4");
    asm.when(If::Equal, 4, wire16(0x86dd), "inner v6");
    asm.jump("pass");

    asm.label("inner v4");
    need(asm, 20);
    version(asm, 4);
    key_v4(asm);
    asm.jump("look up");

    asm.label("inner v6");
    need(asm, 40);
    version(asm, 6);
    key_v6(asm);
    asm.jump("look up");
}

/// Goes on by `bytes` if this bit of `register` is set. By constants only: to add a register to a pointer into a frame takes CAP_PERFMON
/// besides, because the verifier then has to trust us about speculation.
fn advance_if(asm: &mut Assembler, register: u8, bit: i32, bytes: i32, skip: &'static str) {
    asm.register(Op::Move, 1, register);
    asm.value(Op::And, 1, bit);
    asm.when(If::Equal, 1, 0, skip);
    asm.value(Op::Add, AT, bytes);
    asm.label(skip);
}

/// Leaves a frame alone that has less than `len` bytes from here on; the verifier learns of it too.
fn need(asm: &mut Assembler, len: i32) {
    asm.register(Op::Move, 1, AT);
    asm.value(Op::Add, 1, len);
    asm.when_register(If::Greater, 1, END, "pass");
}

fn version(asm: &mut Assembler, version: u32) {
    asm.load(Width::Byte, 1, AT, 0);
    asm.value(Op::Right, 1, 4);
    asm.when(If::NotEqual, 1, version, "pass");
}

// In halves of 8 bytes, because the verifier of Linux 6.1 refuses smaller writes over what stands on the stack ("attempt to corrupt spilled
// pointer") to programs of processes without CAP_PERFMON.

fn key_v4(asm: &mut Assembler) {
    asm.store_value(Width::Double, STACK, KEY, 0);
    asm.load(Width::Word, 1, AT, 16);
    if cfg!(target_endian = "little") {
        asm.value(Op::Left, 1, 32);
    }
    asm.wide(5, u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]));
    asm.register(Op::Or, 1, 5);
    asm.store(Width::Double, STACK, KEY + 8, 1);
}

fn key_v6(asm: &mut Assembler) {
    for half in [0, 8] {
        asm.load(Width::Double, 1, AT, 24 + half);
        asm.store(Width::Double, STACK, KEY + half, 1);
    }
}

#[cfg(test)]
mod tests;
