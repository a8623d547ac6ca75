//! The XDP program that takes our packets from an interface and leaves all others to the host, written as instructions.
//!
//! It runs in the kernel on every received frame. A frame that it does not understand goes to the host, whose stack reports the error. Offsets, lengths and
//! masks are those of [`guideway_packet::wire::layout`], by which the packet path reads the same headers.

mod extensions;

use super::asm::{Assembler, Condition, Error, Op, Width};
use guideway_packet::wire::layout::{ethernet, gre, icmp, ipv4, ipv6, protocol};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const XDP_PASS: i32 = 2;
const HELPER_MAP_LOOKUP: i32 = 1;
const HELPER_REDIRECT_MAP: i32 = 51;

/// The parameters of the program.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The link-layer address that frames must be for. A bridge floods others to everyone.
    pub mac: [u8; 6],
    /// Our IPv4 address, to which GRE comes.
    pub v4: Option<Ipv4Addr>,
    /// Our IPv6 address, to which GRE comes.
    pub v6: Option<Ipv6Addr>,
    /// Take every GRE packet to our addresses, whatever is inside.
    pub take_all_gre: bool,
    /// Walk IPv6 extension headers. Needs the helper `bpf_xdp_load_bytes` of Linux 5.18; without, a packet with any is judged by its destination alone.
    pub extensions: bool,
    /// File descriptor of the hash map of VIPs, whose keys [`vip_key`] makes.
    pub vips: i32,
    /// File descriptor of the map from receive queue to socket.
    pub sockets: i32,
}

/// The key of a VIP in the map: IPv4 as IPv4-mapped IPv6 (RFC 4291 section 2.5.5.2).
pub fn vip_key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

// Registers that keep their meaning through the program.
const CONTEXT: u8 = 6;
/// The first byte of the current header.
const AT: u8 = 7;
/// The first byte behind the frame.
const END: u8 = 8;
/// Bytes of the Ethernet header.
const LINK: u8 = 9;
const STACK: u8 = 10;
/// Offset on the stack where the key for the map of VIPs is built.
const KEY: i16 = -16;

/// A value in network byte order, as a load on this machine reads it.
fn wire16(value: u16) -> u32 {
    u32::from(value.to_be())
}

