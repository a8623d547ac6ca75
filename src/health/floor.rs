//! The floor of a pool: so many per cent of its backends are never marked down, whatever the checks say.
//!
//! When most of a pool fails at once, the likelier reason is the check itself: a canary that was removed, a path between the controller and the
//! rack that is broken. Balancers do one of two things then. Envoy's panic mode gives traffic to all backends, the dead ones too; keepalived's
//! quorum takes the whole service away. Here just as many backends as the floor demands are kept, those that went down **last**: what fails by
//! itself fails first, and is rightly out; what goes down after so many others is likely to share their reason. Whoever is kept changes as
//! little as can be: a further fall changes nothing for those that fell before, and a return takes out the one that has been kept longest.

use guideway_packet::time::Time;

/// A backend, as the floor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Since when it is down; `None`: it is up, or in its slow start, or nobody has looked.
    pub down: Option<Time>,
    /// Whether it would get new flows if it were up: what has no weight or is drained neither counts nor is kept.
    pub counts: bool,
}

/// Which of `members` are down and yet kept, at `min_healthy` per cent, rounded up; in their order.
pub fn kept(members: &[Member], min_healthy: u8) -> Vec<usize> {
    let counted = members.iter().filter(|member| member.counts).count();
    let least = (counted * usize::from(min_healthy.min(100))).div_ceil(100);
    let up = members.iter().filter(|member| member.counts && member.down.is_none()).count();
    let Some(lacking) = least.checked_sub(up).filter(|lacking| *lacking > 0) else { return Vec::new() };
    let mut down: Vec<(Time, usize)> =
        members.iter().enumerate().filter(|(_, member)| member.counts).filter_map(|(index, member)| Some((member.down?, index))).collect();
    down.sort_unstable_by(|one, other| other.cmp(one));
    let mut kept: Vec<usize> = down.into_iter().take(lacking).map(|(_, index)| index).collect();
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn members(down: &[Option<u64>]) -> Vec<Member> {
        down.iter().map(|down| Member { down: down.map(Time), counts: true }).collect()
    }

    #[test]
    fn those_that_went_down_last_are_kept() {
        assert_eq!(kept(&members(&[None, None, Some(1), Some(2)]), 50), [0; 0], "half of them are up");
        assert_eq!(kept(&members(&[Some(3), None, Some(1), Some(2)]), 50), [0]);
        assert_eq!(kept(&members(&[Some(3), Some(4), Some(1), Some(2)]), 50), [0, 1]);
        assert_eq!(kept(&members(&[Some(3), Some(4), Some(1), Some(2)]), 51), [0, 1, 3], "rounded up");
        assert_eq!(kept(&members(&[Some(1)]), 1), [0], "an only backend is never down");
        assert_eq!(kept(&members(&[Some(1)]), 0), [0; 0]);
        assert_eq!(kept(&[], 50), [0; 0]);
        let mut drained = members(&[Some(9), Some(1), None]);
        drained[0].counts = false;
        assert_eq!(kept(&drained, 100), [1]);
    }

    proptest! {
        #[test]
        fn the_floor_is_kept_and_no_more(
            down in proptest::collection::vec((proptest::option::of(0u64..20), any::<bool>()), 0..40),
            percent in 0u8..=100,
        ) {
            let members: Vec<Member> = down.into_iter().map(|(down, counts)| Member { down: down.map(Time), counts }).collect();
            let kept = kept(&members, percent);
            let counted = members.iter().filter(|m| m.counts).count();
            let up = members.iter().filter(|m| m.counts && m.down.is_none()).count();
            let least = (counted * usize::from(percent)).div_ceil(100);
            prop_assert_eq!(kept.len(), least.saturating_sub(up));
            let times: Vec<Time> = kept.iter().map(|index| members[*index].down.unwrap()).collect();
            for (index, member) in members.iter().enumerate().filter(|(_, member)| member.counts) {
                if let Some(since) = member.down && !kept.contains(&index) {
                    prop_assert!(times.iter().all(|time| *time >= since), "one that went down later is not kept");
                }
            }
        }
    }
}
