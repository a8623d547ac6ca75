//! No note is taken twice, and none of an earlier life, without clocks: each sender has a random token of ours, and numbers what it says under it.
//!
//! Whoever starts anew knows no token and is offered one that nobody had before; so what was captured of an earlier life names a token that is not
//! valid any more. The offer takes the place of the old token only when something comes under it: a captured "I have no token" disturbs nobody.

use super::wire::Place;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// Makes tokens that nobody can guess: the standard library's hash under a key from the system's random numbers.
#[derive(Debug, Default)]
pub struct Tokens {
    secret: RandomState,
    given: u64,
}

impl Tokens {
    /// One that was not given before; never 0.
    pub fn fresh(&mut self) -> u64 {
        self.given += 1;
        self.secret.hash_one(self.given).max(1)
    }
}

/// What was heard from one sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fresh {
    token: u64,
    /// The highest number that came under it, and which of the 64 up to it came, the highest in the lowest bit.
    highest: u64,
    came: u64,
    offered: u64,
}

/// What became of something that was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new.
    New,
    /// It came before, or is too old to tell.
    Replayed,
    /// It does not name the token, which is to be this one.
    Token(u64),
}

impl Fresh {
    /// Something came.
    pub fn take(&mut self, place: Place, tokens: &mut Tokens) -> Taken {
        if place.token != 0 && place.token == self.offered {
            *self = Fresh { token: self.offered, highest: place.number, came: 1, offered: 0 };
            return Taken::New;
        }
        if place.token == 0 || place.token != self.token {
            if self.offered == 0 {
                self.offered = tokens.fresh();
            }
            return Taken::Token(self.offered);
        }
        if let Some(ahead) = place.number.checked_sub(self.highest).filter(|ahead| *ahead > 0) {
            self.came = if ahead < 64 { self.came << ahead | 1 } else { 1 };
            self.highest = place.number;
            return Taken::New;
        }
        let bit = self.highest - place.number;
        if bit >= 64 || self.came & 1 << bit != 0 {
            return Taken::Replayed;
        }
        self.came |= 1 << bit;
        Taken::New
    }

    /// The token that is valid now.
    pub fn token(&self) -> u64 {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn welcomed() -> (Fresh, Tokens, u64) {
        let (mut fresh, mut tokens) = (Fresh::default(), Tokens::default());
        let Taken::Token(token) = fresh.take(Place { token: 0, number: 50 }, &mut tokens) else { panic!("no token") };
        assert_eq!(fresh.take(Place { token, number: 100 }, &mut tokens), Taken::New);
        (fresh, tokens, token)
    }

    #[test]
    fn what_was_captured_of_an_earlier_life_is_refused() {
        let (mut fresh, mut tokens, first) = welcomed();
        // The sender starts anew, with lower numbers.
        let Taken::Token(second) = fresh.take(Place { token: 0, number: 1 }, &mut tokens) else { panic!("no token") };
        assert_ne!(first, second);
        assert_eq!(fresh.take(Place { token: first, number: 101 }, &mut tokens), Taken::New, "an offer alone changes nothing");
        assert_eq!(fresh.take(Place { token: second, number: 2 }, &mut tokens), Taken::New);
        assert!(matches!(fresh.take(Place { token: first, number: 102 }, &mut tokens), Taken::Token(t) if t != first && t != second));
        assert_eq!(fresh.take(Place { token: second, number: 2 }, &mut tokens), Taken::Replayed);
        assert_eq!(fresh.token(), second);
    }

    proptest! {
        /// The same as a set of everything that came, for what is no older than 63.
        #[test]
        fn nothing_is_taken_twice(numbers in proptest::collection::vec(100u64..400, 0..300)) {
            let (mut fresh, mut tokens, token) = welcomed();
            let mut came = HashSet::from([100]);
            let mut highest = 100;
            for number in numbers {
                let taken = fresh.take(Place { token, number }, &mut tokens);
                let expected = if number + 64 <= highest || came.contains(&number) { Taken::Replayed } else { Taken::New };
                prop_assert_eq!(taken, expected);
                if taken == Taken::New {
                    came.insert(number);
                    highest = highest.max(number);
                }
            }
        }
    }
}
