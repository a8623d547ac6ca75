//! `--lab-bisect`: generator and receiver — veth — director, in namespaces of this run, with the addresses of `guideway-lab`.
//!
//! A director has one interface in and out, so the generator's end of the veth pair is the receiver's, too.

use crate::args::{Args, Function, Pair};
use crate::port::{Port, PortSpec};
use crate::run;
use guideway_api::counters::Counters;
use guideway_api::status::DirectorStatus;
use guideway_daemon::client as control_client;
use guideway_host::error::{Context, Error};
use guideway_host::netlink::Netlink;
use guideway_host::netns::Namespace;
use guideway_lab::sandbox::{self, ProcessRole};
use guideway_testbed::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const ROUTER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const DIRECTOR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 11));
const DIRECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 1, 0x11];
const GENERATOR: &str = "gen0";
const DUT: &str = "eth0";
/// As the fabric of the lab.
const MTU: u32 = 1600;
const BACKENDS: u8 = 4;
/// Server ports of a backend.
const TIDS: u16 = 1000;
const FIRST_TID: u16 = 20_000;
/// How long the director may take to start and to end.
const TIMEOUT: Duration = Duration::from_secs(20);

fn backend(n: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 2, 21 + n))
}

/// The whole of it, in whichever of the three processes of a sandbox this is. `None` when another process has done the work.
pub fn run(args: &Args) -> Result<Result<(Value, String, bool), u8>, Error> {
    match sandbox::role() {
        ProcessRole::Launcher => {
            args.pcap.as_deref().map_or(Ok(()), run::check_readable)?;
            run::check_readable(&args.search.guideway)?;
            sandbox::launch().map(Err)
        }
        ProcessRole::Init => sandbox::init().map(Err),
        ProcessRole::Lab => run_in_sandbox(args, &sandbox::enter()?.directory).map(Ok),
    }
}

fn run_in_sandbox(args: &Args, directory: &Path) -> Result<(Value, String, bool), Error> {
    let (generator, host) = (Namespace::new("generator")?, Namespace::new("director")?);
    for namespace in [&generator, &host] {
        // Router solicitations and the like are no part of the measurement.
        ["all", "default"].iter().try_for_each(|which| namespace.sysctl(&format!("ipv6/conf/{which}/disable_ipv6"), "1"))?;
    }
    let staging = Netlink::open()?;
    staging.add_veth("a", "b")?;
    staging.move_to_namespace("a", &generator, GENERATOR)?;
    staging.move_to_namespace("b", &host, DUT)?;
    for (namespace, name, mac) in [(&generator, GENERATOR, ROUTER_MAC), (&host, DUT, DIRECTOR_MAC)] {
        Netlink::in_namespace(namespace, |n| {
            n.set_mtu(name, MTU)?;
            n.set_mac(name, mac)?;
            n.set_up(name, true)
        })?;
    }
    Netlink::in_namespace(&host, |n| n.add_address(DUT, DIRECTOR, 16))?;
    let mut director = Director::start(args, &host, directory)?;
    director.wait_ready()?;
    let args = Args {
        function: Function::Bisect,
        gre: args.gre.or(Some(Pair([ROUTER, DIRECTOR]))),
        source_mac: Some(ROUTER_MAC),
        destination_mac: Some(DIRECTOR_MAC),
        tids: (FIRST_TID, FIRST_TID + u16::from(BACKENDS) * TIDS - 1),
        ..args.clone()
    };
    let before = director.counters()?;
    let (mut json, mut text, good) = generator.run(|| {
        let take: Vec<IpAddr> = (0..BACKENDS).map(backend).collect();
        let mut port =
            Port::open(&PortSpec::AfXdp(GENERATOR.to_owned()), &take, false).with_context(|| "opening the generator's end".to_owned())?;
        run::run(&args, &mut port)
    })?;
    let after = director.counters()?;
    let status = director.stop()?;
    if !status {
        return Err(Error::failed("ending the director", "it ended with an error"));
    }
    let passed = |of: fn(&Counters) -> u64| of(&after).saturating_sub(of(&before));
    let (received, transmitted) = (passed(|counters| counters.received), passed(|counters| counters.transmitted));
    json["director"] = json!({
        "io": args.search.director_io, "steering": args.search.steering, "received": received, "transmitted": transmitted,
        "dropped": after.dropped,
    });
    let _infallible = write!(text, "\ndirector: received {received}, transmitted {transmitted}, dropped {}", json!(after.dropped));
    Ok((json, text, good))
}

