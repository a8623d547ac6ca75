//! Which clients may be waiting for an answer: a bit for each hash. Nearly all acknowledgements of a fleet are not of one that waits, and end here.
//!
//! A client that waits is always found; one that does not wait is found with a probability of the waiting ones by 65,536. Bits of clients that wait no more
//! go away when the next round ends: the owner of the filter shows it in each round every client that still waits.

/// Bits, by the upper 16 of the hash.
const BITS: usize = 1 << 16;
const WORDS: usize = BITS / 64;

/// The filter. Fixed memory.
#[derive(Debug)]
pub struct ClientFilter {
    current: Box<[u64; WORDS]>,
    /// What `current` will be when the round ends.
    next: Box<[u64; WORDS]>,
}

impl Default for ClientFilter {
    fn default() -> Self {
        ClientFilter { current: Box::new([0; WORDS]), next: Box::new([0; WORDS]) }
    }
}

impl ClientFilter {
    /// Whether a client with this hash may be waiting.
    #[inline(always)]
    pub fn contains(&self, client: u64) -> bool {
        let place = place(client);
        self.current[place / 64] >> (place % 64) & 1 == 1
    }

    /// A client begins to wait.
    pub fn insert(&mut self, client: u64) {
        let place = place(client);
        self.current[place / 64] |= 1 << (place % 64);
        self.keep(client);
    }

    /// A client waits in this round, too.
    pub fn keep(&mut self, client: u64) {
        let place = place(client);
        self.next[place / 64] |= 1 << (place % 64);
    }

    /// A round ends: clients that were neither inserted nor kept in it are forgotten.
    pub fn end_round(&mut self) {
        std::mem::swap(&mut self.current, &mut self.next);
        self.next.fill(0);
    }
}

#[inline(always)]
fn place(client: u64) -> usize {
    (client >> 48) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_is_found_and_others_are_forgotten_after_a_round() {
        let mut filter = ClientFilter::default();
        let clients = || (0..1000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        clients().for_each(|client| filter.insert(client));
        assert!(clients().all(|client| filter.contains(client)));
        let found = (1000..66_536u64).filter(|n| filter.contains(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).count();
        assert!(found < 1500, "{found} of 65,536 that do not wait");
        filter.end_round();
        clients().take(10).for_each(|client| filter.keep(client));
        assert!(clients().all(|client| filter.contains(client)), "they waited when the round before ended");
        filter.end_round();
        assert!(clients().take(10).all(|client| filter.contains(client)));
        assert!(clients().skip(10).filter(|client| filter.contains(*client)).count() < 5);
    }
}
