//! What `guideway init` writes: the common file of VIPs and pools, and the files of one host.

use clap::ValueEnum;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;

/// Routes of VIPs are in this kernel table, from where BIRD takes them.
const TABLE: u32 = 4754;
/// Server ports of one server.
const RANGE: u16 = 1000;
/// The first of them all.
const FIRST_TID: u16 = 20_000;

/// A shape of deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// Two boot servers on a LAN, both directors; keepalived moves the VIP
    Pair,
    /// Boot servers that are directors themselves, and announce the VIP by BGP
    BootServers,
    /// Directors that announce the VIP by BGP, and servers behind them
    Bgp,
    /// Routers that send GRE to directors, and servers behind them
    Routers,
}

impl Shape {
    /// Whether directors are the servers, too.
    pub fn has_local_servers(self) -> bool {
        matches!(self, Shape::Pair | Shape::BootServers)
    }

    /// Whether directors announce the VIP.
    pub fn announces(self) -> bool {
        matches!(self, Shape::BootServers | Shape::Bgp)
    }
}

/// A director or a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

/// All that an operator said.
#[derive(Debug)]
pub struct Site {
    pub shape: Shape,
    pub vip: IpAddr,
    pub router: Option<IpAddr>,
    pub directors: Vec<HostName>,
    pub servers: Vec<HostName>,
    /// The place of this host among the directors.
    pub number: usize,
    pub interface: String,
    pub root: PathBuf,
    pub prefix: PathBuf,
}

/// A file to be written.
pub struct NewFile {
    pub path: PathBuf,
    pub text: String,
    pub mode: u32,
}

impl Site {
    /// Where the fleet's key is.
    pub fn key_file(&self) -> PathBuf {
        self.path("etc/guideway/key")
    }

    /// Returns the files of this host.
    pub fn files(&self, key: &str) -> Vec<NewFile> {
        let file = |path: &str, text: String, mode| NewFile { path: self.path(path), text, mode };
        let mut files = vec![
            file("etc/guideway/key", format!("{key}\n"), 0o640),
            file("etc/guideway/boot.toml", self.boot(), 0o644),
            file("etc/guideway/director.toml", self.director(key), 0o640),
            file("etc/guideway/health.toml", self.health(), 0o640),
        ];
        if self.shape.has_local_servers() {
            files.push(file("etc/guideway/tftpd.toml", self.tftpd(), 0o640));
            let tunnel = include_str!("../../../tools/systemd/guideway-tftpd-tunnel.conf").to_owned();
            files.push(file("etc/systemd/system/guideway-tftpd.service.d/tunnel.conf", tunnel, 0o644));
        }
        if self.shape == Shape::Pair {
            files.push(file("etc/keepalived/keepalived.conf", self.keepalived(), 0o644));
            files.push(file("etc/guideway/guard.nft", self.guard(), 0o644));
            files.push(file("etc/sysctl.d/60-guideway.conf", sysctl(), 0o644));
        }
        if self.shape.announces() {
            files.push(file("etc/bird/bird.conf", include_str!("../../../tools/bird/director.conf").to_owned(), 0o640));
            files.push(file("etc/bird/director.local.conf", self.bird(), 0o640));
        }
        files
    }

    /// Returns what the operator does next.
    pub fn next_steps(&self) -> Vec<String> {
        let path = |path: &str| self.path(path).display().to_string();
        let (key, director, boot) = (path("etc/guideway/key"), path("etc/guideway/director.toml"), path("etc/guideway/boot.toml"));
        let servers = self.shape.has_local_servers();
        let roots = self.root.display();
        let mut steps = vec![
            format!("copy {key} to the other directors, and run this command there with their --name"),
            format!("put a file `canary` into {roots} of every server: health checks fetch it"),
            // As the user of the daemons, who write the store later.
            format!("runuser -u guideway -- guideway store import --config {director} --from {boot}"),
            format!("guideway check --host --config {director}"),
        ];
        if !servers {
            let server = self.servers.first();
            let (name, address) = server.map_or((String::new(), String::new()), |s| (s.name.clone(), s.address.to_string()));
            steps.push(format!(
                "on each server, such as {name}: guideway tftpd --root {roots} --gre {address} --vip {} --tid-port {FIRST_TID}, each with its own port",
                self.vip
            ));
        }
        let units = if servers { "guideway-director guideway-health guideway-tftpd" } else { "guideway-director guideway-health" };
        steps.push(format!("systemctl daemon-reload; systemctl enable --now {units}"));
        match self.shape {
            Shape::Pair => steps.push(format!(
                "sysctl --system; nft -f {}; systemctl enable --now keepalived",
                path("etc/guideway/guard.nft")
            )),
            Shape::BootServers | Shape::Bgp => steps.push("set the AS numbers in director.local.conf; systemctl enable --now bird".to_owned()),
            Shape::Routers => steps.push(format!(
                "on the router (Linux), for each director: ip link add gw1 type gre local {} remote DIRECTOR; then ip route add {} nexthop dev gw1 nexthop dev gw2",
                self.router.map(|router| router.to_string()).unwrap_or_default(),
                self.vip
            )),
        }
        steps.push(format!("guideway status {}", self.own().name));
        steps
    }

    fn path(&self, path: &str) -> PathBuf {
        self.prefix.join(path)
    }

    fn own(&self) -> &HostName {
        &self.directors[self.number]
    }

