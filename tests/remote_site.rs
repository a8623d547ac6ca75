//! Two sites with a director and a server each. One site loses its only backend and gets it back again and again, while clients fetch files that
//! routers bring to the director of that site alone: every transfer ends right, wherever it began.
#![allow(clippy::unwrap_used, clippy::panic)]

mod netns_fixture;

use clap::Parser;
use guideway_daemon::client as control_client;
use guideway_lab::args::{Io, LabArgs};
use guideway_lab::cluster_store::ClusterStore;
use guideway_lab::configuration;
use guideway_lab::plan::Plan;
use guideway_lab::router::{self, Router};
use guideway_lab::topology::{ROUTER_INGRESS, Topology};
use netns_fixture::hosts::{Clients, FILE, content, program_on, ready, run_on, signal, until};
use netns_fixture::{GUIDEWAY, Running};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    lab: LabArgs,
}

/// Site `n` has director and backend `n` of the plan.
struct Sites {
    plan: Plan,
    topology: Topology,
    _router: Router,
    directory: tempfile::TempDir,
    directors: Vec<Running>,
    servers: Vec<Running>,
    /// Where the first site's director has its pool from, if not from its file.
    store: Option<ClusterStore>,
}

impl Sites {
    fn start(family: &str, io: Io, stored: bool) -> Sites {
        let line = ["lab", "--directors", "2", "--backends", "2"].into_iter().chain(family.split_whitespace());
        let plan = Plan::new(&CommandLine::try_parse_from(line).unwrap().lab);
        let topology = Topology::build(&plan).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("files");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(root.join(FILE), content()).unwrap();
        let router_config = router::RouterConfig {
            ingress: ROUTER_INGRESS.to_owned(),
            vips: vec![plan.vip_prefix()],
            sources: vec![plan.router.0],
            ..router::RouterConfig::default()
        };
        // Routers near these clients know the first site alone.
        topology.set_next_hops(&plan, &[plan.directors[0].address]).unwrap();
        let router = topology.router.run(|| router::start(router_config)).unwrap();
        let store = stored.then(|| ClusterStore::open(&site(&plan, 0), directory.path()).unwrap());
        let mut sites = Sites { plan, topology, _router: router, directory, directors: Vec::new(), servers: Vec::new(), store };
        for number in 0..2 {
            sites.servers.push(sites.server(number));
            let mut command = program_on(&sites.topology.directors[number], GUIDEWAY);
            command.args(["director", "--log-level", "warn", "--config"]).arg(sites.configure(number, io, true));
            sites.directors.push(ready(command, sites.directory.path()));
        }
        sites
    }

    fn server(&self, number: usize) -> Running {
        let backend = &self.plan.backends[number];
        let mut server = program_on(&self.topology.backends[number], GUIDEWAY);
        server.args(["tftpd", "--log-level", "warn", "--gre", &backend.address.to_string(), "--vip", &self.plan.vip.to_string()]);
        server.args(["--tid-port", &backend.tid_range.unwrap().0.to_string()]).arg("--root").arg(self.directory.path().join("files"));
        ready(server, self.directory.path())
    }

    /// A health controller finds that the first site's server is down, or up again.
    fn publish_health(&self, down: bool) {
        let (site, down) = (site(&self.plan, 0), if down { BTreeSet::from([self.plan.backends[0].name.clone()]) } else { BTreeSet::new() });
        self.store.as_ref().unwrap().write_pool(&site, &site.backends, &down).unwrap();
    }

    /// The file of director `number`, whose pool has the backend of its site, or none.
    fn configure(&self, number: usize, io: Io, backend: bool) -> PathBuf {
        let backends = if backend { &self.plan.backends[number..=number] } else { &[] };
        let plan = if number == 0 && self.store.is_some() { site(&self.plan, 0) } else { self.plan.clone() };
        let text = configuration::configuration(&plan, number, io, &self.socket(number), backends);
        let other = self.plan.directors[1 - number].address;
        let file = self.directory.path().join(format!("d{number}.toml"));
        // Each director is a site of its own, and the fleet there.
        let lines =
            text.lines().map(|line| if line.starts_with("fleet = ") { format!("remote_site = [\"{other}\"]") } else { line.to_owned() });
        std::fs::write(&file, lines.collect::<Vec<_>>().join("\n")).unwrap();
        file
    }

    fn socket(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("d{number}.sock"))
    }

    fn status(&self, number: usize) -> Value {
        control_client::get::<serde_json::Value>(&self.socket(number), "/v1/status").unwrap()
    }

    fn counter(&self, number: usize, name: &str) -> u64 {
        let status = self.status(number);
        status["counters"][name].as_u64().unwrap_or_else(|| panic!("{name}: {status:#}"))
    }

    fn tell_router(&self, words: &str) {
        let host = &self.topology.directors[0];
        run_on(host, GUIDEWAY, &format!("{words} --socket {}", self.socket(0).display()));
    }
}

/// Site `number` as a plan of its own, with its pool in a store.
fn site(plan: &Plan, number: usize) -> Plan {
    Plan { backends: vec![plan.backends[number].clone()], takeover: true, ..plan.clone() }
}

