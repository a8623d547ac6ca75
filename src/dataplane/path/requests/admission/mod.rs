//! Limits requests per second, max-min fair between the prefixes of clients.
//!
//! **A limit** (of a VIP, or of a VIP towards one backend) is a bucket that fills with its rate and holds one second's worth. Each prefix has a bucket of the
//! same kind, which fills with its *share* of the limit: the rate which, if no prefix got more, would use the limit up (Bertsekas and Gallager, "Data
//! Networks", section 6.5.2). It follows, four times a second, from the recent demand of each prefix; until that is known, it is an equal part for every
//! prefix that was seen. What the prefixes leave of the limit may be borrowed: the fuller its bucket, the more, and as much by each. So a lone prefix
//! may use all of a limit, and in a storm from many, small ones are not held up by large ones.
//!
//! **Shed clients retry**, within 8 seconds even if they double their time-outs. Until then a prefix counts as one that will send as many requests as were shed
//! in about its last second. Otherwise the first requests of each wave would get the whole limit. They come mostly from large prefixes, because the early
//! clients of small ones already succeeded. No client is stored: a retry has the same chance as any other request of its prefix.
//!
//! Fixed memory, no allocation. Prefixes for which there is no place share that of another one of the same set.

#[cfg(test)]
mod tests;

use crate::tables::Admission as Limits;
use crate::tables::{BackendId, NO_BACKEND, ServiceId};
use guideway_hash::PacketHasher;
use guideway_hash::successors::fmix64;
use guideway_packet::time::Time;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Number of pairs of prefix and limit with a slot of their own.
const SLOTS: usize = 4096;
const SLOT_WAYS: usize = 8;
/// Limits at once.
const LIMITERS: usize = 1024;
const LIMITER_WAYS: usize = 8;
/// Rounds in which the share of each prefix is found; each goes on where the one before ended.
const ROUNDS: usize = 6;
const SECOND: u64 = 1_000_000_000;
/// Upper limit of times; a later time counts as this one.
const MAX_TIME: u64 = u64::MAX / 2;
/// Shares are found anew after so much time.
const UPDATE_INTERVAL: u64 = SECOND / 4;
/// What is left of a prefix's demand a quarter later if it asks for less.
const DECAY: f64 = 0.7;
/// Clients that were shed come back so much later at the latest, doubled time-outs included; until then their prefix is expected to ask for as much again.
const RETRY_HORIZON: u64 = 10 * SECOND;
/// Above this prefixes may borrow, and at the top as much as `MAX_DEBT`.
const BORROW_THRESHOLD: u64 = SECOND / 2;
/// What a prefix may owe.
const MAX_DEBT: u64 = SECOND;
/// Nothing is gained by keeping more than this.
const FULL_THRESHOLD: u64 = SECOND / 32 * 31;

/// The limit that a request went beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `per_vip`
    Vip,
    /// `per_backend`
    Backend,
    /// `per_prefix`
    Prefix,
}

/// A request, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionRequest {
    /// The service.
    pub service: ServiceId,
    /// The backend that would get the request.
    pub backend: BackendId,
    /// The client.
    pub client: IpAddr,
}

/// A limit and the demand of its prefixes.
#[derive(Clone, Copy, Debug)]
struct Limiter {
    /// Service and backend; 0 for an unused one.
    key: u64,
    bucket: Bucket,
    /// Requests a second; infinite where only prefixes are limited.
    rate: f64,
    /// What each prefix may have of them, as far as the last second says: 0 if it says nothing.
    share: f64,
    /// Prefixes with demand, and slots that prefixes occupy.
    prefixes: u32,
    places: u32,
    /// While the share is computed: requests of prefixes that get their whole demand, and prefixes that do not.
    satisfied: f64,
    unsatisfied: u32,
}

