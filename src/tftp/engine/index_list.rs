//! The half-open transfers, oldest first: they are evicted when a server is full.
//!
//! Requests can be forged from any address; answers are much harder to forge. So a flood of requests evicts itself, and clients that answer stay.

/// No slot.
const NONE: u32 = u32::MAX;

/// A linked list through the slots of a table: every operation takes constant time.
#[derive(Debug)]
pub struct IndexList {
    links: Vec<Option<Link>>,
    head: u32,
    tail: u32,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
}

impl Default for IndexList {
    fn default() -> Self {
        IndexList { links: Vec::new(), head: NONE, tail: NONE, len: 0 }
    }
}

impl IndexList {
    /// Appends a slot, which must not be in the list.
    pub fn push(&mut self, slot: u32) {
        let needed = slot as usize + 1;
        if self.links.len() < needed {
            self.links.resize(needed, None);
        }
        self.links[slot as usize] = Some(Link { previous: self.tail, next: NONE });
        match self.link(self.tail) {
            Some(tail) => tail.next = slot,
            None => self.head = slot,
        }
        self.tail = slot;
        self.len += 1;
    }

    /// Removes a slot, if it is in the list.
    pub fn remove(&mut self, slot: u32) {
        let Some(Link { previous, next }) = self.links.get_mut(slot as usize).and_then(Option::take) else { return };
        self.len -= 1;
        match self.link(previous) {
            Some(link) => link.next = next,
            None => self.head = next,
        }
        match self.link(next) {
            Some(link) => link.previous = previous,
            None => self.tail = previous,
        }
    }

    /// Returns the number of slots.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the oldest slot.
    pub fn oldest(&self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    fn link(&mut self, slot: u32) -> Option<&mut Link> {
        self.links.get_mut(slot as usize)?.as_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Behaves like a queue with a linear search.
        #[test]
        fn the_oldest_is_the_oldest(steps in proptest::collection::vec((0u32..20, any::<bool>()), 0..200)) {
            let (mut list, mut plain) = (IndexList::default(), VecDeque::new());
            for (slot, remove) in steps {
                if remove {
                    list.remove(slot);
                    plain.retain(|&p| p != slot);
                } else if !plain.contains(&slot) {
                    list.push(slot);
                    plain.push_back(slot);
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
