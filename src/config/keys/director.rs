//! The keys of a director's file, but for those of `[store]` and of `check`.

use super::{Key, Section, key};

/// The keys of a director's file.
pub const DIRECTOR: &[Section] = &[
    Section::new("", TOP),
    Section::new("director", SECTION),
    Section::new(
        "director.io",
        &[key(
            "kind",
            "required",
            "`\"af_xdp\"`, `\"af_packet\"`, `\"netmap\"`, or `\"pcap\"` for replay; a change of `io` needs a restart",
        )],
    ),
    Section::of_kind("director.io", &["af_xdp", "af_packet", "netmap"], INTERFACE),
    Section::of_kind("director.io", &["af_packet"], &[key("workers", "1", "threads, each with a socket, 1–64")]),
    Section::of_kind("director.io", &["netmap"], NETMAP),
    Section::of_kind("director.io", &["pcap"], PCAP),
    Section::new("vip", VIP),
    Section::new("vip.service", &[key("protocol", "required", "`\"tftp\"`, `\"udp\"` or `\"tcp\"`, where the service is a table")]),
    Section::of_kind(
        "vip.service",
        &["tftp"],
        &[key(
            "key",
            "`\"flow\"`",
            "what requests are hashed over: `\"flow\"`, the client's address and port; or `\"client\"`, the address alone",
        )],
    ),
    Section::of_kind(
        "vip.service",
        &["udp", "tcp"],
        &[key("ports", "required", "a list of ports and ranges, such as `[53, \"8000-8100\"]`")],
    ),
    Section::new("vip.admission", ADMISSION),
    Section::new("pool", POOL),
    Section::new("pool.backends", BACKEND),
    Section::new("neighbour", NEIGHBOUR),
    Section::new("announce", ANNOUNCE),
    Section::new("api", API),
];

const TOP: &[Key] = &[key(
    "active_key",
    "id of `director.key`",
    "first in the file: id of the key in use, as `guideway check` shows it; changes take effect at once",
)];

const SECTION: &[Key] = &[
    key("name", "required", "names the director and its control socket, 1–63 of `a-z A-Z 0-9 - _ .`; needs a restart to change"),
    key(
        "address",
        "required",
        "source of GRE to backends, destination of GRE from routers; one address, or a list with one IPv4 and one IPv6; needs a restart to change",
    ),
    key(
        "source_prefix",
        "none",
        "an IPv4 prefix, /8–/31: GRE to backends over IPv4 comes from its addresses, one for each client, so that routers and receive queues spread it",
    ),
    key(
        "key",
        "required",
        "the fleet's hash key, 32 hex digits, the same on every director; needs a restart to change (but see `active_key`)",
    ),
    key("next_key", "none", "a key that the fleet will have, known before it is used"),
    key("io", "required", "how packets enter and leave, a table"),
    key("routers", "none", "prefixes that may send GRE"),
    key("remote_site", "none", "addresses of the directors of the remote site, at most 256"),
    key(
        "fleet",
        "those in the store",
        "one address of each director of the fleet, this one's too, the same list on all, at most 256; they divide datagrams in fragments among them",
    ),
    key("socket", "`/run/guideway/<name>.sock`", "control socket; needs a restart to change"),
    key("metrics", "none", "`\"127.0.0.1:9068\"`: serves Prometheus at `/metrics`, 64 connections at a time; needs a restart to change"),
    key("unmatched", "`\"host\"`", "GRE for an address that is no VIP: `\"host\"` or `\"drop\"`; with `af_xdp` a change needs a restart"),
    key("icmp_echo", "`\"forward\"`", "echo requests to a VIP: `\"forward\"` to a backend, `\"answer\"`, or `\"drop\"`"),
    key("flows", "1048576", "entries of the flow tables, 1024–67108864; needs a restart to change"),
    key(
        "retire",
        "`\"10m\"`",
        "how long a backend that left the file keeps its TID range and flows, 0s–24h; no other backend gets the range meanwhile",
    ),
    key(
        "mark",
        "none",
        "firewall mark by which the kernel routes GRE to backends (`ip rule … fwmark`), 1–4294967295; needs a restart to change",
    ),
    key("steering", "off", "2–64: one thread receives and spreads flows over that many workers; needs a restart to change"),
];

