//! The transfers whose client has not answered yet, oldest first: those that make room when a server is full.
//!
//! Requests can be forged from any address, answers cannot as easily; so a flood of requests displaces itself, and clients that answer stay.

/// No place.
const NONE: u32 = u32::MAX;

/// A list through the places of a table: every operation takes the same time, however many there are.
#[derive(Debug)]
pub struct Unheard {
    links: Vec<Option<Link>>,
    first: u32,
    last: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    behind: u32,
}

impl Default for Unheard {
    fn default() -> Self {
        Unheard { links: Vec::new(), first: NONE, last: NONE, len: 0 }
    }
}

impl Unheard {
    /// The youngest one; its place must not be in the list.
    pub fn push(&mut self, place: u32) {
        let needed = place as usize + 1;
        if self.links.len() < needed {
            self.links.resize(needed, None);
        }
        self.links[place as usize] = Some(Link { before: self.last, behind: NONE });
        match self.link(self.last) {
            Some(last) => last.behind = place,
            None => self.first = place,
        }
        self.last = place;
        self.len += 1;
    }

    /// It answered or ended. Nothing happens when its place is not in the list.
    pub fn remove(&mut self, place: u32) {
        let Some(Link { before, behind }) = self.links.get_mut(place as usize).and_then(Option::take) else { return };
        self.len -= 1;
        match self.link(before) {
            Some(link) => link.behind = behind,
            None => self.first = behind,
        }
        match self.link(behind) {
            Some(link) => link.before = before,
            None => self.last = before,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The oldest one.
    pub fn oldest(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    fn link(&mut self, place: u32) -> Option<&mut Link> {
        self.links.get_mut(place as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// The same as a queue in which one has to look.
        #[test]
        fn the_oldest_is_the_oldest(steps in proptest::collection::vec((0u32..20, any::<bool>()), 0..200)) {
            let (mut list, mut plain) = (Unheard::default(), VecDeque::new());
            for (place, remove) in steps {
                if remove {
                    list.remove(place);
                    plain.retain(|&p| p != place);
                } else if !plain.contains(&place) {
                    list.push(place);
                    plain.push_back(place);
                }
                prop_assert_eq!((list.oldest(), list.len()), (plain.front().copied(), plain.len()));
            }
            while let Some(oldest) = list.oldest() {
                prop_assert_eq!(Some(oldest), plain.pop_front());
                list.remove(oldest);
            }
            prop_assert!(plain.is_empty());
        }
    }
}