fn wire32(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

/// The offset of a field, as a load takes it.
const fn at(offset: usize) -> i16 {
    offset as i16
}

impl Program {
    /// The instructions.
    pub fn assemble(&self) -> Result<Vec<u64>, Error> {
        let mut asm = Assembler::default();
        asm.alu_reg(Op::Move, CONTEXT, 1);
        asm.load(Width::Word, AT, CONTEXT, 0); // xdp_md.data
        asm.load(Width::Word, END, CONTEXT, 4); // xdp_md.data_end
        self.ethernet(&mut asm);
        self.outer_v4(&mut asm);
        self.outer_v6(&mut asm);
        // The kernel refuses a program with instructions that nothing reaches.
        if !self.take_all_gre && (self.v4.is_some() || self.v6.is_some()) {
            gre(&mut asm, self.v4);
        }
        if self.extensions {
            self.walk_extensions(&mut asm);
        }

        asm.label("look up");
        asm.load_map_fd(1, self.vips);
        asm.alu_reg(Op::Move, 2, STACK);
        asm.alu_imm(Op::Add, 2, i32::from(KEY));
        asm.call(HELPER_MAP_LOOKUP);
        asm.jump_if_null(0, "pass");

        asm.label("take");
        asm.load_map_fd(1, self.sockets);
        asm.load(Width::Word, 2, CONTEXT, 16); // xdp_md.rx_queue_index
        asm.alu_imm(Op::Move, 3, XDP_PASS); // where the queue has no socket
        asm.call(HELPER_REDIRECT_MAP);
        asm.exit();

        asm.label("pass");
        asm.alu_imm(Op::Move, 0, XDP_PASS);
        asm.exit();
        asm.finish()
    }

    /// Checks that the frame is for us, skips one tag, and branches by EtherType.
    fn ethernet(&self, asm: &mut Assembler) {
        let [a, b, c, d, e, f] = self.mac;
        require_bytes(asm, ethernet::LEN);
        asm.load(Width::Word, 1, AT, at(ethernet::DESTINATION));
        asm.jump_if(Condition::NotEqual, 1, wire32([a, b, c, d]), "pass");
        asm.load(Width::Half, 1, AT, at(ethernet::DESTINATION + 4));
        asm.jump_if(Condition::NotEqual, 1, u32::from(u16::from_ne_bytes([e, f])), "pass");
        asm.alu_imm(Op::Move, LINK, ethernet::LEN as i32);
        asm.load(Width::Half, 2, AT, at(ethernet::ETHERTYPE));
        asm.jump_if(Condition::Equal, 2, wire16(ethernet::VLAN), "tagged");
        asm.jump_if(Condition::NotEqual, 2, wire16(ethernet::VLAN_SERVICE), "untagged");
        asm.label("tagged");
        asm.alu_imm(Op::Move, LINK, ethernet::TAGGED_LEN as i32);
        // Behind the tag the header ends as if it began 4 bytes later.
        advance(asm, ethernet::TAG_LEN);
        require_bytes(asm, ethernet::LEN);
        asm.load(Width::Half, 2, AT, at(ethernet::ETHERTYPE));
        asm.label("untagged");
        advance(asm, ethernet::LEN);
        asm.jump_if(Condition::Equal, 2, wire16(ethernet::IPV4), "outer v4");
        asm.jump_if(Condition::Equal, 2, wire16(ethernet::IPV6), "outer v6");
        asm.jump("pass");
    }

    fn outer_v4(&self, asm: &mut Assembler) {
        asm.label("outer v4");
        require_v4(asm);
        asm.load(Width::Byte, 3, AT, at(ipv4::VERSION_IHL));
        asm.alu_imm(Op::And, 3, i32::from(ipv4::IHL_MASK));
        asm.alu_imm(Op::Left, 3, 2);
        asm.jump_if(Condition::Less, 3, ipv4::LEN as u32, "pass");
        key_v4(asm, AT, 0);
        let Some(ours) = self.v4 else { return asm.jump("look up") };
        asm.load(Width::Word, 1, AT, at(ipv4::DESTINATION));
        asm.jump_if(Condition::NotEqual, 1, wire32(ours.octets()), "look up");
        asm.load(Width::Byte, 4, AT, at(ipv4::PROTOCOL));
        asm.jump_if(Condition::NotEqual, 4, protocol::GRE.into(), "pass");
        if self.take_all_gre {
            return asm.jump("take");
        }
        // A later fragment of a GRE packet has no GRE header.
        asm.load(Width::Half, 1, AT, at(ipv4::FLAGS_AND_OFFSET));
        asm.jump_if(Condition::AnyBit, 1, wire16(ipv4::OFFSET_MASK), "pass");
        for (bytes, skip) in [(4, "no 4"), (8, "no 8"), (16, "no 16"), (32, "no 32")] {
            advance_if(asm, 3, bytes, bytes as usize, skip);
        }
        asm.jump("gre");
    }

    fn outer_v6(&self, asm: &mut Assembler) {
        asm.label("outer v6");
        require_v6(asm);
        key_v6(asm, AT, 0);
        asm.load(Width::Byte, 4, AT, at(ipv6::NEXT_HEADER));
        if self.extensions {
            for kind in ipv6::extension::KINDS {
                asm.jump_if(Condition::Equal, 4, kind.into(), "extensions");
            }
        }
        if let Some(ours) = self.v6 {
            require_key(asm, ours, "plain v6");
            asm.jump_if(Condition::NotEqual, 4, protocol::GRE.into(), "pass");
            if self.take_all_gre {
                asm.jump("take");
            } else {
                advance(asm, ipv6::LEN);
                asm.jump("gre");
            }
        }

        asm.label("plain v6");
        asm.jump_if(Condition::NotEqual, 4, protocol::ICMPV6.into(), "look up");
        // Neighbour discovery is the kernel's, also for a VIP. What is too short for a message is none.
        asm.load(Width::Half, 1, AT, at(ipv6::PAYLOAD_LEN));
        asm.big_endian16(1);
        asm.jump_if(Condition::Less, 1, icmp::LEN as u32, "look up");
        require_bytes(asm, ipv6::LEN + icmp::LEN);
        asm.load(Width::Byte, 1, AT, at(ipv6::LEN + icmp::TYPE));
        pass_neighbour_discovery(asm);
    }
}

/// Goes on to `other` unless the key for the map of VIPs is this address.
fn require_key(asm: &mut Assembler, address: Ipv6Addr, other: &'static str) {
    for (index, half) in address.octets().as_chunks::<8>().0.iter().enumerate() {
        asm.load(Width::Double, 1, STACK, KEY + 8 * index as i16);
        asm.load_imm64(5, u64::from_ne_bytes(*half));
        asm.jump_if_register(Condition::NotEqual, 1, 5, other);
    }
}

/// Passes a message of the type in register 1 if neighbours on the link ask by it. The destination decides about others.
fn pass_neighbour_discovery(asm: &mut Assembler) {
    asm.jump_if(Condition::Less, 1, (*icmp::V6_NEIGHBOUR_DISCOVERY.start()).into(), "look up");
    asm.jump_if(Condition::Greater, 1, (*icmp::V6_NEIGHBOUR_DISCOVERY.end()).into(), "look up");
    asm.jump("pass");
}

/// Skips the GRE header with its optional fields. The packet inside decides.
fn gre(asm: &mut Assembler, ours: Option<Ipv4Addr>) {
    asm.label("gre");
    require_bytes(asm, gre::LEN);
    asm.load(Width::Byte, 2, AT, at(gre::FLAGS));
    asm.load(Width::Byte, 3, AT, at(gre::VERSION));
    asm.load(Width::Half, 4, AT, at(gre::PROTOCOL));
    require_gre_version(asm);
    advance(asm, gre::LEN);
    for (flag, skip) in [(gre::HAS_CHECKSUM, "no checksum"), (gre::HAS_KEY, "no key"), (gre::HAS_SEQUENCE, "no sequence number")] {
        advance_if(asm, 2, flag, gre::FIELD_LEN, skip);
    }
    asm.jump_if(Condition::Equal, 4, wire16(ethernet::IPV4), "inner v4");
    asm.jump_if(Condition::Equal, 4, wire16(ethernet::IPV6), "inner v6");
    asm.jump("pass");

    asm.label("inner v4");
    require_v4(asm);
    key_v4(asm, AT, 0);
    if let Some(ours) = ours {
        keepalive(asm, ours, AT, 0, |asm| require_bytes(asm, ipv4::LEN + gre::LEN));
    }
    asm.jump("look up");

    asm.label("inner v6");
    require_v6(asm);
    key_v6(asm, AT, 0);
    asm.jump("look up");
}

/// Takes a router's keepalive: GRE without a payload inside GRE, from us. `guideway_dataplane::path` recognises the same. The inner header is at `base + offset`;
/// `load_gre` makes sure that the GRE header behind it can be read.
fn keepalive(asm: &mut Assembler, ours: Ipv4Addr, base: u8, offset: i16, load_gre: impl FnOnce(&mut Assembler)) {
    asm.load(Width::Byte, 1, base, offset + at(ipv4::PROTOCOL));
    asm.jump_if(Condition::NotEqual, 1, protocol::GRE.into(), "look up");
    asm.load(Width::Word, 1, base, offset + at(ipv4::SOURCE));
    asm.jump_if(Condition::NotEqual, 1, wire32(ours.octets()), "look up");
    asm.load(Width::Byte, 1, base, offset + at(ipv4::VERSION_IHL));
    asm.jump_if(Condition::NotEqual, 1, ipv4::PLAIN.into(), "look up");
    asm.load(Width::Half, 1, base, offset + at(ipv4::FLAGS_AND_OFFSET));
    asm.jump_if(Condition::AnyBit, 1, wire16(ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK), "look up");
    asm.load(Width::Half, 1, base, offset + at(ipv4::TOTAL_LEN));
    asm.big_endian16(1);
    asm.jump_if(Condition::Less, 1, (ipv4::LEN + gre::LEN) as u32, "look up");
    load_gre(asm);
    asm.load(Width::Half, 1, base, offset + at(ipv4::LEN + gre::PROTOCOL));
    asm.jump_if(Condition::Equal, 1, wire16(gre::KEEPALIVE), "take");
}

/// Goes on by `bytes`.
fn advance(asm: &mut Assembler, bytes: usize) {
    asm.alu_imm(Op::Add, AT, bytes as i32);
}

/// Goes on by `bytes` if this bit of `register` is set. Only constants are added: adding a register to a pointer into a frame needs CAP_PERFMON, because the
/// verifier then has to trust us about speculation.
fn advance_if(asm: &mut Assembler, register: u8, bit: u8, bytes: usize, skip: &'static str) {
    asm.alu_reg(Op::Move, 1, register);
    asm.alu_imm(Op::And, 1, bit.into());
    asm.jump_if(Condition::Equal, 1, 0, skip);
    advance(asm, bytes);
    asm.label(skip);
}

/// Passes a frame that has less than `len` bytes from here on. The verifier learns the length too.
fn require_bytes(asm: &mut Assembler, len: usize) {
    asm.alu_reg(Op::Move, 1, AT);
    asm.alu_imm(Op::Add, 1, len as i32);
    asm.jump_if_register(Condition::Greater, 1, END, "pass");
}

/// Passes GRE of other versions; flags and version are in registers 2 and 3.
fn require_gre_version(asm: &mut Assembler) {
    asm.jump_if(Condition::AnyBit, 2, gre::MUST_BE_ZERO.into(), "pass");
    asm.jump_if(Condition::AnyBit, 3, gre::VERSION_MASK.into(), "pass");
}

fn require_v4(asm: &mut Assembler) {
    require_bytes(asm, ipv4::LEN);
    require_version(asm, AT, at(ipv4::VERSION_IHL), ipv4::VERSION);
}

fn require_v6(asm: &mut Assembler) {
    require_bytes(asm, ipv6::LEN);
    require_version(asm, AT, at(ipv6::VERSION_CLASS_LABEL), ipv6::VERSION);
}

fn require_version(asm: &mut Assembler, base: u8, offset: i16, version: u8) {
    asm.load(Width::Byte, 1, base, offset);
    asm.alu_imm(Op::Right, 1, 4);
    asm.jump_if(Condition::NotEqual, 1, version.into(), "pass");
}

// Keys are written in halves of 8 bytes, because the verifier of Linux 6.1 refuses smaller writes over values on the stack ("attempt to corrupt spilled
// pointer") to programs of processes without CAP_PERFMON.

/// Writes the destination of the IPv4 header at `base + offset` as the key.
fn key_v4(asm: &mut Assembler, base: u8, offset: i16) {
    asm.store_value(Width::Double, STACK, KEY, 0);
    asm.load(Width::Word, 1, base, offset + at(ipv4::DESTINATION));
    if cfg!(target_endian = "little") {
        asm.alu_imm(Op::Left, 1, 32);
    }
    asm.load_imm64(5, u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]));
    asm.alu_reg(Op::Or, 1, 5);
    asm.store(Width::Double, STACK, KEY + 8, 1);
}

/// Writes the destination of the IPv6 header at `base + offset` as the key.
fn key_v6(asm: &mut Assembler, base: u8, offset: i16) {
    for half in [0, 8] {
        asm.load(Width::Double, 1, base, offset + at(ipv6::DESTINATION + half));
        asm.store(Width::Double, STACK, KEY + half as i16, 1);
    }
}

#[cfg(test)]
mod tests;
