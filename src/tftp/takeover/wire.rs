//! The datagrams between servers: binary, with a version, each signed as a whole by SipHash-2-4-128 under a key of its own that comes from the fleet's.
//!
//! All begin with `GWT`, the version, the kind, the stream (which loop of the sender) and the sender's name, and end with the signature. Integers are
//! big-endian. Nothing that was not signed with the key is read any further.

use super::note::{Id, Note};
use guideway_hash::{Domain, FleetKey};
use siphasher::sip128::SipHasher24;
use std::net::IpAddr;

/// The longest datagram that is sent, below the payload of every Ethernet.
pub const LONGEST: usize = 1400;
/// Most transfers of one `Ended`, most numbers of one `Acks`.
pub const MOST: usize = 24;

const MAGIC: &[u8; 3] = b"GWT";
const VERSION: u8 = 2;
const SIGNATURE: usize = 16;

/// The key under which datagrams are signed, and those under which they are believed, too: while a fleet changes its key.
#[derive(Clone)]
pub struct Signer {
    key: SipHasher24,
    also: Vec<SipHasher24>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

/// A place in a stream of notes: under which token of the heir, and the how manieth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The heir's token; 0 when it is not known.
    pub token: u64,
    /// The number; each is used once.
    pub number: u64,
}

/// What one server says to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// "I live, and what is your token?"
    Hello(Place),
    /// A transfer.
    Note(Place, Box<Note>),
    /// Transfers that need nobody any more.
    Ended(Place, Vec<Id>),
    /// Notes and hellos that came, by their numbers.
    Acks(u64, Vec<u64>),
    /// What was said at this place was not taken; the token from now on.
    Refused(Place, u64),
    /// Who knows this transfer? The last number comes back with the answer; the place makes that the question is taken once.
    Query(Place, u64, Id),
    /// I do.
    Known(u64, Box<Note>),
    /// I do not.
    Unknown(u64),
    /// Has anybody served this transfer behind this block? `Known` if so, by whoever serves it still or was told; else `Unknown`.
    Behind(Place, u64, Id, u64),
    /// A note that came at this place is not kept.
    NotKept(Place),
}

/// A datagram that was read: who says what.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard<'a> {
    /// The sender's name.
    pub from: &'a [u8],
    /// Which of its loops.
    pub stream: u8,
    /// What it says.
    pub said: Said,
}

impl Signer {
    /// For a fleet that has this key.
    pub fn new(key: &FleetKey) -> Signer {
        Signer { key: hasher(key), also: Vec::new() }
    }

    /// The same, and datagrams signed with one of these keys are believed as well.
    #[must_use]
    pub fn believing(self, keys: &[FleetKey]) -> Signer {
        Signer { also: keys.iter().map(hasher).collect(), ..self }
    }

    /// Appends a signed datagram.
    pub fn write(&self, to: &mut Vec<u8>, from: &str, stream: u8, said: &Said) {
        let start = to.len();
        let kind = match said {
            Said::Hello(_) => 1,
            Said::Note(..) => 2,
            Said::Ended(..) => 3,
            Said::Acks(..) => 4,
            Said::Refused(..) => 5,
            Said::Query(..) => 6,
            Said::Known(..) => 7,
            Said::Unknown(_) => 8,
            Said::Behind(..) => 9,
            Said::NotKept(_) => 10,
        };
        let mut w = Writer(to);
        w.bytes(MAGIC).u8(VERSION).u8(kind).u8(stream).text(from.as_bytes());
        match said {
            Said::Hello(place) => w.place(*place),
            Said::Note(place, note) => {
                note.write(w.place(*place));
                &mut w
            }
            Said::Ended(place, ids) => {
                w.place(*place).u8(ids.len().min(MOST) as u8);
                ids.iter().take(MOST).for_each(|id| id.write(&mut w));
                &mut w
            }
            Said::Acks(token, numbers) => {
                w.u64(*token).u8(numbers.len().min(MOST) as u8);
                numbers.iter().take(MOST).fold(&mut w, |w, number| w.u64(*number))
            }
            Said::Refused(place, token) => w.place(*place).u64(*token),
            Said::Query(place, nonce, id) => {
                id.write(w.place(*place).u64(*nonce));
                &mut w
            }
            Said::Known(nonce, note) => {
                note.write(w.u64(*nonce));
                &mut w
            }
            Said::Unknown(nonce) => w.u64(*nonce),
            Said::Behind(place, nonce, id, block) => {
                id.write(w.place(*place).u64(*nonce));
                w.u64(*block)
            }
            Said::NotKept(place) => w.place(*place),
        };
        let signature = self.key.hash(&to[start..]).as_bytes();
        to.extend_from_slice(&signature);
    }