/// A prefix under a limit.
#[derive(Clone, Copy, Debug)]
struct PrefixSlot {
    /// Hash of prefix and limit; 0 for an unused one.
    key: u64,
    limiter: usize,
    /// Its requests in this quarter of a second, and those that were refused.
    requested: u32,
    refused: u32,
    /// Its demand in requests a second.
    demand: f64,
    /// Its expected demand in requests a second when shed clients come back, and until when they will have.
    expected: f64,
    until: u64,
    share: Bucket,
    /// Of `per_prefix`.
    own: Bucket,
}

/// A bucket of one second's worth, or of one request if that is more: the time up to which it is used up.
#[derive(Clone, Copy, Debug)]
struct Bucket(u64);

impl Bucket {
    /// What is in it, in nanoseconds of its rate.
    fn level(self, now: u64, cost: u64) -> u64 {
        now.saturating_sub(self.0).min(cost.max(SECOND))
    }

    fn has(self, now: u64, cost: u64) -> bool {
        self.level(now, cost) >= cost
    }

    /// Takes `cost`; at most [`MAX_DEBT`] is owed.
    fn take(&mut self, now: u64, cost: u64) {
        let full = now.saturating_sub(cost.max(SECOND));
        self.0 = self.0.max(full).saturating_add(cost).min(now + MAX_DEBT);
    }
}

/// The limits of one worker.
#[derive(Debug)]
pub struct Admission {
    limiters: Box<[Limiter]>,
    slots: Box<[PrefixSlot]>,
    /// When this quarter of a second ends.
    next_update: u64,
    /// Workers that share every limit.
    workers: f64,
    shared: u64,
}

const NO_LIMITER: Limiter =
    Limiter { key: 0, bucket: Bucket(0), rate: 0.0, share: 0.0, prefixes: 0, places: 0, satisfied: 0.0, unsatisfied: 0 };
const NO_SLOT: PrefixSlot =
    PrefixSlot { key: 0, limiter: 0, requested: 0, refused: 0, demand: 0.0, expected: 0.0, until: 0, share: Bucket(0), own: Bucket(0) };

impl Default for Admission {
    fn default() -> Self {
        Admission {
            limiters: vec![NO_LIMITER; LIMITERS].into_boxed_slice(),
            slots: vec![NO_SLOT; SLOTS].into_boxed_slice(),
            next_update: 0,
            workers: 1.0,
            shared: 0,
        }
    }
}

impl Admission {
    /// Each of `workers` keeps to an equal part of every limit.
    pub fn set_workers(&mut self, workers: usize) {
        self.workers = workers.max(1) as f64;
    }

    /// Whether a request goes on; if not, which limit it went beyond.
    pub fn admit(&mut self, request: AdmissionRequest, limits: &Limits, hash: &PacketHasher, now: Time) -> Result<(), Limit> {
        // No time is less than a second after the start, so that every bucket begins full.
        let now = now.0.min(MAX_TIME) + 2 * SECOND;
        if now >= self.next_update {
            self.update_shares(now);
        }
        // Keyed, so that nobody can choose prefixes that share the places of another one.
        let client = prefix(request.client, limits);
        let prefix = |limit| hash.prefix(client, limit);
        let own = self.cost(limits.per_prefix);
        let at_vip = self.slot(prefix, request.service, NO_BACKEND, limits.per_vip, now);
        if !self.slots[at_vip.0].own.has(now, own) {
            return Err(Limit::Prefix);
        }
        let vip = self.request_share(at_vip, now).ok_or(Limit::Vip)?;
        let backend = match limits.per_backend {
            None => None,
            some => {
                let slot = self.slot(prefix, request.service, request.backend, some, now);
                Some((slot, self.request_share(slot, now).ok_or(Limit::Backend)?))
            }
        };
        self.slots[at_vip.0].own.take(now, own);
        for ((slot, limiter), cost) in [Some((at_vip, vip)), backend].into_iter().flatten() {
            let limiter = &mut self.limiters[limiter];
            limiter.bucket.take(now, interval_ns(limiter.rate));
            self.slots[slot].share.take(now, cost);
        }
        Ok(())
    }

