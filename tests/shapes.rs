//! A pair of boot servers as `guideway init pair` sets them up: directors, servers, health controllers and keepalived on two hosts of one LAN. The VIP moves
//! under transfers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod netns_fixture;

use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use netns_fixture::hosts::{FILE, program_on, ready, run_on, signal, until};
use netns_fixture::{GUIDEWAY, Running, in_namespace};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

const VIP: &str = "10.0.1.69";
const HOSTS: [(&str, &str); 2] = [("boot1", "10.0.1.11"), ("boot2", "10.0.1.12")];
const CLIENT: &str = "10.0.1.200";

/// What clients fetch: long enough to run while the VIP moves.
fn content() -> Vec<u8> {
    (0..90_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

/// A host with everything on it.
struct Host {
    number: usize,
    namespace: Namespace,
    /// What stands for / in the paths of its files.
    prefix: PathBuf,
    daemons: Vec<Running>,
    keepalived: Option<Running>,
}

impl Host {
    fn new(number: usize, directory: &Path) -> Host {
        let namespace = Namespace::new(HOSTS[number].0).unwrap();
        let prefix = directory.join(HOSTS[number].0);
        for directory in ["etc/guideway", "run/guideway", "var/lib/guideway", "srv"] {
            std::fs::create_dir_all(prefix.join(directory)).unwrap();
        }
        Host { number, namespace, prefix, daemons: Vec::new(), keepalived: None }
    }

    fn file(&self, path: &str) -> String {
        self.prefix.join(path).to_str().unwrap().to_owned()
    }

    fn guideway(&self, arguments: &str) {
        run_on(&self.namespace, GUIDEWAY, arguments);
    }

    /// Follows what `guideway init` says.
    fn set_up(&self, key: Option<&Path>) {
        if let Some(key) = key {
            std::fs::copy(key, self.file("etc/guideway/key")).unwrap();
        }
        for (name, content) in [("canary", vec![7; 2000]), (FILE, content())] {
            let file = self.prefix.join("srv").join(name);
            std::fs::write(&file, content).unwrap();
            // As rsync -t does: takeover compares times.
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        }
        let hosts = HOSTS.map(|(name, address)| format!("--host {name}={address}")).join(" ");
        let (name, prefix) = (HOSTS[self.number].0, self.prefix.display());
        self.guideway(&format!("init pair --vip {VIP} {hosts} --name {name} --interface eth0 --root {prefix}/srv --prefix {prefix}"));
        for (key, value) in [("accept_local", "1"), ("rp_filter", "2")] {
            self.namespace.sysctl(&format!("ipv4/conf/all/{key}"), value).unwrap();
        }
        run_on(&self.namespace, "nft", &format!("-f {prefix}/etc/guideway/guard.nft"));
        self.guideway(&format!("store import --config {prefix}/etc/guideway/director.toml --from {prefix}/etc/guideway/boot.toml"));
        self.guideway(&format!("check --host --config {prefix}/etc/guideway/director.toml"));
    }

    fn start(&mut self) {
        for (command, file) in [("tftpd", "tftpd.toml"), ("director", "director.toml"), ("health", "health.toml")] {
            let log = std::fs::File::create(self.file(&format!("{command}.log"))).unwrap();
            let mut daemon = program_on(&self.namespace, GUIDEWAY);
            daemon.args([command, "--config"]).arg(self.file(&format!("etc/guideway/{file}"))).stderr(log);
            self.daemons.push(ready(daemon, &self.prefix));
        }
        let shipped = std::fs::read_to_string(self.file("etc/keepalived/keepalived.conf")).unwrap();
        let script = shipped.replace("/usr/bin/guideway", GUIDEWAY);
        std::fs::write(self.file("etc/keepalived/keepalived.conf"), script).unwrap();
        self.keepalived = Some(self.keepalived());
    }

    fn keepalived(&self) -> Running {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.file("keepalived.log")).unwrap();
        let mut command = program_on(&self.namespace, "keepalived");
        command.args(["--dont-fork", "--log-console", "--vrrp", "-f"]).arg(self.file("etc/keepalived/keepalived.conf"));
        command.arg("-p").arg(self.file("run/keepalived.pid")).arg("-r").arg(self.file("run/vrrp.pid"));
        Running(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// The status of a daemon.
    fn status(&self, daemon: &str) -> serde_json::Value {
        let socket = self.file(&format!("run/guideway/{daemon}.sock"));
        let output = program_on(&self.namespace, GUIDEWAY).args(["status", "--json", "--socket"]).arg(socket).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn has_vip(&self) -> bool {
        let output = program_on(&self.namespace, "ip").args(["-o", "addr", "show", "to", VIP]).output().unwrap();
        !output.stdout.is_empty()
    }

    /// The host dies: its cable first, and then all that runs there.
    fn die(&mut self, lan: &Namespace) {
        let port = HOSTS[self.number].0;
        Netlink::in_namespace(lan, |n| n.set_up(port, false)).unwrap();
        for daemon in self.daemons.iter().chain(&self.keepalived) {
            signal(daemon, Signal::SIGKILL);
        }
    }
}

/// Clients that fetch until the count is reached; all must be right.
struct Swarm(Running);

impl Swarm {
    fn start(host: &Namespace, transfers: u32, directory: &Path) -> Swarm {
        let mut command = program_on(host, GUIDEWAY);
        let sums = directory.join("sums");
        let mut digest = sha2::Sha256::default();
        sha2::Digest::update(&mut digest, content());
        let digest: String = sha2::Digest::finalize(digest).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(&sums, format!("{digest}  {FILE}\n")).unwrap();
        let clients = transfers.to_string();
        command
            .args(["tftp", "swarm", "--mix", "guideway=1", "--files", FILE, "--clients", &clients, "--transfers", &clients])
            .arg("--sha256")
            .arg(sums);
        Swarm(Running(command.arg(VIP).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn all_verified(mut self, what: &str) {
        let (mut said, mut failed) = (String::new(), String::new());
        std::io::Read::read_to_string(self.0.0.stdout.as_mut().unwrap(), &mut said).unwrap();
        std::io::Read::read_to_string(self.0.0.stderr.as_mut().unwrap(), &mut failed).unwrap();
        println!("{what}: {said}");
        assert!(self.0.0.wait().unwrap().success(), "{what}: {said}\n{failed}");
    }
}

fn transfers_run(hosts: &[Host]) {
    let open = |host: &Host| host.status("tftpd")["counters"]["open"].as_u64().unwrap_or(0);
    until("transfers run on both", || {
        let open: Vec<u64> = hosts.iter().map(open).collect();
        // A server that has just come back gets a tenth.
        open.iter().all(|open| *open > 5).then_some(()).ok_or(format!("{open:?}"))
    });
}

#[test]
fn the_vip_of_a_pair_moves_under_transfers_and_the_old_host_may_die_with_it() {
    let needs =
        [("keepalived", "keepalived"), ("nft", "nftables"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")];
    in_namespace(&needs, || {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let lan = Namespace::new("lan").unwrap();
        let client = Namespace::new("client").unwrap();
        Netlink::in_namespace(&lan, |n| n.add_bridge("br0").and_then(|()| n.set_up("br0", true))).unwrap();
        let mut hosts = [Host::new(0, directory.path()), Host::new(1, directory.path())];
        let staging = Netlink::open().unwrap();
        let connect = |host: &Namespace, port: &str, address: &str| {
            staging.add_veth("near", port).unwrap();
            staging.move_to_namespace("near", host, "eth0").unwrap();
            staging.move_to_namespace(port, &lan, port).unwrap();
            Netlink::in_namespace(&lan, |n| n.add_bridge_port(port, "br0").and_then(|()| n.set_up(port, true))).unwrap();
            Netlink::in_namespace(host, |n| {
                n.set_up("lo", true)?;
                n.add_address("eth0", address.parse().unwrap(), 24)?;
                n.set_mtu("eth0", 1500)?;
                n.set_up("eth0", true)
            })
            .unwrap();
            run_on(host, "ethtool", "-K eth0 tx off");
        };
        connect(&client, "client", CLIENT);
        hosts.iter().for_each(|host| connect(&host.namespace, HOSTS[host.number].0, HOSTS[host.number].1));
        hosts[0].set_up(None);
        let key = PathBuf::from(hosts[0].file("etc/guideway/key"));
        hosts[1].set_up(Some(&key));
        hosts.iter_mut().for_each(Host::start);
        until("one host has the VIP", || (hosts[0].has_vip() != hosts[1].has_vip()).then_some(()).ok_or(String::new()));
        let first = usize::from(hosts[1].has_vip());

        // The director of the holder goes into maintenance: the VIP moves. So does its server, which ends its transfers and takes no new ones.
        let swarm = Swarm::start(&client, 200, directory.path());
        transfers_run(&hosts);
        let since = Instant::now();
        hosts[first].guideway(&format!("maintenance on --socket {}", hosts[first].file(&format!("run/guideway/{}.sock", HOSTS[first].0))));
        let tftpd = hosts[first].file("run/guideway/tftpd.sock");
        hosts[first].guideway(&format!("maintenance on --wait --idle-timeout 4s --timeout 20s --socket {tftpd}"));
        let served = hosts[first].status("tftpd")["counters"]["started"].as_u64();
        until("the VIP has moved", || (hosts[1 - first].has_vip() && !hosts[first].has_vip()).then_some(()).ok_or(String::new()));
        println!("moved after {:?}", since.elapsed());
        swarm.all_verified("the VIP moves");
        Swarm::start(&client, 20, directory.path()).all_verified("the other server alone");
        let director = HOSTS[first].0;
        hosts[first].guideway(&format!("reload --socket {}", hosts[first].file(&format!("run/guideway/{director}.sock"))));
        for daemon in [director, "tftpd"] {
            assert_eq!(hosts[first].status(daemon)["maintenance"], true, "{daemon}: also after a reload");
        }
        assert_eq!(hosts[first].status("tftpd")["counters"]["started"].as_u64(), served, "nothing new");
        for daemon in [director, "tftpd"] {
            let socket = hosts[first].file(&format!("run/guideway/{daemon}.sock"));
            hosts[first].guideway(&format!("maintenance off --socket {socket}"));
            hosts[first].guideway(&format!("maintenance state --socket {socket}"));
        }
        until("the server of this host is up again", || {
            let status = hosts[1 - first].status(HOSTS[1 - first].0);
            let all =
                status["backends"].as_array().unwrap().iter().all(|backend| backend["state"] == "active" || backend["state"] == "slow");
            all.then_some(()).ok_or(status["backends"].to_string())
        });

        // The holder dies as a whole.
        let swarm = Swarm::start(&client, 200, directory.path());
        transfers_run(&hosts);
        let since = Instant::now();
        hosts[1 - first].die(&lan);
        until("the VIP has moved back", || hosts[first].has_vip().then_some(()).ok_or(String::new()));
        println!("moved after {:?}", since.elapsed());
        swarm.all_verified("the holder dies");
    });
}
