//! How the slots are filled: fast, and without the N × M arrays of the paper's pseudo-code.
//!
//! A backend is (next, skip). What costs time is asking for slots that are taken, about M·ln M times in all; so the occupied slots are a bitmap that fits the
//! nearest cache, and a step is an addition and a subtraction.

use guideway_hash::{Domain, FleetKey};

/// Marks a slot without an owner.
pub(super) const NONE: u16 = u16::MAX;

/// The slot that a backend asks for next.
struct Preference {
    next: u32,
    skip: u32,
}

/// The owner of each of `size` slots, `size` prime, for backends in the order of their names.
pub(super) fn slots(key: &FleetKey, size: u32, sorted: &[(&str, u16)]) -> Vec<u16> {
    let mut slots = vec![NONE; size as usize];
    let mut preferences: Vec<Preference> = sorted.iter().map(|(name, _)| preference(key, size, name)).collect();
    let weights: Vec<u16> = sorted.iter().map(|&(_, weight)| weight).collect();
    let turns = turns(&weights, &shares(size, &weights));
    let (early, late) = turns.split_at(turns.len().saturating_sub(tail_len(size)));
    fill(size, &mut preferences, early, &mut slots);
    fill_tail(size, &preferences, late, &mut slots);
    slots
}

fn preference(key: &FleetKey, size: u32, name: &str) -> Preference {
    let size = u64::from(size);
    let next = key.keyed_hash(Domain::Offset, name.as_bytes()) % size;
    let skip = key.keyed_hash(Domain::Skip, name.as_bytes()) % (size - 1) + 1;
    Preference { next: next as u32, skip: skip as u32 }
}

/// Below how many free slots it is cheaper to look at each of them than to ask on average size / free times.
fn tail_len(size: u32) -> usize {
    (size.isqrt() / 2) as usize
}

/// Gives slots by asking for one after the other.
fn fill(size: u32, preferences: &mut [Preference], turns: &[u16], slots: &mut [u16]) {
    let mut taken = vec![0u64; slots.len().div_ceil(64)];
    for &member in turns {
        let preference = &mut preferences[usize::from(member)];
        let (mut at, skip) = (preference.next, preference.skip);
        while taken[(at / 64) as usize] >> (at % 64) & 1 == 1 {
            at = step(at, skip, size);
        }
        taken[(at / 64) as usize] |= 1 << (at % 64);
        slots[at as usize] = member;
        preference.next = step(at, skip, size);
    }
}

/// Gives the last slots: half of all asking would be for these. The first of the free ones in a backend's order is the one for which
/// (slot − next) / skip modulo the size is least; that next may stay where it was, as what is taken is free no more.
fn fill_tail(size: u32, preferences: &[Preference], turns: &[u16], slots: &mut [u16]) {
    let mut free: Vec<u32> = (0..size).filter(|&slot| slots[slot as usize] == NONE).collect();
    for &member in turns {
        let preference = &preferences[usize::from(member)];
        let inverse = inverse(preference.skip, size);
        let steps = |slot: u32| u64::from(step(slot, size - preference.next, size)) * inverse % u64::from(size);
        let Some(first) = (0..free.len()).min_by_key(|&index| steps(free[index])) else { return };
        let slot = free.swap_remove(first);
        slots[slot as usize] = member;
    }
}

/// `at + skip` modulo `size`; neither is more than `size`, which is far from overflow.
#[inline]
fn step(at: u32, skip: u32, size: u32) -> u32 {
    let next = at + skip;
    if next >= size { next - size } else { next }
}

/// The number whose product with `number` is 1 modulo `prime`, by Euclid's algorithm; `number` is from 1 to `prime` − 1.
fn inverse(number: u32, prime: u32) -> u64 {
    let prime = i64::from(prime);
    let (mut previous, mut current) = ((prime, 0), (i64::from(number), 1));
    while current.0 != 0 {
        let quotient = previous.0 / current.0;
        (previous, current) = (current, (previous.0 - quotient * current.0, previous.1 - quotient * current.1));
    }
    previous.1.rem_euclid(prime) as u64
}

/// How many slots each weight is worth: rounded down, what is left to the largest remainders, among equal ones to the first.
pub(super) fn shares(size: u32, weights: &[u16]) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let product = |weight: u16| u64::from(size) * u64::from(weight);
    let mut shares: Vec<u32> = weights.iter().map(|&weight| (product(weight) / sum) as u32).collect();
    let left = size - shares.iter().sum::<u32>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&member| std::cmp::Reverse(product(weights[member]) % sum));
    for &member in order.iter().take(left as usize) {
        shares[member] += 1;
    }
    shares
}

/// Who takes a slot, turn after turn: in the order of rounds, within a round in that of numbers. Counted rather than sorted, as this is a good part of the time.
fn turns(weights: &[u16], shares: &[u32]) -> Vec<u16> {
    let largest = u32::from(weights.iter().copied().max().unwrap_or(0));
    let backends = || weights.iter().zip(shares).enumerate().filter(|(_, (_, share))| **share > 0);
    let last = backends().filter_map(|(_, (&weight, &share))| rounds(weight, largest).nth(share as usize - 1)).max().unwrap_or(0);
    let mut starts = vec![0u32; last + 2];
    for (_, (&weight, &share)) in backends() {
        rounds(weight, largest).take(share as usize).for_each(|round| starts[round + 1] += 1);
    }
    for round in 1..starts.len() {
        starts[round] += starts[round - 1];
    }
    let mut turns = vec![NONE; shares.iter().sum::<u32>() as usize];
    for (member, (&weight, &share)) in backends() {
        for round in rounds(weight, largest).take(share as usize) {
            turns[starts[round] as usize] = member as u16;
            starts[round] += 1;
        }
    }
    turns
}

/// The rounds in which a backend of `weight` has its turns: ⌈k · largest / weight⌉ for k = 1, 2, …, without a division for each.
fn rounds(weight: u16, largest: u32) -> impl Iterator<Item = usize> {
    let weight = u32::from(weight);
    let (whole, part) = (largest / weight, largest % weight);
    let (mut round, mut rest) = (0, 0);
    std::iter::repeat_with(move || {
        round += whole;
        rest += part;
        if rest >= weight {
            rest -= weight;
            round += 1;
        }
        (round + u32::from(rest > 0)) as usize
    })
}
