//! VIPs as routers see them: directors announce through BIRD, with the configuration that the repository ships, and a router's BIRD makes
//! the set of next hops of it. Directors, their BIRD and their hosts come and go while clients fetch files through the others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod netns_fixture;

use clap::Parser;
use guideway_daemon::client as control_client;
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_lab::args::{Io, LabArgs};
use guideway_lab::configuration;
use guideway_lab::plan::Plan;
use guideway_lab::router::{self, Router};
use guideway_lab::topology::{ROUTER_INGRESS, Topology};
use netns_fixture::hosts::{Clients, FILE, TIMEOUT, alive, content, program_on, ready, run_on, signal, until};
use netns_fixture::{GUIDEWAY, Running};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LINGER: Duration = Duration::from_secs(2);
/// The table that directors fill and BIRD exports, as in the shipped files.
const TABLE: u32 = 4754;
/// The router's table that BIRD fills; its own main table holds the lab's routes.
const ROUTER_TABLE: u32 = 100;

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    lab: LabArgs,
}

/// Hosts, a router, directors with BIRD beside them, and one backend.
struct Fleet {
    plan: Plan,
    topology: Topology,
    router: Router,
    directory: tempfile::TempDir,
    directors: Vec<Running>,
    birds: Vec<Running>,
    _others: Vec<Running>,
}

impl Fleet {
    fn start(family: &str) -> Fleet {
        let args = CommandLine::try_parse_from(["lab", "--directors", "3", "--backends", "1"].into_iter().chain(family.split_whitespace()));
        let plan = Plan::new(&args.unwrap().lab);
        let topology = Topology::build(&plan).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("files");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(FILE), content()).unwrap();

        let backend = &plan.backends[0];
        let mut server = program_on(&topology.backends[0], GUIDEWAY);
        server.args(["tftpd", "--log-level", "warn", "--gre", &backend.address.to_string(), "--vip", &plan.vip.to_string()]);
        server.args(["--tid-port", &backend.tid_range.unwrap().0.to_string()]).arg("--root").arg(&root);
        let server = ready(server, directory.path());

        let router_config = router::RouterConfig {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_prefix()],
            sources: vec![plan.router.0],
            directors_table: ROUTER_TABLE,
            ..router::RouterConfig::default()
        };
        let router = topology.router.run(|| router::start(router_config)).unwrap();
        let table = ROUTER_TABLE.to_string();
        let bird = bird(&topology.router, "router", directory.path(), &[("TABLE", &table)]);
        let mut fleet = Fleet { plan, topology, router, directory, directors: Vec::new(), birds: Vec::new(), _others: vec![server, bird] };
        for number in 0..3 {
            fleet.birds.push(fleet.bird(number));
            fleet.directors.push(fleet.director(number));
        }
        fleet
    }

    /// Writes the file of director `number`.
    fn configure(&self, number: usize, paused: bool) -> PathBuf {
        let file = self.directory.path().join(format!("{}.toml", self.plan.directors[number].name));
        let text = configuration::configuration(&self.plan, number, Io::AfXdp, &self.socket(number), &self.plan.backends);
        let text = text.replace("service = \"tftp\"", &format!("service = \"tftp\"\npaused = {paused}"));
        std::fs::write(&file, format!("{text}\n[announce]\ntable = {TABLE}\n")).unwrap();
        file
    }

    /// Starts director `number`; it is ready when this returns.
    fn director(&self, number: usize) -> Running {
        let file = self.configure(number, false);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log(number)).unwrap();
        let mut command = program_on(&self.topology.directors[number], GUIDEWAY);
        command.args(["director", "--log-format", "json", "--config"]).arg(file).stderr(log);
        ready(command, self.directory.path())
    }

    /// Starts the BIRD of director `number`.
    fn bird(&self, number: usize) -> Running {
        let name = &self.plan.directors[number].name;
        let id = format!("10.0.1.{}", 11 + number);
        bird(&self.topology.directors[number], "director", &self.directory.path().join(name), &[("ROUTER_ID", &id)])
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("{}.sock", self.plan.directors[number].name))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.plan.directors[number].name))
    }

    /// What director `number` says of its VIP.
    fn vip(&self, number: usize) -> Value {
        control_client::get::<serde_json::Value>(&self.socket(number), "/v1/status").unwrap()["vips"][0].clone()
    }

    /// How many packets director `number`, which has ended, forwarded in its life.
    fn forwarded(&self, number: usize) -> u64 {
        let log = std::fs::read_to_string(self.log(number)).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        let counters: Value = serde_json::from_str(last["counters"].as_str().unwrap_or_else(|| panic!("{last}"))).unwrap();
        counters["transmitted"].as_u64().unwrap()
    }

    /// Waits until each of these directors is among the router's next hops, or none of them is. The others do not matter: on a
    /// busy machine BFD may lose one for a moment.
    fn router(&self, what: &str, directors: &[usize], wanted: bool, most: Duration) {
        let took = until(what, || {
            let now = self.router.directors.load().for_destination(self.plan.vip).to_vec();
            let right = directors.iter().all(|number| now.contains(&self.plan.directors[*number].address) == wanted);
            right.then_some(()).ok_or(format!("{now:?}"))
        });
        println!("{what}: {} after {} ms", if wanted { "there" } else { "gone" }, took.as_millis());
        assert!(took < most, "{what}: {took:?}, and {most:?} was promised");
    }
}

