//! Whole boot storms against the limits: who gets through, when, and how evenly.

use super::*;
use guideway_hash::FleetKey;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(1);
const EVERY: Duration = Duration::from_secs(1);

fn hash(key: u8) -> PacketHasher {
    FleetKey::new([key; 16]).packet_hasher()
}

/// A client that asks until it is let through.
#[derive(Clone, Copy, Debug)]
struct Client {
    prefix: usize,
    address: Ipv4Addr,
    backend: BackendId,
    /// When it asks for the first time, how long it then waits, and how long at most: twice as long each time.
    first: Duration,
    every: Duration,
    longest: Duration,
}

/// What became of a storm.
#[derive(Debug, Default)]
struct Storm {
    /// When each client was let through, in the order of the clients.
    done: Vec<Option<Duration>>,
    /// By second and prefix: let through, and shed.
    seconds: BTreeMap<(u64, usize), (u32, u32)>,
    /// By second and backend: let through.
    backends: BTreeMap<(u64, BackendId), u32>,
}

impl Storm {
    fn run(clients: &[Client], limits: &Limits, end: Duration) -> Storm {
        let mut admission = Admission::default();
        let mut storm = Storm { done: vec![None; clients.len()], ..Storm::default() };
        let mut due: BTreeMap<Duration, Vec<usize>> = BTreeMap::new();
        let mut waits: Vec<Duration> = clients.iter().map(|client| client.every).collect();
        let step = |at: Duration| Duration::from_millis((at.as_nanos() / STEP.as_nanos()) as u64);
        for (n, client) in clients.iter().enumerate() {
            due.entry(step(client.first)).or_default().push(n);
        }
        while let Some((at, mut asking)) = due.pop_first().filter(|(at, _)| *at < end) {
            // Who comes first within a millisecond changes from time to time.
            let len = asking.len();
            asking.rotate_left((at.as_millis() as usize * 7919) % len);
            for n in asking {
                let client = clients[n];
                let ask = AdmissionRequest { service: 3, backend: client.backend, client: client.address.into() };
                let admitted = admission.admit(ask, limits, &hash(7), Time(0).plus(at)).is_ok();
                let second = storm.seconds.entry((at.as_secs(), client.prefix)).or_default();
                if admitted {
                    second.0 += 1;
                    storm.done[n] = Some(at);
                    *storm.backends.entry((at.as_secs(), client.backend)).or_default() += 1;
                } else {
                    second.1 += 1;
                    due.entry(at + waits[n]).or_default().push(n);
                    waits[n] = (2 * waits[n]).min(client.longest);
                }
            }
        }
        storm
    }

    /// Jain's index over what prefixes got in a second that had to leave clients waiting, each in parts of what was max-min fair; `None` when nobody waited.
    fn jain(&self, second: u64) -> Option<f64> {
        let of = self.seconds.range((second, 0)..(second + 1, 0)).map(|(_, counts)| *counts);
        if of.clone().all(|(_, shed)| shed == 0) {
            return None;
        }
        let fair = max_min(&of.clone().map(|(got, shed)| got + shed).collect::<Vec<_>>(), self.admitted(second));
        let got: Vec<f64> = of.zip(fair).map(|((got, _), fair)| f64::from(got) / fair).collect();
        let (sum, squares) = (got.iter().sum::<f64>(), got.iter().map(|x| x * x).sum::<f64>());
        (got.len() > 1).then(|| sum * sum / (got.len() as f64 * squares))
    }

    fn admitted(&self, second: u64) -> u32 {
        self.seconds.range((second, 0)..(second + 1, 0)).map(|(_, (got, _))| got).sum()
    }

