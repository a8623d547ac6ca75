//! The device that the VIPs' routes lead to, and the routes in the kernel's table, by rtnetlink.
//!
//! Only routes that lead to our device are ours; other entries of the table stay untouched. Nothing reads the device, and no rule of this
//! host leads to the table. The kernel drops packets that enter the device all the same, once its short queue is full.

use futures_util::TryStreamExt;
use guideway_config::Announce;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use tokio::task::JoinHandle;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The kernel answers at once; a request without an answer for this long is lost.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why VIPs cannot be announced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device with this name exists.
    #[error(
        "there is a network interface `{0}` already, and the one for announcing VIPs must be the director's own, so that it goes with the \
         director: give another name as [announce] interface"
    )]
    DeviceExists(String),
    /// The device cannot be created.
    #[error(
        "cannot make the TUN device `{name}` for announcing VIPs: {error}; it takes /dev/net/tun and CAP_NET_ADMIN (a unit of systemd: \
         DeviceAllow=/dev/net/tun rw)"
    )]
    Device {
        /// Its name.
        name: String,
        /// The error of the system.
        error: std::io::Error,
    },
    /// The netlink socket cannot be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(std::io::Error),
    /// A request failed.
    #[error("the kernel refused a netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    /// The kernel did not answer a request.
    #[error("the kernel did not answer a netlink request within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

/// The device and its routes. The kernel removes both when this is dropped or when the process ends.
pub struct Routes {
    table: u32,
    index: u32,
    handle: Handle,
    connection: JoinHandle<()>,
    /// Families with a route so far: a host without IPv6 gets no IPv6 requests.
    families: [bool; 2],
    /// Keeps the device open as long as there should be routes.
    device: SyncDevice,
}

impl std::fmt::Debug for Routes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Routes").field("table", &self.table).field("index", &self.index).finish_non_exhaustive()
    }
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Routes {
    /// Creates the device in the network namespace of this thread, without routes.
    ///
    /// # Errors
    /// Returns an error when a device with this name exists or cannot be created.
    pub fn create(announce: &Announce) -> Result<Routes, Error> {
        let name = &announce.interface;
        // A persistent device could be opened as well, and would outlive the director together with its routes.
        if if_nametoindex(name.as_str()).is_ok() {
            return Err(Error::DeviceExists(name.clone()));
        }
        let failed = |error| Error::Device { name: name.clone(), error };
        let device = DeviceBuilder::new().name(name).layer(Layer::L3).enable(true).build_sync().map_err(failed)?;
        let index = device.if_index().map_err(failed)?;
        // Strict checking, so that the kernel filters by device; kernels before 4.20 cannot.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().or_else(|_| rtnetlink::new_connection()).map_err(Error::Socket)?;
        Ok(Routes { table: announce.table, index, handle, connection: tokio::spawn(connection), families: [false; 2], device })
    }

    /// Makes the table contain exactly `wanted`. Returns the VIPs whose route the kernel refused, with the reason.
    ///
    /// # Errors
    /// Returns an error when the kernel does not answer, or when it keeps a route that should go.
    pub async fn reconcile(&mut self, targets: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, String>, Error> {
        targets.iter().for_each(|vip| self.families[usize::from(vip.is_ipv6())] = true);
        let present = self.present().await?;
        // Removes VIPs before it adds others.
        for vip in present.difference(targets) {
            match with_timeout(self.handle.route().del(self.route(*vip)).execute()).await? {
                Err(error) if errno(&error) == Some(Errno::ESRCH) => {}
                done => done?,
            }
        }
        let mut refused = BTreeMap::new();
        for vip in targets.difference(&present) {
            if let Err(error) = with_timeout(self.handle.route().add(self.route(*vip)).execute()).await? {
                refused.insert(*vip, self.refusal_text(&error));
            }
        }
        Ok(refused)
    }

    /// Returns the VIPs that have a route to our device.
    async fn present(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let [v4, v6] = self.families;
        let questions = [
            v4.then(|| RouteMessageBuilder::<Ipv4Addr>::new().table_id(self.table).output_interface(self.index).build()),
            v6.then(|| RouteMessageBuilder::<Ipv6Addr>::new().table_id(self.table).output_interface(self.index).build()),
        ];
        let mut present = BTreeSet::new();
        for question in questions.into_iter().flatten() {
            let routes: Result<Vec<RouteMessage>, _> = with_timeout(self.handle.route().get(question).execute().try_collect()).await?;
            match routes {
                Ok(routes) => present.extend(routes.iter().filter_map(|route| self.vip_of(route))),
                // The kernel creates a table with its first route.
                Err(error) if errno(&error) == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(present)
    }

    /// Returns the VIP of one of our routes.
    fn vip_of(&self, route: &RouteMessage) -> Option<IpAddr> {
        let (mut to, mut device, mut table) = (None, None, u32::from(route.header.table));
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(a)) => to = Some(IpAddr::V4(*a)),
                RouteAttribute::Destination(RouteAddress::Inet6(a)) => to = Some(IpAddr::V6(*a)),
                RouteAttribute::Oif(index) => device = Some(*index),
                RouteAttribute::Table(number) => table = *number,
                _ => {}
            }
        }
        let whole = to.is_some_and(|to| route.header.destination_prefix_length == prefix(to));
        to.filter(|_| whole && device == Some(self.index) && table == self.table)
    }

    fn route(&self, vip: IpAddr) -> RouteMessage {
        let mut route = match vip {
            IpAddr::V4(a) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(a, 32).build(),
            IpAddr::V6(a) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(a, 128).build(),
        };
        // The header field holds table numbers up to 255 only.
        route.header.table = 0;
        route.attributes.push(RouteAttribute::Table(self.table));
        route.attributes.push(RouteAttribute::Oif(self.index));
        route
    }

    fn refusal_text(&self, error: &rtnetlink::Error) -> String {
        match errno(error) {
            Some(Errno::EEXIST) => {
                format!("kernel table {0} has another route to it, which is not this director's: see `ip route show table {0}`", self.table)
            }
            Some(Errno::ENETDOWN | Errno::ENODEV) => match self.device.name() {
                Ok(name) => format!("the device {name} was switched off: `ip link set {name} up` lets VIPs be announced again"),
                Err(_) => "the device that its route leads to was removed: restart the director".to_owned(),
            },
            Some(errno) => format!("the kernel refuses the route: {}", errno.desc()),
            None => format!("the kernel refuses the route: {error}"),
        }
    }
}

fn prefix(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().saturating_neg())),
        _ => None,
    }
}

async fn with_timeout<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, answer).await.map_err(|_| Error::Timeout)
}
