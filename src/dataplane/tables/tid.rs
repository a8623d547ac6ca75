//! Server port → backend: a transfer names its backend by itself.

use super::backend::{BackendId, NO_BACKEND};

/// One entry for each of the 65,536 ports. No hash, no state.
#[derive(Clone, PartialEq, Eq)]
pub struct TidMap(Box<[BackendId]>);

impl std::fmt::Debug for TidMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TidMap({} ports)", self.0.iter().filter(|id| **id != NO_BACKEND).count())
    }
}

impl TidMap {
    /// The map of these inclusive ranges. Where two overlap (the configuration refuses that), the first given keeps its ports.
    pub fn new(ranges: impl IntoIterator<Item = ((u16, u16), BackendId)>) -> TidMap {
        let mut ports = vec![NO_BACKEND; 1 << 16].into_boxed_slice();
        for ((first, last), backend) in ranges {
            for port in first..=last {
                let owner = &mut ports[usize::from(port)];
                if *owner == NO_BACKEND {
                    *owner = backend;
                }
            }
        }
        TidMap(ports)
    }

    /// The backend whose range holds `port`.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<BackendId> {
        let id = self.0[usize::from(port)];
        (id != NO_BACKEND).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_a_range_has_its_owner_and_no_other_port_has_one() {
        let map = TidMap::new([((20_000, 20_999), 7), ((65_535, 65_535), 8), ((20_999, 21_000), 9)]);
        let expected = |port| match port {
            20_000..=20_999 => Some(7),
            21_000 => Some(9),
            65_535 => Some(8),
            _ => None,
        };
        for port in 0..=u16::MAX {
            assert_eq!(map.owner(port), expected(port), "{port}");
        }
    }
}
