//! Fence for ethtool: which offloads an interface has on. netmap does none of their work.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: u64 = 0x8946;
/// `ETHTOOL_GFLAGS` of linux/ethtool.h, and the bits of large receive offload and of VLAN tags in it.
const GET_FLAGS: u32 = 0x25;
const FLAG_LRO: u32 = 1 << 15;
const FLAG_RXVLAN: u32 = 1 << 8;
const FLAG_TXVLAN: u32 = 1 << 7;

/// Name as `ethtool -K` takes it, command that asks for it, bits of the answer.
const OFFLOADS: [(&str, u32, u32); 8] = [
    ("tx", 0x16, u32::MAX),
    ("sg", 0x18, u32::MAX),
    ("tso", 0x1e, u32::MAX),
    ("gso", 0x23, u32::MAX),
    ("gro", 0x2b, u32::MAX),
    ("lro", GET_FLAGS, FLAG_LRO),
    // A tag that the card has taken off is not in the frame, and one that it shall put on is lost.
    ("rxvlan", GET_FLAGS, FLAG_RXVLAN),
    ("txvlan", GET_FLAGS, FLAG_TXVLAN),
];

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Returns the offloads of an interface that are on and harm netmap, by the names that `ethtool -K` takes. Checksums of received frames are not among
/// them: a card that checks these changes nothing in the frame.
///
/// # Errors
/// Those of the kernel; `ENODEV` when there is no such interface.
pub fn offloads_on(interface: &str) -> Result<Vec<&'static str>> {
    // SAFETY: makes a descriptor and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut on = Vec::new();
    for (name, command, bits) in OFFLOADS {
        if query(&socket, interface, command)? & bits != 0 {
            on.push(name);
        }
    }
    Ok(on)
}

/// One question. A driver that does not know it does not do that.
fn query(socket: &OwnedFd, interface: &str, command: u32) -> Result<u32> {
    let mut value = Value { command, data: 0 };
    // SAFETY: an `ifreq` of zero bytes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if interface.len() >= request.ifr_name.len() {
        return Err(Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: for these commands the kernel reads the name and writes the one value that the request points to; both live until it returns.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } == 0 {
        return Ok(value.data);
    }
    match Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(0),
        error => Err(error),
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_has_offloads_and_a_missing_interface_is_none() {
        let on = offloads_on("lo").unwrap();
        assert!(on.contains(&"tx") && on.contains(&"sg"), "{on:?}");
        assert_eq!(offloads_on("no-such-if").unwrap_err().raw_os_error(), Some(libc::ENODEV));
        assert!(offloads_on("a-name-that-is-too-long").is_err());
    }
}
