//! Reads and writes the packets of TFTP (RFC 1350, RFC 2347), from untrusted bytes and without copies.
//!
//! [`Packet::parse`] is the only constructor from bytes; no function of a parsed packet panics. Common mistakes of clients are accepted: bytes
//! after the last option are ignored, names need not be UTF-8, a request may be longer than 512 bytes, an ERROR may lack its final NUL.

use std::fmt;

/// UDP port of requests (RFC 1350 section 4).
pub const PORT: u16 = 69;
/// Bytes of a block when no `blksize` was negotiated (RFC 1350 section 2).
pub const DEFAULT_BLKSIZE: u16 = 512;
/// Bytes before the data in a DATA packet.
pub const DATA_HEADER: usize = 4;

const RRQ: u16 = 1;
const WRQ: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OACK: u16 = 6;

/// One packet, borrowed from its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// RRQ or WRQ: opcode 1 or 2.
    Request(Request<'a>),
    /// DATA: opcode 3.
    Data {
        /// Number of the block, modulo 65536.
        block: u16,
        /// Its bytes; fewer than the block size in the last block.
        data: &'a [u8],
    },
    /// ACK: opcode 4.
    Ack {
        /// Number of the block that is acknowledged; 0 answers an OACK (or a write request).
        block: u16,
    },
    /// ERROR: opcode 5.
    Error {
        /// The error code.
        code: ErrorCode,
        /// Human-readable text, up to the first NUL.
        text: &'a [u8],
    },
    /// OACK: opcode 6 (RFC 2347).
    Oack(Options<'a>),
}

/// A read or write request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Whether the client wants to write (WRQ) rather than read (RRQ).
    pub write: bool,
    /// The file name as received, any bytes except NUL.
    pub file: &'a [u8],
    /// The mode as received; see [`Request::known_mode`].
    pub mode: &'a [u8],
    /// The options in the order of the request.
    pub options: Options<'a>,
}

impl Request<'_> {
    /// Returns the mode, if it is supported.
    pub fn known_mode(&self) -> Option<Mode> {
        [Mode::Octet, Mode::Netascii].into_iter().find(|mode| self.mode.eq_ignore_ascii_case(mode.name().as_bytes()))
    }
}

/// Transfer mode (RFC 1350 section 1). `mail` is obsolete and not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Bytes without translation.
    Octet,
    /// Line ends as CR LF, and CR as CR NUL.
    Netascii,
}

impl Mode {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Octet => "octet",
            Mode::Netascii => "netascii",
        }
    }
}

/// Pairs of name and value (RFC 2347), in the order of the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options<'a> {
    /// Whole pairs, every string NUL-terminated, no name empty.
    bytes: &'a [u8],
}

impl<'a> Options<'a> {
    /// Takes the complete pairs at the start of `bytes`. An empty name (padding) or an incomplete pair ends them.
    fn parse(bytes: &'a [u8]) -> Self {
        let mut end = 0;
        while let Some((name, rest)) = string(&bytes[end..])
            && !name.is_empty()
            && let Some((value, _)) = string(rest)
        {
            end += name.len() + value.len() + 2;
        }
        Options { bytes: &bytes[..end] }
    }

    /// Returns the pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut left = self.bytes;
        std::iter::from_fn(move || {
            let (name, rest) = string(left)?;
            let (value, rest) = string(rest)?;
            left = rest;
            Some((name, value))
        })
    }

    /// Returns the value of the first option of this name, in any case ("The field … is case-insensitive", RFC 2347).
    pub fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.iter().find(|(n, _)| n.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// Returns whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Reasons why a datagram is not a TFTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The datagram ends within the fixed part.
    #[error("truncated packet")]
    Truncated,
    /// An opcode outside 1–6; the opcode.
    #[error("unknown opcode {0}")]
    Opcode(u16),
    /// The file's name or the mode of a request does not end with a NUL.
    #[error("unterminated string in a request")]
    Unterminated,
}

