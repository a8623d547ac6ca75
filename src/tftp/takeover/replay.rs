//! Replay protection without clocks: a receiver gives each sender a random token, and the sender numbers its messages under this token.
//!
//! A restarted sender has no token and is offered a new one, so messages captured before have an invalid token. The offered token replaces the old
//! one only when a message under it arrives: a captured message without a token has no effect.

use super::wire::Sequence;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Generates unpredictable tokens: the standard library's hash under a random key of the system.
#[derive(Debug, Default)]
pub struct Tokens {
    secret: RandomState,
    counter: u64,
}

impl Tokens {
    /// Returns a new token; never 0.
    pub fn generate(&mut self) -> u64 {
        self.counter += 1;
        self.secret.hash_one(self.counter).max(1)
    }
}

/// Received messages of one sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplayWindow {
    token: u64,
    /// Highest received number, and a bitmap of the 64 numbers up to it, the highest in the lowest bit.
    highest: u64,
    bitmap: u64,
    offered_token: u64,
}

/// Result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayCheck {
    /// The message is new.
    New,
    /// The message was received before, or is too old to know.
    Replayed,
    /// The message has another token; the sender must use this one.
    Token(u64),
}

impl ReplayWindow {
    /// Checks a message.
    pub fn check(&mut self, sequence: Sequence, tokens: &mut Tokens) -> ReplayCheck {
        if sequence.token != 0 && sequence.token == self.offered_token {
            *self = ReplayWindow { token: self.offered_token, highest: sequence.number, bitmap: 1, offered_token: 0 };
            return ReplayCheck::New;
        }
        if sequence.token == 0 || sequence.token != self.token {
            if self.offered_token == 0 {
                self.offered_token = tokens.generate();
            }
            return ReplayCheck::Token(self.offered_token);
        }
        if let Some(ahead) = sequence.number.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            self.bitmap = if ahead < 64 { self.bitmap << ahead | 1 } else { 1 };
            self.highest = sequence.number;
            return ReplayCheck::New;
        }
        let bit = self.highest - sequence.number;
        if bit >= 64 || self.bitmap & 1 << bit != 0 {
            return ReplayCheck::Replayed;
        }
        self.bitmap |= 1 << bit;
        ReplayCheck::New
    }

    /// Returns the valid token.
    pub fn token(&self) -> u64 {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn welcomed() -> (ReplayWindow, Tokens, u64) {
        let (mut generate, mut tokens) = (ReplayWindow::default(), Tokens::default());
        let ReplayCheck::Token(token) = generate.check(Sequence { token: 0, number: 50 }, &mut tokens) else { panic!("no token") };
        assert_eq!(generate.check(Sequence { token, number: 100 }, &mut tokens), ReplayCheck::New);
        (generate, tokens, token)
    }

    #[test]
    fn messages_captured_before_a_restart_are_rejected() {
        let (mut generate, mut tokens, first) = welcomed();
        // The sender restarts, with lower numbers.
        let ReplayCheck::Token(second) = generate.check(Sequence { token: 0, number: 1 }, &mut tokens) else { panic!("no token") };
        assert_ne!(first, second);
        assert_eq!(generate.check(Sequence { token: first, number: 101 }, &mut tokens), ReplayCheck::New, "an offer alone changes nothing");
        assert_eq!(generate.check(Sequence { token: second, number: 2 }, &mut tokens), ReplayCheck::New);
        assert!(
            matches!(generate.check(Sequence { token: first, number: 102 }, &mut tokens), ReplayCheck::Token(t) if t != first && t != second)
        );
        assert_eq!(generate.check(Sequence { token: second, number: 2 }, &mut tokens), ReplayCheck::Replayed);
        assert_eq!(generate.token(), second);
    }

    proptest! {
        /// Behaves like a set of all received numbers, for numbers within the window of 64.
        #[test]
        fn no_message_is_accepted_twice(numbers in proptest::collection::vec(100u64..400, 0..300)) {
            let (mut generate, mut tokens, token) = welcomed();
            let mut bitmap = HashSet::from([100]);
            let mut highest = 100;
            for number in numbers {
                let taken = generate.check(Sequence { token, number }, &mut tokens);
                let expected = if number + 64 <= highest || bitmap.contains(&number) { ReplayCheck::Replayed } else { ReplayCheck::New };
                prop_assert_eq!(taken, expected);
                if taken == ReplayCheck::New {
                    bitmap.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
