//! How many requests a second get as far as a backend, and whose: max-min fair between the prefixes that clients come from.
//!
//! **A limit** (of a VIP, or of a VIP towards one backend) is a bucket that fills with its rate and holds one second's worth. Each prefix has a bucket of the
//! same kind, which fills with its *share* of the limit: the rate which, if no prefix got more, would use the limit up (Bertsekas and Gallager, "Data
//! Networks", section 6.5.2). It follows, four times a second, from what each prefix asked for of late; until that is known, it is an equal part for every
//! prefix that was seen. What the prefixes leave of the limit may be borrowed: the fuller its bucket, the more, and as much by each. So a lone prefix
//! may use all of a limit, and in a storm from many, small ones are not held up by large ones.
//!
//! **Who was shed comes back**, after 8 seconds even, when time-outs are doubled: so long a prefix counts as one that will ask for as much as it was refused
//! in about its last second. Otherwise each wave would begin as if nobody but those who come first were there, and large prefixes come first, for the early
//! clients of small ones are through. No client is remembered: a retry has the chance that any other request of its prefix has.
//!
//! Fixed memory, no allocation. Prefixes for which there is no place share that of another one of the same set.

#[cfg(test)]
mod tests;

use crate::tables::Admission as Limits;
use crate::tables::{BackendId, NO_BACKEND, ServiceId};
use guideway_hash::heirs::mix;
use guideway_packet::time::Time;
use std::net::IpAddr;

/// Prefixes, each under each of its limits, that are told apart at once.
const SLOTS: usize = 4096;
const SLOT_WAYS: usize = 8;
/// Limits at once.
const LIMITERS: usize = 1024;
const LIMITER_WAYS: usize = 8;
/// Rounds in which the share of each prefix is found; each goes on where the one before ended.
const ROUNDS: usize = 6;
const SECOND: u64 = 1_000_000_000;
/// No clock gets as far as this: after it all times are one.
const LATEST: u64 = u64::MAX / 2;
/// Shares are found anew after so much time.
const QUARTER: u64 = SECOND / 4;
/// What is left of a prefix's demand a quarter later if it asks for less.
const FADE: f64 = 0.7;
/// Clients that were shed come back so much later at the latest, doubled time-outs included; until then their prefix is expected to ask for as much again.
const EXPECTED: u64 = 10 * SECOND;
/// Above this prefixes may borrow, and at the top as much as `LOAN`.
const PLENTY: u64 = SECOND / 2;
/// What a prefix may owe.
const LOAN: u64 = SECOND;
/// Nothing is gained by keeping more than this.
const BRIMFUL: u64 = SECOND / 32 * 31;

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

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// The service.
    pub service: ServiceId,
    /// Who would get the request.
    pub backend: BackendId,
    /// Who asks.
    pub client: IpAddr,
}

/// A limit, and what prefixes ask of it.
#[derive(Clone, Copy, Debug)]
struct Limiter {
    /// Service and backend; 0 for an unused one.
    key: u64,
    bucket: Bucket,
    /// Requests a second; infinite where only prefixes are limited.
    rate: f64,
    /// What each prefix may have of them, as far as the last second says: 0 if it says nothing.
    share: f64,
    /// Prefixes that ask for something, and places that are taken for prefixes.
    prefixes: u32,
    places: u32,
    /// Requests of prefixes that get all they ask for, and prefixes that do not, while the share is looked for.
    satisfied: f64,
    greedy: u32,
}

/// A prefix under a limit.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Prefix and limit; 0 for an unused one.
    key: u64,
    limiter: usize,
    /// What it asked for in this quarter of a second, and what it did not get of it.
    asked: u32,
    refused: u32,
    /// What it asks for in a second.
    demand: f64,
    /// What it will ask for in a second when those come back who were shed, and until when they will have.
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

    /// Takes `cost`; at most [`LOAN`] is owed.
    fn take(&mut self, now: u64, cost: u64) {
        let full = now.saturating_sub(cost.max(SECOND));
        self.0 = self.0.max(full).saturating_add(cost).min(now + LOAN);
    }
}

