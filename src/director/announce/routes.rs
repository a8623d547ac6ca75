//! The device that VIPs' routes lead to, and the routes in the kernel's table, by rtnetlink.
//!
//! Ours are the routes that lead to our device: nothing else in the table is touched. Nothing reads the device; no rule of this host leads to
//! the table, and what gets into the device all the same the kernel drops once its short queue is full.

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

/// The kernel answers at once; a question that takes longer was lost.
const ANSWER: Duration = Duration::from_secs(5);

/// Why VIPs cannot be announced.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A device of that name is there.
    #[error(
        "there is a network interface `{0}` already, and the one for announcing VIPs must be the director's own, so that it goes with the \
         director: give another name as [announce] interface"
    )]
    Taken(String),
    /// The device cannot be made.
    #[error(
        "cannot make the TUN device `{name}` for announcing VIPs: {error}; it takes /dev/net/tun and CAP_NET_ADMIN (a unit of systemd: \
         DeviceAllow=/dev/net/tun rw)"
    )]
    Device {
        /// Its name.
        name: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(std::io::Error),
    /// A request failed.
    #[error("the kernel refused a netlink request: {0}")]
    Request(#[from] rtnetlink::Error),
    /// A request was not answered.
    #[error("the kernel did not answer a netlink request within {} s", ANSWER.as_secs())]
    Silent,
}

/// The device and what leads to it. The kernel removes both when this is dropped, or when the process ends in whatever way.
pub struct Routes {
    table: u32,
    index: u32,
    handle: Handle,
    connection: JoinHandle<()>,
    /// Families that a route was added in: a host without IPv6 is never asked about it.
    families: [bool; 2],
    /// Open for as long as there are to be routes.
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
    /// Makes the device, in the network namespace of this thread. There are no routes yet.
    ///
    /// # Errors
    /// When there is a device of that name, or none can be made.
    pub fn make(announce: &Announce) -> Result<Routes, Error> {
        let name = &announce.interface;
        // One that somebody has made persistent could be opened as well, and would outlive us with our routes.
        if if_nametoindex(name.as_str()).is_ok() {
            return Err(Error::Taken(name.clone()));
        }
        let failed = |error| Error::Device { name: name.clone(), error };
        let device = DeviceBuilder::new().name(name).layer(Layer::L3).enable(true).build_sync().map_err(failed)?;
        let index = device.if_index().map_err(failed)?;
        // Strict, so that a question about one device is not answered with every route; kernels before 4.20 cannot.
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().or_else(|_| rtnetlink::new_connection()).map_err(Error::Socket)?;
        Ok(Routes { table: announce.table, index, handle, connection: tokio::spawn(connection), families: [false; 2], device })
    }

    /// Brings the table to what is `wanted`, whatever is there now; gives the VIPs whose route the kernel refused, with the reason.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or keeps a route that is to go.
    pub async fn reconcile(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, String>, Error> {
        wanted.iter().for_each(|vip| self.families[usize::from(vip.is_ipv6())] = true);
        let present = self.present().await?;
        // A VIP that is not to be announced goes before another one comes.
        for vip in present.difference(wanted) {
            match answered(self.handle.route().del(self.route(*vip)).execute()).await? {
                Err(error) if errno(&error) == Some(Errno::ESRCH) => {}
                done => done?,
            }
        }
        let mut refused = BTreeMap::new();
        for vip in wanted.difference(&present) {
            if let Err(error) = answered(self.handle.route().add(self.route(*vip)).execute()).await? {
                refused.insert(*vip, self.refusal(&error));
            }
        }
        Ok(refused)
    }

    /// The VIPs that have a route to our device.
    async fn present(&self) -> Result<BTreeSet<IpAddr>, Error> {
        let [v4, v6] = self.families;
        let questions = [
            v4.then(|| RouteMessageBuilder::<Ipv4Addr>::new().table_id(self.table).output_interface(self.index).build()),
            v6.then(|| RouteMessageBuilder::<Ipv6Addr>::new().table_id(self.table).output_interface(self.index).build()),
        ];
        let mut present = BTreeSet::new();
        for question in questions.into_iter().flatten() {
            let routes: Result<Vec<RouteMessage>, _> = answered(self.handle.route().get(question).execute().try_collect()).await?;
            match routes {
                Ok(routes) => present.extend(routes.iter().filter_map(|route| self.vip_of(route))),
                // A table is there with its first route.
                Err(error) if errno(&error) == Some(Errno::ENOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(present)
    }

    /// The VIP of a route of ours.
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
        // The header has room for tables up to 255 only.
        route.header.table = 0;
        route.attributes.push(RouteAttribute::Table(self.table));
        route.attributes.push(RouteAttribute::Oif(self.index));
        route
    }

    fn refusal(&self, error: &rtnetlink::Error) -> String {
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

async fn answered<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER, answer).await.map_err(|_| Error::Silent)
}
