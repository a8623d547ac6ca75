//! Several `guideway tftpd` that go on with one another's transfers, each in a network namespace of its own, real clients, and before them a director
//! that does what the test says: it knows TID ranges and successors as a real one does, and who is alive from the test alone.
#![allow(clippy::unwrap_used, clippy::panic)]

use guideway_hash::FleetKey;
use guideway_hash::successors::SuccessorRanking;
use guideway_host::netlink::{Netlink, Via};
use guideway_host::netns::Namespace;
use guideway_host::tun::open_tun;
use guideway_lab::router::MAIN_TABLE;
use guideway_packet::wire::flow::{flow, gre_header};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const GUIDEWAY: &str = env!("CARGO_BIN_EXE_guideway");
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f";
const VIP: &str = "192.0.2.69";
const CLIENT: &str = "198.51.100.7";
static EXCLUSIVE: Mutex<()> = Mutex::new(());
const TIMEOUT: Duration = Duration::from_secs(60);

/// Whether this may run.
pub fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root, and CI promises it");
        println!("SKIPPED: needs root");
    }
    root
}

/// What the director does, as the test says.
struct Steering {
    successors: Mutex<SuccessorRanking>,
    alive: Vec<AtomicBool>,
    /// Who gets requests.
    requests: AtomicUsize,
    /// ACKs that passed, and at which count the test wants to know.
    acks: AtomicU64,
    /// When the last one passed, and the longest time without any.
    gap: Mutex<(Option<Instant>, Duration)>,
    stop: AtomicBool,
}

impl Steering {
    /// The server that a packet goes to.
    fn choose(&self, client: SocketAddr, port: u16) -> Option<usize> {
        if port == 69 {
            return Some(self.requests.load(SeqCst));
        }
        let owner = usize::from(port.checked_sub(20_000)? / 10).checked_sub(1)?;
        let is_alive = |at: &usize| self.alive.get(*at).is_some_and(|alive| alive.load(SeqCst));
        let successors =
            || self.successors.lock().unwrap().for_transfer(VIP.parse().unwrap(), client.ip(), client.port(), owner).into_iter().flatten();
        if is_alive(&owner) { Some(owner) } else { successors().find(is_alive) }
    }

    fn count_ack(&self) {
        self.acks.fetch_add(1, SeqCst);
        let mut gap = self.gap.lock().unwrap();
        let now = Instant::now();
        if let Some(before) = gap.0.replace(now) {
            gap.1 = gap.1.max(now - before);
        }
    }
}

