//! The Maglev table: from a hash to a backend, the same on every director that knows the same pool and key.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4, with three things made exact, because the table
//! is a contract between directors of different versions (golden tables in `tests/golden/` hold it):
//!
//! 1. *Preferences.* With M the size, backend `name` asks for the slots offset, offset + skip, offset + 2 skip, … (mod M), where
//!    offset = SipHash-2-4(key, 16 ‖ name) mod M and skip = SipHash-2-4(key, 17 ‖ name) mod (M − 1) + 1. M is prime, so that is every slot once.
//! 2. *Shares.* A backend of weight w owns M·w/W slots (W the sum of weights), rounded down; the slots that are left go one each to the largest remainders,
//!    among equal ones to the first name. So every share is less than one entry from exact.
//! 3. *Turns.* There are rounds, numbered from 1; within a round backends come in the order of their names. A backend takes its k-th slot, the first of its
//!    preferences that is still free, in round ⌈k · largest weight / w⌉. With equal weights that is the paper's algorithm: one slot a round for each.
//!
//! A hash chooses row ⌊hash · M / 2^64⌋.
//!
//! The fingerprint is SipHash-2-4(key, 18 ‖ version ‖ M ‖ number of members ‖ members ‖ slots): version one byte, M and the number 4 bytes, each member the
//! length of its name (4 bytes), its name and its weight (2 bytes) in the order of names, each slot the member's index (2 bytes, 65535 for nobody).

mod build;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod tests;

use build::NONE;
use guideway_hash::{Domain, FleetKey};

/// Version of the rules above; part of the fingerprint. A change of the rules is a new version.
pub const VERSION: u8 = 1;
/// The usual number of slots, of the paper's "small" tables.
pub const DEFAULT_SIZE: u32 = 65_537;
/// The largest number of slots, a prime.
pub const MAX_SIZE: u32 = 5_000_011;
/// Slots that a table must have per backend, so that shares are even (paper, section 5.3).
pub const SLOTS_PER_BACKEND: u32 = 100;
/// The most members that a table can number.
pub const MAX_MEMBERS: usize = 65_534;
/// The largest weight.
pub const MAX_WEIGHT: u16 = 1000;

/// Why a table was not built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The size is not prime.
    #[error("Maglev table size {size} is not a prime number; the next one is {next}")]
    NotPrime {
        /// The requested size.
        size: u32,
        /// The next prime that is allowed.
        next: u32,
    },
    /// The size is beyond the limit.
    #[error("Maglev table size {size} is more than {MAX_SIZE}; use {MAX_SIZE}, which is prime, or less")]
    TooLarge {
        /// The requested size.
        size: u32,
    },
    /// Too few slots for so many backends.
    #[error(
        "Maglev table size {size} is less than {} × {backends} backends = {least}; use the prime {next} or more",
        *least as usize / (*backends).max(1)
    )]
    TooSmall {
        /// The requested size.
        size: u32,
        /// How many backends there are, those of weight 0 included.
        backends: usize,
        /// The least size for them.
        least: u32,
        /// The next prime from there.
        next: u32,
    },
    /// More backends than the largest table can serve.
    #[error("{backends} backends are more than {limit}, the most that a Maglev table can hold; split the pool")]
    TooManyBackends {
        /// How many backends there are.
        backends: usize,
        /// The most that are allowed.
        limit: usize,
    },
    /// A backend without a name.
    #[error("a backend has an empty name; a name decides its place in the Maglev table, so give every backend one")]
    EmptyName,
    /// Two backends of the same name.
    #[error("two backends are named \"{name}\"; names decide the places in the Maglev table, so rename one")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A weight beyond the limit.
    #[error("backend \"{name}\" has weight {weight}; the largest is {MAX_WEIGHT}")]
    Weight {
        /// The backend.
        name: String,
        /// Its weight.
        weight: u16,
    },
}

/// A member of a table: its name and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The backend's name.
    pub name: Box<str>,
    /// Its weight, 0 to 1000; 0 owns no slot.
    pub weight: u16,
}

/// A table of slots, each owned by a member, or by nobody when no member has weight.
#[derive(Clone, PartialEq, Eq)]
pub struct Table {
    slots: Box<[u16]>,
    members: Box<[Member]>,
    size: u32,
    fingerprint: u64,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "maglev::Table({} members, {} slots, fingerprint {:016x})", self.members.len(), self.size, self.fingerprint)
    }
}

impl Table {
    /// Builds the table of `backends` (name, weight 0 to 1000) with `size` slots, a prime of at least 100 per backend and at most [`MAX_SIZE`].
    ///
    /// The order of `backends` does not matter: members are numbered from 0 in the order of their names (compared as bytes), those of weight 0 included.
    /// If all weights are 0, or there are no backends, no slot has an owner.
    pub fn build(key: &FleetKey, size: u32, backends: &[(&str, u16)]) -> Result<Table, Error> {
        check_size(size, backends.len(), SLOTS_PER_BACKEND)?;
        Table::build_checked(key, size, backends)
    }

