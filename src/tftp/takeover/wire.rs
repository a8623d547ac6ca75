//! The datagrams between servers: binary, with a version, signed by SipHash-2-4-128 under a key that is derived from the fleet's key.
//!
//! All begin with `GWT`, the version, the kind, the stream (which loop of the sender) and the sender's name, and end with the signature. Integers are
//! big-endian. Datagrams without a valid signature are not parsed.

use super::checkpoint::{Checkpoint, Id};
use super::codec::{Reader, Writer};
use guideway_hash::{Domain, FleetKey};
use siphasher::sip128::SipHasher24;

/// Longest datagram that is sent, below the payload of Ethernet.
pub const MAX_DATAGRAM: usize = 1400;
/// Largest number of transfers in an `Ended`, and of numbers in an `Acks`.
pub const MAX_ITEMS: usize = 24;

const MAGIC: &[u8; 3] = b"GWT";
const VERSION: u8 = 2;
const SIGNATURE: usize = 16;

/// The key that signs datagrams, and further keys that are accepted while a fleet changes its key.
#[derive(Clone)]
pub struct Signer {
    key: SipHasher24,
    other_keys: Vec<SipHasher24>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(…)")
    }
}

/// A position in a stream of messages: the token of the receiver, and the sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The receiver's token; 0 if unknown.
    pub token: u64,
    /// The sequence number; each is used once.
    pub number: u64,
}

/// A message between servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerMessage {
    /// Shows that the sender is alive, and requests the receiver's token.
    Hello(Sequence),
    /// The state of a transfer.
    Checkpoint(Sequence, Box<Checkpoint>),
    /// Transfers that no longer need a successor.
    Ended(Sequence, Vec<Id>),
    /// Acknowledges checkpoints and hellos, by number.
    Acks(u64, Vec<u64>),
    /// Rejects the message with this sequence; carries the valid token.
    TokenMismatch(Sequence, u64),
    /// Asks for the checkpoint of a transfer. The answer repeats the number; the sequence protects the query against replay.
    TransferQuery(Sequence, u64, Id),
    /// Answers a query with a checkpoint.
    AnswerKnown(u64, Box<Checkpoint>),
    /// Answers that the sender does not know the transfer.
    AnswerUnknown(u64),
    /// Asks whether another server has served the transfer beyond this block. The answer is `AnswerKnown` if the receiver serves it or has such a
    /// checkpoint, else `AnswerUnknown`.
    OwnershipQuery(Sequence, u64, Id, u64),
    /// Reports that the checkpoint with this sequence was not stored.
    NotStored(Sequence),
}

/// A parsed datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct ReceivedMessage<'a> {
    /// The sender's name.
    pub from: &'a [u8],
    /// Event loop of the sender.
    pub stream: u8,
    /// The message.
    pub message: PeerMessage,
}

impl Signer {
    /// Creates a signer for a fleet with this key.
    pub fn new(key: &FleetKey) -> Signer {
        Signer { key: hasher(key), other_keys: Vec::new() }
    }

    /// Also accepts datagrams signed with these keys.
    #[must_use]
    pub fn accepting_keys(self, keys: &[FleetKey]) -> Signer {
        Signer { other_keys: keys.iter().map(hasher).collect(), ..self }
    }