/// The limits of one worker.
#[derive(Debug)]
pub struct Admission {
    limiters: Box<[Limiter]>,
    slots: Box<[Slot]>,
    /// When this quarter of a second ends.
    turn: u64,
    /// Workers that share every limit.
    workers: f64,
}

const NO_LIMITER: Limiter = Limiter { key: 0, bucket: Bucket(0), rate: 0.0, share: 0.0, prefixes: 0, places: 0, satisfied: 0.0, greedy: 0 };
const NO_SLOT: Slot =
    Slot { key: 0, limiter: 0, asked: 0, refused: 0, demand: 0.0, expected: 0.0, until: 0, share: Bucket(0), own: Bucket(0) };

impl Default for Admission {
    fn default() -> Self {
        Admission {
            limiters: vec![NO_LIMITER; LIMITERS].into_boxed_slice(),
            slots: vec![NO_SLOT; SLOTS].into_boxed_slice(),
            turn: 0,
            workers: 1.0,
        }
    }
}

impl Admission {
    /// Each of `workers` keeps to an equal part of every limit.
    pub fn share(&mut self, workers: usize) {
        self.workers = workers.max(1) as f64;
    }

    /// Whether a request goes on; if not, which limit it went beyond.
    pub fn admit(&mut self, ask: Ask, limits: &Limits, now: Time) -> Result<(), Limit> {
        // No time is less than a second after the start, so that every bucket begins full.
        let now = now.0.min(LATEST) + 2 * SECOND;
        if now >= self.turn {
            self.turn(now);
        }
        let prefix = prefix(ask.client, limits);
        let own = self.cost(limits.per_prefix);
        let at_vip = self.slot(prefix, ask.service, NO_BACKEND, limits.per_vip, now);
        if !self.slots[at_vip.0].own.has(now, own) {
            return Err(Limit::Prefix);
        }
        let vip = self.asks(at_vip, now).ok_or(Limit::Vip)?;
        let backend = match limits.per_backend {
            None => None,
            some => {
                let slot = self.slot(prefix, ask.service, ask.backend, some, now);
                Some((slot, self.asks(slot, now).ok_or(Limit::Backend)?))
            }
        };
        self.slots[at_vip.0].own.take(now, own);
        for ((slot, limiter), cost) in [Some((at_vip, vip)), backend].into_iter().flatten() {
            let limiter = &mut self.limiters[limiter];
            limiter.bucket.take(now, nanoseconds(limiter.rate));
            self.slots[slot].share.take(now, cost);
        }
        Ok(())
    }

    /// A prefix asks for one more; what that costs it, if it may have it.
    fn asks(&mut self, (slot, limiter): (usize, usize), now: u64) -> Option<u64> {
        let slot = &mut self.slots[slot];
        let limiter = &mut self.limiters[limiter];
        limiter.prefixes += u32::from(slot.asked == 0 && slot.demand == 0.0);
        slot.asked = slot.asked.saturating_add(1);
        let cost = nanoseconds(limiter.rate);
        let share = nanoseconds(limiter.share.max(limiter.rate / f64::from(limiter.prefixes.max(1))));
        let level = limiter.bucket.level(now, cost);
        let lent = level.saturating_sub(PLENTY).saturating_mul(LOAN) / (SECOND - PLENTY);
        let fair = slot.share.has(now.saturating_add(lent), share) || level >= BRIMFUL;
        if limiter.bucket.has(now, cost) && fair {
            return Some(share);
        }
        slot.refused = slot.refused.saturating_add(1);
        None
    }

    /// Nanoseconds between two requests at this worker's part of a rate.
    fn cost(&self, rate: Option<u32>) -> u64 {
        nanoseconds(rate.map_or(f64::INFINITY, |rate| f64::from(rate) / self.workers))
    }

