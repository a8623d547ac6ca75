//! A fleet that shares its set: three directors, one etcd, two health controllers, in.tftpd behind them. One after the other stops, dies, is cut off and
//! comes back, while clients fetch files all the time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod site;

use clap::Parser;
use guideway::control_client;
use guideway::lab::args::{Io, LabArgs};
use guideway::lab::directors;
use guideway::lab::plan::Plan;
use guideway::lab::router::{self, Router};
use guideway::lab::servers::{Server, Task};
use guideway::lab::topology::{ROUTER_INGRESS, Topology};
use nix::sys::signal::Signal;
use serde_json::Value;
use site::hosts::{Clients, FILE, content, program_on, ready, run_on, signal, until};
use site::{GUIDEWAY, Running};
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

const DIRECTORS: usize = 3;
const INTERVAL: Duration = Duration::from_millis(250);
const FALL: u32 = 2;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    lab: LabArgs,
}

/// Hosts, router, directors, servers, etcd and controllers on the router's host.
struct Fleet {
    plan: Plan,
    topology: Topology,
    _router: Router,
    directory: tempfile::TempDir,
    /// Name, server, and what unwraps for it.
    backends: Vec<(String, Running, Running)>,
    directors: Vec<Running>,
    controllers: Vec<Option<Running>>,
    etcd: Option<Running>,
}