    /// Appends a signed datagram.
    pub fn write(&self, to: &mut Vec<u8>, from: &str, stream: u8, message: &PeerMessage) {
        let start = to.len();
        let kind = match message {
            PeerMessage::Hello(_) => 1,
            PeerMessage::Checkpoint(..) => 2,
            PeerMessage::Ended(..) => 3,
            PeerMessage::Acks(..) => 4,
            PeerMessage::TokenMismatch(..) => 5,
            PeerMessage::TransferQuery(..) => 6,
            PeerMessage::AnswerKnown(..) => 7,
            PeerMessage::AnswerUnknown(_) => 8,
            PeerMessage::OwnershipQuery(..) => 9,
            PeerMessage::NotStored(_) => 10,
        };
        let mut w = Writer::new(to);
        w.bytes(MAGIC).u8(VERSION).u8(kind).u8(stream).text(from.as_bytes());
        match message {
            PeerMessage::Hello(sequence) => w.sequence(*sequence),
            PeerMessage::Checkpoint(sequence, checkpoint) => {
                checkpoint.write(w.sequence(*sequence));
                &mut w
            }
            PeerMessage::Ended(sequence, ids) => {
                w.sequence(*sequence).u8(ids.len().min(MAX_ITEMS) as u8);
                ids.iter().take(MAX_ITEMS).for_each(|id| id.write(&mut w));
                &mut w
            }
            PeerMessage::Acks(token, numbers) => {
                w.u64(*token).u8(numbers.len().min(MAX_ITEMS) as u8);
                numbers.iter().take(MAX_ITEMS).fold(&mut w, |w, number| w.u64(*number))
            }
            PeerMessage::TokenMismatch(sequence, token) => w.sequence(*sequence).u64(*token),
            PeerMessage::TransferQuery(sequence, nonce, id) => {
                id.write(w.sequence(*sequence).u64(*nonce));
                &mut w
            }
            PeerMessage::AnswerKnown(nonce, checkpoint) => {
                checkpoint.write(w.u64(*nonce));
                &mut w
            }
            PeerMessage::AnswerUnknown(nonce) => w.u64(*nonce),
            PeerMessage::OwnershipQuery(sequence, nonce, id, block) => {
                id.write(w.sequence(*sequence).u64(*nonce));
                w.u64(*block)
            }
            PeerMessage::NotStored(sequence) => w.sequence(*sequence),
        };
        let signature = self.key.hash(&to[start..]).as_bytes();
        to.extend_from_slice(&signature);
    }

    /// Reads a datagram; `None` if it is malformed or not signed with an accepted key.
    pub fn read<'a>(&self, datagram: &'a [u8]) -> Option<ReceivedMessage<'a>> {
        let (bytes, signature) = datagram.split_at_checked(datagram.len().checked_sub(SIGNATURE)?)?;
        // All bytes are compared, so that the time reveals nothing (constant time).
        let signed = |key: &SipHasher24| key.hash(bytes).as_bytes().iter().zip(signature).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0;
        if !signed(&self.key) && !self.other_keys.iter().any(signed) {
            return None;
        }
        let mut r = Reader::new(bytes);
        if r.array()? != *MAGIC || r.u8()? != VERSION {
            return None;
        }
        let (kind, stream, from) = (r.u8()?, r.u8()?, r.text()?);
        let message = match kind {
            1 => PeerMessage::Hello(r.sequence()?),
            2 => PeerMessage::Checkpoint(r.sequence()?, Box::new(Checkpoint::read(&mut r)?)),
            3 => {
                let sequence = r.sequence()?;
                PeerMessage::Ended(sequence, (0..r.u8()?).map(|_| Id::read(&mut r)).collect::<Option<_>>()?)
            }
            4 => {
                let token = r.u64()?;
                PeerMessage::Acks(token, (0..r.u8()?).map(|_| r.u64()).collect::<Option<_>>()?)
            }
            5 => PeerMessage::TokenMismatch(r.sequence()?, r.u64()?),
            6 => PeerMessage::TransferQuery(r.sequence()?, r.u64()?, Id::read(&mut r)?),
            7 => PeerMessage::AnswerKnown(r.u64()?, Box::new(Checkpoint::read(&mut r)?)),
            8 => PeerMessage::AnswerUnknown(r.u64()?),
            9 => PeerMessage::OwnershipQuery(r.sequence()?, r.u64()?, Id::read(&mut r)?, r.u64()?),
            10 => PeerMessage::NotStored(r.sequence()?),
            _ => return None,
        };
        r.is_empty().then_some(ReceivedMessage { from, stream, message })
    }
}

fn hasher(key: &FleetKey) -> SipHasher24 {
    SipHasher24::new_with_key(&key.derive_key(Domain::Checkpoints))
}

impl Writer<'_> {
    fn sequence(&mut self, sequence: Sequence) -> &mut Self {
        self.u64(sequence.token).u64(sequence.number)
    }
}

