//! Just enough of an eBPF assembler to write the filter down: instructions, labels, and the encoding of linux/bpf.h.

use std::collections::HashMap;

/// A register. `r0` is a result, `r1`–`r5` are arguments and lost in calls, `r6`–`r9` survive them, `r10` is the end of the stack.
pub type Register = u8;

/// Width of a load or store.
#[derive(Clone, Copy, Debug)]
pub enum Width {
    /// 8 bits.
    Byte = 0x10,
    /// 16 bits.
    Half = 0x08,
    /// 32 bits.
    Word = 0x00,
    /// 64 bits.
    Double = 0x18,
}

/// An arithmetic operation, on 64 bits.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// `dst += value`
    Add = 0x00,
    /// `dst |= value`
    Or = 0x40,
    /// `dst &= value`
    And = 0x50,
    /// `dst <<= value`
    Left = 0x60,
    /// `dst >>= value`, filled with zeros.
    Right = 0x70,
    /// `dst = value`
    Move = 0xb0,
}

/// A comparison that jumps when it holds; unsigned.
#[derive(Clone, Copy, Debug)]
pub enum Condition {
    /// `dst == value`
    Equal = 0x10,
    /// `dst > value`
    Greater = 0x20,
    /// `dst & value != 0`
    AnyBit = 0x40,
    /// `dst != value`
    NotEqual = 0x50,
    /// `dst < value`
    Less = 0xa0,
}

