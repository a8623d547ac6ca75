//! `guideway decap`: takes packets out of GRE on a backend whose kernel cannot, and hands them to the kernel by a TUN device.

use super::DONE;
use super::common::{bad, failed};
use guideway_host::error::{Doing, Error};
use guideway_host::netlink::Netlink;
use guideway_host::tun::open_tun;
use guideway_host::vip::{backend_sysctls, hold_vip, host_prefix};
use guideway_packet::wire::flow as packet;
use guideway_packet::wire::gre;
use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tun_rs::SyncDevice;

/// Unwrap GRE on a backend, for kernels without GRE devices.
///
/// Packets that arrive in GRE at --local and are meant for a --vip come out of a TUN device; everything else is left alone. Needs
/// CAP_NET_RAW and CAP_NET_ADMIN. Ends on SIGTERM or Ctrl-C, and takes back what --configure did.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  guideway decap --local 10.0.2.21 --vip 192.0.2.69 --configure")]
pub struct DecapArgs {
    /// Address of this backend that directors send GRE to; at most one IPv4 and one IPv6
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub local: Vec<IpAddr>,
    /// A virtual address that this backend serves; may be repeated
    #[arg(long, value_name = "ADDRESS", required = true)]
    pub vip: Vec<IpAddr>,
    /// Name of the TUN device, 1–15 characters
    #[arg(long, value_name = "NAME", default_value = "decap0", value_parser = interface_name)]
    pub tun: String,
    /// Put the VIPs on lo, loosen the reverse-path filter of the TUN device, and never announce the VIPs by ARP
    #[arg(long)]
    pub configure: bool,
}

fn interface_name(name: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if fits {
        Ok(name.to_owned())
    } else {
        Err("the name of an interface has 1–15 characters, none of them a space, `/` or `:`".to_owned())
    }
}

/// Runs the command. To be called before the program starts threads.
pub fn main(args: &DecapArgs) -> u8 {
    match run(args) {
        Ok(()) => DONE,
        Err(error @ Error::Usage(_)) => bad(&format!("decap: {error}")),
        Err(error) => failed(&format!("decap: {error}")),
    }
}

/// Runs until a signal ends it. Says `ready: …` on stdout when packets are taken.
///
/// # Errors
/// When the sockets, the TUN device or the settings cannot be had.
fn run(args: &DecapArgs) -> Result<(), Error> {
    for v6 in [false, true] {
        if args.local.iter().filter(|a| a.is_ipv6() == v6).count() > 1 {
            return Err(Error::Usage("--local: at most one IPv4 and one IPv6 address".to_owned()));
        }
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().doing(|| "waiting for signals".to_owned())?;
    let sockets = args.local.iter().map(|local| Ok((*local, open(*local)?))).collect::<Result<Vec<_>, Error>>()?;
    let tun = Arc::new(open_tun(&args.tun)?);
    let added = if args.configure { configure(args)? } else { Vec::new() };
    for (local, socket) in sockets {
        let (tun, vips) = (Arc::clone(&tun), args.vip.clone());
        let body = move || {
            let stopped = unwrap(local, socket, &vips, &tun);
            eprintln!("guideway decap: receiving GRE: {stopped}");
            std::process::exit(1);
        };
        std::thread::Builder::new().name(format!("decap {local}")).spawn(body).doing(|| "starting a thread".to_owned())?;
    }
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    println!("ready: GRE to {} for {} comes out of {}", list(&args.local), list(&args.vip), args.tun);
    std::io::stdout().flush().doing(|| "writing to stdout".to_owned())?;
    signals.wait().doing(|| "waiting for signals".to_owned())?;
    let netlink = Netlink::open()?;
    added.into_iter().try_for_each(|vip| netlink.remove_address("lo", vip, host_prefix(vip)))
}

/// Returns the VIPs that were not on `lo` before.
fn configure(args: &DecapArgs) -> Result<Vec<IpAddr>, Error> {
    let netlink = Netlink::open()?;
    netlink.up("lo", true)?;
    let mut added = Vec::new();
    for vip in &args.vip {
        if hold_vip(&netlink, *vip, &args.tun)? {
            added.push(*vip);
        }
    }
    for (key, value) in backend_sysctls(&args.tun) {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).doing(|| format!("writing {value} to {path}"))?;
    }
    Ok(added)
}

fn open(local: IpAddr) -> Result<Socket, Error> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(gre::PROTOCOL)))).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Error::Missing { what: "a raw socket for GRE is not permitted".to_owned(), mend: "run as root, or with CAP_NET_RAW".to_owned() }
        }
        _ => Error::failed("opening a raw socket for GRE", e),
    })?;
    // A burst of requests must fit while this process waits for its turn on the processor.
    socket.set_recv_buffer_size(4 << 20).doing(|| "enlarging the receive buffer".to_owned())?;
    socket.bind(&SockAddr::from(SocketAddr::new(local, 0))).doing(|| format!("receiving GRE at {local}"))?;
    Ok(socket)
}

/// Returns only when receiving fails.
fn unwrap(local: IpAddr, mut socket: Socket, vips: &[IpAddr], tun: &SyncDevice) -> std::io::Error {
    let mut buffer = vec![0u8; 65536];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return e,
        };
        if let Some(inner) = inner(&buffer[..length], local.is_ipv4(), vips) {
            // The kernel refuses what it cannot take (a packet of a family that is switched off); it is then lost, as on any tunnel.
            let _refused = tun.send(inner);
        }
    }
}

/// The packet for one of `vips` inside what a raw GRE socket received: with its IP header over IPv4, without over IPv6 (raw(7), RFC 3542).
fn inner<'a>(received: &'a [u8], with_header: bool, vips: &[IpAddr]) -> Option<&'a [u8]> {
    let gre = if with_header { received.get(usize::from(received.first()? & 15) * 4..)? } else { received };
    let inner = packet::strip_gre(gre).ok()?;
    let flow = packet::flow(inner)?;
    vips.contains(&flow.destination).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packets_for_a_vip_come_out() {
        let packet = [0x45, 0, 0, 24, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 10, 192, 0, 2, 69, 0, 1, 0, 69];
        let gre = [&[0, 0, 8, 0][..], &packet].concat();
        let outer = [&[0x46; 1][..], &[0; 23], &gre].concat();
        let vip: IpAddr = "192.0.2.69".parse().unwrap();
        assert_eq!(inner(&gre, false, &[vip]), Some(&packet[..]));
        assert_eq!(inner(&outer, true, &[vip]), Some(&packet[..]), "an outer header with options");
        assert_eq!(inner(&gre, false, &["192.0.2.70".parse().unwrap()]), None);
        assert_eq!(inner(&[], true, &[vip]), None);
        assert_eq!(inner(&outer[..20], true, &[vip]), None, "shorter than its own header length");
    }

    #[test]
    fn interface_names_are_checked() {
        assert!(interface_name("decap0").is_ok());
        for bad in ["", "sixteen-letters-", "a/b", "a b", "a:1"] {
            assert!(interface_name(bad).is_err(), "{bad:?}");
        }
    }
}