    /// Reads a datagram; nothing when it is not one, was not signed with a key that is believed or says nonsense.
    pub fn read<'a>(&self, datagram: &'a [u8]) -> Option<Heard<'a>> {
        let (bytes, signature) = datagram.split_at_checked(datagram.len().checked_sub(SIGNATURE)?)?;
        // All bytes are compared, whatever the first ones say: the time it takes tells nothing.
        let signed = |key: &SipHasher24| key.hash(bytes).as_bytes().iter().zip(signature).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        if !signed(&self.key) && !self.also.iter().any(signed) {
            return None;
        }
        let mut r = Reader(bytes);
        if r.array()? != *MAGIC || r.u8()? != VERSION {
            return None;
        }
        let (kind, stream, from) = (r.u8()?, r.u8()?, r.text()?);
        let said = match kind {
            1 => Said::Hello(r.place()?),
            2 => Said::Note(r.place()?, Box::new(Note::read(&mut r)?)),
            3 => {
                let place = r.place()?;
                Said::Ended(place, (0..r.u8()?).map(|_| Id::read(&mut r)).collect::<Option<_>>()?)
            }
            4 => {
                let token = r.u64()?;
                Said::Acks(token, (0..r.u8()?).map(|_| r.u64()).collect::<Option<_>>()?)
            }
            5 => Said::Refused(r.place()?, r.u64()?),
            6 => Said::Query(r.place()?, r.u64()?, Id::read(&mut r)?),
            7 => Said::Known(r.u64()?, Box::new(Note::read(&mut r)?)),
            8 => Said::Unknown(r.u64()?),
            9 => Said::Behind(r.place()?, r.u64()?, Id::read(&mut r)?, r.u64()?),
            10 => Said::NotKept(r.place()?),
            _ => return None,
        };
        r.0.is_empty().then_some(Heard { from, stream, said })
    }
}

fn hasher(key: &FleetKey) -> SipHasher24 {
    SipHasher24::new_with_key(&key.derived(Domain::Notes))
}

/// Appends values.
pub struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    /// To these bytes.
    pub fn new(to: &'a mut Vec<u8>) -> Writer<'a> {
        Writer(to)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// A length of 16 bits, and so many bytes.
    pub(super) fn text(&mut self, text: &[u8]) -> &mut Self {
        let text = &text[..text.len().min(usize::from(u16::MAX))];
        self.u16(text.len() as u16).bytes(text)
    }

    pub(super) fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.u8(4).bytes(&address.octets()),
            IpAddr::V6(address) => self.u8(6).bytes(&address.octets()),
        }
    }

    fn place(&mut self, place: Place) -> &mut Self {
        self.u64(place.token).u64(place.number)
    }
}