const INTERFACE: &[Key] =
    &[key("interface", "required", "name of the network interface"), key("cpus", "`[]`", "CPUs for the workers, one after the other")];

const NETMAP: &[Key] = &[
    key("rings", "those of `interface`", "netmap port for packets, such as `\"vale0:gw\"`; needs `host_rings`"),
    key("host_rings", "those of `interface`", "netmap port that leads to the interface's own stack; needs `rings`"),
];

const PCAP: &[Key] = &[key("mac", "required", "link-layer address of the director"), key("mtu", "1500", "bytes of a packet, 1280–9216")];

const VIP: &[Key] = &[
    key("address", "required", "address that clients ask"),
    key("service", "required", "`\"tftp\"`, or a table"),
    key("pool", "required", "name of the pool"),
    key("idle", "`\"60s\"`", "a flow without packets for this time is forgotten, 1s–12h"),
    key("paused", "false", "drops every packet, reason `service_paused`"),
    key("writes", "`\"drop\"`", "`tftp` only: write requests are dropped, reason `write_refused`; or `\"forward\"`"),
    key("clients", "all", "`tftp` only: prefixes whose requests are forwarded; others are dropped, reason `client_not_allowed`"),
    key("admission", "none", "`tftp` only: limits of new requests per second of one director, a table; reason `shed`"),
];

const ADMISSION: &[Key] = &[
    key("per_vip", "none", "requests per second of all clients, 1–10000000"),
    key("per_backend", "none", "requests per second from this VIP to one backend, 1–10000000"),
    key("per_prefix", "none", "requests per second of one prefix of clients, 1–10000000"),
    key("prefix_v4", "24", "bits of an IPv4 prefix, 8–32"),
    key("prefix_v6", "56", "bits of an IPv6 prefix, 16–128"),
];

const POOL: &[Key] = &[
    key("name", "required", "unique, 1–63 of `a-z A-Z 0-9 - _ .`"),
    key("backends", "required", "a list of tables"),
    key("table_size", "65537", "entries of the Maglev table: a prime, at least 100 × backends, at most 5000011"),
    key("takeover", "false", "servers go on with each other's transfers; needs a `tid_range` for every backend"),
    key("check", "none", "health check, a table; without it all backends count as up"),
];

const BACKEND: &[Key] = &[
    key("name", "required", "unique in the pool, 1–63 of `a-z A-Z 0-9 - _ .`"),
    key("address", "required", "destination of its GRE"),
    key("weight", "100", "0–1000; 0: no new flows, running transfers stay"),
    key("tid_range", "none", "`\"20000-20999\"` within 1024–65535, disjoint; all backends of a pool have one, or none has"),
    key("drain", "false", "no new flows, whatever the weight (which is kept); running transfers go on"),
];

const NEIGHBOUR: &[Key] = &[
    key("address", "required", "static next hop, for replay and tests: address of a backend or gateway"),
    key("mac", "required", "its link-layer address"),
];

const ANNOUNCE: &[Key] = &[
    key(
        "table",
        "required",
        "kernel routing table for the routes of VIPs, 1–4294967295, not 253–255; the section needs a restart to change",
    ),
    key("linger", "`\"2s\"`", "how long a director forwards after it has withdrawn its VIPs on SIGTERM, 0s–60s"),
    key("interface", "`gw-<name>`", "TUN device for these routes; the default is cut to 15 characters"),
];

const API: &[Key] = &[
    key("listen", "required", "`\"127.0.0.1:9443\"`: the API over TCP; the section needs a restart to change"),
    key(
        "token_file",
        "none",
        "file with a bearer token of at least 16 characters, or with lines `NAME ROLE TOKEN`, not readable by everybody; required unless `client_ca` is set",
    ),
    key("cert", "none", "PEM file with the certificate, for TLS; required unless `listen` is a loopback address"),
    key("key", "none", "PEM file with the key of the certificate"),
    key("client_ca", "none", "clients need a certificate of this authority (besides the token, if there is one)"),
];
