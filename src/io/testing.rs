//! Network namespaces and the far end of a veth pair, for the tests of the kinds over the kernel.

use super::conformance::{LOCAL_MAC, PEER_MAC};
use guideway_sys as sys;
use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

/// Runs `body` on a thread in a network namespace of its own, which goes away with the thread.
/// Without root it is not run: said aloud, and a failure where `CI` is `true`.
pub fn in_namespace(body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promised it");
        println!("SKIPPED: needs root");
        return;
    }
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        // Router solicitations and the like would mix with the frames of the tests.
        for which in ["all", "default"] {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1").expect("IPv6 off");
        }
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs one test of this program in a user namespace, as its root. Where the host allows none it is not run: said aloud, and a failure where
/// `CI` is `true`.
pub fn in_user_namespace(test: &str) {
    let unshare = |command: &[&str]| Command::new("unshare").args(["--user", "--map-root-user", "--net"]).args(command).output();
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs user namespaces, and CI promised them");
        println!("SKIPPED: needs unprivileged user namespaces");
        return;
    }
    let program = std::env::current_exe().expect("this program");
    let output = unshare(&[program.to_str().expect("a path in UTF-8"), "--exact", test]).expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `body`, the body of `test` (its path in this program), in a process of its own: this program runs that test alone once more.
pub fn in_own_process(test: &str, body: impl FnOnce()) {
    const CHILD: &str = "GUIDEWAY_TEST_IN_OWN_PROCESS";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let program = std::env::current_exe().expect("this program");
    let output = Command::new(program).args(["--exact", test]).env(CHILD, test).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{test}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs `ip` in the namespace of the calling thread; what it said.
pub fn ip(arguments: &str) -> String {
    run("ip", arguments)
}

/// Runs another program there.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect("it runs");
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Takes all capabilities from the calling thread alone.
pub fn drop_capabilities() {
    keep_capabilities(&[]);
}

/// Takes all capabilities but those of these numbers (capabilities(7)) from the calling thread alone.
#[allow(unsafe_code)]
pub fn keep_capabilities(kept: &[u32]) {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let word = |first: u32| kept.iter().filter(|n| (first..first + 32).contains(*n)).fold(0u32, |set, n| set | 1 << (n - first));
    // Effective, permitted and inheritable; first of numbers 0 to 31, then of the others.
    let sets = [word(0), word(0), 0, word(32), word(32), 0];
    // SAFETY: the kernel reads a header of two words and, for this version, six words of sets; it changes the calling thread only.
    let rc = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(rc, 0);
}

/// A veth pair that is up: `guide0` with the MAC address `LOCAL_MAC`, `guide1` with `PEER_MAC`.
pub fn veth(queues: u32, mtu: u32) {
    let ours = LOCAL_MAC.map(|b| format!("{b:02x}")).join(":");
    let theirs = PEER_MAC.map(|b| format!("{b:02x}")).join(":");
    ip(&format!(
        "link add guide0 address {ours} mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
         peer name guide1 address {theirs} mtu {mtu} numrxqueues {queues} numtxqueues {queues}"
    ));
    up();
}

/// Sets both ends of the pair up, and returns when they carry frames: the kernel starts their queues a moment after the command.
pub fn up() {
    for end in ["guide0", "guide1"] {
        ip(&format!("link set {end} up"));
    }
    let carries = |end| ip(&format!("link show {end}")).contains("state UP");
    assert!((0..1000).any(|_| carries("guide0") && carries("guide1")), "the pair does not come up");
}

/// A UDP socket whose datagrams to the VIP leave by `guide1`, as those of a container do: with what the interface promises left to it.
pub fn client() -> std::net::UdpSocket {
    ip("address add 10.0.0.2/24 dev guide1");
    ip("route add 192.0.2.69 dev guide1");
    let mac = LOCAL_MAC.map(|b| format!("{b:02x}")).join(":");
    ip(&format!("neighbour add 192.0.2.69 lladdr {mac} dev guide1"));
    let socket = std::net::UdpSocket::bind("10.0.0.2:4000").expect("bound");
    socket.connect("192.0.2.69:69").expect("connected");
    socket
}

/// Whether the UDP checksum of a plain IPv4 frame is right.
pub fn checksum_is_right(frame: &[u8]) -> bool {
    use guideway_packet::wire::build::transport_checksum;
    let (from, to): ([u8; 4], [u8; 4]) = (frame[26..30].try_into().expect("4 bytes"), frame[30..34].try_into().expect("4 bytes"));
    let len = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
    transport_checksum(from.into(), to.into(), 17, &frame[34..34 + len]) == 0
}

/// A plain packet socket on an interface: what the wire carries, without our own kinds.
pub struct PacketSocket {
    socket: Socket,
    buffer: Vec<u8>,
}

impl PacketSocket {
    /// Opens it on `interface`; it sees every frame that comes in there.
    pub fn open(interface: &str) -> PacketSocket {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None).expect("a packet socket");
        sys::set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, &1).expect("not our own frames");
        // Not for the root of a user namespace, who has to do with the usual one.
        let _ = sys::set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16 << 20));
        let index = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
        sys::bind(socket.as_fd(), &super::af_packet::address(index, libc::ETH_P_ALL as u16)).expect("bound");
        PacketSocket { socket, buffer: vec![0; 65536] }
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &[u8]) {
        assert_eq!(self.socket.write(frame).expect("sent"), frame.len());
    }

    /// The next frame; `None` when none comes within `wait`.
    pub fn receive(&mut self, wait: Duration) -> Option<Vec<u8>> {
        self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(1)))).expect("a timeout");
        loop {
            match self.socket.read(&mut self.buffer) {
                Ok(len) => return Some(self.buffer[..len].to_vec()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
                Err(error) => panic!("{error}"),
            }
        }
    }
}