    fn last(&self) -> Option<Duration> {
        self.done.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

/// What is max-min fair of `total` for those who want so much.
fn max_min(wanted: &[u32], total: u32) -> Vec<f64> {
    let mut sorted = wanted.to_vec();
    sorted.sort_unstable();
    let (mut left, mut share) = (f64::from(total), f64::INFINITY);
    for (n, want) in sorted.iter().enumerate() {
        let part = left / (sorted.len() - n) as f64;
        if part < f64::from(*want) {
            share = part;
            break;
        }
        left -= f64::from(*want);
    }
    wanted.iter().map(|want| f64::from(*want).min(share)).collect()
}

/// `sizes[n]` clients in the n-th prefix, all within `within`, in an order without a pattern.
fn clients(sizes: &[usize], within: Duration) -> Vec<Client> {
    let mut clients = Vec::new();
    for (prefix, size) in sizes.iter().enumerate() {
        for n in 0..*size {
            let noise = fmix64((prefix * 100_003 + n) as u64 + 1);
            let first = Duration::from_nanos(noise % within.as_nanos().max(1) as u64);
            let address = Ipv4Addr::from_bits(0x0a00_0000 | (prefix as u32) << 12 | n as u32);
            clients.push(Client { prefix, address, backend: (noise >> 40) as u16 % 10, first, every: EVERY, longest: EVERY });
        }
    }
    clients
}

/// 40 prefixes of very different sizes, 20,000 clients in all.
fn sizes() -> Vec<usize> {
    let mut sizes: Vec<usize> = (0..40).map(|n| 20 + n * n * n / 45).collect();
    let sum: usize = sizes.iter().sum();
    sizes[39] += 20_000 - sum;
    sizes
}

fn limits(per_vip: u32) -> Limits {
    Limits { per_vip: Some(per_vip), prefix_v4: 20, ..Limits::default() }
}

#[test]
fn a_boot_storm_is_through_as_soon_as_its_limit_allows_and_even_all_the_way() {
    let sizes = sizes();
    assert!(sizes[0] == 20 && sizes[39] > 1300, "{sizes:?}");
    let storm = Storm::run(&clients(&sizes, Duration::from_secs(1)), &limits(5000), Duration::from_secs(60));
    // One second's worth at once, then 5,000 a second: 3 seconds, and a retry.
    let last = storm.last().expect("everybody gets through");
    assert!(last < Duration::from_millis(4500), "{last:?}");
    let contended: Vec<f64> = (0..60).filter_map(|second| storm.jain(second)).collect();
    assert!(contended.len() >= 2 && contended.iter().all(|jain| *jain >= 0.95), "{contended:?}");
    let smallest = storm.done.iter().take(20).flatten().max();
    assert!(smallest < Some(&Duration::from_millis(1200)), "a small prefix does not wait for large ones: {smallest:?}");
    for second in 0..5 {
        let so_far: u32 = (0..=second).map(|second| storm.admitted(second)).sum();
        assert!(so_far <= 5000 * (second as u32 + 2), "{so_far} until the end of second {second}");
    }
}

#[test]
fn clients_that_all_retry_at_the_same_moment_get_through_too() {
    let storm = Storm::run(&clients(&sizes(), STEP), &limits(5000), Duration::from_secs(60));
    let last = storm.last().expect("everybody gets through");
    assert!(last < Duration::from_millis(6500), "{last:?}");
}

/// Who came early in the last wave comes early in the next, long after all was quiet: large prefixes, for all of the small ones' early clients are through.
#[test]
fn a_storm_whose_clients_double_their_time_outs_is_even_in_every_wave() {
    let sizes: Vec<usize> = (0..40).map(|n| [35, 70, 104, 208, 416][n % 5]).collect();
    let mut all = clients(&sizes, Duration::from_secs(1));
    let (mut prefix, mut place) = (0, 0);
    for client in &mut all {
        place = if client.prefix == prefix { place + 1 } else { 0 };
        prefix = client.prefix;
        // Those of each prefix are spread over a second, evenly.
        (client.first, client.longest) = (EVERY * place as u32 / sizes[prefix] as u32, 8 * EVERY);
    }
    let storm = Storm::run(&all, &limits(500), Duration::from_secs(90));
    assert!(storm.last().is_some_and(|last| last < Duration::from_secs(50)), "{:?}", storm.last());
    let waves: Vec<(u64, f64)> = (0..60).filter(|s| storm.admitted(*s) >= 80).filter_map(|s| Some((s, storm.jain(s)?))).collect();
    assert!(waves.len() >= 6 && waves.iter().all(|(_, jain)| *jain >= 0.97), "{waves:?}");
}

#[test]
fn a_lone_prefix_may_have_all_of_a_limit() {
    let storm = Storm::run(&clients(&[4096], Duration::from_millis(100)), &limits(5000), Duration::from_secs(9));
    assert!(storm.last().is_some_and(|last| last < Duration::from_millis(100)), "{:?}", storm.last());
    let storm = Storm::run(&clients(&[4096], Duration::from_millis(100)), &limits(1000), Duration::from_secs(9));
    assert!(
        (900..=1100).contains(&storm.admitted(1)) && storm.last().is_some_and(|last| last < Duration::from_secs(5)),
        "{:?}",
        storm.last()
    );
}

#[test]
fn a_backend_gets_no_more_than_its_limit_and_the_others_are_not_held_up() {
    let mut all = clients(&[3000, 3000, 500], Duration::from_secs(1));
    all.iter_mut().for_each(|client| client.backend = u16::from(client.backend > 0));
    let limits = Limits { per_vip: None, per_backend: Some(500), ..limits(1) };
    let storm = Storm::run(&all, &limits, Duration::from_secs(60));
    assert!(storm.last().is_some());
    for ((second, backend), got) in &storm.backends {
        // In the first second what had been saved up comes on top.
        assert!(*got <= if *second == 0 { 1000 } else { 510 }, "backend {backend} got {got} in second {second}");
    }
    assert!(storm.backends.iter().filter(|((second, backend), _)| *second > 3 && *backend == 0).count() == 0);
}

#[test]
fn every_one_of_many_limits_is_its_own() {
    let mut admission = Admission::default();
    // A VIP without limits but towards its backends, and as many limits as there are places for.
    let rate = |backend: u32| 2 + backend % 7;
    for second in 0..3u64 {
        let mut admitted = vec![0; LIMITERS - 1];
        for n in 0..20u32 {
            for backend in 0..LIMITERS as u32 - 1 {
                let limits = Limits { per_vip: None, per_backend: Some(rate(backend)), prefix_v4: 8, ..limits(1) };
                let ask = AdmissionRequest { service: 3, backend: backend as u16, client: Ipv4Addr::from_bits(0x0a00_0000 | n).into() };
                let now = Time(0).plus(Duration::from_secs(10 * second));
                admitted[backend as usize] += u32::from(admission.admit(ask, &limits, &hash(7), now).is_ok());
            }
        }
        let wrong = (0..).zip(&admitted).filter(|(backend, got)| **got != rate(*backend)).count();
        assert_eq!(wrong, 0, "limits that let more or less through than their rate, in turn {second}");
    }
}

#[test]
fn a_prefix_gets_no_more_than_its_own_limit() {
    let limits = Limits { per_prefix: Some(100), per_vip: None, ..limits(1) };
    let storm = Storm::run(&clients(&[2000, 50], Duration::from_millis(500)), &limits, Duration::from_secs(60));
    assert!(storm.last().is_some_and(|last| (18..22).contains(&last.as_secs())), "{:?}", storm.last());
    assert!(storm.seconds.range((1, 0)..).all(|(_, (got, _))| *got <= 101));
    assert_eq!(storm.seconds[&(0, 1)], (50, 0), "the other one waits for nothing");
}

#[test]
fn workers_share_a_limit() {
    let mut admission = Admission::default();
    admission.set_workers(4);
    let client = |n: u32| AdmissionRequest { service: 0, backend: 0, client: Ipv4Addr::from_bits(0x0a00_0000 | n).into() };
    let through =
        |admission: &mut Admission| (0..100).filter(|n| admission.admit(client(*n), &limits(40), &hash(7), Time(0)).is_ok()).count();
    assert_eq!(through(&mut admission), 10);
    // A part of less than one request a second is one every few seconds, not none.
    admission.set_workers(100);
    let mut admitted = 0;
    for second in 10..40 {
        admitted += usize::from(admission.admit(client(0), &limits(40), &hash(7), Time(0).plus(Duration::from_secs(second))).is_ok());
    }
    assert!((9..=12).contains(&admitted), "{admitted}");
}

#[test]
fn the_end_of_time_is_a_time_like_any_other() {
    let mut admission = Admission::default();
    let limits = Limits { per_backend: Some(2), per_prefix: Some(2), ..limits(2) };
    let ask = AdmissionRequest { service: 0, backend: 0, client: Ipv4Addr::LOCALHOST.into() };
    for now in [0, 1, u64::MAX - 1, u64::MAX] {
        let _ = admission.admit(ask, &limits, &hash(7), Time(now));
    }
    assert_eq!(admission.admit(ask, &limits, &hash(7), Time(u64::MAX)), Err(Limit::Prefix));
}

#[test]
fn more_prefixes_than_there_are_places_for_share_and_nobody_is_shut_out() {
    let mut admission = Admission::default();
    let limits = Limits { prefix_v4: 32, ..limits(1_000_000) };
    for n in 0..100_000u32 {
        let ask = AdmissionRequest { service: 0, backend: 0, client: Ipv4Addr::from_bits(0x0a00_0000 | n).into() };
        assert_eq!(admission.admit(ask, &limits, &hash(7), Time(u64::from(n) * 1000)), Ok(()), "{n}");
    }
}

/// How many of 300 requests of a victim, 10 ms apart, get through, while each of `others` asks 20 times for each of them.
fn got_by_victim(victim: Ipv4Addr, others: &[Ipv4Addr], hash: &PacketHasher) -> usize {
    let (mut admission, limits) = (Admission::default(), Limits { per_vip: None, per_prefix: Some(200), ..Limits::default() });
    let ask = |client: &Ipv4Addr| AdmissionRequest { service: 3, backend: 0, client: (*client).into() };
    let mut got = 0;
    for round in 0..300u64 {
        let now = Time(round * 10_000_000);
        for other in others.iter().flat_map(|other| [other; 20]) {
            let _ = admission.admit(ask(other), &limits, hash, now);
        }
        got += usize::from(admission.admit(ask(&victim), &limits, hash, now).is_ok());
    }
    got
}

#[test]
fn prefixes_that_share_places_under_one_key_do_not_under_another() {
    let victim = Ipv4Addr::new(198, 51, 100, 7);
    let set = |client: Ipv4Addr, hash: &PacketHasher| {
        first_place(hash.prefix(prefix(client.into(), &Limits::default()), limit_key(3, NO_BACKEND)) | 1)
    };
    // Found by somebody who knows the key 7.
    let chosen: Vec<Ipv4Addr> = (0..1 << 14)
        .map(|n| Ipv4Addr::from_bits(0x0a00_0001 | n << 8))
        .filter(|other| set(*other, &hash(7)) == set(victim, &hash(7)))
        .take(8 * SLOT_WAYS)
        .collect();
    assert!(chosen.len() >= SLOT_WAYS);
    assert!(got_by_victim(victim, &chosen, &hash(7)) < 30, "whoever knows the key can starve a prefix");
    for key in [8, 9, 10] {
        assert_eq!(got_by_victim(victim, &chosen, &hash(key)), 300, "under the key {key}");
    }
}

#[test]
fn a_prefix_that_has_to_share_is_counted() {
    let mut admission = Admission::default();
    let limits = Limits { prefix_v4: 32, ..limits(1_000_000) };
    let mut ask = |n: u32| {
        let ask = AdmissionRequest { service: 0, backend: 0, client: Ipv4Addr::from_bits(0x0a00_0000 | n).into() };
        let _ = admission.admit(ask, &limits, &hash(7), Time(0));
        admission.shared()
    };
    assert_eq!((0..100).map(&mut ask).last(), Some(0));
    let shared = (100..10_000).map(&mut ask).last().unwrap();
    assert!((5_904..6_200).contains(&shared), "{shared}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever the sizes of prefixes, their patience and the limit: all get through, and not much later than the limit allows.
    #[test]
    fn nobody_starves(
        sizes in prop::collection::vec(1usize..800, 1..30),
        limit in 100u32..3000,
        within in 1u64..3000,
        patience in 300u64..3000,
    ) {
        let mut all = clients(&sizes, Duration::from_millis(within));
        all.iter_mut().for_each(|client| (client.every, client.longest) = (Duration::from_millis(patience), Duration::from_millis(patience)));
        let needed = all.len() as f64 / f64::from(limit);
        // The last to get through have to come back once after the others; who comes rarely uses the limit only in part. What was found: 2.05 times.
        let end = Duration::from_millis(within) + Duration::from_secs_f64(2.2 * needed) + 4 * Duration::from_millis(patience) + Duration::from_secs(2);
        let storm = Storm::run(&all, &limits(limit), end + Duration::from_secs(60));
        let last = storm.last();
        prop_assert!(last.is_some_and(|last| last <= end), "{:?} of {:?}", last, end);
    }
}