impl<'a> Packet<'a> {
    /// Reads a datagram.
    ///
    /// # Errors
    /// When it is not a TFTP packet. A server may answer with ERROR 4.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, Malformed> {
        let (&opcode, rest) = datagram.split_first_chunk().ok_or(Malformed::Truncated)?;
        match u16::from_be_bytes(opcode) {
            opcode @ (RRQ | WRQ) => {
                let (file, rest) = string(rest).ok_or(Malformed::Unterminated)?;
                let (mode, rest) = string(rest).ok_or(Malformed::Unterminated)?;
                Ok(Packet::Request(Request { write: opcode == WRQ, file, mode, options: Options::parse(rest) }))
            }
            DATA => number(rest).map(|(block, data)| Packet::Data { block, data }),
            ACK => number(rest).map(|(block, _)| Packet::Ack { block }),
            ERROR => {
                let (code, text) = number(rest)?;
                let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
                Ok(Packet::Error { code: ErrorCode(code), text: &text[..end] })
            }
            OACK => Ok(Packet::Oack(Options::parse(rest))),
            other => Err(Malformed::Opcode(other)),
        }
    }

    /// Appends the packet's bytes to `to`.
    pub fn emit(&self, to: &mut Vec<u8>) {
        match *self {
            Packet::Request(Request { write, file, mode, options }) => put_request(to, write, file, mode, options.iter()),
            Packet::Data { block, data } => {
                put_data_header(to, block);
                to.extend(data);
            }
            Packet::Ack { block } => put_ack(to, block),
            Packet::Error { code, text } => put_error(to, code, text),
            Packet::Oack(options) => put_oack(to, options.iter()),
        }
    }
}

/// Appends a request. A string ends at its first NUL.
pub fn put_request<'o>(to: &mut Vec<u8>, write: bool, file: &[u8], mode: &[u8], options: impl IntoIterator<Item = (&'o [u8], &'o [u8])>) {
    to.extend((if write { WRQ } else { RRQ }).to_be_bytes());
    put_string(to, file);
    put_string(to, mode);
    put_options(to, options);
}

/// Appends the first four bytes of a DATA packet; the block's bytes follow.
pub fn put_data_header(to: &mut Vec<u8>, block: u16) {
    to.extend(data_header(block));
}

/// Returns the first four bytes of a DATA packet.
pub fn data_header(block: u16) -> [u8; DATA_HEADER] {
    let [high, low] = block.to_be_bytes();
    [0, DATA as u8, high, low]
}

/// Appends an ACK.
pub fn put_ack(to: &mut Vec<u8>, block: u16) {
    to.extend(ACK.to_be_bytes());
    to.extend(block.to_be_bytes());
}

/// Appends an ERROR.
pub fn put_error(to: &mut Vec<u8>, code: ErrorCode, text: &[u8]) {
    to.extend(ERROR.to_be_bytes());
    to.extend(code.0.to_be_bytes());
    put_string(to, text);
}

/// Appends an OACK. No padding follows the last option, because some clients refuse it.
pub fn put_oack<'o>(to: &mut Vec<u8>, options: impl IntoIterator<Item = (&'o [u8], &'o [u8])>) {
    to.extend(OACK.to_be_bytes());
    put_options(to, options);
}

fn put_options<'o>(to: &mut Vec<u8>, options: impl IntoIterator<Item = (&'o [u8], &'o [u8])>) {
    for (name, value) in options {
        put_string(to, name);
        put_string(to, value);
    }
}

fn put_string(to: &mut Vec<u8>, string: &[u8]) {
    to.extend(string.split(|&b| b == 0).next().unwrap_or_default());
    to.push(0);
}

/// Splits bytes at the first NUL.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&b| b == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn number(bytes: &[u8]) -> Result<(u16, &[u8]), Malformed> {
    let (&number, rest) = bytes.split_first_chunk().ok_or(Malformed::Truncated)?;
    Ok((u16::from_be_bytes(number), rest))
}

/// Code of an ERROR packet (RFC 1350 appendix, RFC 2347). Unknown codes are kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorCode(pub u16);

impl ErrorCode {
    /// 0: see the text. Clients also send it when they stop early.
    pub const NOT_DEFINED: ErrorCode = ErrorCode(0);
    /// 1: file not found.
    pub const NOT_FOUND: ErrorCode = ErrorCode(1);
    /// 2: access violation.
    pub const ACCESS: ErrorCode = ErrorCode(2);
    /// 3: disk full.
    pub const DISK_FULL: ErrorCode = ErrorCode(3);
    /// 4: illegal operation.
    pub const ILLEGAL: ErrorCode = ErrorCode(4);
    /// 5: unknown transfer identifier.
    pub const UNKNOWN_TID: ErrorCode = ErrorCode(5);
    /// 6: file already exists.
    pub const EXISTS: ErrorCode = ErrorCode(6);
    /// 7: no such user.
    pub const NO_USER: ErrorCode = ErrorCode(7);
    /// 8: the options of the OACK are refused (RFC 2347). A client also ends a size probe with it.
    pub const OPTIONS: ErrorCode = ErrorCode(8);