    /// The same from one slot per backend on, for comparisons: the paper and others measure 65,537 slots for 1000 backends, whose shares are less even
    /// than a pool of ours may have them.
    pub fn build_uneven(key: &FleetKey, size: u32, backends: &[(&str, u16)]) -> Result<Table, Error> {
        check_size(size, backends.len(), 1)?;
        Table::build_checked(key, size, backends)
    }

    fn build_checked(key: &FleetKey, size: u32, backends: &[(&str, u16)]) -> Result<Table, Error> {
        let mut sorted = backends.to_vec();
        sorted.sort_unstable();
        check_members(&sorted)?;
        let slots = build::slots(key, size, &sorted);
        let fingerprint = fingerprint(key, size, &sorted, &slots);
        let members = sorted.iter().map(|&(name, weight)| Member { name: name.into(), weight }).collect();
        Ok(Table { slots: slots.into(), members, size, fingerprint })
    }

    /// The number of slots.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The members in the order of their numbers.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The row that `hash` chooses: ⌊hash · size / 2^64⌋, which is less than [`Table::size`]. A contract like the rest.
    #[inline]
    pub fn row(&self, hash: u64) -> u32 {
        ((u128::from(hash) * u128::from(self.size)) >> 64) as u32
    }

    /// The number of the member that owns `row`; `None` when nobody has weight, or for a row that does not exist.
    #[inline]
    pub fn member(&self, row: u32) -> Option<u16> {
        self.slots.get(row as usize).copied().filter(|&member| member != NONE)
    }

    /// The number of the member that `hash` chooses; `None` when nobody has weight.
    #[inline]
    pub fn choose(&self, hash: u64) -> Option<u16> {
        self.member(self.row(hash))
    }

    /// How many slots each member owns, by its number.
    pub fn entries(&self) -> Vec<u32> {
        let mut entries = vec![0; self.members.len()];
        for &member in &self.slots {
            if let Some(count) = entries.get_mut(usize::from(member)) {
                *count += 1;
            }
        }
        entries
    }

    /// A number that two tables share only if they are the same: rules, size, names, weights, slots and key.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many rows leave an owner that still has weight in `after`, for another: what a change costs beyond the rows of those who went.
    ///
    /// Members are compared by name. `None` if the tables differ in size, as their rows then have nothing in common.
    pub fn moved(&self, after: &Table) -> Option<u32> {
        if self.size != after.size {
            return None;
        }
        let place = |member: &Member| {
            let found = after.members.binary_search_by(|other| other.name.cmp(&member.name)).ok()?;
            after.members.get(found).filter(|other| other.weight > 0)?;
            u16::try_from(found).ok()
        };
        let places: Vec<Option<u16>> = self.members.iter().map(place).collect();
        let moves = |&(&was, &is): &(&u16, &u16)| places.get(usize::from(was)).copied().flatten().is_some_and(|stays| stays != is);
        u32::try_from(self.slots.iter().zip(&after.slots).filter(moves).count()).ok()
    }
}

fn check_size(size: u32, backends: usize, slots: u32) -> Result<(), Error> {
    let limit = MAX_MEMBERS.min((MAX_SIZE / SLOTS_PER_BACKEND) as usize);
    if backends > limit {
        return Err(Error::TooManyBackends { backends, limit });
    }
    if size > MAX_SIZE {
        return Err(Error::TooLarge { size });
    }
    let least = u32::try_from(backends).map_or(u32::MAX, |count| count.saturating_mul(slots));
    if size < least {
        return Err(Error::TooSmall { size, backends, least, next: next_prime(least) });
    }
    if !primal_check::miller_rabin(u64::from(size)) {
        return Err(Error::NotPrime { size, next: next_prime(size) });
    }
    Ok(())
}

fn check_members(sorted: &[(&str, u16)]) -> Result<(), Error> {
    for &(name, weight) in sorted {
        if name.is_empty() {
            return Err(Error::EmptyName);
        }
        if weight > MAX_WEIGHT {
            return Err(Error::Weight { name: name.to_owned(), weight });
        }
    }
    match sorted.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(Error::DuplicateName { name: pair[0].0.to_owned() }),
        None => Ok(()),
    }
}

/// The least prime that is not less than `from`, which is at most [`MAX_SIZE`].
fn next_prime(from: u32) -> u32 {
    (from..MAX_SIZE).find(|&n| primal_check::miller_rabin(u64::from(n))).unwrap_or(MAX_SIZE)
}

fn fingerprint(key: &FleetKey, size: u32, sorted: &[(&str, u16)], slots: &[u16]) -> u64 {
    let names: usize = sorted.iter().map(|(name, _)| name.len() + 6).sum();
    let mut message = Vec::with_capacity(9 + names + 2 * slots.len());
    message.push(VERSION);
    message.extend_from_slice(&size.to_be_bytes());
    message.extend_from_slice(&(sorted.len() as u32).to_be_bytes());
    for (name, weight) in sorted {
        message.extend_from_slice(&(name.len() as u32).to_be_bytes());
        message.extend_from_slice(name.as_bytes());
        message.extend_from_slice(&weight.to_be_bytes());
    }
    message.extend(slots.iter().flat_map(|slot| slot.to_be_bytes()));
    key.keyed_hash(Domain::Fingerprint, &message)
}