fn a_site_that_comes_and_goes(family: &'static str, io: Io) {
    let needs = [("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")];
    netns_fixture::in_namespace(&needs, move || {
        let sites = Sites::start(family, io, false);
        let shown = sites.status(0)["remote_site"].clone();
        let address = sites.plan.directors[1].address.to_string();
        assert!(shown[0]["address"] == address && shown[0]["unresolved_because"].is_null(), "{shown}");
        let clients = Clients::start(&sites.topology.client, sites.plan.vip, sites.directory.path(), 4);
        let maglev = |number| sites.counter(number, "by_maglev");
        for _ in 0..3 {
            let before = maglev(0);
            until("requests are served here", || (maglev(0) > before + 3).then_some(()).ok_or("not yet".to_owned()));
            // Its transfers go on here; new ones go to the remote site.
            sites.tell_router("drain t1 --yes");
            let before = maglev(1);
            until("and now at the remote site", || (maglev(1) > before + 3).then_some(()).ok_or("not yet".to_owned()));
            sites.tell_router("undrain t1");
        }
        // The same when the backend is not even known any more.
        sites.configure(0, io, false);
        signal(&sites.directors[0], Signal::SIGHUP);
        let before = maglev(1);
        until("without any backend", || (maglev(1) > before + 3).then_some(()).ok_or("not yet".to_owned()));
        let verified = clients.verified();
        // Without neighbour discovery, by which hosts check one another some seconds after they met.
        let (hopped, came) = (sites.counter(0, "by_remote_site"), sites.counter(1, "received") - sites.counter(1, "to_host"));
        println!("{verified} transfers, all verified; {hopped} packets went to the remote site");
        assert!(
            verified >= 15 && hopped == came && sites.counter(1, "by_remote_site") == 0,
            "{verified} transfers; {hopped} sent, {came} came"
        );

        // Where neither site has a backend, a request does not go round in circles.
        sites.configure(1, io, false);
        let generation = || sites.status(1)["generation"].clone();
        let before = generation();
        signal(&sites.directors[1], Signal::SIGHUP);
        until("it has read its file", || (generation() != before).then_some(()).ok_or("not yet".to_owned()));
        let output = program_on(&sites.topology.client, GUIDEWAY)
            .args(["tftp", "get", "--timeout", "1", "--retries", "1", "-o", "-"])
            .arg(url(&sites.plan))
            .output()
            .unwrap();
        assert!(!output.status.success());
        let dropped = sites.status(1)["counters"]["dropped"].clone();
        assert!(dropped["no_backend"].as_u64() >= Some(1), "{dropped:#}");
        assert_eq!(sites.counter(1, "by_remote_site"), 0);
    });
}

fn url(plan: &Plan) -> String {
    let vip = plan.vip;
    if vip.is_ipv6() { format!("tftp://[{vip}]/{FILE}") } else { format!("tftp://{vip}/{FILE}") }
}

#[test]
fn transfers_end_right_while_a_site_comes_and_goes() {
    a_site_that_comes_and_goes("", Io::AfXdp);
}

#[test]
fn transfers_end_right_while_a_site_comes_and_goes_over_ipv6() {
    a_site_that_comes_and_goes("--ipv6", Io::AfPacket);
}

#[test]
fn a_site_whose_servers_are_dead_lets_the_other_serve() {
    netns_fixture::in_namespace(&[("nsenter", "util-linux"), ("setpriv", "util-linux"), ("ip", "iproute2")], || {
        let mut sites = Sites::start("", Io::AfXdp, true);
        let one = |sites: &Sites| Clients::start(&sites.topology.client, sites.plan.vip, sites.directory.path(), 1).verified();
        one(&sites);
        assert_eq!((sites.counter(0, "by_remote_site"), sites.counter(1, "received")), (0, 0));
        sites.servers.remove(0);
        sites.publish_health(true);
        let state = |sites: &Sites| sites.status(0)["backends"][0]["state"].clone();
        until("the director knows", || (state(&sites) == "down").then_some(()).ok_or(state(&sites).to_string()));
        let clients = Clients::start(&sites.topology.client, sites.plan.vip, sites.directory.path(), 3);
        until("the remote site serves", || (sites.counter(1, "by_maglev") > 5).then_some(()).ok_or("not yet".to_owned()));
        // What runs at the remote site ends there, also when the server is back.
        sites.servers.insert(0, sites.server(0));
        sites.publish_health(false);
        let before = sites.counter(0, "by_maglev");
        until("requests are served here", || (sites.counter(0, "by_maglev") > before + 5).then_some(()).ok_or("not yet".to_owned()));
        let verified = clients.verified();
        println!("{verified} transfers, all verified");
        assert_eq!(sites.counter(0, "by_remote_site"), sites.counter(1, "received"));
    });
}

#[test]
fn a_file_with_another_site_is_shown_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("d1.toml");
    let text = include_str!("../src/config/tests/sample.toml");
    let with = text.replacen("[director]", "[director]\nremote_site = [\"10.9.1.11\"]", 1);
    std::fs::write(&file, with).unwrap();
    let output = check(&file);
    assert!(output.contains("packets that no local backend takes go to 10.9.1.11"), "{output}");
}

fn check(file: &Path) -> String {
    let output = std::process::Command::new(GUIDEWAY).args(["check", "--config"]).arg(file).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