impl Reader<'_> {
    fn sequence(&mut self) -> Option<Sequence> {
        Some(Sequence { token: self.u64()?, number: self.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::sample;
    use super::*;
    use proptest::prelude::*;

    fn signer(byte: u8) -> Signer {
        Signer::new(&FleetKey::new([byte; 16]))
    }

    fn all() -> Vec<PeerMessage> {
        let (sequence, mut six) = (Sequence { token: 5, number: 6 }, sample(9));
        six.id.client = "[2001:db8::7]:2000".parse().unwrap();
        six.id.vip = "2001:db8::69".parse().unwrap();
        six.terms.rollover = crate::rollover::Rollover::One;
        (six.terms.timeout, six.established) = (None, true);
        vec![
            PeerMessage::Hello(sequence),
            PeerMessage::Checkpoint(sequence, Box::new(sample(7))),
            PeerMessage::Checkpoint(sequence, Box::new(six)),
            PeerMessage::Ended(sequence, (0..MAX_ITEMS as u16).map(|port| sample(port).id).collect()),
            PeerMessage::Acks(3, vec![1, u64::MAX]),
            PeerMessage::TokenMismatch(sequence, 77),
            PeerMessage::TransferQuery(sequence, 8, sample(1).id),
            PeerMessage::OwnershipQuery(sequence, 8, sample(1).id, 70_000),
            PeerMessage::NotStored(sequence),
            PeerMessage::AnswerKnown(8, Box::new(sample(1))),
            PeerMessage::AnswerUnknown(8),
        ]
    }

    fn written(message: &PeerMessage) -> Vec<u8> {
        let mut bytes = Vec::new();
        signer(1).write(&mut bytes, "t1", 3, message);
        bytes
    }

    #[test]
    fn every_message_survives_the_wire() {
        for message in all() {
            let bytes = written(&message);
            assert!(bytes.len() <= MAX_DATAGRAM, "{}", bytes.len());
            assert_eq!(signer(1).read(&bytes), Some(ReceivedMessage { from: b"t1", stream: 3, message }));
        }
        let mut longest = sample(1);
        longest.request = vec![b'x'; super::super::checkpoint::MAX_REQUEST].into();
        assert!(
            written(&PeerMessage::Checkpoint(Sequence::default(), Box::new(longest))).len() + 63 <= MAX_DATAGRAM,
            "with the longest name"
        );
    }

    #[test]
    fn modified_datagrams_are_rejected() {
        for message in all() {
            let bytes = written(&message);
            assert_eq!(signer(2).read(&bytes), None, "the key of another fleet");
            for at in 0..bytes.len() {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1 << (at % 8);
                assert_eq!(signer(1).read(&spoilt), None, "byte {at}");
                assert_eq!(signer(1).read(&bytes[..at]), None, "truncated at {at}");
            }
        }
    }

    #[test]
    fn accepted_keys_are_accepted_and_never_used_to_sign() {
        let (old, new) = (FleetKey::new([1; 16]), FleetKey::new([2; 16]));
        let both = Signer::new(&new).accepting_keys(&[old]);
        for message in all() {
            assert!(both.read(&written(&message)).is_some_and(|received| received.message == message));
            let mut bytes = Vec::new();
            both.write(&mut bytes, "t1", 3, &message);
            assert!(signer(2).read(&bytes).is_some() && signer(1).read(&bytes).is_none() && both.read(&bytes).is_some());
            bytes[5] ^= 1;
            assert_eq!(both.read(&bytes), None);
        }
    }

    #[test]
    fn impossible_checkpoints_are_rejected() {
        let bad = |change: fn(&mut Checkpoint)| {
            let mut checkpoint = sample(1);
            change(&mut checkpoint);
            signer(1).read(&written(&PeerMessage::AnswerKnown(1, Box::new(checkpoint)))).is_none()
        };
        assert!(!bad(|_| {}));
        assert!(
            bad(|checkpoint| checkpoint.terms.blksize = 7)
                && bad(|checkpoint| checkpoint.terms.window = 0)
                && bad(|checkpoint| checkpoint.size = u64::MAX)
        );
        assert!(bad(|checkpoint| checkpoint.acked = checkpoint.last() + 1) && !bad(|checkpoint| checkpoint.acked = checkpoint.last()));
        assert!(bad(|checkpoint| checkpoint.terms.window = MAX + 1) && bad(|checkpoint| checkpoint.request = vec![0; 1025].into()));
    }

    const MAX: u16 = crate::options::MAX_WINDOW;

    proptest! {
        /// Signed datagrams of another version or a faulty server are read without a panic, too.
        #[test]
        fn no_bytes_cause_a_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..10, start in any::<bool>()) {
            if start {
                bytes.splice(0..0, [b'G', b'W', b'T', VERSION, kind, 0, 0, 1, b'a']);
            }
            let signature = signer(1).key.hash(&bytes).as_bytes();
            prop_assert_eq!(signer(2).read(&bytes), None);
            bytes.extend(signature);
            if let Some(received) = signer(1).read(&bytes) {
                let mut again = Vec::new();
                let name = String::from_utf8_lossy(received.from).into_owned();
                signer(1).write(&mut again, &name, received.stream, &received.message);
                prop_assert!(signer(1).read(&again).is_some());
            }
        }
    }
}
