//! What the kinds over the kernel must know of a network interface: index, MAC address, MTU, receive queues.
//!
//! Fence: it uses `ioctl`, which answers for the network namespace of the caller; sysfs shows the namespace that mounted it.
#![allow(unsafe_code)]

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd, OwnedFd};

const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// A network interface of this network namespace, as it was when queried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// The kernel's number for it.
    pub index: u32,
    /// Its link-layer address.
    pub mac: [u8; 6],
    /// Most bytes of an IP packet.
    pub mtu: u32,
    /// Receive queues in use, at least 1.
    pub rx_queues: u32,
    /// Most receive queues that `ethtool -L` can give it, at least `rx_queues`.
    pub max_rx_queues: u32,
    /// Transmit queues in use, at least 1. They may be fewer than those to receive by.
    pub tx_queues: u32,
}

/// Why an interface cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("there is no network interface `{0}` in this network namespace: see `ip link`")]
    NotFound(String),
    /// It has no Ethernet header.
    #[error("network interface `{0}` is not Ethernet (hardware type {1}): guideway needs Ethernet")]
    NotEthernet(String, u16),
    /// The kernel refused the question.
    #[error("cannot ask the kernel about network interface `{0}`: {1}")]
    Query(String, std::io::Error),
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

impl Interface {
    /// Looks `name` up.
    pub fn by_name(name: &str) -> Result<Interface, Error> {
        let none = || Error::NotFound(name.to_owned());
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(none());
        }
        let index = nix::net::if_::if_nametoindex(name).map_err(|_| none())?;
        let fail = |error: std::io::Error| Error::Query(name.to_owned(), error);
        let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).map_err(|e| fail(e.into()))?;

        let mut request = request(name);
        ioctl(&fd, libc::SIOCGIFHWADDR as libc::c_ulong, &mut request).map_err(fail)?;
        // SAFETY: the kernel has filled this member of the union; any bytes are valid for it.
        let hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
        if hardware.sa_family != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet(name.to_owned(), hardware.sa_family));
        }
        let mut mac = [0u8; 6];
        for (to, from) in mac.iter_mut().zip(hardware.sa_data) {
            *to = from.cast_unsigned();
        }
        ioctl(&fd, libc::SIOCGIFMTU as libc::c_ulong, &mut request).map_err(fail)?;
        // SAFETY: as above.
        let mtu = u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).unwrap_or(0);
        let (rx_queues, max_rx_queues, tx_queues) = queues(&fd, name);
        Ok(Interface { name: name.to_owned(), index, mac, mtu, rx_queues, max_rx_queues, tx_queues })
    }

    /// Returns the interfaces that its frames come by: the slaves of a bond, or itself.
    pub fn members(&self) -> Result<Vec<Interface>, Error> {
        match self.bond() {
            Some(bond) => bond.lines().filter_map(|line| line.strip_prefix("Slave Interface: ")).map(Interface::by_name).collect(),
            None => Ok(vec![self.clone()]),
        }
    }

    /// Whether it is a bond: other interfaces receive for it.
    pub fn is_bond(&self) -> bool {
        self.bond().is_some()
    }

    /// What the kernel says of a bond.
    fn bond(&self) -> Option<String> {
        std::fs::read_to_string(format!("/proc/thread-self/net/bonding/{}", self.name)).ok()
    }

    /// Looks the interface with this index up, whatever its name is now.
    pub fn by_index(index: u32) -> Result<Interface, Error> {
        let name = nix::net::if_::if_indextoname(index).ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
        if name.is_empty() { Err(Error::NotFound(format!("index {index}"))) } else { Interface::by_name(&name) }
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` of zero bytes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn ioctl(fd: &OwnedFd, what: libc::c_ulong, request: &mut libc::ifreq) -> std::io::Result<()> {
    // SAFETY: the requests used here read the name and write one member of the structure.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), what as _, std::ptr::from_mut(request)) };
    if rc == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Queues by ethtool: to receive by, at most to receive by, to transmit by; drivers that do not know the question have one queue for what we do with them.
fn queues(fd: &OwnedFd, name: &str) -> (u32, u32, u32) {
    let mut channels = Channels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
    let mut request = request(name);
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut channels).cast();
    if ioctl(fd, libc::SIOCETHTOOL as libc::c_ulong, &mut request).is_err() {
        return (1, 1, 1);
    }
    let now = channels.rx_count.saturating_add(channels.combined_count).max(1);
    let transmit = channels.tx_count.saturating_add(channels.combined_count).max(1);
    (now, channels.max_rx.max(channels.max_combined).max(now), transmit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_name_that_does_not_exist_is_said_so() {
        let error = Interface::by_name("no-such-if").unwrap_err().to_string();
        assert!(error.contains("no-such-if"), "{error}");
        assert!(Interface::by_name("").is_err() && Interface::by_name(&"x".repeat(300)).is_err());
        assert!(matches!(Interface::by_name("lo"), Err(Error::NotEthernet(..))));
    }

    #[test]
    fn facts_of_a_veth_in_the_namespace_of_the_thread() {
        testing::in_namespace(|| {
            testing::ip("link add a0 numrxqueues 3 numtxqueues 3 address 02:00:00:00:00:0a mtu 1400 type veth peer name a1");
            let found = Interface::by_name("a0").unwrap();
            assert_eq!((found.mac, found.mtu, found.rx_queues, found.max_rx_queues), ([2, 0, 0, 0, 0, 0x0a], 1400, 3, 3));
            testing::ip("link set a0 name b0");
            assert_eq!(Interface::by_index(found.index).unwrap(), Interface { name: "b0".into(), ..found });
            assert!(Interface::by_index(9999).unwrap_err().to_string().contains("9999"));
        });
    }
}
