//! `guideway decap`: takes packets out of GRE on a backend whose kernel cannot, and passes them to the kernel through a TUN device.

use super::DONE;
use super::common::{failed, usage_error};
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::tun::open_tun;
use guideway_host::vip::{add_vip_address, backend_sysctls, host_prefix_len};
use guideway_packet::wire::flow as packet;
use guideway_packet::wire::gre;
use nix::sys::signal::{SigSet, Signal};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tun_rs::SyncDevice;

/// Unwrap GRE on a backend, for kernels without GRE devices
///
/// Packets that arrive in GRE at --local for a --vip come out of a TUN device; all other packets are ignored. Needs CAP_NET_RAW and
/// CAP_NET_ADMIN. Ends on SIGTERM or Ctrl-C, and reverts --configure.
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
    /// Add the VIPs to lo, loosen the reverse-path filter of the TUN device, and never announce the VIPs by ARP
    #[arg(long)]
    pub configure: bool,
}

fn interface_name(name: &str) -> Result<String, String> {
    let fits = (1..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':');
    if fits { Ok(name.to_owned()) } else { Err("an interface name has 1–15 characters, none of them a space, `/` or `:`".to_owned()) }
}

/// Runs the command. Must be called before the program starts threads.
pub fn main(args: &DecapArgs) -> u8 {
    match run(args) {
        Ok(()) => DONE,
        Err(error @ Error::Usage(_)) => usage_error(&format!("decap: {error}")),
        Err(error) => failed(&format!("decap: {error}")),
    }
}

/// Runs until a signal ends it. Prints `ready: …` on stdout when it receives packets.
///
/// # Errors
/// Returns an error when the sockets, the TUN device or the settings fail.
fn run(args: &DecapArgs) -> Result<(), Error> {
    for v6 in [false, true] {
        if args.local.iter().filter(|a| a.is_ipv6() == v6).count() > 1 {
            return Err(Error::Usage("--local: too many addresses; give at most one IPv4 and one IPv6 address".to_owned()));
        }
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().with_context(|| "waiting for signals".to_owned())?;
    let sockets = args.local.iter().map(|local| Ok((*local, open(*local)?))).collect::<Result<Vec<_>, Error>>()?;
    let tun = Arc::new(open_tun(&args.tun)?);
    let added = if args.configure { configure(args)? } else { Vec::new() };
    for (local, socket) in sockets {
        let (tun, vips) = (Arc::clone(&tun), args.vip.clone());
        let body = move || {
            let stopped = decapsulate_loop(local, socket, &vips, &tun);
            eprintln!("guideway decap: receiving GRE: {stopped}");
            std::process::exit(1);
        };
        std::thread::Builder::new().name(format!("decap {local}")).spawn(body).with_context(|| "starting a thread".to_owned())?;
    }
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    println!("ready: GRE to {} for {} comes out of {}", list(&args.local), list(&args.vip), args.tun);
    std::io::stdout().flush().with_context(|| "writing to stdout".to_owned())?;
    signals.wait().with_context(|| "waiting for signals".to_owned())?;
    let netlink = Netlink::open()?;
    added.into_iter().try_for_each(|vip| netlink.remove_address("lo", vip, host_prefix_len(vip)))
}

/// Returns the VIPs that were not on `lo` before.
fn configure(args: &DecapArgs) -> Result<Vec<IpAddr>, Error> {
    let netlink = Netlink::open()?;
    netlink.set_up("lo", true)?;
    let mut added = Vec::new();
    for vip in &args.vip {
        if add_vip_address(&netlink, *vip, &args.tun)? {
            added.push(*vip);
        }
    }
    for (key, value) in backend_sysctls(&args.tun) {
        let path = format!("/proc/sys/net/{key}");
        std::fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
    }
    Ok(added)
}

fn open(local: IpAddr) -> Result<Socket, Error> {
    let domain = if local.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(gre::PROTOCOL)))).map_err(|e| match e.kind() {
        std::io::ErrorKind::PermissionDenied => {
            Error::Missing { what: "a raw socket for GRE is not permitted".to_owned(), hint: "run as root, or with CAP_NET_RAW".to_owned() }
        }
        _ => Error::failed("opening a raw socket for GRE", e),
    })?;
    // A burst of requests must fit while this process waits for the CPU.
    socket.set_recv_buffer_size(4 << 20).with_context(|| "enlarging the receive buffer".to_owned())?;
    socket.bind(&SockAddr::from(SocketAddr::new(local, 0))).with_context(|| format!("receiving GRE at {local}"))?;
    Ok(socket)
}

/// Returns only when receiving fails.
fn decapsulate_loop(local: IpAddr, mut socket: Socket, vips: &[IpAddr], tun: &SyncDevice) -> std::io::Error {
    let mut buffer = vec![0u8; 65536];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return e,
        };
        if let Some(inner) = decapsulate(&buffer[..length], local.is_ipv4(), vips) {
            // The kernel refuses some packets (for example of a disabled family); they are lost, as on any tunnel.
            let _refused = tun.send(inner);
        }
    }
}

/// Returns the packet for one of `vips` in the data of a raw GRE socket: with its IP header over IPv4, without it over IPv6 (raw(7), RFC
/// 3542).
fn decapsulate<'a>(received: &'a [u8], with_header: bool, vips: &[IpAddr]) -> Option<&'a [u8]> {
    let gre = if with_header { received.get(usize::from(received.first()? & 15) * 4..)? } else { received };
    let inner = packet::strip_gre(gre).ok()?;
    let flow = packet::flow(inner)?;
    vips.contains(&flow.destination).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packets_for_a_vip_are_decapsulated() {
        let packet = [0x45, 0, 0, 24, 0, 1, 0, 0, 64, 17, 0, 0, 198, 51, 100, 10, 192, 0, 2, 69, 0, 1, 0, 69];
        let gre = [&[0, 0, 8, 0][..], &packet].concat();
        let outer = [&[0x46; 1][..], &[0; 23], &gre].concat();
        let vip: IpAddr = "192.0.2.69".parse().unwrap();
        assert_eq!(decapsulate(&gre, false, &[vip]), Some(&packet[..]));
        assert_eq!(decapsulate(&outer, true, &[vip]), Some(&packet[..]), "an outer header with options");
        assert_eq!(decapsulate(&gre, false, &["192.0.2.70".parse().unwrap()]), None);
        assert_eq!(decapsulate(&[], true, &[vip]), None);
        assert_eq!(decapsulate(&outer[..20], true, &[vip]), None, "shorter than its own header length");
    }

    #[test]
    fn interface_names_are_checked() {
        assert!(interface_name("decap0").is_ok());
        for name in ["", "sixteen-letters-", "a/b", "a b", "a:1"] {
            assert!(interface_name(name).is_err(), "{name:?}");
        }
    }
}