    /// Returns the cost of one more request of a prefix, if the limit admits it.
    fn request_share(&mut self, (slot, limiter): (usize, usize), now: u64) -> Option<u64> {
        let slot = &mut self.slots[slot];
        let limiter = &mut self.limiters[limiter];
        limiter.prefixes += u32::from(slot.requested == 0 && slot.demand == 0.0);
        slot.requested = slot.requested.saturating_add(1);
        let cost = interval_ns(limiter.rate);
        let share = interval_ns(limiter.share.max(limiter.rate / f64::from(limiter.prefixes.max(1))));
        let level = limiter.bucket.level(now, cost);
        let borrowed = level.saturating_sub(BORROW_THRESHOLD).saturating_mul(MAX_DEBT) / (SECOND - BORROW_THRESHOLD);
        let fair = slot.share.has(now.saturating_add(borrowed), share) || level >= FULL_THRESHOLD;
        if limiter.bucket.has(now, cost) && fair {
            return Some(share);
        }
        slot.refused = slot.refused.saturating_add(1);
        None
    }

    /// Nanoseconds between two requests at this worker's part of a rate.
    fn cost(&self, rate: Option<u32>) -> u64 {
        interval_ns(rate.map_or(f64::INFINITY, |rate| f64::from(rate) / self.workers))
    }

    /// The places of a prefix under a limit, and of the limit: a prefix may share the place of another one under another limit, and is held to its own.
    /// `prefix` hashes a prefix under a limit.
    fn slot(&mut self, prefix: impl Fn(u64) -> u64, service: ServiceId, backend: BackendId, rate: Option<u32>, now: u64) -> (usize, usize) {
        let rate = rate.map_or(f64::INFINITY, |rate| f64::from(rate) / self.workers);
        let limit = limit_key(service, backend);
        let fresh = Limiter { key: limit, bucket: Bucket(now - SECOND), ..NO_LIMITER };
        let limiter = find_limiter(&mut self.limiters, fresh);
        self.limiters[limiter].rate = rate;
        let key = prefix(limit) | 1;
        let full = Bucket(now - SECOND);
        let slot = find_slot(&mut self.slots, PrefixSlot { key, limiter, share: full, own: full, ..NO_SLOT });
        self.shared += u64::from(self.slots[slot].key != key);
        (slot, limiter)
    }

    /// How often a prefix had to use the place of another one.
    pub fn shared(&self) -> u64 {
        self.shared
    }

    /// Computes the shares of the next quarter of a second from the demand.
    #[cold]
    fn update_shares(&mut self, now: u64) {
        let idle_intervals = i32::try_from((now - self.next_update) / UPDATE_INTERVAL).unwrap_or(i32::MAX);
        let decayed = DECAY.powi(idle_intervals);
        let ended = std::mem::replace(&mut self.next_update, now + UPDATE_INTERVAL);
        for limiter in &mut self.limiters {
            (limiter.prefixes, limiter.places) = (0, 0);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.key != 0) {
            let second = (SECOND / UPDATE_INTERVAL) as f64;
            let requested = f64::from(std::mem::take(&mut slot.requested)) * second;
            let refused = f64::from(std::mem::take(&mut slot.refused));
            if requested > 0.0 {
                // Of about a second, when they go on asking.
                let before = if slot.until + 2 * UPDATE_INTERVAL > ended + RETRY_HORIZON { slot.expected } else { 0.0 };
                (slot.expected, slot.until) = (0.75 * before + refused, ended + RETRY_HORIZON);
            } else if slot.until < now {
                slot.expected = 0.0;
            }
            let demand = requested.max(DECAY * slot.demand) * decayed;
            slot.demand = if demand < 0.5 { 0.0 } else { demand }.max(slot.expected);
            let limiter = &mut self.limiters[slot.limiter];
            limiter.prefixes += u32::from(slot.demand > 0.0);
            if slot.demand == 0.0 && slot.share.0.max(slot.own.0).saturating_add(SECOND) <= now {
                *slot = NO_SLOT;
            } else {
                limiter.places += 1;
            }
        }
        self.find_shares();
        for limiter in self.limiters.iter_mut().filter(|limiter| limiter.prefixes == 0) {
            limiter.share = 0.0;
            if limiter.places == 0 && limiter.bucket.0.saturating_add(SECOND) <= now {
                *limiter = NO_LIMITER;
            }
        }
    }

