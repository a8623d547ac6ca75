//! Hosts, router, directors, servers and health controllers that share a set in a store, in the namespaces of the lab.

use crate::netns_fixture::hosts::{FILE, content, program_on, ready, signal, until};
use crate::netns_fixture::{GUIDEWAY, Running};
use clap::Parser;
use guideway_daemon::client as control_client;
use guideway_host::netns::Namespace;
use guideway_lab::args::{Io, LabArgs};
use guideway_lab::configuration;
use guideway_lab::plan::Plan;
use guideway_lab::router::{self, Router};
use guideway_lab::topology::{ROUTER_INGRESS, Topology};
use guideway_testbed::servers::{Server, ServerConfig};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// The key that every director has, and the one that it knows besides.
const NEXT_KEY: &str = "next_key = \"f0e0d0c0b0a090807060504030201000\"\n";

/// What a fleet is to be like.
pub struct FleetOptions {
    pub directors: usize,
    pub controllers: usize,
    /// The servers of the backends, in turn; there are four.
    pub servers: &'static [Server],
    /// Whether they have TID ranges.
    pub ranges: bool,
    /// The cluster state is in etcd, or else in a directory.
    pub etcd: bool,
    /// What stands in `check` besides kind and file.
    pub check: String,
}

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    lab: LabArgs,
}

/// Hosts, router, directors, servers, etcd and controllers on the router's host.
pub struct Fleet {
    options: FleetOptions,
    pub plan: Plan,
    pub topology: Topology,
    _router: Router,
    pub directory: tempfile::TempDir,
    /// Name, server, and what unwraps for it.
    backends: Vec<(String, Running, Running)>,
    pub directors: Vec<Running>,
    pub controllers: Vec<Option<Running>>,
    pub etcd: Option<Running>,
}

