//! The floor of a pool: a percentage of its backends is never marked down, whatever the checks say.
//!
//! When most of a pool fails at once, the likely reason is the check itself: a removed canary, or a broken path between the controller and
//! the rack. Envoy's panic mode then sends traffic to all backends, including dead ones; keepalived's quorum takes the whole service away.
//! Here the floor holds up just as many backends as it needs: those that went down **last**. A backend that fails on its own fails first
//! and is rightly down; one that goes down after many others probably shares their reason. The choice changes as little as possible. A
//! further fall changes nothing for backends that fell before, and a recovery releases the backend that was held up longest.

use guideway_packet::time::Time;

/// A backend as the floor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Time since it is down; `None`: it is up, in its slow start, or unchecked.
    pub down: Option<Time>,
    /// Whether it would get new flows if it were up. A backend without weight or a drained one neither counts nor is held up.
    pub takes_new_flows: bool,
}

/// Returns which of `members` are down but held up, at `min_healthy` per cent, rounded up; in their order.
pub fn held_up(members: &[Member], min_healthy: u8) -> Vec<usize> {
    let counted = members.iter().filter(|member| member.takes_new_flows).count();
    let least = (counted * usize::from(min_healthy.min(100))).div_ceil(100);
    let up = members.iter().filter(|member| member.takes_new_flows && member.down.is_none()).count();
    let Some(lacking) = least.checked_sub(up).filter(|lacking| *lacking > 0) else { return Vec::new() };
    let mut down: Vec<(Time, usize)> = members
        .iter()
        .enumerate()
        .filter(|(_, member)| member.takes_new_flows)
        .filter_map(|(index, member)| Some((member.down?, index)))
        .collect();
    down.sort_unstable_by(|one, other| other.cmp(one));
    let mut held_up: Vec<usize> = down.into_iter().take(lacking).map(|(_, index)| index).collect();
    held_up.sort_unstable();
    held_up
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(down: &[Option<u64>]) -> Vec<Member> {
        down.iter().map(|down| Member { down: down.map(Time), takes_new_flows: true }).collect()
    }

    #[test]
    fn backends_that_went_down_last_are_held_up() {
        assert_eq!(held_up(&members(&[None, None, Some(1), Some(2)]), 50), [0; 0], "half of them are up");
        assert_eq!(held_up(&members(&[Some(3), None, Some(1), Some(2)]), 50), [0]);
        assert_eq!(held_up(&members(&[Some(3), Some(4), Some(1), Some(2)]), 50), [0, 1]);
        assert_eq!(held_up(&members(&[Some(3), Some(4), Some(1), Some(2)]), 51), [0, 1, 3], "rounded up");
        assert_eq!(held_up(&members(&[Some(1)]), 1), [0], "a single backend is never down");
        assert_eq!(held_up(&members(&[Some(1)]), 0), [0; 0]);
        assert_eq!(held_up(&[], 50), [0; 0]);
        let mut drained = members(&[Some(9), Some(1), None]);
        drained[0].takes_new_flows = false;
        assert_eq!(held_up(&drained, 100), [1]);
    }

    proptest! {
        #[test]
        fn the_floor_holds_up_no_more_than_needed(
            down in proptest::collection::vec((proptest::option::of(0u64..20), any::<bool>()), 0..40),
            percent in 0u8..=100,
        ) {
            let members: Vec<Member> = down.into_iter().map(|(down, takes_new_flows)| Member { down: down.map(Time), takes_new_flows }).collect();
            let held_up = held_up(&members, percent);
            let counted = members.iter().filter(|m| m.takes_new_flows).count();
            let up = members.iter().filter(|m| m.takes_new_flows && m.down.is_none()).count();
            let least = (counted * usize::from(percent)).div_ceil(100);
            prop_assert_eq!(held_up.len(), least.saturating_sub(up));
            let times: Vec<Time> = held_up.iter().map(|index| members[*index].down.unwrap()).collect();
            for (index, member) in members.iter().enumerate().filter(|(_, member)| member.takes_new_flows) {
                if let Some(since) = member.down && !held_up.contains(&index) {
                    prop_assert!(times.iter().all(|time| *time >= since), "a backend that went down later is not held up");
                }
            }
        }
    }
}