/// Takes values from the front.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// From these bytes.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.u16()?);
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }

    pub(super) fn address(&mut self) -> Option<IpAddr> {
        match self.u8()? {
            4 => self.array::<4>().map(IpAddr::from),
            6 => self.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    fn place(&mut self) -> Option<Place> {
        Some(Place { token: self.u64()?, number: self.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::note::sample;
    use super::*;
    use proptest::prelude::*;

    fn signer(byte: u8) -> Signer {
        Signer::new(&FleetKey::new([byte; 16]))
    }

    fn all() -> Vec<Said> {
        let (place, mut six) = (Place { token: 5, number: 6 }, sample(9));
        six.id.client = "[2001:db8::7]:2000".parse().unwrap();
        six.id.vip = "2001:db8::69".parse().unwrap();
        six.terms.rollover = crate::options::Rollover::One;
        (six.terms.timeout, six.heard) = (None, true);
        vec![
            Said::Hello(place),
            Said::Note(place, Box::new(sample(7))),
            Said::Note(place, Box::new(six)),
            Said::Ended(place, (0..MOST as u16).map(|port| sample(port).id).collect()),
            Said::Acks(3, vec![1, u64::MAX]),
            Said::Refused(place, 77),
            Said::Query(place, 8, sample(1).id),
            Said::Behind(place, 8, sample(1).id, 70_000),
            Said::NotKept(place),
            Said::Known(8, Box::new(sample(1))),
            Said::Unknown(8),
        ]
    }

    fn written(said: &Said) -> Vec<u8> {
        let mut bytes = Vec::new();
        signer(1).write(&mut bytes, "t1", 3, said);
        bytes
    }

    #[test]
    fn what_is_said_is_heard() {
        for said in all() {
            let bytes = written(&said);
            assert!(bytes.len() <= LONGEST, "{}", bytes.len());
            assert_eq!(signer(1).read(&bytes), Some(Heard { from: b"t1", stream: 3, said }));
        }
        let mut longest = sample(1);
        longest.request = vec![b'x'; super::super::note::LONGEST_REQUEST].into();
        assert!(written(&Said::Note(Place::default(), Box::new(longest))).len() + 63 <= LONGEST, "with the longest name");
    }

    #[test]
    fn what_was_tampered_with_is_not() {
        for said in all() {
            let bytes = written(&said);
            assert_eq!(signer(2).read(&bytes), None, "another fleet's");
            for at in 0..bytes.len() {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1 << (at % 8);
                assert_eq!(signer(1).read(&spoilt), None, "byte {at}");
                assert_eq!(signer(1).read(&bytes[..at]), None, "cut at {at}");
            }
        }
    }

    #[test]
    fn what_is_signed_with_another_key_that_is_known_is_heard_and_never_said() {
        let (old, new) = (FleetKey::new([1; 16]), FleetKey::new([2; 16]));
        let both = Signer::new(&new).believing(&[old]);
        for said in all() {
            assert!(both.read(&written(&said)).is_some_and(|heard| heard.said == said));
            let mut bytes = Vec::new();
            both.write(&mut bytes, "t1", 3, &said);
            assert!(signer(2).read(&bytes).is_some() && signer(1).read(&bytes).is_none() && both.read(&bytes).is_some());
            bytes[5] ^= 1;
            assert_eq!(both.read(&bytes), None);
        }
    }

    #[test]
    fn notes_that_no_server_sends_are_refused() {
        let bad = |change: fn(&mut Note)| {
            let mut note = sample(1);
            change(&mut note);
            signer(1).read(&written(&Said::Known(1, Box::new(note)))).is_none()
        };
        assert!(!bad(|_| {}));
        assert!(bad(|note| note.terms.blksize = 7) && bad(|note| note.terms.window = 0) && bad(|note| note.size = u64::MAX));
        assert!(bad(|note| note.acked = note.last() + 1) && !bad(|note| note.acked = note.last()));
        assert!(bad(|note| note.terms.window = MAX + 1) && bad(|note| note.request = vec![0; 1025].into()));
    }

    const MAX: u16 = crate::options::MAX_WINDOW;

    proptest! {
        /// Also what is signed, as by another version or a server gone mad, is read without harm.
        #[test]
        fn no_bytes_do_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..10, start in any::<bool>()) {
            if start {
                bytes.splice(0..0, [b'G', b'W', b'T', VERSION, kind, 0, 0, 1, b'a']);
            }
            let signature = signer(1).key.hash(&bytes).as_bytes();
            prop_assert_eq!(signer(2).read(&bytes), None);
            bytes.extend(signature);
            if let Some(heard) = signer(1).read(&bytes) {
                let mut again = Vec::new();
                let name = String::from_utf8_lossy(heard.from).into_owned();
                signer(1).write(&mut again, &name, heard.stream, &heard.said);
                prop_assert!(signer(1).read(&again).is_some());
            }
        }
    }
}
