//! Limits for each client prefix: requests per second and concurrent transfers.

use crate::client_prefix::{PREFIX6, client_prefix};
use crate::content::{Borrowed, Content, KeepAlive, Source, Version};
use crate::handler::{Accepted, Destination, Handler, Opened, Refusal, SharedHandler};
use crate::request::Request;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Number of oldest prefixes among which one is evicted when the table is full.
const EVICTION_SCAN: usize = 16;

/// Limits of a client prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Requests per second.
    pub rate: Option<u32>,
    /// Burst of requests that the rate allows after a pause.
    pub burst: u32,
    /// Concurrent transfers.
    pub concurrent: Option<u32>,
    /// Bits of an IPv4 address that make a prefix.
    pub prefix4: u8,
    /// Bits of an IPv6 address that make a prefix.
    pub prefix6: u8,
    /// Largest number of prefixes in the table.
    pub max_prefixes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { rate: None, burst: 32, concurrent: None, prefix4: 32, prefix6: PREFIX6, max_prefixes: 65_536 }
    }
}

/// Drops read and write requests beyond the limits and passes all others on.
///
/// A request beyond the limits is not answered: the client retransmits it, as after a loss, and boots later instead of not at all. If the
/// table of prefixes is full, which only a flood of forged addresses causes, the oldest prefixes without transfers are evicted.
pub struct Limited {
    limits: Arc<Limits>,
    inner: SharedHandler,
}

struct Limits {
    settings: Settings,
    start: Instant,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    prefixes: HashMap<IpAddr, Prefix>,
    order: VecDeque<IpAddr>,
}

#[derive(Clone, Copy, Default)]
struct Prefix {
    /// When its bucket is full again, as time since the start.
    full: Duration,
    open: u32,
}

impl Limited {
    /// Wraps `inner` with limits.
    pub fn new(settings: Settings, inner: SharedHandler) -> Limited {
        Limited { limits: Arc::new(Limits { settings, start: Instant::now(), table: Mutex::default() }), inner }
    }
}

impl Limited {
    /// Admits a request and returns its permit, if transfers are counted.
    fn admit(&self, request: &Request) -> Result<Option<ConcurrencyPermit>, Refusal> {
        let prefix = self.limits.prefix(request.client.ip());
        self.limits.clone().admit(prefix, self.limits.start.elapsed()).ok_or_else(|| {
            tracing::debug!(%prefix, "request beyond the limits dropped");
            Refusal::silent()
        })
    }
}

impl Handler for Limited {
    async fn open(&self, request: Request) -> Opened {
        let permit = self.admit(&request)?;
        with_permit(self.inner.open(request).await, permit)
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        // Admitted when it is clear that `open` will not be called, which admits, too.
        let opened = self.inner.open_now(request)?;
        Some(self.admit(request).and_then(|permit| with_permit(opened, permit)))
    }

    fn accepts_uploads(&self) -> bool {
        self.inner.accepts_uploads()
    }

    async fn store(&self, request: Request) -> Accepted {
        let permit = self.admit(&request)?;
        let inner = self.inner.store(request).await?;
        Ok(Box::new(PermitDestination { inner, _permit: permit }))
    }
}

fn with_permit(opened: Opened, permit: Option<ConcurrencyPermit>) -> Opened {
    match permit {
        Some(permit) => opened.map(|inner| Content::from_source(PermitContent { inner, permit: Arc::new(permit) })),
        None => opened,
    }
}

/// The destination of an upload that holds a permit.
struct PermitDestination {
    inner: Box<dyn Destination>,
    _permit: Option<ConcurrencyPermit>,
}

impl Destination for PermitDestination {
    fn limit(&self) -> Option<u64> {
        self.inner.limit()
    }

    fn begin(&mut self) -> Result<(), Refusal> {
        self.inner.begin()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.inner.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<(), Refusal> {
        self.inner.finish()
    }
}

impl Limits {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prefix(&self, client: IpAddr) -> IpAddr {
        client_prefix(client, self.settings.prefix4, self.settings.prefix6)
    }

    /// Admits a request and returns its permit if transfers are counted; `None` if it is refused. `now` is the time since the start.
    fn admit(self: Arc<Self>, address: IpAddr, now: Duration) -> Option<Option<ConcurrencyPermit>> {
        let settings = self.settings;
        let mut table = self.table();
        let Some(prefix) = table.entry(address, settings.max_prefixes.max(1)) else { return Some(None) };
        // The bucket is stored as the time at which it is full again: one number, no refilling (GCRA).
        let full = prefix.full.max(now);
        let full = match settings.rate.map(|rate| Duration::from_secs(1) / rate.max(1)) {
            Some(interval) => {
                let full = full + interval;
                if full - now > interval * settings.burst.max(1) {
                    return None;
                }
                full
            }
            None => full,
        };
        if settings.concurrent.is_some_and(|most| prefix.open >= most) {
            return None;
        }
        prefix.full = full;
        if settings.concurrent.is_none() {
            return Some(None);
        }
        prefix.open += 1;
        drop(table);
        Some(Some(ConcurrencyPermit { limits: self, prefix: address }))
    }
}

impl Table {
    /// Returns the entry of a prefix; `None` when the table is full of prefixes with transfers.
    fn entry(&mut self, address: IpAddr, most: usize) -> Option<&mut Prefix> {
        if !self.prefixes.contains_key(&address) {
            let mut scanned = 0;
            while self.prefixes.len() >= most {
                let oldest = self.order.pop_front()?;
                if self.prefixes.get(&oldest).is_some_and(|prefix| prefix.open > 0) {
                    self.order.push_back(oldest);
                    scanned += 1;
                    if scanned == EVICTION_SCAN {
                        return None;
                    }
                } else {
                    self.prefixes.remove(&oldest);
                }
            }
            self.order.push_back(address);
        }
        Some(self.prefixes.entry(address).or_default())
    }
}

/// Permit for one transfer of a prefix.
struct ConcurrencyPermit {
    limits: Arc<Limits>,
    prefix: IpAddr,
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        if let Some(prefix) = self.limits.table().prefixes.get_mut(&self.prefix) {
            prefix.open = prefix.open.saturating_sub(1);
        }
    }
}