impl Fleet {
    pub fn start(options: FleetOptions) -> Fleet {
        let line = ["lab", "--directors", &options.directors.to_string(), "--backends", "4", "--server", "in.tftpd"];
        let args = CommandLine::try_parse_from(line).unwrap().lab;
        let plan = Plan::new(&args);
        let topology = Topology::build(&plan).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("files");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(FILE), content()).unwrap();
        std::fs::write(root.join("canary"), "canary\n").unwrap();
        let backends = plan.backends.iter().zip(&topology.backends).zip(options.servers.iter().cycle());
        let backends = backends.map(|((backend, host), server)| {
            let mut command = program_on(host, GUIDEWAY);
            command.args(["decap", "--configure", "--local", &backend.address.to_string(), "--vip", &plan.vip.to_string()]);
            let mut decap = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
            let mut said = String::new();
            BufReader::new(decap.0.stdout.take().unwrap()).read_line(&mut said).unwrap();
            assert!(said.starts_with("ready"), "{said}");
            let log = directory.path().join(format!("{}.log", backend.name));
            let task = ServerConfig {
                name: &backend.name,
                takeover: None,
                vip: plan.vip,
                address: backend.address,
                tid_range: backend.tid_range.filter(|_| options.ranges),
                root: &root,
                log: &log,
            };
            (backend.name.clone(), start_server(*server, host, &task), decap)
        });
        let backends = backends.collect();
        let router_config = router::RouterConfig {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_prefix()],
            sources: vec![plan.router.0],
            ..router::RouterConfig::default()
        };
        let router = topology.router.run(|| router::start(router_config)).unwrap();
        topology.set_next_hops(&plan, &plan.next_hops()).unwrap();
        let (directors, controllers) = (Vec::new(), Vec::new());
        let mut fleet = Fleet { options, plan, topology, _router: router, directory, backends, directors, controllers, etcd: None };
        if fleet.options.etcd {
            fleet.start_etcd();
        }
        let whole = fleet.directory.path().join("whole.toml");
        std::fs::write(&whole, fleet.intent(100)).unwrap();
        let file = fleet.configure(0);
        let imported = fleet.guideway(&["store", "import", "--config", file.to_str().unwrap(), "--from", whole.to_str().unwrap()]);
        assert!(imported.contains("t4"), "{imported}");
        for number in 0..fleet.options.directors {
            fleet.configure(number);
            fleet.start_director(number);
        }
        for number in 0..fleet.options.controllers {
            let controller = fleet.controller(number);
            fleet.controllers.push(Some(controller));
        }
        fleet
    }

    /// Starts director `number`, the next one, with its file.
    pub fn start_director(&mut self, number: usize) {
        let file = self.directory.path().join(format!("{}.toml", self.plan.directors[number].name));
        let mut command = program_on(&self.topology.directors[number], GUIDEWAY);
        command.args(["director", "--log-level", "error", "--config"]).arg(file);
        let director = ready(command, self.directory.path());
        self.directors.push(director);
    }

    /// The intent, with this weight for t4.
    pub fn intent(&self, weight: u16) -> String {
        let mut text = format!(
            "[[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"\n[[pool]]\nname = \"boot\"\ncheck = {{ kind = \"tftp\", file = \"canary\", \
             {} }}\nbackends = [\n",
            self.plan.vip, self.options.check
        );
        for backend in &self.plan.backends {
            let (first, last) = backend.tid_range.unwrap();
            let weight = if backend.name == "t4" { weight } else { 100 };
            let range = if self.options.ranges { format!(", tid_range = \"{first}-{last}\"") } else { String::new() };
            writeln!(text, "{{ name = \"{}\", address = \"{}\", weight = {weight}{range} }},", backend.name, backend.address).unwrap();
        }
        text + "]\n"
    }

    fn store(&self) -> String {
        if !self.options.etcd {
            return format!("\n[store]\nkind = \"file\"\npath = \"{}\"\n", self.directory.path().join("store").display());
        }
        format!("\n[store]\nkind = \"etcd\"\nendpoints = [\"http://{}:2379\"]\n", self.plan.router.0)
    }

    /// Writes the file of director `number`.
    fn configure(&self, number: usize) -> PathBuf {
        let file = self.directory.path().join(format!("{}.toml", self.plan.directors[number].name));
        let text = configuration::configuration(
            &self.plan,
            number,
            Io::AfXdp,
            &self.socket(&self.plan.directors[number].name),
            &self.plan.backends,
        );
        let own = text.split("[[vip]]").next().unwrap();
        std::fs::write(&file, format!("{own}{NEXT_KEY}{}", self.store())).unwrap();
        file
    }

    /// Takes the next key out of the file of a director; a SIGHUP makes it true.
    pub fn forget_next_key(&self, number: usize) {
        let file = self.configure(number);
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace(NEXT_KEY, "")).unwrap();
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}.sock"))
    }

    pub fn start_etcd(&mut self) {
        let (url, data) = (format!("http://{}:2379", self.plan.router.0), self.directory.path().join("etcd"));
        let mut command = program_on(&self.topology.router, "etcd");
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--logger", "zap", "--log-level", "panic", "--data-dir"]).arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        self.etcd = Some(Running(command.spawn().unwrap()));
    }

    /// Starts controller `number`; it checks when this returns.
    pub fn controller(&self, number: usize) -> Running {
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
    pub fn guideway(&self, arguments: &[&str]) -> String {
        let run = || program_on(&self.topology.router, GUIDEWAY).args(arguments).output().unwrap();
        let output = run();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Gives t4 another weight; the generation that this has.
    pub fn commit(&self, weight: u16) {
        let file = self.directory.path().join("changed.toml");
        std::fs::write(&file, self.intent(weight)).unwrap();
        let store = self.directory.path().join("d1.toml");
        self.guideway(&["store", "import", "--replace", "--config", store.to_str().unwrap(), "--from", file.to_str().unwrap()]);
    }

    pub fn status(&self, number: usize) -> Value {
        control_client::get::<serde_json::Value>(&self.socket(&self.plan.directors[number].name), "/v1/status").unwrap()
    }

    /// What a controller says of a backend.
    pub fn health(&self, controller: &str, name: &str, key: &str) -> Value {
        let status = control_client::get::<serde_json::Value>(&self.socket(controller), "/v1/status").unwrap();
        let found = status["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("{name} in {status}"))[key].clone()
    }

    /// What a director says of a backend: its state, or the whole entry's key.
    pub fn backend(&self, director: usize, name: &str, key: &str) -> Value {
        let status = self.status(director);
        let found = status["backends"].as_array().unwrap().iter().find(|backend| backend["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("{name} in {status}"))[key].clone()
    }

    /// Waits until these directors say so of a backend; how long that took, and how long after the first the last one did.
    pub fn wait_all(&self, what: &str, directors: &[usize], right: impl Fn(usize) -> bool) -> Duration {
        let since = Instant::now();
        let mut when = vec![None; self.options.directors];
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

    pub fn wait_state(&self, what: &str, name: &str, state: &str) -> Duration {
        let all: Vec<usize> = (0..self.options.directors).collect();
        self.wait_all(what, &all, |number| self.backend(number, name, "state") == state)
    }

    /// Directors that agree have one generation, and equal tables.
    pub fn agree(&self) {
        let word = |number: usize| {
            let status = self.status(number);
            (status["generation"].clone(), status["vips"][0]["fingerprint"].clone())
        };
        until("all agree", || {
            let words: Vec<_> = (0..self.options.directors).map(word).collect();
            words.iter().all(|word| *word == words[0]).then_some(()).ok_or_else(|| format!("{words:?}"))
        });
    }

    pub fn server(&self, name: &str, what: Signal) {
        let (_, server, _) = self.backends.iter().find(|(known, ..)| known == name).unwrap();
        signal(server, what);
    }

    /// Which controller publishes.
    pub fn leader(&self) -> usize {
        let leads = |number: &usize| {
            let status = control_client::get::<serde_json::Value>(&self.socket(&format!("h{number}")), "/v1/status");
            status.is_ok_and(|status| status["leading"] == true)
        };
        let mut leader = None;
        until("a controller leads", || {
            leader = (0..self.options.controllers).find(leads);
            leader.map(drop).ok_or_else(String::new)
        });
        leader.unwrap()
    }
}

fn start_server(server: Server, host: &Namespace, task: &ServerConfig<'_>) -> Running {
    if server != Server::Guideway {
        return Running(server.start(host, task).unwrap());
    }
    // The program that cargo built with this test.
    let mut command = program_on(host, GUIDEWAY);
    command.args(["tftpd", "--log-level", "error", "--listen", &format!("{}:69", task.vip), "--root"]).arg(task.root);
    if let Some((first, _)) = task.tid_range {
        command.args(["--tid-port", &first.to_string()]);
    }
    ready(command, task.log.parent().unwrap())
}