impl Fleet {
    fn start() -> Fleet {
        let args = Line::try_parse_from(["lab", "--directors", "3", "--backends", "4", "--server", "in.tftpd"]).unwrap().lab;
        let plan = Plan::new(&args);
        let topology = Topology::build(&plan).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("files");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(FILE), content()).unwrap();
        std::fs::write(root.join("canary"), "canary\n").unwrap();
        let backends = plan.backends.iter().zip(&topology.backends);
        let backends = backends.map(|(backend, host)| {
            let mut command = program_on(host, GUIDEWAY);
            command.args(["decap", "--configure", "--local", &backend.address.to_string(), "--vip", &plan.vip.to_string()]);
            let mut decap = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
            let mut said = String::new();
            BufReader::new(decap.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert!(said.starts_with("ready"), "{said}");
            let log = directory.path().join(format!("{}.log", backend.name));
            let task = Task {
                name: &backend.name,
                takeover: None,
                vip: plan.vip,
                address: backend.address,
                tids: backend.tids,
                root: &root,
                log: &log,
            };
            (backend.name.clone(), Running(Server::InTftpd.start(host, &task).unwrap()), decap)
        });
        let backends = backends.collect();
        let settings = router::Settings {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_net()],
            sources: vec![plan.router.0],
            ..router::Settings::default()
        };
        let router = topology.router.run(|| router::start(settings)).unwrap();
        topology.set_next_hops(&plan, &plan.next_hops()).unwrap();
        let mut fleet =
            Fleet { plan, topology, _router: router, directory, backends, directors: Vec::new(), controllers: Vec::new(), etcd: None };
        fleet.start_etcd();
        let whole = fleet.directory.path().join("whole.toml");
        std::fs::write(&whole, fleet.intent(100)).unwrap();
        let file = fleet.configure(0);
        let imported = fleet.guideway(&["store", "import", "--config", file.to_str().unwrap(), "--from", whole.to_str().unwrap()]);
        assert!(imported.contains("t4"), "{imported}");
        for number in 0..DIRECTORS {
            let file = fleet.configure(number);
            let mut command = program_on(&fleet.topology.directors[number], GUIDEWAY);
            command.args(["director", "--log-level", "error", "--config"]).arg(file);
            let director = ready(command, fleet.directory.path());
            fleet.directors.push(director);
        }
        for number in 0..2 {
            let controller = fleet.controller(number);
            fleet.controllers.push(Some(controller));
        }
        fleet
    }

    /// The intent, with this weight for t4.
    fn intent(&self, weight: u16) -> String {
        let mut text = format!(
            "[[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"\n[[pool]]\nname = \"boot\"\ncheck = {{ kind = \"tftp\", file = \"canary\", \
             interval = \"{}ms\", timeout = \"200ms\", rise = 2, fall = {FALL}, slow_start = \"1s\" }}\nbackends = [\n",
            self.plan.vip,
            INTERVAL.as_millis()
        );
        for backend in &self.plan.backends {
            let (first, last) = backend.tids.unwrap();
            let weight = if backend.name == "t4" { weight } else { 100 };
            writeln!(
                text,
                "{{ name = \"{}\", address = \"{}\", weight = {weight}, tid_range = \"{first}-{last}\" }},",
                backend.name, backend.address
            )
            .unwrap();
        }
        text + "]\n"
    }

    fn store(&self) -> String {
        format!("\n[store]\nkind = \"etcd\"\nendpoints = [\"http://{}:2379\"]\n", self.plan.router.0)
    }

    /// Writes the file of director `number`.
    fn configure(&self, number: usize) -> PathBuf {
        let file = self.directory.path().join(format!("{}.toml", self.plan.directors[number].name));
        let text =
            directors::configuration(&self.plan, number, Io::AfXdp, &self.socket(&self.plan.directors[number].name), &self.plan.backends);
        let own = text.split("[[vip]]").next().unwrap();
        std::fs::write(&file, format!("{own}{}", self.store())).unwrap();
        file
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.sock"))
    }

    fn start_etcd(&mut self) {
        let (url, data) = (format!("http://{}:2379", self.plan.router.0), self.directory.path().join("etcd"));
        let mut command = program_on(&self.topology.router, "etcd");
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--logger", "zap", "--log-level", "panic", "--data-dir"]).arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        self.etcd = Some(Running(command.spawn().unwrap()));
    }

    /// Starts controller `number`; it checks when this returns.
    fn controller(&self, number: usize) -> Running {
        let (name, file) = (format!("h{number}"), self.directory.path().join(format!("h{number}.toml")));
        let own = format!(
            "[health]\nname = \"{name}\"\nsource = \"{}\"\nsocket = \"{}\"\n{}",
            self.plan.router.0,
            self.socket(&name).display(),
            self.store()
        );
        std::fs::write(&file, own).unwrap();
        let mut command = program_on(&self.topology.router, GUIDEWAY);
        command.args(["health", "--log-level", "error", "--config"]).arg(file);
        ready(command, self.directory.path())
    }

    /// Runs `guideway` where etcd is; what it prints.
    fn guideway(&self, arguments: &[&str]) -> String {
        let run = || program_on(&self.topology.router, GUIDEWAY).args(arguments).output().unwrap();
        let output = run();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Gives t4 another weight; the generation that this has.
    fn commit(&self, weight: u16) {
        let file = self.directory.path().join("changed.toml");
        std::fs::write(&file, self.intent(weight)).unwrap();
        let store = self.directory.path().join("d1.toml");
        self.guideway(&["store", "import", "--replace", "--config", store.to_str().unwrap(), "--from", file.to_str().unwrap()]);
    }

    fn status(&self, number: usize) -> Value {
        control_client::get(&self.socket(&self.plan.directors[number].name), "/v1/status").unwrap()
    }

    /// What a director says of a backend: its state, or the whole entry's key.
    fn backend(&self, director: usize, name: &str, key: &str) -> Value {
        let status = self.status(director);
        let found = status["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("{name} in {status}"))[key].clone()
    }

    /// Waits until these directors say so of a backend; how long that took, and how long after the first the last one did.
    fn all_say(&self, what: &str, directors: &[usize], right: impl Fn(usize) -> bool) -> Duration {
        let since = Instant::now();
        let mut when = vec![None; DIRECTORS];
        until(what, || {
            for number in directors {
                if when[*number].is_none() && right(*number) {
                    when[*number] = Some(since.elapsed());
                }
            }
            let done = directors.iter().all(|number| when[*number].is_some());
            done.then_some(()).ok_or_else(|| format!("{when:?}"))
        });
        let times: Vec<Duration> = when.into_iter().flatten().collect();
        let (first, last) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        println!("{what}: after {} ms, the last {} ms after the first", last.as_millis(), (*last - *first).as_millis());
        *last
    }

    fn all_have(&self, what: &str, name: &str, state: &str) -> Duration {
        self.all_say(what, &[0, 1, 2], |number| self.backend(number, name, "state") == state)
    }

    /// Directors that agree have one generation, and equal tables.
    fn agree(&self) {
        let word = |number: usize| {
            let status = self.status(number);
            (status["generation"].clone(), status["vips"][0]["fingerprint"].clone())
        };
        until("all agree", || {
            let words: Vec<_> = (0..DIRECTORS).map(word).collect();
            words.iter().all(|word| *word == words[0]).then_some(()).ok_or_else(|| format!("{words:?}"))
        });
    }

    fn server(&self, name: &str, what: Signal) {
        let (_, server, _) = self.backends.iter().find(|(known, ..)| known == name).unwrap();
        signal(server, what);
    }

    /// Which controller publishes.
    fn leader(&self) -> usize {
        let leads = |number: &usize| {
            let status = control_client::get(&self.socket(&format!("h{number}")), "/v1/status");
            status.is_ok_and(|status| status["leading"] == true)
        };
        let mut leader = None;
        until("a controller leads", || {
            leader = (0..2).find(leads);
            leader.map(drop).ok_or_else(String::new)
        });
        leader.unwrap()
    }
}

#[test]
fn a_fleet_agrees_whatever_stops_dies_or_is_cut_off() {
    let needs =
        [("etcd", "etcd-server"), ("in.tftpd", "tftpd-hpa"), ("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")];
    site::in_namespace(&needs, || {
        let mut fleet = Fleet::start();
        fleet.agree();
        let clients = Clients::start(&fleet.topology.client, fleet.plan.vip, fleet.directory.path(), 4);
        fleet.leader();

        // A server that hangs is taken out, gets nothing new, and comes back slowly.
        let usual = fleet.status(0)["vips"][0]["fingerprint"].clone();
        fleet.server("t1", Signal::SIGSTOP);
        let took = fleet.all_have("t1 stopped", "t1", "down");
        assert!(took < 10 * INTERVAL * FALL, "{took:?}");
        assert_eq!((1..=4).filter(|n| fleet.backend(0, &format!("t{n}"), "state") == "down").count(), 1, "nobody else is touched");
        fleet.agree();
        assert_ne!(fleet.status(0)["vips"][0]["fingerprint"], usual);
        fleet.server("t1", Signal::SIGCONT);
        fleet.all_have("t1 goes on, slowly at first", "t1", "slow");
        fleet.all_have("t1 has all of its weight again", "t1", "active");

        // The controller that leads dies: the other one had its eyes open.
        let leader = fleet.leader();
        fleet.controllers[leader] = None;
        fleet.server("t2", Signal::SIGSTOP);
        fleet.all_have("the leading controller killed, t2 stopped", "t2", "down");
        assert_ne!(fleet.leader(), leader);
        fleet.server("t2", Signal::SIGCONT);
        fleet.all_have("t2 goes on", "t2", "active");
        fleet.controllers[leader] = Some(fleet.controller(leader));

        // etcd dies, and with it nothing else.
        fleet.etcd = None;
        let stale = |fleet: &Fleet, number: usize| fleet.status(number)["store"]["stale"]["why"].is_string();
        fleet.all_say("etcd killed: the directors know it", &[0, 1, 2], |number| stale(&fleet, number));
        let with_trouble = fleet.status(0)["vips"][0]["fingerprint"].clone();
        assert_eq!(with_trouble, usual, "the last set stands");
        fleet.start_etcd();
        fleet.all_say("etcd is back: the directors know it", &[0, 1, 2], |number| !stale(&fleet, number));
        fleet.agree();

        // A director that is cut off from etcd keeps what it has, and catches up.
        let etcd = fleet.plan.router.0;
        run_on(&fleet.topology.directors[2], "ip", &format!("route add blackhole {etcd}/32"));
        fleet.all_say("d3 knows that it is cut off", &[2], |number| stale(&fleet, number));
        fleet.commit(50);
        let has = |weight: u64| move |fleet: &Fleet, number: usize| fleet.backend(number, "t4", "weight") == weight;
        let (half, quarter) = (has(50), has(25));
        fleet.all_say("a change while d3 is cut off", &[0, 1], |number| half(&fleet, number));
        assert_eq!(fleet.backend(2, "t4", "weight"), 100);
        run_on(&fleet.topology.directors[2], "ip", &format!("route del blackhole {etcd}/32"));
        fleet.all_say("d3 is cut off no longer", &[2], |number| half(&fleet, number));
        fleet.agree();
        fleet.commit(25);
        fleet.all_say("one more change", &[0, 1, 2], |number| quarter(&fleet, number));
        fleet.agree();

        let verified = clients.verified();
        println!("{verified} transfers meanwhile, all verified");
        assert!(verified > 20);
        for director in &mut fleet.directors {
            signal(director, Signal::SIGTERM);
            assert!(director.0.wait().unwrap().success());
        }
    });
}