    /// The share of every limit which, if no prefix gets more, uses it up.
    fn find_shares(&mut self) {
        for limiter in &mut self.limiters {
            // What is equal for all is never too much.
            limiter.share = limiter.rate / f64::from(limiter.prefixes.max(1));
        }
        for _ in 0..ROUNDS {
            for limiter in &mut self.limiters {
                (limiter.satisfied, limiter.unsatisfied) = (0.0, 0);
            }
            for slot in self.slots.iter().filter(|slot| slot.demand > 0.0) {
                let limiter = &mut self.limiters[slot.limiter];
                if slot.demand <= limiter.share {
                    limiter.satisfied += slot.demand;
                } else {
                    limiter.unsatisfied += 1;
                }
            }
            for limiter in self.limiters.iter_mut().filter(|limiter| limiter.rate.is_finite()) {
                limiter.share = match limiter.unsatisfied {
                    0 => limiter.share,
                    unsatisfied => (limiter.rate - limiter.satisfied) / f64::from(unsatisfied),
                };
            }
        }
    }
}

/// Where the limit `fresh` stands: at home among [`LIMITER_WAYS`] neighbours, or, where those are others, anywhere behind them. Two limits share a place
/// only when there are more than [`LIMITERS`].
fn find_limiter(all: &mut [Limiter], fresh: Limiter) -> usize {
    let len = all.len();
    let first = fmix64(fresh.key) as usize % (len / LIMITER_WAYS) * LIMITER_WAYS;
    let mut free = None;
    for at in (first..len).chain(0..first) {
        match all[at].key {
            key if key == fresh.key => return at,
            // What was further off when this was taken may still be there, so the search goes on.
            0 => free = free.or(Some(at)),
            _ => {}
        }
    }
    let Some(at) = free else { return first };
    all[at] = fresh;
    at
}

/// Where the prefix `fresh` stands among [`SLOT_WAYS`] neighbours: its own place, a free one that becomes its own, or that of another whom it shares it
/// with.
fn find_slot(all: &mut [PrefixSlot], fresh: PrefixSlot) -> usize {
    let first = first_place(fresh.key);
    let set = &mut all[first..first + SLOT_WAYS];
    if let Some(at) = set.iter().position(|slot| slot.key == fresh.key) {
        return first + at;
    }
    if let Some(at) = set.iter().position(|slot| slot.key == 0) {
        set[at] = fresh;
        return first + at;
    }
    first + (fresh.key >> 8) as usize % SLOT_WAYS
}

/// The first of the places that a prefix with this key may have.
fn first_place(key: u64) -> usize {
    (key >> 16) as usize % (SLOTS / SLOT_WAYS) * SLOT_WAYS
}

/// The limit of a service, or of a service towards one backend, as a number other than 0.
fn limit_key(service: ServiceId, backend: BackendId) -> u64 {
    1 << 32 | u64::from(service) << 16 | u64::from(backend)
}

/// Nanoseconds from one request to the next at `rate` requests a second; 0 when there is no limit.
fn interval_ns(rate: f64) -> u64 {
    (SECOND as f64 / rate) as u64
}

/// The prefix that a client comes from, as its first address.
fn prefix(client: IpAddr, limits: &Limits) -> IpAddr {
    match client {
        IpAddr::V4(a) => Ipv4Addr::from_bits(a.to_bits() & u32::MAX << (32 - u32::from(limits.prefix_v4.clamp(1, 32)))).into(),
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & u128::MAX << (128 - u32::from(limits.prefix_v6.clamp(1, 128)))).into(),
    }
}