/// Content that holds a permit while it is sent.
struct PermitContent {
    inner: Content,
    permit: Arc<ConcurrencyPermit>,
}

impl Source for PermitContent {
    fn size(&self) -> Option<u64> {
        self.inner.size()
    }

    fn version(&self) -> Version {
        self.inner.version()
    }

    fn inner(&self) -> Option<(Arc<dyn Source>, KeepAlive)> {
        Some((Arc::clone(&self.inner.0), self.permit.clone()))
    }

    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.inner.0.poll_read_at(context, offset, buffer)
    }

    fn borrow_at(&self, offset: u64, len: usize) -> Option<Borrowed<'_>> {
        self.inner.0.borrow_at(offset, len)
    }

    fn check(&self) -> io::Result<()> {
        self.inner.0.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::{blocking, handler_fn};
    use crate::handlers::testing::{ask_from, read_all};
    use proptest::prelude::*;
    use std::net::Ipv4Addr;

    fn limits(change: impl FnOnce(&mut Settings)) -> Arc<Limits> {
        let mut settings = Settings::default();
        change(&mut settings);
        Arc::new(Limits { settings, start: Instant::now(), table: Mutex::default() })
    }

    #[test]
    fn a_burst_and_then_the_rate_for_each_prefix_by_itself() {
        let limits = limits(|s| (s.rate, s.burst, s.prefix4) = (Some(10), 5, 24));
        let admitted = |client: &str, millis: u64| {
            let prefix = limits.prefix(client.parse().unwrap());
            (0..20).filter(|_| limits.clone().admit(prefix, Duration::from_millis(millis)).is_some()).count()
        };
        assert_eq!(admitted("10.0.0.1", 0), 5);
        assert_eq!(admitted("10.0.0.2", 0), 0, "the same prefix");
        assert_eq!(admitted("::ffff:10.0.0.3", 99), 0);
        assert_eq!(admitted("10.0.1.1", 99), 5);
        assert_eq!(admitted("10.0.0.1", 100), 1);
        assert_eq!(admitted("10.0.0.1", 10_000), 5);
        assert_eq!(admitted("2001:db8::1", 0), 5);
        assert_eq!(admitted("2001:db8::2", 0), 0);
        assert_eq!(admitted("2001:db8:0:1::1", 0), 5);
    }

    #[test]
    fn transfers_at_once_are_counted_until_they_end_whichever_way_they_open() {
        for how in 0..2 {
            let open = |request: &Request| if request.file() == b"f" { Ok(Content::bytes("x")) } else { Err(Refusal::not_found()) };
            let inner = if how == 0 { SharedHandler::new(handler_fn(open)) } else { SharedHandler::new(blocking(open)) };
            let limited = Limited::new(Settings { concurrent: Some(2), ..Settings::default() }, inner);
            let get = |file: &[u8]| ask_from(&limited, "10.0.0.7:1", file);
            assert_eq!(get(b"none").err(), Some(Refusal::not_found()), "a refusal holds no permit");
            let one = get(b"f").unwrap();
            let two = get(b"f").unwrap();
            assert_eq!((read_all(&two).unwrap(), two.size()), (b"x".to_vec(), Some(1)));
            assert_eq!(get(b"f").err(), Some(Refusal::silent()));
            assert!(ask_from(&limited, "10.0.0.8:1", b"f").is_ok());
            drop(one);
            assert!(get(b"f").is_ok());
        }
    }

    #[test]
    fn a_flood_of_forged_addresses_fills_no_memory_and_evicts_no_transfer() {
        let limits = limits(|s| (s.rate, s.concurrent, s.max_prefixes) = (Some(1), Some(1), 100));
        let address = |n: u32| IpAddr::from(Ipv4Addr::from_bits(n));
        let permit = limits.clone().admit(address(0), Duration::ZERO).flatten();
        for n in 1..100_000 {
            assert!(limits.clone().admit(address(n), Duration::ZERO).is_some());
        }
        {
            let table = limits.table();
            assert!(table.prefixes.len() <= 100 && table.order.len() <= 100);
        }
        assert!(limits.clone().admit(address(0), Duration::from_secs(5)).is_none(), "its transfer is still counted");
        drop(permit);
        assert!(limits.clone().admit(address(0), Duration::from_secs(10)).is_some());
    }

    proptest! {
        /// In any period, at most the burst plus the rate is admitted.
        #[test]
        fn never_more_than_the_rate(rate in 1u32..2000, burst in 1u32..50, steps in prop::collection::vec(0u64..200, 1..200)) {
            let limits = limits(|s| (s.rate, s.burst) = (Some(rate), burst));
            let (mut now, mut admitted) = (Duration::ZERO, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                if limits.clone().admit(Ipv4Addr::LOCALHOST.into(), now).is_some() {
                    admitted.push(now);
                }
            }
            for (first, start) in admitted.iter().enumerate() {
                for (last, end) in admitted.iter().enumerate().skip(first) {
                    let most = f64::from(burst) + (*end - *start).as_secs_f64() * f64::from(rate) + 1e-6;
                    prop_assert!((last - first + 1) as f64 <= most + 1.0, "{} in {:?}", last - first + 1, *end - *start);
                }
            }
        }
    }
}
