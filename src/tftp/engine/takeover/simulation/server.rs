//! A server of the simulation: an engine whose sockets are not bound.

use super::super::super::channel::EventChannel;
use super::super::super::config::Config;
use super::super::super::event_loop::{EventLoop, EventLoopParts};
use super::super::super::openers::Openers;
use super::super::super::reports::Reports;
use super::super::super::sockets::ServerSocket;
use super::super::super::table::Sessions;
use super::super::{SpareSockets, Takeover, TakeoverStatus};
use crate::content::{Borrowed, Bytes, Content, Source, Version};
use crate::handler::{Handler, Opened, SharedHandler};
use crate::handlers::testing::runtime;
use crate::packet::PORT;
use crate::report::Counters;
use crate::request::Request;
use crate::takeover::{Member, Membership, Settings, checkpoint_store};
use guideway_hash::FleetKey;
use guideway_packet::time::Time;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The address that clients ask.
pub const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 69));
/// Keys of the fleet.
pub const KEYS: [[u8; 16]; 2] = [[5; 16], [6; 16]];

/// The file: every block of 8 bytes holds its number.
#[derive(Clone)]
pub struct Numbered(pub Bytes);

impl Source for Numbered {
    fn size(&self) -> Option<u64> {
        self.0.size()
    }
    fn version(&self) -> Version {
        self.0.version()
    }
    fn poll_read_at(&self, context: &mut Context<'_>, offset: u64, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.0.poll_read_at(context, offset, buffer)
    }
    fn borrow_at(&self, _: u64, _: usize) -> Option<Borrowed<'_>> {
        None
    }
}

/// Opens it at once.
struct AtOnce(Content);

impl Handler for AtOnce {
    async fn open(&self, _: Request) -> Opened {
        Ok(self.0.clone())
    }
    fn open_now(&self, _: &Request) -> Option<Opened> {
        Some(Ok(self.0.clone()))
    }
}

pub fn tid(server: usize) -> u16 {
    20_001 + 10 * server as u16
}

pub fn checkpoint_address(server: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 2, server as u8 + 1], 6970))
}

pub fn membership(me: usize, servers: &[usize], key: usize) -> Arc<Membership> {
    let member = |&n: &usize| Member { name: format!("t{n}"), checkpoint_address: checkpoint_address(n), tid_range: (tid(n), tid(n)) };
    let membership = Membership::new(FleetKey::new(KEYS[key]), servers.iter().map(member).collect(), &format!("t{me}")).unwrap();
    Arc::new(membership.accepting_keys(KEYS.map(FleetKey::new)))
}

/// A server, or its absence after a crash.
pub struct Server {
    pub event_loop: Option<EventLoop>,
    /// Its clock: offset, and rate in parts per million.
    pub clock: (u64, u64),
    /// Since when it is up or down.
    pub changed: u64,
}

impl Server {
    /// Returns its time.
    pub fn local(&self, now: u64) -> Time {
        Time(self.clock.0 + now / 1_000_000 * self.clock.1 + now % 1_000_000)
    }

    /// Starts it, with these content and key of the fleet.
    pub fn start(&mut self, index: usize, content: &Content, key: usize, now: u64) {
        let membership = membership(index, &[0, 1, 2], key);
        let settings = Settings {
            listen: checkpoint_address(index),
            checkpoint_timeout: Duration::from_millis(60),
            checkpoint_store: checkpoint_store::Limits::default(),
            membership,
        };
        // The port of requests, all TIDs, the own one first, and the checkpoints.
        let tids = (0..3).map(|n| (index + n) % 3);
        let mut sockets = vec![ServerSocket::simulated(SocketAddr::new(VIP, PORT), true, 1)];
        sockets.extend(
            tids.clone().enumerate().map(|(at, owner)| ServerSocket::simulated(SocketAddr::new(VIP, tid(owner)), false, at as u16 + 1)),
        );
        sockets.push(ServerSocket::simulated(checkpoint_address(index), false, 4));
        let channel = Arc::new(EventChannel::new().unwrap());
        let handler = SharedHandler::new(AtOnce(content.clone()));
        let parts = EventLoopParts {
            config: Config { takeover: Some(settings.clone()), ..Config::default() },
            sockets,
            tunnel: None,
            openers: Openers::new(runtime().handle().clone(), handler, Arc::clone(&channel), false),
            reports: Reports::new(None),
            counters: Arc::new(Counters::default()),
            channel,
        };
        let mut event_loop = EventLoop::new(parts);
        event_loop.net.local_sockets.clear();
        event_loop.now = self.local(now);
        event_loop.sessions = Sessions::new(event_loop.now);
        event_loop.net.outbox.capture();
        let mut takeover = Takeover::new(&settings, 0, 4, Arc::new(TakeoverStatus::default()), SpareSockets::default());
        takeover.foreign = tids.enumerate().skip(1).map(|(at, owner)| (tid(owner), vec![at as u16 + 1])).collect();
        event_loop.takeover = Some(Box::new(takeover));
        (self.event_loop, self.changed) = (Some(event_loop), now);
    }
}