/// Starts BIRD with the repository's configuration. In the small file that operators edit, `values` take the place of what is there.
fn bird(host: &Namespace, which: &str, directory: &Path, values: &[(&str, &str)]) -> Running {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/bird");
    std::fs::create_dir_all(directory).unwrap();
    std::fs::copy(shipped.join(format!("{which}.conf")), directory.join("bird.conf")).unwrap();
    let mut local = std::fs::read_to_string(shipped.join(format!("{which}.local.conf"))).unwrap();
    for (name, value) in values {
        let start = local.find(&format!("define {name} =")).unwrap_or_else(|| panic!("{which}.local.conf has no {name}"));
        let end = start + local[start..].find(';').unwrap();
        local.replace_range(start..end, &format!("define {name} = {value}"));
    }
    std::fs::write(directory.join(format!("{which}.local.conf")), local).unwrap();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.join("bird.log")).unwrap();
    let mut command = program_on(host, "bird");
    command.arg("-f").arg("-c").arg(directory.join("bird.conf")).arg("-s").arg(directory.join("bird.ctl"));
    Running(command.stderr(log).spawn().unwrap())
}

fn a_day_of_a_fleet(family: &'static str) {
    let needs = [("bird", "bird2"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")];
    netns_fixture::in_namespace(&needs, move || {
        let ms = Duration::from_millis;
        let mut fleet = Fleet::start(family);
        fleet.router("three directors are ready", &[0, 1, 2], true, TIMEOUT);
        assert_eq!(fleet.vip(0)["announced"], true);
        let clients = Clients::start(&fleet.topology.client, fleet.plan.vip, fleet.directory.path(), 3);

        until("each director has much to do", || {
            let sent = fleet.router.counters.directors();
            let busy = fleet.plan.directors.iter().all(|director| sent.get(&director.address).is_some_and(|sent| *sent > 500));
            busy.then_some(()).ok_or(format!("{sent:?}"))
        });

        // On SIGTERM a director withdraws first and continues to forward.
        signal(&fleet.directors[0], Signal::SIGTERM);
        let since = Instant::now();
        fleet.router("SIGTERM", &[0], false, ms(1000));
        assert!(alive(&mut fleet.directors[0]), "it lingers");
        assert_eq!(fleet.vip(0)["not_announced_because"], "the director is ending");
        assert!(fleet.directors[0].0.wait().unwrap().success());
        assert!(since.elapsed() >= LINGER, "it ended after {:?}", since.elapsed());
        let (sent, forwarded) = (fleet.router.counters.directors()[&fleet.plan.directors[0].address], fleet.forwarded(0));
        assert_eq!(sent, forwarded, "not one packet is lost from start to end");
        fleet.directors[0] = fleet.director(0);
        fleet.router("started again", &[0, 1, 2], true, TIMEOUT);

        // Killed, it takes its routes along, and its BIRD withdraws them.
        signal(&fleet.directors[1], Signal::SIGKILL);
        fleet.router("SIGKILL", &[1], false, ms(1000));
        assert!(alive(&mut fleet.birds[1]));
        fleet.directors[1] = fleet.director(1);
        fleet.router("started again", &[0, 1, 2], true, TIMEOUT);

        // A pause by an operator takes effect at once, and so does its end.
        for paused in [true, false] {
            fleet.configure(0, paused);
            signal(&fleet.directors[0], Signal::SIGHUP);
            fleet.router(if paused { "paused" } else { "not paused any more" }, &[0], !paused, ms(900));
        }

        // Maintenance: withdrawn, what still comes is forwarded, and nothing comes any more.
        let maintenance = |action: &str| {
            run_on(&fleet.topology.directors[1], GUIDEWAY, &format!("maintenance {action} --socket {}", fleet.socket(1).display()));
        };
        maintenance("on --wait --idle-timeout 1s --timeout 20s");
        fleet.router("in maintenance", &[1], false, ms(100));
        assert_eq!(fleet.vip(1)["not_announced_because"], "the director is in maintenance");
        signal(&fleet.directors[1], Signal::SIGHUP);
        let reloads =
            |number: usize| control_client::get::<Value>(&fleet.socket(number), "/v1/status").unwrap()["reload"]["accepted"].clone();
        until("it has reloaded", || (reloads(1) == 1).then_some(()).ok_or(reloads(1).to_string()));
        assert_eq!(fleet.vip(1)["announced"], false, "after a reload, too");
        maintenance("off");
        fleet.router("maintenance has ended", &[0, 1, 2], true, TIMEOUT);

        // BIRD hangs; BIRD is killed; the host is cut off.
        signal(&fleet.birds[2], Signal::SIGSTOP);
        fleet.router("BIRD stopped", &[2], false, ms(2000));
        signal(&fleet.birds[2], Signal::SIGCONT);
        fleet.router("BIRD goes on", &[0, 1, 2], true, TIMEOUT);
        fleet.birds[2].0.kill().unwrap();
        fleet.router("BIRD killed", &[2], false, ms(2000));
        fleet.birds[2] = fleet.bird(2);
        fleet.router("BIRD started again", &[0, 1, 2], true, TIMEOUT);
        let cable = |host: &str, up| Netlink::in_namespace(&fleet.topology.fabric, |fabric| fabric.set_up(host, up)).unwrap();
        cable("d3", false);
        fleet.router("host cut off", &[2], false, ms(2000));
        cable("d3", true);
        fleet.router("host is back", &[0, 1, 2], true, TIMEOUT);

        let verified = clients.verified();
        println!("{verified} transfers meanwhile, all verified");
        assert!(verified > 3);

        // A neighbour that is unresolved for a moment is no reason to withdraw anything.
        let backend = fleet.plan.backends[0].address;
        let forget = |number: usize| run_on(&fleet.topology.directors[number], "ip", &format!("neigh del {backend} dev eth0"));
        let said = |number: usize, what: &str| std::fs::read_to_string(fleet.log(number)).unwrap().matches(what).count();
        let (resolved, withdrawn) = (said(0, "backend resolved"), said(0, "withdrawn"));
        forget(0);
        until("the backend is resolved again", || (said(0, "backend resolved") > resolved).then_some(()).ok_or(String::new()));
        assert_eq!((said(0, "withdrawn"), fleet.vip(0)["announced"].clone()), (withdrawn, true.into()));

        // One that stays so, of the only backend, is.
        cable("t1", false);
        (0..3).for_each(forget);
        fleet.router("no backend can be reached", &[0, 1, 2], false, ms(4000));
        until("all say so", || {
            let why = (0..3).map(|number| fleet.vip(number)["not_announced_because"].clone());
            let wrong = why.into_iter().find(|why| !why.as_str().is_some_and(|why| why.contains("no backend of pool boot can be reached")));
            wrong.map_or(Ok(()), |why| Err(why.to_string()))
        });
        let status = Command::new(GUIDEWAY).arg("status").arg("--socket").arg(fleet.socket(0)).output().unwrap();
        let status = String::from_utf8_lossy(&status.stdout).into_owned();
        assert!(status.contains(&format!("{} is not announced: no backend of pool boot", fleet.plan.vip)), "{status}");
        cable("t1", true);
        fleet.router("the backend is back", &[0, 1, 2], true, TIMEOUT);
        assert_eq!(Clients::start(&fleet.topology.client, fleet.plan.vip, fleet.directory.path(), 1).verified(), 1);

        for director in &fleet.directors {
            signal(director, Signal::SIGTERM);
        }
        let since = Instant::now();
        fleet.router("SIGTERM to all", &[0, 1, 2], false, ms(1000));
        // After a second signal a director does not linger.
        fleet.directors.iter().for_each(|director| signal(director, Signal::SIGTERM));
        for director in &mut fleet.directors {
            assert!(director.0.wait().unwrap().success());
        }
        assert!(since.elapsed() < LINGER, "{:?}", since.elapsed());
    });
}

#[test]
fn directors_come_and_go_in_the_routers_next_hops() {
    a_day_of_a_fleet("");
}

#[test]
fn directors_come_and_go_in_the_routers_next_hops_over_ipv6() {
    a_day_of_a_fleet("--ipv6");
}

#[test]
fn bird_finds_nothing_wrong_with_the_configuration() {
    let needs = [("bird", "bird2")];
    netns_fixture::in_namespace(&needs, || {
        for which in ["director", "router"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tools/bird/{which}.conf"));
            let output = netns_fixture::program("bird").arg("-p").arg("-c").arg(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success() && said.is_empty(), "{which}.conf: {said}");
        }
    });
}

#[test]
fn a_device_that_is_there_already_is_refused() {
    netns_fixture::in_namespace(&[("ip", "iproute2")], || {
        netns_fixture::ip("link add dut0 type veth peer name far0");
        netns_fixture::ip("link set dut0 up");
        netns_fixture::ip("tuntap add gw-d1 mode tun");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("d1.toml");
        let text = format!(
            r#"
            [director]
            name = "d1"
            address = "10.0.1.11"
            key = "000102030405060708090a0b0c0d0e0f"
            io = {{ kind = "af_packet", interface = "dut0" }}
            socket = "{}/d1.sock"
            [announce]
            table = {TABLE}
            [[vip]]
            address = "192.0.2.69"
            service = "tftp"
            pool = "boot"
            [[pool]]
            name = "boot"
            backends = [{{ name = "t1", address = "10.0.1.21" }}]
            "#,
            directory.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let output = netns_fixture::program(GUIDEWAY).args(["director", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("there is a network interface `gw-d1` already") && said.contains("[announce] interface"), "{said}");
    });
}
