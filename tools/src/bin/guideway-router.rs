//! The lab's test router as a program of its own: ECMP and GRE in userspace, directors from the routes of its network namespace.

use clap::Parser;
use guideway_lab::router::{self, Ecmp, MAIN_TABLE, RouterConfig};
use ipnet::IpNet;
use std::net::IpAddr;
use std::process::ExitCode;

/// Spread packets for VIPs over directors by ECMP, in GRE.
///
/// The directors are the next hops of the namespace's own routes to the VIPs, followed as they change: set them by hand, or by a routing
/// daemon. Needs CAP_NET_ADMIN and CAP_NET_RAW. Ends on SIGTERM or Ctrl-C, and says then how many packets each director got.
#[derive(Parser)]
#[command(
    version,
    after_help = "Example:\n  ip route add 192.0.2.69 nexthop via 10.0.1.11 nexthop via 10.0.1.12\n  guideway-router --ingress eth0 --vip 192.0.2.69/32"
)]
struct Args {
    /// Interface that clients' packets come in on
    #[arg(long, value_name = "NAME")]
    ingress: String,
    /// Prefix of virtual addresses; may be repeated
    #[arg(long, value_name = "PREFIX", required = true)]
    vip: Vec<IpNet>,
    /// What packets are spread by
    #[arg(long, value_enum, default_value_t = Ecmp::FiveTuple)]
    ecmp: Ecmp,
    /// Outer source address, at most one of each family (default: the kernel's choice)
    #[arg(long, value_name = "ADDRESS")]
    source: Vec<IpAddr>,
    /// Routing table whose next hops are the directors
    #[arg(long, value_name = "N", default_value_t = MAIN_TABLE)]
    table: u32,
    /// Name of the TUN device
    #[arg(long, value_name = "NAME", default_value = "ecmp0")]
    tun: String,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse();
    let config = RouterConfig {
        ingress: args.ingress,
        vips: args.vip,
        ecmp: args.ecmp,
        sources: args.source,
        directors_table: args.table,
        tun: args.tun,
        ..RouterConfig::default()
    };
    match router::run(config) {
        Ok(counters) => {
            for (director, packets) in counters.directors() {
                println!("{director} {packets}");
            }
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("guideway-router: {e}");
            ExitCode::FAILURE
        }
    }
}