/// The servers, the director and the client's host.
pub struct Fleet {
    host: Namespace,
    steering: Arc<Steering>,
    director: Option<JoinHandle<()>>,
    hosts: Vec<Namespace>,
    servers: Vec<Option<Child>>,
    directory: tempfile::TempDir,
    /// One fleet at a time: each wants all processors for itself.
    _exclusive: MutexGuard<'static, ()>,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The pool of these servers, as directors have it.
pub fn pool(members: &[usize]) -> String {
    let backend = |at: &usize| {
        let first = 20_000 + (at + 1) * 10;
        format!("  {{ name = \"t{}\", address = \"{}\", tid_range = \"{first}-{}\" }},\n", at + 1, address(*at), first + 9)
    };
    let backends: String = members.iter().map(backend).collect();
    format!("[[pool]]\nname = \"boot\"\ntakeover = true\nbackends = [\n{backends}]\n")
}

pub fn key_of(digits: &str) -> FleetKey {
    FleetKey::new(std::array::from_fn(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()))
}

/// Who the successors are in a fleet of so many with this key.
fn successors(key: &str, count: usize) -> SuccessorRanking {
    let names: Vec<String> = (1..=count).map(|n| format!("t{n}")).collect();
    SuccessorRanking::new(key_of(key), names.iter().map(String::as_str))
}

fn address(at: usize) -> String {
    format!("10.0.2.{}", at + 21)
}

impl Fleet {
    /// So many servers that serve the same directory, and their network.
    pub fn new(count: usize) -> Fleet {
        let exclusive = EXCLUSIVE.lock().unwrap_or_else(PoisonError::into_inner);
        let host = Namespace::new("client").unwrap();
        let hosts: Vec<Namespace> = (0..count).map(|at| Namespace::new(&format!("t{}", at + 1)).unwrap()).collect();
        for key in ["ipv4/conf/all/rp_filter", "ipv4/conf/default/rp_filter"] {
            hosts.iter().chain([&host]).for_each(|host| host.sysctl(key, "0").unwrap());
        }
        Netlink::in_namespace(&host, |n| {
            n.add_bridge("br0")?;
            for (at, other) in hosts.iter().enumerate() {
                let (near, far) = (format!("t{}", at + 1), format!("far{at}"));
                n.add_veth(&near, &far)?;
                n.move_to_namespace(&far, other, "eth0")?;
                n.add_bridge_port(&near, "br0")?;
                n.set_up(&near, true)?;
            }
            n.add_address("br0", ip("10.0.0.1"), 16)?;
            n.set_up("br0", true)?;
            n.set_up("lo", true)?;
            n.add_address("lo", ip(CLIENT), 32)?;
            Ok(())
        })
        .unwrap();
        for (at, other) in hosts.iter().enumerate() {
            Netlink::in_namespace(other, |n| {
                n.set_up("lo", true)?;
                n.add_address("eth0", ip(&address(at)), 16)?;
                n.set_up("eth0", true)?;
                n.set_route("198.51.100.0/24".parse().unwrap(), &Via::Gateways(vec![ip("10.0.0.1")]), MAIN_TABLE, None)
            })
            .unwrap();
        }
        let steering = Arc::new(Steering {
            successors: Mutex::new(successors(KEY, count)),
            alive: (0..count).map(|_| AtomicBool::new(true)).collect(),
            requests: AtomicUsize::new(0),
            acks: AtomicU64::new(0),
            gap: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let director = Some(run_director(&host, &steering));
        let directory = tempfile::tempdir().unwrap();
        (0..count).for_each(|at| std::fs::create_dir(directory.path().join(format!("root{at}"))).unwrap());
        let mut fleet =
            Fleet { _exclusive: exclusive, host, steering, director, servers: (0..count).map(|_| None).collect(), hosts, directory };
        (0..count).for_each(|at| fleet.start(at));
        (0..count).for_each(|at| fleet.wait_for_peers(at));
        fleet
    }

    /// The directory that a server serves.
    pub fn root(&self, at: usize) -> PathBuf {
        self.directory.path().join(format!("root{at}"))
    }

    /// Makes a file on all servers, with the same time, as `rsync -t` does; its SHA-256.
    pub fn file(&self, name: &str, length: usize) -> [u8; 32] {
        let mut content = vec![0; length];
        fastrand::Rng::with_seed(length as u64).fill(&mut content);
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for at in 0..self.servers.len() {
            let path = self.root(at).join(name);
            std::fs::write(&path, &content).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        }
        Sha256::digest(&content).into()
    }

    /// Writes the file of a server that knows these servers; where it is.
    pub fn configure(&self, at: usize, members: &[usize]) -> PathBuf {
        self.configure_takeover(at, &format!("key = \"{KEY}\"\n{}", pool(members)))
    }

    /// The same with this section `[takeover]`, and what follows it.
    pub fn configure_takeover(&self, at: usize, takeover: &str) -> PathBuf {
        let (name, root, directory) = (format!("t{}", at + 1), self.root(at), self.directory.path());
        let text = format!(
            "[server]\nname = \"{name}\"\nsocket = \"{}/{name}.sock\"\ngre = \"{}\"\nvip = \"{VIP}\"\ntid_port = {}\n\
             [takeover]\n{takeover}\
             [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{}\"\n",
            directory.display(),
            address(at),
            20_000 + (at + 1) * 10,
            root.display()
        );
        let file = directory.join(format!("{name}.toml"));
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts a server; when this returns it serves.
    pub fn start(&mut self, at: usize) {
        let file = self.configure(at, &(0..self.servers.len()).collect::<Vec<_>>());
        self.start_with(at, &file);
    }

    /// The same with its file as it is.
    pub fn start_with(&mut self, at: usize, file: &Path) {
        let name = format!("t{}", at + 1);
        let mut command = Command::new(GUIDEWAY);
        command.arg("tftpd").arg("--config").arg(file);
        let mut child = self.hosts[at].spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped())).unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log: Vec<String> = lines.by_ref().map(Result::unwrap).take_while(|line| !line.contains("answers from")).collect();
        self.servers[at] = Some(child);
        assert!(log.iter().any(|line| line.contains("requests at")), "{log:#?}");
        std::thread::spawn(move || {
            lines.map_while(Result::ok).filter(|_| std::env::var_os("SHOW").is_some()).for_each(|line| println!("{name}: {line}"))
        });
    }

    /// Waits until a server hears all others that run.
    pub fn wait_for_peers(&self, at: usize) {
        let others = self.servers.iter().flatten().count() as u64 - 1;
        self.until(at, "it hears the others", |status| status["checkpoints"]["peers"] == others);
    }

    /// kill -9; the director does not know.
    pub fn kill(&mut self, at: usize) {
        let mut child = self.servers[at].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a server a signal.
    pub fn signal(&self, at: usize, signal: Signal) {
        let id = self.servers[at].as_ref().unwrap().id();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }

    /// The director finds that a server lives, or does not.
    pub fn set_alive(&self, at: usize, alive: bool) {
        self.steering.alive[at].store(alive, SeqCst);
    }

    /// Waits until so many ACKs more have passed the director.
    pub fn wait_for_acks(&self, acks: u64) {
        let (until, since) = (self.steering.acks.load(SeqCst) + acks, Instant::now());
        while self.steering.acks.load(SeqCst) < until {
            assert!(since.elapsed() < TIMEOUT, "{} of {until} ACKs", self.steering.acks.load(SeqCst));
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The longest time without an ACK since the last call.
    pub fn longest_gap(&self) -> Duration {
        std::mem::take(&mut *self.steering.gap.lock().unwrap()).1
    }

    /// The successors of the transfer that the last request began, whose owner is `owner`; every transfer comes from the port that the test chose.
    pub fn successors(&self, port: u16, owner: usize) -> [usize; 2] {
        self.steering.successors.lock().unwrap().for_transfer(ip(VIP), ip(CLIENT), port, owner).map(Option::unwrap)
    }

    /// The director has another key from now on.
    pub fn set_key(&self, key: &str) {
        *self.steering.successors.lock().unwrap() = successors(key, self.servers.len());
    }

    /// What a server says of itself.
    pub fn status(&self, at: usize) -> serde_json::Value {
        let socket = self.directory.path().join(format!("t{}.sock", at + 1));
        let output = Command::new(GUIDEWAY).args(["status", "--json", "--socket"]).arg(socket).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
    }

    /// One of its counters.
    pub fn counter(&self, at: usize, name: &str) -> u64 {
        self.status(at)["counters"][name].as_u64().unwrap_or_else(|| panic!("{name}"))
    }

    /// Waits until a server says so.
    pub fn until(&self, at: usize, what: &str, holds: impl Fn(&serde_json::Value) -> bool) {
        let since = Instant::now();
        loop {
            let status = self.status(at);
            if holds(&status) {
                return;
            }
            assert!(since.elapsed() < TIMEOUT, "t{}: {what}: {status:#}", at + 1);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a client on its host.
    pub fn client(&self, program: &str, arguments: &str, output: &Path) -> Client {
        let program = if program == "guideway" { GUIDEWAY } else { program };
        let arguments = arguments.replace("VIP", VIP).replace("CLIENT", CLIENT).replace("OUT", output.to_str().unwrap());
        let mut command = Command::new(program);
        command.args(arguments.split_whitespace()).current_dir(self.directory.path());
        let child = self.host.spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped())).unwrap();
        Client(Some(child))
    }

    /// Where files may be put.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where a client may write.
    pub fn out(&self) -> PathBuf {
        self.directory.path().join("got")
    }

    /// A socket on the client's host.
    pub fn socket(&self, port: u16) -> UdpSocket {
        let bound = self.host.run(|| Ok(UdpSocket::bind((CLIENT, port)))).unwrap().unwrap();
        bound.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        bound
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().flatten() {
            let _gone = child.kill();
            let _collected = child.wait();
        }
        self.steering.stop.store(true, SeqCst);
        // Something to read, so that the director sees it.
        let _sent = self.host.run(|| Ok(UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"", (VIP, 1)))));
        let _ended = self.director.take().map(JoinHandle::join);
    }
}

/// A client that runs. It is ended if nobody waits for it.
pub struct Client(Option<Child>);

impl Client {
    /// Waits for its end.
    pub fn wait(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _gone = child.kill();
            let _collected = child.wait();
        }
    }
}

/// The SHA-256 of a file.
pub fn sha256(file: &Path) -> [u8; 32] {
    Sha256::digest(std::fs::read(file).unwrap()).into()
}

/// Starts the director: what goes to the VIP comes out of a TUN device and goes on in GRE.
fn run_director(host: &Namespace, steering: &Arc<Steering>) -> JoinHandle<()> {
    let (tun, raw) = host
        .run(|| {
            let tun = open_tun("tun0")?;
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(47))).unwrap();
            let netlink = Netlink::open()?;
            netlink.set_route(format!("{VIP}/32").parse().unwrap(), &Via::Interface("tun0".to_owned()), MAIN_TABLE, None)?;
            Ok((tun, raw))
        })
        .unwrap();
    let steering = Arc::clone(steering);
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(len) = tun.recv(&mut buffer) {
            if steering.stop.load(SeqCst) {
                return;
            }
            let packet = &buffer[..len];
            let Some(flow) = flow(packet) else { continue };
            let Some((source, destination)) = flow.ports else { continue };
            let Some(to) = steering.choose(SocketAddr::new(flow.source, source), destination) else { continue };
            if packet.get(flow.payload + 8..flow.payload + 10) == Some(&[0, 4]) {
                steering.count_ack();
            }
            let Some(header) = gre_header(packet[0]) else { continue };
            let address: SockAddr = SocketAddr::new(ip(&address(to)), 0).into();
            // What cannot be sent is lost, as on any network.
            let _lost = raw.send_to(&[&header[..], packet].concat(), &address);
        }
    })
}