/// Why a program cannot be assembled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A jump to a label that was never placed.
    #[error("the filter jumps to `{0}`, which is nowhere")]
    NoLabel(&'static str),
    /// A jump farther than 32,767 instructions.
    #[error("the filter jumps too far to `{0}`")]
    TooFar(&'static str),
}

/// A program as it grows.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<u64>,
    labels: HashMap<&'static str, usize>,
    jumps: Vec<(usize, &'static str)>,
}

fn encode(opcode: u8, dst: Register, src: Register, offset: i16, immediate: i32) -> u64 {
    u64::from(opcode)
        | u64::from(dst) << 8
        | u64::from(src) << 12
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

impl Assembler {
    /// Names the next instruction.
    pub fn label(&mut self, name: &'static str) {
        self.labels.insert(name, self.code.len());
    }

    /// `dst = *(dst's width)(src + offset)`
    pub fn load(&mut self, width: Width, dst: Register, src: Register, offset: i16) {
        self.code.push(encode(0x61 | width as u8, dst, src, offset, 0));
    }

    /// `*(width)(dst + offset) = src`
    pub fn store(&mut self, width: Width, dst: Register, offset: i16, src: Register) {
        self.code.push(encode(0x63 | width as u8, dst, src, offset, 0));
    }

    /// `*(width)(dst + offset) = value`
    pub fn store_value(&mut self, width: Width, dst: Register, offset: i16, value: i32) {
        self.code.push(encode(0x62 | width as u8, dst, 0, offset, value));
    }

    /// `dst = dst op value`
    pub fn alu_imm(&mut self, op: Op, dst: Register, value: i32) {
        self.code.push(encode(0x07 | op as u8, dst, 0, 0, value));
    }

    /// `dst = dst op src`
    pub fn alu_reg(&mut self, op: Op, dst: Register, src: Register) {
        self.code.push(encode(0x0f | op as u8, dst, src, 0, 0));
    }

    /// `dst = the low 16 bits of dst`, which are in network byte order, as a number.
    pub fn big_endian16(&mut self, dst: Register) {
        self.code.push(encode(0xdc, dst, 0, 0, 16));
    }

    /// Jumps when the low 32 bits of `dst` compare so with `value`.
    pub fn jump_if(&mut self, test: Condition, dst: Register, value: u32, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.code.push(encode(0x06 | test as u8, dst, 0, 0, value.cast_signed()));
    }

    /// Jumps when all of `dst` compares so with all of `src`.
    pub fn jump_if_register(&mut self, test: Condition, dst: Register, src: Register, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.code.push(encode(0x0d | test as u8, dst, src, 0, 0));
    }

    /// Jumps when `dst` holds no pointer.
    pub fn jump_if_null(&mut self, dst: Register, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.code.push(encode(0x15, dst, 0, 0, 0));
    }

    /// Jumps.
    pub fn jump(&mut self, to: &'static str) {
        self.jumps.push((self.code.len(), to));
        self.code.push(encode(0x05, 0, 0, 0, 0));
    }

    /// `dst = value`, all 64 bits of it
    pub fn load_imm64(&mut self, dst: Register, value: u64) {
        self.code.push(encode(0x18, dst, 0, 0, (value as u32).cast_signed()));
        self.code.push(value >> 32 << 32);
    }

    /// `dst = the map behind this file descriptor`
    pub fn load_map_fd(&mut self, dst: Register, fd: i32) {
        const PSEUDO_MAP_FD: Register = 1;
        self.code.push(encode(0x18, dst, PSEUDO_MAP_FD, 0, fd));
        self.code.push(0);
    }

    /// Calls a helper of the kernel by its number.
    pub fn call(&mut self, helper: i32) {
        self.code.push(encode(0x85, 0, 0, 0, helper));
    }

    /// Returns `r0`.
    pub fn exit(&mut self) {
        self.code.push(encode(0x95, 0, 0, 0, 0));
    }

    /// The instructions, with every jump resolved.
    pub fn finish(mut self) -> Result<Vec<u64>, Error> {
        for (at, name) in self.jumps {
            let to = *self.labels.get(name).ok_or(Error::NoLabel(name))?;
            let offset = i16::try_from(to as i64 - at as i64 - 1).map_err(|_| Error::TooFar(name))?;
            self.code[at] |= u64::from(offset.cast_unsigned()) << 16;
        }
        Ok(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_documents() {
        let mut asm = Assembler::default();
        asm.label("start");
        asm.load(Width::Half, 2, 7, 12);
        asm.store(Width::Word, 10, -4, 1);
        asm.store_value(Width::Double, 10, -16, 0);
        asm.alu_imm(Op::Right, 4, 4);
        asm.alu_reg(Op::Move, 6, 1);
        asm.load_imm64(5, 0x0123_4567_89ab_cdef);
        asm.big_endian16(3);
        asm.jump_if(Condition::NotEqual, 2, 0xffff_ffff, "end");
        asm.jump_if_register(Condition::Greater, 1, 8, "start");
        asm.label("end");
        asm.exit();
        let bytes: Vec<[u8; 8]> = asm.finish().unwrap().iter().map(|i| i.to_le_bytes()).collect();
        assert_eq!(
            bytes,
            [
                [0x69, 0x72, 12, 0, 0, 0, 0, 0],
                [0x63, 0x1a, 0xfc, 0xff, 0, 0, 0, 0],
                [0x7a, 0x0a, 0xf0, 0xff, 0, 0, 0, 0],
                [0x77, 0x04, 0, 0, 4, 0, 0, 0],
                [0xbf, 0x16, 0, 0, 0, 0, 0, 0],
                [0x18, 0x05, 0, 0, 0xef, 0xcd, 0xab, 0x89],
                [0, 0, 0, 0, 0x67, 0x45, 0x23, 0x01],
                [0xdc, 0x03, 0, 0, 16, 0, 0, 0],
                [0x56, 0x02, 1, 0, 0xff, 0xff, 0xff, 0xff],
                [0x2d, 0x81, 0xf6, 0xff, 0, 0, 0, 0],
                [0x95, 0, 0, 0, 0, 0, 0, 0],
            ]
        );
    }

    #[test]
    fn a_jump_to_nowhere_is_refused() {
        let mut asm = Assembler::default();
        asm.jump("nowhere");
        assert_eq!(asm.finish(), Err(Error::NoLabel("nowhere")));
    }
}
