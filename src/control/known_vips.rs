//! The VIPs that a director announces, should, or did a short time ago, for metrics: an alert on a VIP must not end because the VIP is gone.

use super::view::Announced;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// For how long a VIP that is gone is shown as not announced,
const GONE_TIME: Duration = Duration::from_secs(3600);
/// and how many are.
const MAX_GONE: usize = 4096;

/// VIPs that were announced or should have been, each with the time since which it is gone.
#[derive(Debug, Default)]
pub struct KnownVips(BTreeMap<IpAddr, Option<Instant>>);

impl KnownVips {
    /// Records what is announced now.
    pub fn update(&mut self, announced: &Announced, now: Instant) {
        for (vip, gone) in &mut self.0 {
            *gone = (!announced.contains_key(vip)).then(|| gone.unwrap_or(now));
        }
        self.0.extend(announced.keys().map(|vip| (*vip, None)));
        self.0.retain(|_, gone| gone.is_none_or(|since| now.duration_since(since) < GONE_TIME));
        let excess = self.0.values().flatten().count().saturating_sub(MAX_GONE);
        if excess > 0 {
            let mut gone: Vec<(Instant, IpAddr)> = self.0.iter().filter_map(|(vip, gone)| Some(((*gone)?, *vip))).collect();
            gone.sort_unstable();
            for (_, vip) in gone.iter().take(excess) {
                self.0.remove(vip);
            }
        }
    }

    /// Returns all of them.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vip_that_is_gone_is_known_for_an_hour() {
        let (mut known, start) = (KnownVips::default(), Instant::now());
        let vip = |n: u32| IpAddr::V4((0x0a00_0000 + n).into());
        let announced = |vips: &[u32]| -> Announced { vips.iter().map(|n| (vip(*n), Ok(()))).collect() };
        known.update(&announced(&[1, 2]), start);
        known.update(&announced(&[2]), start + Duration::from_secs(10));
        assert_eq!(known.iter().collect::<Vec<_>>(), [vip(1), vip(2)]);
        known.update(&announced(&[]), start + Duration::from_secs(3605));
        assert_eq!(known.iter().collect::<Vec<_>>(), [vip(1), vip(2)]);
        known.update(&announced(&[]), start + Duration::from_secs(3615));
        assert_eq!(known.iter().collect::<Vec<_>>(), [vip(2)]);
        let many: Vec<u32> = (0..5000).collect();
        known.update(&announced(&many), start);
        known.update(&announced(&[]), start);
        assert_eq!(known.iter().count(), MAX_GONE);
    }
}