    /// Returns the meaning of the code.
    pub fn meaning(self) -> &'static str {
        match self.0 {
            0 => "not defined",
            1 => "file not found",
            2 => "access violation",
            3 => "disk full",
            4 => "illegal operation",
            5 => "unknown transfer",
            6 => "file exists",
            7 => "no such user",
            8 => "options refused",
            _ => "unknown code",
        }
    }
}

impl fmt::Debug for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.meaning())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(bytes: &[u8]) -> Request<'_> {
        match Packet::parse(bytes) {
            Ok(Packet::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_with_options_in_their_order() {
        let r = request(b"\0\x01/boot/grub.cfg\0OcTeT\0BLKSIZE\x001024\0tsize\x000\0");
        assert_eq!((r.write, r.file, r.known_mode()), (false, &b"/boot/grub.cfg"[..], Some(Mode::Octet)));
        let options: Vec<_> = r.options.iter().collect();
        assert_eq!(options, [(&b"BLKSIZE"[..], &b"1024"[..]), (b"tsize", b"0")]);
        assert_eq!(r.options.get("blksize"), Some(&b"1024"[..]));
        assert_eq!(r.options.get("windowsize"), None);
    }

    #[test]
    fn common_mistakes_of_clients_are_accepted() {
        assert_eq!(request(b"\0\x01name\xff\0octet\0").file, b"name\xff", "0xFF after the name, not UTF-8");
        assert!(request(b"\0\x01f\0octet\0\0\0\0").options.is_empty(), "padding");
        assert_eq!(request(b"\0\x01f\0octet\0tsize\x000\0blksi").options.iter().count(), 1, "garbage after the last option");
        assert_eq!(request(b"\0\x01f\0octet\0multicast\0\0tsize\x000\0").options.get("tsize"), Some(&b"0"[..]), "an empty value");
        let long = [b"\0\x01", &[b'a'; 700][..], b"\0octet\0"].concat();
        assert_eq!(request(&long).file.len(), 700);
        assert_eq!(Packet::parse(b"\0\x05\0\x01gone"), Ok(Packet::Error { code: ErrorCode::NOT_FOUND, text: b"gone" }));
        assert_eq!(Packet::parse(b"\0\x04\0\x07\0\0"), Ok(Packet::Ack { block: 7 }), "an ACK followed by more bytes");
    }

    #[test]
    fn invalid_datagrams_are_refused() {
        for (bytes, why) in [
            (&b""[..], Malformed::Truncated),
            (b"\0", Malformed::Truncated),
            (b"\0\x04\0", Malformed::Truncated),
            (b"\0\x00\0\0", Malformed::Opcode(0)),
            (b"\0\x07\0\0", Malformed::Opcode(7)),
            (b"\0\x01name", Malformed::Unterminated),
            (b"\0\x02name\0octet", Malformed::Unterminated),
        ] {
            assert_eq!(Packet::parse(bytes), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(request(b"\0\x01f\0NETASCII\0").known_mode(), Some(Mode::Netascii));
        assert_eq!(request(b"\0\x01f\0mail\0").known_mode(), None);
    }

    #[test]
    fn an_oack_ends_with_its_last_option() {
        let mut bytes = Vec::new();
        put_oack(&mut bytes, [(&b"tsize"[..], &b"7"[..])]);
        assert_eq!(bytes, b"\0\x06tsize\x007\0");
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8..=255, 0..40)
    }

    proptest! {
        #[test]
        fn a_request_survives_the_wire(write: bool, file in text(), mode in text(),
                                       options in proptest::collection::vec((proptest::collection::vec(1u8..=255, 1..20), text()), 0..5)) {
            let mut bytes = Vec::new();
            put_request(&mut bytes, write, &file, &mode, options.iter().map(|(n, v)| (&n[..], &v[..])));
            let Ok(Packet::Request(read)) = Packet::parse(&bytes) else { return Err(TestCaseError::fail("no request")) };
            prop_assert_eq!((read.write, read.file, read.mode), (write, &file[..], &mode[..]));
            let read: Vec<_> = read.options.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect();
            prop_assert_eq!(read, options);
        }
    }
}