    /// The places of a prefix under a limit, and of the limit: a prefix may share the place of another one under another limit, and is held to its own.
    fn slot(&mut self, prefix: u64, service: ServiceId, backend: BackendId, rate: Option<u32>, now: u64) -> (usize, usize) {
        let rate = rate.map_or(f64::INFINITY, |rate| f64::from(rate) / self.workers);
        let limit = 1 << 32 | u64::from(service) << 16 | u64::from(backend);
        let fresh = Limiter { key: limit, bucket: Bucket(now - SECOND), ..NO_LIMITER };
        let limiter = place_of_limit(&mut self.limiters, fresh);
        self.limiters[limiter].rate = rate;
        let key = mix(prefix ^ limit.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
        let full = Bucket(now - SECOND);
        (place(&mut self.slots, Slot { key, limiter, share: full, own: full, ..NO_SLOT }), limiter)
    }

    /// A quarter of a second ends: from what is asked for follows everybody's share in the next.
    #[cold]
    fn turn(&mut self, now: u64) {
        let silent = i32::try_from((now - self.turn) / QUARTER).unwrap_or(i32::MAX);
        let faded = FADE.powi(silent);
        let ended = std::mem::replace(&mut self.turn, now + QUARTER);
        for limiter in &mut self.limiters {
            (limiter.prefixes, limiter.places) = (0, 0);
        }
        for slot in self.slots.iter_mut().filter(|slot| slot.key != 0) {
            let second = (SECOND / QUARTER) as f64;
            let asked = f64::from(std::mem::take(&mut slot.asked)) * second;
            let refused = f64::from(std::mem::take(&mut slot.refused));
            if asked > 0.0 {
                // Of about a second, when they go on asking.
                let before = if slot.until + 2 * QUARTER > ended + EXPECTED { slot.expected } else { 0.0 };
                (slot.expected, slot.until) = (0.75 * before + refused, ended + EXPECTED);
            } else if slot.until < now {
                slot.expected = 0.0;
            }
            let demand = asked.max(FADE * slot.demand) * faded;
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
                (limiter.satisfied, limiter.greedy) = (0.0, 0);
            }
            for slot in self.slots.iter().filter(|slot| slot.demand > 0.0) {
                let limiter = &mut self.limiters[slot.limiter];
                if slot.demand <= limiter.share {
                    limiter.satisfied += slot.demand;
                } else {
                    limiter.greedy += 1;
                }
            }
            for limiter in self.limiters.iter_mut().filter(|limiter| limiter.rate.is_finite()) {
                limiter.share = match limiter.greedy {
                    0 => limiter.share,
                    greedy => (limiter.rate - limiter.satisfied) / f64::from(greedy),
                };
            }
        }
    }
}

/// Where the limit `fresh` stands: at home among [`LIMITER_WAYS`] neighbours, or, where those are others, anywhere behind them. Two limits share a place
/// only when there are more than [`LIMITERS`].
fn place_of_limit(all: &mut [Limiter], fresh: Limiter) -> usize {
    let len = all.len();
    let first = mix(fresh.key) as usize % (len / LIMITER_WAYS) * LIMITER_WAYS;
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
fn place(all: &mut [Slot], fresh: Slot) -> usize {
    let mixed = mix(fresh.key);
    let first = mixed as usize % (all.len() / SLOT_WAYS) * SLOT_WAYS;
    let set = &mut all[first..first + SLOT_WAYS];
    if let Some(at) = set.iter().position(|slot| slot.key == fresh.key) {
        return first + at;
    }
    if let Some(at) = set.iter().position(|slot| slot.key == 0) {
        set[at] = fresh;
        return first + at;
    }
    first + (mixed >> 32) as usize % SLOT_WAYS
}

/// Nanoseconds from one request to the next at `rate` requests a second; 0 when there is no limit.
fn nanoseconds(rate: f64) -> u64 {
    (SECOND as f64 / rate) as u64
}

/// The prefix that a client comes from, as a number.
fn prefix(client: IpAddr, limits: &Limits) -> u64 {
    match client {
        IpAddr::V4(a) => mix(u64::from(a.to_bits() >> (32 - u32::from(limits.prefix_v4.clamp(1, 32)))) | 1 << 63),
        IpAddr::V6(a) => {
            let kept = a.to_bits() >> (128 - u32::from(limits.prefix_v6.clamp(1, 128)));
            mix(mix((kept >> 64) as u64) ^ kept as u64)
        }
    }
}
