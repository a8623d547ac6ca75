//! The part of the filter that walks IPv6 extension headers, as [`guideway_packet::wire::ip`] does.
//!
//! Each has a length of its own, and adding a register to a pointer into a frame needs CAP_PERFMON. So from here on headers are not read in the frame but
//! copied to the stack by `bpf_xdp_load_bytes`, which takes an offset.

use super::{
    CONTEXT, KEY, LINK, Program, STACK, at, keepalive, key_v4, key_v6, pass_neighbour_discovery, require_gre_version, require_key,
    require_version, wire16,
};
use crate::af_xdp::asm::{Assembler, Condition, Op, Width};
use guideway_packet::wire::ip::MAX_EXTENSIONS;
use guideway_packet::wire::layout::{ethernet, gre, icmp, ipv4, ipv6, protocol};
use std::net::Ipv4Addr;

const HELPER_XDP_LOAD_BYTES: i32 = 189;

// Registers of the walk; those that they were before are not needed any more.
/// Offset of the current header in the frame.
const OFFSET: u8 = 7;
/// What the current header is.
const PROTOCOL: u8 = 8;
/// Extension headers so far.
const COUNT: u8 = 9;

// Places on the stack.
/// Offset of the end of the packet.
const END: i16 = KEY - 8;
/// A copy of the current header.
const HEADER: i16 = END - ipv6::LEN as i16;

/// Copies `len` bytes from the current offset to [`HEADER`]; passes a frame that has fewer.
fn load_header(asm: &mut Assembler, len: usize) {
    asm.alu_reg(Op::Move, 1, CONTEXT);
    asm.alu_reg(Op::Move, 2, OFFSET);
    asm.alu_reg(Op::Move, 3, STACK);
    asm.alu_imm(Op::Add, 3, HEADER.into());
    asm.alu_imm(Op::Move, 4, len as i32);
    asm.call(HELPER_XDP_LOAD_BYTES);
    asm.jump_if(Condition::NotEqual, 0, 0, "pass");
}

const fn field(offset: usize) -> i16 {
    HEADER + at(offset)
}

