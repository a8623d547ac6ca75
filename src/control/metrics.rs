//! What a director tells Prometheus: the board in numbers.

use super::board::Board;
use guideway_daemon::metrics::{Exposition, Kind};
use guideway_dataplane::counters::Number;
use guideway_packet::verdict::Reason;
use std::collections::BTreeMap;

/// The document of `GET /metrics`. Every reason is there, also those that never happened: a rate needs a zero to start from.
pub fn render(board: &Board) -> String {
    let status = board.status();
    let counters = board.counters();
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let io = |key: &str| status["io"][key].as_str().unwrap_or_default().to_owned();
    let mut out = Exposition::default();
    let mut put = |name: &str, kind, help: &str, samples: &[(&[(&str, &str)], u64)]| {
        let mut metric = out.metric(&format!("guideway_director_{name}"), kind, help);
        for (labels, value) in samples {
            metric.sample(labels, *value);
        }
    };
    let facts = [("name", text("name")), ("version", text("version")), ("io", io("kind")), ("interface", io("interface"))];
    let facts: Vec<(&str, &str)> = facts.iter().map(|(key, value)| (*key, value.as_str())).collect();
    put("info", Kind::Gauge, "Always 1; the labels say which director this is.", &[(&facts, 1)]);
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    put("uptime_seconds", Kind::Gauge, "Seconds since the director started.", &[(&[], number("uptime_seconds"))]);
    put("ready", Kind::Gauge, "1 when packets are forwarded.", &[(&[], u64::from(status["ready"] == true))]);
    put(
        "generation",
        Kind::Gauge,
        "Generation of the set that the workers read; equal on all directors that agree.",
        &[(&[], number("generation"))],
    );
    put(
        "snapshots_published_total",
        Kind::Counter,
        "Snapshots published since the start, for a new set or a neighbour.",
        &[(&[], number("published"))],
    );
    put("tables_built_total", Kind::Counter, "Maglev tables built since the start.", &[(&[], number("tables_built"))]);
    let stale = status["store"]["stale"]["seconds"].as_f64().map_or(0, |seconds| seconds as u64 + 1);
    put("store_stale_seconds", Kind::Gauge, "For how long the store could not be read; 0 when it can be.", &[(&[], stale)]);
    let refused = u64::from(status["store"]["refused"].is_string());
    put("set_refused", Kind::Gauge, "1 when the store's newest set cannot be used and an older one stands.", &[(&[], refused)]);
    put("workers", Kind::Gauge, "Threads that forward packets.", &[(&[], number("workers"))]);

    put("packets_received_total", Kind::Counter, "Packets received.", &[(&[], counters.get(Number::Received))]);
    put(
        "packets_transmitted_total",
        Kind::Counter,
        "Received packets forwarded to a backend.",
        &[(&[], counters.get(Number::Transmitted))],
    );
    put("packets_to_host_total", Kind::Counter, "Received packets left to the host's kernel.", &[(&[], counters.get(Number::ToHost))]);
    put("packets_held", Kind::Gauge, "Early fragments held now.", &[(&[], counters.get(Number::Held))]);
    let labels: Vec<[(&str, &str); 1]> = Reason::ALL.iter().map(|reason| [("reason", reason.name())]).collect();
    let dropped: Vec<_> = labels.iter().zip(Reason::ALL).map(|(labels, reason)| (labels.as_slice(), counters.dropped(*reason))).collect();
    put("packets_dropped_total", Kind::Counter, "Received packets dropped, by the one reason of each.", &dropped);
    let originated = counters.get(Number::Originated);
    put(
        "packets_originated_total",
        Kind::Counter,
        "Packets that the director made itself: ICMP, and fragments beyond the first.",
        &[(&[], originated)],
    );
    let chosen = [
        ("tid_range", Number::ByTidRange),
        ("flow", Number::ByFlow),
        ("maglev", Number::ByMaglev),
        ("heir", Number::ByHeir),
        ("site", Number::BySite),
    ];
    let labels = chosen.map(|(by, _)| [("by", by)]);
    let chosen: Vec<_> = labels.iter().zip(chosen).map(|(labels, (_, number))| (labels.as_slice(), counters.get(number))).collect();
    put("packets_chosen_total", Kind::Counter, "Packets by what named their backend.", &chosen);

    let shed = [("vip", Number::ShedByVip), ("backend", Number::ShedByBackend), ("prefix", Number::ShedByPrefix)];
    let labels = shed.map(|(limit, _)| [("limit", limit)]);
    let shed: Vec<_> = labels.iter().zip(shed).map(|(labels, (_, number))| (labels.as_slice(), counters.get(number))).collect();
    put("requests_shed_total", Kind::Counter, "Requests beyond `admission`, by the limit that was reached first.", &shed);
    let chances = counters.get(Number::SecondChances);
    put(
        "second_chances_total",
        Kind::Counter,
        "Requests that went to another backend, as the first left them unanswered.",
        &[(&[], chances)],
    );

    let of = |section: &str, key: &str| status[section][key].as_u64().unwrap_or(0);
    put("flows", Kind::Gauge, "Entries of the flow tables in use.", &[(&[], of("flows", "used"))]);
    put("flows_limit", Kind::Gauge, "Entries that the flow tables have room for.", &[(&[], of("flows", "capacity"))]);
    let reloads: [(&[(&str, &str)], u64); 2] =
        [(&[("outcome", "accepted")], of("reload", "accepted")), (&[("outcome", "refused")], of("reload", "refused"))];
    put("reloads_total", Kind::Counter, "Files taken over or refused since the start.", &reloads);

    // Nothing where nothing is announced; several services of a VIP are one series.
    let vips: BTreeMap<&str, u64> = status["vips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| Some((v["vip"].as_str()?, u64::from(v["announced"].as_bool()?))))
        .collect();
    let labels: Vec<[(&str, &str); 1]> = vips.keys().map(|vip| [("vip", *vip)]).collect();
    let announced: Vec<_> = labels.iter().zip(vips.values()).map(|(labels, value)| (labels.as_slice(), *value)).collect();
    put("vip_announced", Kind::Gauge, "1 when the VIP's route is in the kernel table that a BGP daemon exports.", &announced);

    // A map, for a series that stood twice would make Prometheus refuse the whole document.
    let backends: BTreeMap<[&str; 4], [u64; 3]> = status["backends"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|backend| {
            let weight = backend["weight"].as_u64().unwrap_or(0);
            let labels = ["pool", "name", "address", "state"].map(|key| backend[key].as_str().unwrap_or_default());
            (labels, [weight, u64::from(backend["neighbour"] == "unresolved"), u64::from(backend["suspected_because"].is_string())])
        })
        .collect();
    let labels: Vec<[(&str, &str); 4]> = backends
        .keys()
        .map(|[pool, name, address, state]| [("pool", *pool), ("backend", *name), ("address", *address), ("state", *state)])
        .collect();
    let each = |at: usize| labels.iter().zip(backends.values()).map(|(labels, values)| (labels.as_slice(), values[at])).collect::<Vec<_>>();
    put("backend_weight", Kind::Gauge, "Weight of a backend.", &each(0));
    put("backend_unresolved", Kind::Gauge, "1 when the next hop towards a backend is not known.", &each(1));
    put("backend_suspected", Kind::Gauge, "1 while several clients of a backend repeat their requests and hear nothing.", &each(2));
    put("suspicions_total", Kind::Counter, "How often a backend became suspected.", &[(&[], board.suspicions())]);
    let all = backends.values().map(|values| values[1]).sum();
    put("neighbours_unresolved", Kind::Gauge, "Backends whose next hop is not known.", &[(&[], all)]);
    let site = status["other_site"].as_array().into_iter().flatten();
    let site: Vec<_> = site.filter_map(|d| Some((d["address"].as_str()?, u64::from(d["neighbour"] == "unresolved")))).collect();
    let labels: Vec<[(&str, &str); 1]> = site.iter().map(|(address, _)| [("address", *address)]).collect();
    let site: Vec<_> = labels.iter().zip(&site).map(|(labels, (_, value))| (labels.as_slice(), *value)).collect();
    put("other_site_unresolved", Kind::Gauge, "1 when the next hop towards a director of the other site is not known.", &site);
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Facts, NextHops, Shown, View, Writer};
    use guideway_dataplane::counters::Counters;
    use guideway_testbed::exposition::parse;
    use std::sync::Arc;

    fn facts() -> Facts {
        Facts {
            name: "d1".into(),
            kind: "af_xdp",
            interface: "eth0".into(),
            mode: "native".into(),
            cpus: vec![0],
            started: std::time::Instant::now(),
        }
    }

    #[test]
    fn every_verdict_and_reason_is_there() {
        let shown = Arc::new(Shown::default());
        let mut counters = Counters::default();
        counters.add(Number::Received, 5);
        counters.add(Number::Transmitted, 3);
        counters.drop(Reason::NotTftp);
        counters.drop(Reason::NotTftp);
        shown.set(&counters, 7);
        let board = Board::new(facts(), vec![shown], None);
        let samples = parse(&render(&board));
        assert_eq!(samples["guideway_director_info{name=\"d1\",version=\"0.1.0\",io=\"af_xdp\",interface=\"eth0\"}"], 1.0);
        assert_eq!(samples["guideway_director_packets_transmitted_total"], 3.0);
        assert_eq!(samples["guideway_director_flows"], 7.0);
        for reason in Reason::ALL {
            let series = format!("guideway_director_packets_dropped_total{{reason=\"{}\"}}", reason.name());
            assert_eq!(samples[&series], if *reason == Reason::NotTftp { 2.0 } else { 0.0 });
        }
    }

    #[test]
    fn each_vip_is_announced_or_not_where_any_is() {
        let checked = guideway_config::read(
            r#"
            vip = [
              { address = "192.0.2.69", service = "tftp", pool = "p" },
              { address = "192.0.2.53", service = { protocol = "udp", ports = [53] }, pool = "p" },
              { address = "192.0.2.53", service = { protocol = "tcp", ports = [53] }, pool = "p" },
            ]
            pool = [{ name = "p", backends = [{ name = "t1", address = "10.0.2.21" }] }]
            director = { name = "d1", address = "10.0.1.11", key = "000102030405060708090a0b0c0d0e0f", io = { kind = "af_xdp", interface = "e" } }
            "#,
        );
        let config = checked.config.unwrap();
        let hops = NextHops::fixed(&config);
        let mut writer = Writer::new();
        let board = Board::new(facts(), Vec::new(), None);
        board.show(View {
            snapshot: Arc::new(writer.apply(&config, &hops, guideway_packet::time::Time::default()).unwrap()),
            vips: config.vips.iter().map(|vip| vip.address).collect(),
            keys: Default::default(),
            backends: writer.backends().collect(),
            hops,
        });
        assert!(!render(&board).contains("vip_announced{"), "this director announces nothing");
        assert!(board.status()["vips"][0]["announced"].is_null());
        let why = "its service is paused";
        board.announce([("192.0.2.69".parse().unwrap(), Ok(())), ("192.0.2.53".parse().unwrap(), Err(why.to_owned()))].into());
        let samples = parse(&render(&board));
        assert_eq!(samples["guideway_director_vip_announced{vip=\"192.0.2.69\"}"], 1.0);
        assert_eq!(samples["guideway_director_vip_announced{vip=\"192.0.2.53\"}"], 0.0);
        let vips = &board.status()["vips"];
        assert_eq!((&vips[0]["announced"], &vips[0]["not_announced_because"]), (&true.into(), &serde_json::Value::Null));
        assert_eq!((&vips[2]["announced"], &vips[2]["not_announced_because"]), (&false.into(), &why.into()));
    }
}
