//! How many requests may go to another backend: few, so that a slow origin does not double the load of backends that are already slow.

use guideway_packet::time::Time;

/// One in so many of the last second's requests.
const RETRY_RATIO_DIVISOR: u32 = 10;
/// So many a second in any case.
const MIN_RETRIES_PER_SECOND: u32 = 5;

/// Requests and grants, by second.
#[derive(Debug, Default)]
pub struct RetryBudget {
    second: u64,
    /// Requests in this second, and in the one before.
    requests: [u32; 2],
    spent: u32,
}

impl RetryBudget {
    /// Whether another may be granted.
    pub fn allows(&mut self, now: Time) -> bool {
        self.advance(now);
        self.spent < MIN_RETRIES_PER_SECOND.max(self.requests[1] / RETRY_RATIO_DIVISOR)
    }

    /// Counts a grant.
    pub fn spend(&mut self, now: Time) {
        self.advance(now);
        self.spent += 1;
    }

    /// Counts a forwarded request.
    pub fn request(&mut self, now: Time) {
        self.advance(now);
        self.requests[0] = self.requests[0].saturating_add(1);
    }

    fn advance(&mut self, now: Time) {
        let second = now.seconds();
        if second != self.second {
            let before = if second == self.second + 1 { self.requests[0] } else { 0 };
            *self = RetryBudget { second, requests: [0, before], spent: 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(budget: &mut RetryBudget, now: Time) -> usize {
        let grant = |budget: &mut RetryBudget| budget.allows(now).then(|| budget.spend(now)).is_some();
        (0..1000).filter(|_| grant(budget)).count()
    }

    #[test]
    fn a_tenth_of_the_last_second_but_a_few_in_any_case() {
        let mut budget = RetryBudget::default();
        let second = |n: u64| Time(n * 1_000_000_000);
        assert_eq!(granted(&mut budget, second(9)), 5);
        (0..1000).for_each(|_| budget.request(second(9)));
        assert_eq!(granted(&mut budget, second(9)), 0);
        assert_eq!(granted(&mut budget, second(10)), 100);
        assert_eq!(granted(&mut budget, second(11)), 5, "no requests in between");
        (0..1000).for_each(|_| budget.request(second(11)));
        assert_eq!(granted(&mut budget, second(13)), 5, "too long ago");
    }
}