/// The director under load.
struct Director {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Director {
    fn start(args: &Args, host: &Namespace, directory: &Path) -> Result<Director, Error> {
        let at = |name: &str| directory.join(name);
        let (config, socket, log) = (at("d1.toml"), at("d1.sock"), at("d1.log"));
        std::fs::write(&config, configuration(args, &socket)).with_context(|| "writing the director's configuration".to_owned())?;
        let output = std::fs::File::create(&log).with_context(|| "making the director's log".to_owned())?;
        let mut command = Command::new(&args.search.guideway);
        command.args(["director", "--config"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        Ok(Director { child: host.spawn(&mut command)?, socket, log })
    }

    fn wait_ready(&mut self) -> Result<(), Error> {
        let what = "starting the director";
        // It opens its socket whenever it is so far; there is nothing else to wait for.
        wait_for(what, TIMEOUT, || {
            if control_client::get::<DirectorStatus>(&self.socket, "/v1/status").is_ok_and(|status| status.ready) {
                return Ok(ControlFlow::Break(()));
            }
            let log = std::fs::read_to_string(&self.log).unwrap_or_default().trim().to_owned();
            match self.child.try_wait().with_context(|| what.to_owned())? {
                Some(_) => Err(Error::failed(what, log)),
                None => Ok(ControlFlow::Continue(log)),
            }
        })
    }

    fn counters(&self) -> Result<Counters, Error> {
        let status: DirectorStatus = control_client::get(&self.socket, "/v1/status").with_context(|| "asking the director".to_owned())?;
        Ok(status.counters)
    }

    /// Whether it ended as it has to. Nothing of it outlives the sandbox in any case.
    fn stop(&mut self) -> Result<bool, Error> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        kill(pid, Signal::SIGTERM).with_context(|| "ending the director".to_owned())?;
        Ok(self.child.wait().with_context(|| "ending the director".to_owned())?.success())
    }
}

fn configuration(args: &Args, socket: &Path) -> String {
    let mac = ROUTER_MAC.map(|byte| format!("{byte:02x}")).join(":");
    let steering = if args.search.steering > 0 { format!("steering = {}\n", args.search.steering) } else { String::new() };
    let mut text = format!(
        "[director]\nname = \"d1\"\naddress = \"{DIRECTOR}\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
         io = {{ kind = \"{}\", interface = \"{DUT}\" }}\nrouters = [\"10.0.0.0/16\"]\nsocket = \"{}\"\n{steering}\
         [[vip]]\naddress = \"{}\"\nservice = \"tftp\"\npool = \"boot\"\n",
        args.search.director_io,
        socket.display(),
        args.destination.ip()
    );
    if args.shape == crate::traffic::Shape::Udp && args.pcap.is_none() {
        let _infallible = writeln!(
            text,
            "[[vip]]\naddress = \"{}\"\nservice = {{ protocol = \"udp\", ports = [{}] }}\npool = \"boot\"",
            args.destination.ip(),
            args.destination.port()
        );
    }
    text.push_str("[[pool]]\nname = \"boot\"\nbackends = [\n");
    for n in 0..BACKENDS {
        let first = FIRST_TID + u16::from(n) * TIDS;
        let _infallible =
            writeln!(text, "  {{ name = \"t{}\", address = \"{}\", tid_range = \"{first}-{}\" }},", n + 1, backend(n), first + TIDS - 1);
    }
    text.push_str("]\n");
    for n in 0..BACKENDS {
        let _infallible = writeln!(text, "[[neighbour]]\naddress = \"{}\"\nmac = \"{mac}\"", backend(n));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn the_configuration_is_good() {
        for flags in ["--lab-bisect", "--lab-bisect --shape tftp --steering 2", "--lab-bisect --director-io af_packet"] {
            let args = Args::parse_from(std::iter::once("pkt-gen").chain(flags.split(' ')));
            let text = configuration(&args, Path::new("/run/x/d1.sock"));
            let checked = guideway_config::read(&text);
            assert!(checked.config.is_some(), "{flags}: {:?}", checked.problems);
        }
    }
}