    /// The common file.
    fn boot(&self) -> String {
        let takeover = if self.shape.has_local_servers() { "takeover = true\n" } else { "" };
        let mut text = format!(
            "# VIPs and pools: the same file on all directors, imported by `guideway store import`.\n[[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"\n\n\
             [[pool]]\nname = \"boot\"\n{takeover}check = {{ kind = \"tftp\", file = \"canary\", interval = \"500ms\" }}\nbackends = [\n",
            self.vip
        );
        for (server, first) in self.servers.iter().zip((FIRST_TID..).step_by(RANGE.into())) {
            // Writing to a string cannot fail.
            let _infallible = writeln!(
                text,
                "  {{ name = \"{}\", address = \"{}\", tid_range = \"{first}-{}\" }},",
                server.name,
                server.address,
                first + (RANGE - 1)
            );
        }
        text + "]\n"
    }

    fn director(&self, key: &str) -> String {
        let HostName { name, address } = self.own();
        let fleet: Vec<String> = self.directors.iter().map(|director| format!("\"{}\"", director.address)).collect();
        let routers = match (self.shape, self.router) {
            (Shape::Routers, Some(router)) => format!("routers = [\"{router}\"]  # who may send GRE\n"),
            _ => String::new(),
        };
        let announce = if self.shape.announces() {
            format!("\n[announce]  # BIRD or FRR takes the VIPs from this kernel table\ntable = {TABLE}\n")
        } else {
            String::new()
        };
        format!(
            "# The director of this host. Name and address differ on each host.\n[director]\nname = \"{name}\"\naddress = \"{address}\"  # GRE comes to and from here\n\
             key = \"{key}\"  # the same on every director, and a secret\nio = {{ kind = \"af_xdp\", interface = \"{}\" }}\n{routers}\
             fleet = [{}]  # every director\nsocket = \"{}\"\n{announce}\n\
             [store]  # VIPs and pools of boot.toml, and their health\nkind = \"file\"\npath = \"{}\"\n",
            self.interface,
            fleet.join(", "),
            self.socket(name),
            self.path("var/lib/guideway/boot").display()
        )
    }

    fn health(&self) -> String {
        format!(
            "# Checks the servers by transfers, and tells the director of this host.\n[health]\nname = \"health\"\nsource = \"{}\"\nsocket = \"{}\"\n\n\
             [store]\nkind = \"file\"\npath = \"{}\"\n",
            self.own().address,
            self.socket("health"),
            self.path("var/lib/guideway/boot").display()
        )
    }

    fn tftpd(&self) -> String {
        let HostName { name, address } = self.own();
        let number = u16::try_from(self.number).unwrap_or(0);
        format!(
            "# The server of this host; directors send it GRE. It goes on with transfers of the others when one dies.\n[server]\nname = \"tftpd\"\n\
             gre = \"{address}\"\nvip = \"{}\"\ntid_port = {}  # the first port of this server's tid_range in boot.toml\nsocket = \"{}\"\n\n\
             [takeover]  # pool and key are those of the director\nname = \"{name}\"\nconfig = \"{}\"\n\n\
             [[handler]]\nname = \"files\"\nkind = \"directory\"\nroot = \"{}\"\n",
            self.vip,
            FIRST_TID + number * RANGE,
            self.socket("tftpd"),
            self.path("etc/guideway/director.toml").display(),
            self.root.display()
        )
    }

    fn keepalived(&self) -> String {
        let HostName { name, address } = self.own();
        let peers: Vec<String> = self.directors.iter().filter(|peer| peer.name != *name).map(|peer| peer.address.to_string()).collect();
        format!(
            "# The VIP is on the host whose director works. Advertisements come every 0.2 s, so that it moves within a second; it does not move back by itself.\n\
             global_defs {{\n    vrrp_version 3\n    script_user root\n    enable_script_security\n}}\n\n\
             vrrp_script director {{\n    script \"/usr/bin/guideway maintenance state --socket {}\"\n    interval 1\n    timeout 2\n    fall 1\n    rise 1\n}}\n\n\
             vrrp_instance boot {{\n    state BACKUP\n    nopreempt\n    interface {}\n    virtual_router_id 69\n    priority {}\n    advert_int 0.2\n    \
             unicast_src_ip {address}\n    unicast_peer {{\n        {}\n    }}\n    virtual_ipaddress {{\n        {}\n    }}\n    track_script {{\n        director\n    }}\n}}\n",
            self.socket(name),
            self.interface,
            110 - 10 * self.number.min(10),
            peers.join("\n        "),
            self.vip,
        )
    }

    /// The shipped file with this VIP and interface.
    fn guard(&self) -> String {
        let sample = if self.vip.is_ipv4() { "192.0.2.69" } else { "2001:db8:69::69" };
        let shipped = include_str!("../../../tools/shapes/guard.nft");
        shipped.replace(sample, &self.vip.to_string()).replace("eth0", &self.interface)
    }

    /// The shipped file with this router.
    fn bird(&self) -> String {
        let router = self.router.map(|router| router.to_string()).unwrap_or_default();
        let mut text = include_str!("../../../tools/bird/director.local.conf").to_owned();
        let sample = if self.router.is_some_and(|router| router.is_ipv4()) { "10.0.0.1;" } else { "2001:db8:f::1;" };
        text = text.replace(sample, &format!("{router};"));
        let id = self.own().address;
        if id.is_ipv4() { text.replace("10.0.1.11;", &format!("{id};")) } else { text }
    }

    fn socket(&self, name: &str) -> String {
        self.path(&format!("run/guideway/{name}.sock")).display().to_string()
    }
}

/// Health checks of the host that has the VIP get answers from the VIP.
fn sysctl() -> String {
    "# Servers answer health checks from the VIP, which is also an address of the host that checks.\nnet.ipv4.conf.all.accept_local = 1\n\
  # The answer to a check may come by another interface than the way to the VIP.\nnet.ipv4.conf.all.rp_filter = 2\n"
        .to_owned()
}