impl Program {
    /// Goes on with an IPv6 packet whose first extension header is of the kind in register 4. Its destination is the key.
    pub(super) fn walk_extensions(&self, asm: &mut Assembler) {
        asm.label("extensions");
        asm.load(Width::Half, 1, super::AT, at(ipv6::PAYLOAD_LEN));
        asm.big_endian16(1);
        asm.alu_reg(Op::Move, OFFSET, LINK);
        asm.alu_imm(Op::Add, OFFSET, ipv6::LEN as i32);
        asm.alu_reg(Op::Add, 1, OFFSET);
        asm.store(Width::Double, STACK, END, 1);
        asm.alu_reg(Op::Move, PROTOCOL, 4);
        asm.alu_imm(Op::Move, COUNT, 0);

        asm.label("next header");
        for kind in ipv6::extension::KINDS {
            asm.jump_if(Condition::Equal, PROTOCOL, kind.into(), "extension");
        }
        asm.jump("walked");

        asm.label("extension");
        asm.alu_imm(Op::Add, COUNT, 1);
        asm.jump_if(Condition::Greater, COUNT, MAX_EXTENSIONS as u32, "pass");
        load_header(asm, ipv6::extension::LEN);
        asm.load(Width::Byte, 2, STACK, field(ipv6::extension::HEADER_LEN));
        asm.jump_if(Condition::Equal, PROTOCOL, protocol::FRAGMENT.into(), "fragment header");
        asm.jump_if(Condition::Equal, PROTOCOL, protocol::AUTHENTICATION.into(), "authentication header");
        asm.alu_imm(Op::Add, 2, 1);
        asm.alu_imm(Op::Left, 2, 3);
        asm.jump("skip header");

        asm.label("authentication header");
        asm.alu_imm(Op::Add, 2, 2);
        asm.alu_imm(Op::Left, 2, 2);
        asm.jump("skip header");

        asm.label("fragment header");
        asm.alu_imm(Op::Move, 2, ipv6::extension::LEN as i32);
        asm.load(Width::Half, 1, STACK, field(ipv6::extension::FRAGMENT_OFFSET));
        asm.jump_if(Condition::AnyBit, 1, wire16(ipv6::extension::OFFSET_MASK), "later fragment");

        asm.label("skip header");
        asm.alu_reg(Op::Add, OFFSET, 2);
        asm.load(Width::Double, 1, STACK, END);
        asm.jump_if_register(Condition::Greater, OFFSET, 1, "pass");
        asm.load(Width::Byte, PROTOCOL, STACK, field(ipv6::extension::NEXT_HEADER));
        asm.jump("next header");

        // It shows neither ports nor a GRE header.
        asm.label("later fragment");
        if let Some(ours) = self.v6 {
            require_key(asm, ours, "look up");
            asm.jump("pass");
        } else {
            asm.jump("look up");
        }

        asm.label("walked");
        if let Some(ours) = self.v6 {
            require_key(asm, ours, "plain walked");
            asm.jump_if(Condition::NotEqual, PROTOCOL, protocol::GRE.into(), "pass");
            if self.take_all_gre {
                asm.jump("take");
            } else {
                walked_gre(asm, self.v4);
            }
        }

        asm.label("plain walked");
        asm.jump_if(Condition::NotEqual, PROTOCOL, protocol::ICMPV6.into(), "look up");
        asm.alu_reg(Op::Move, 1, OFFSET);
        asm.alu_imm(Op::Add, 1, icmp::LEN as i32);
        asm.load(Width::Double, 2, STACK, END);
        asm.jump_if_register(Condition::Greater, 1, 2, "look up");
        load_header(asm, icmp::LEN);
        asm.load(Width::Byte, 1, STACK, field(icmp::TYPE));
        pass_neighbour_discovery(asm);
    }
}

/// GRE behind extension headers: the packet inside decides.
fn walked_gre(asm: &mut Assembler, ours: Option<Ipv4Addr>) {
    load_header(asm, gre::LEN);
    asm.load(Width::Byte, 2, STACK, field(gre::FLAGS));
    asm.load(Width::Byte, 3, STACK, field(gre::VERSION));
    require_gre_version(asm);
    asm.load(Width::Half, PROTOCOL, STACK, field(gre::PROTOCOL));
    asm.alu_imm(Op::Add, OFFSET, gre::LEN as i32);
    for (flag, skip) in
        [(gre::HAS_CHECKSUM, "walked, no checksum"), (gre::HAS_KEY, "walked, no key"), (gre::HAS_SEQUENCE, "walked, no sequence number")]
    {
        asm.alu_reg(Op::Move, 1, 2);
        asm.alu_imm(Op::And, 1, flag.into());
        asm.jump_if(Condition::Equal, 1, 0, skip);
        asm.alu_imm(Op::Add, OFFSET, gre::FIELD_LEN as i32);
        asm.label(skip);
    }
    asm.jump_if(Condition::Equal, PROTOCOL, wire16(ethernet::IPV4), "walked, inner v4");
    asm.jump_if(Condition::NotEqual, PROTOCOL, wire16(ethernet::IPV6), "pass");

    load_header(asm, ipv6::LEN);
    require_version(asm, STACK, field(ipv6::VERSION_CLASS_LABEL), ipv6::VERSION);
    key_v6(asm, STACK, HEADER);
    asm.jump("look up");

    asm.label("walked, inner v4");
    load_header(asm, ipv4::LEN);
    require_version(asm, STACK, field(ipv4::VERSION_IHL), ipv4::VERSION);
    key_v4(asm, STACK, HEADER);
    if let Some(ours) = ours {
        keepalive(asm, ours, STACK, HEADER, |asm| load_header(asm, ipv4::LEN + gre::LEN));
    }
    asm.jump("look up");
}
