//! netascii (RFC 764, as RFC 1350 uses it): a line ends with CR LF on the wire, a lone CR is CR NUL. Both directions, across block boundaries.

/// From the wire to this machine: CR LF becomes LF, CR NUL becomes CR.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    held: bool,
}

impl Decoder {
    /// Decodes the next piece to the end of `out`.
    pub fn decode(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        for &byte in piece {
            match (std::mem::take(&mut self.held), byte) {
                (true, b'\n') => out.push(b'\n'),
                (true, 0) => out.push(b'\r'),
                // Any other CR is invalid; it is kept as it is.
                (true, b'\r') => {
                    out.push(b'\r');
                    self.held = true;
                }
                (true, other) => out.extend([b'\r', other]),
                (false, b'\r') => self.held = true,
                (false, other) => out.push(other),
            }
        }
    }

    /// Decodes a CR at the end of the input.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.held) {
            out.push(b'\r');
        }
    }
}

/// From this machine to the wire: LF becomes CR LF, CR becomes CR NUL. Appends to `out`.
pub fn encode(piece: &[u8], out: &mut Vec<u8>) {
    for &byte in piece {
        let (pair, count) = encode_byte(byte);
        out.extend(&pair[..count]);
    }
}

/// Encodes one byte: the bytes on the wire, and how many of the two they are.
pub fn encode_byte(byte: u8) -> ([u8; 2], usize) {
    match byte {
        b'\n' => (*b"\r\n", 2),
        b'\r' => (*b"\r\0", 2),
        other => ([other, 0], 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn invalid_sequences_are_kept() {
        for (wire, text) in [(&b"a\r\rb"[..], &b"a\r\rb"[..]), (b"\r", b"\r"), (b"\rx", b"\rx"), (b"\r\r\n", b"\r\n"), (b"\n", b"\n")] {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            decoder.decode(wire, &mut out);
            decoder.finish(&mut out);
            assert_eq!(out, text, "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn decoding_reverts_encoding_wherever_blocks_end(
            text in prop::collection::vec(prop::sample::select(vec![b'\r', b'\n', 0, b'a']), 0..64),
            block in 1usize..9,
        ) {
            let (mut wire, mut out, mut decoder) = (Vec::new(), Vec::new(), Decoder::default());
            encode(&text, &mut wire);
            wire.chunks(block).for_each(|piece| decoder.decode(piece, &mut out));
            decoder.finish(&mut out);
            prop_assert_eq!(out, text);
        }
    }
}
