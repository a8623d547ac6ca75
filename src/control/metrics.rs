//! The metrics of a director.

use super::HostProblem;
use super::status::Status;
use guideway_api::backend::{BackendState, BackendSummary};
use guideway_api::presence::DisagreementKind;
use guideway_api::status::StaleReason;
use guideway_daemon::metrics::{Exposition, MetricKind};
use guideway_dataplane::counters::{BoundedTable, PacketCounter};
use guideway_packet::loss::Loss;
use guideway_packet::verdict::Reason;
use std::collections::BTreeMap;

/// Returns the document of `GET /metrics`. It has every reason, also those that never happened, because a rate needs a zero to start from.
pub fn render(status: &Status) -> String {
    exposition(status).finish()
}

/// Returns every metric of a director with its samples.
pub fn exposition(status: &Status) -> Exposition {
    let document = status.document();
    let counters = status.counters();
    let mut out = Exposition::default();
    let mut put = |name: &str, kind, help: &str, samples: &[(&[(&str, &str)], u64)]| {
        let metric = out.metric(&format!("guideway_director_{name}"), kind, help);
        for (labels, value) in samples {
            metric.sample(labels, *value);
        }
    };
    let info: [(&str, &str); 4] =
        [("name", &document.name), ("version", &document.version), ("io", &document.io.kind), ("interface", &document.io.interface)];
    put("info", MetricKind::Gauge, "Always 1; the labels say which director this is.", &[(&info, 1)]);
    put("uptime_seconds", MetricKind::Gauge, "Seconds since the director started.", &[(&[], document.uptime_seconds)]);
    put("ready", MetricKind::Gauge, "1 when packets are forwarded.", &[(&[], u64::from(document.ready))]);
    put(
        "generation",
        MetricKind::Gauge,
        "Generation of the cluster state that the workers read; equal on all directors that agree.",
        &[(&[], document.generation)],
    );
    put(
        "snapshots_published_total",
        MetricKind::Counter,
        "Snapshots published since the start, for a new cluster state or a neighbour.",
        &[(&[], document.published)],
    );
    put("tables_built_total", MetricKind::Counter, "Maglev tables built since the start.", &[(&[], document.tables_built)]);
    let stale = document.store.stale.as_ref().map_or(0, |stale| stale.seconds as u64 + 1);
    put(
        "store_stale_seconds",
        MetricKind::Gauge,
        "For how long the newest contents of the store could not be used; 0 when they are in force.",
        &[(&[], stale)],
    );
    let trouble = document.store.stale.as_ref().map(|stale| stale.reason);
    let reasons = [StaleReason::Unavailable, StaleReason::Invalid, StaleReason::RolledBack];
    let labels = guideway_store::StaleReason::ALL.map(|reason| [("reason", reason.name())]);
    let troubles: Vec<_> = labels.iter().zip(reasons).map(|(labels, of)| (labels.as_slice(), u64::from(trouble == Some(of)))).collect();
    put(
        "store_trouble",
        MetricKind::Gauge,
        "1 while the store is unavailable, holds something invalid, or was rolled back: then the last good state stands.",
        &troubles,
    );
    let refused = u64::from(document.store.refused.is_some());
    put(
        "state_rejected",
        MetricKind::Gauge,
        "1 when the newest state of the store cannot be used and an older one stands.",
        &[(&[], refused)],
    );
    let labels = DisagreementKind::ALL.map(|kind| [("kind", kind.name())]);
    let count = |kind| document.disagreements.iter().filter(|one| one.kind == kind).count() as u64;
    let disagreements: Vec<_> = labels.iter().zip(DisagreementKind::ALL).map(|(labels, kind)| (labels.as_slice(), count(kind))).collect();
    put(
        "disagreements",
        MetricKind::Gauge,
        "Other directors of the store with the same name, another key, or other tables of the same generation.",
        &disagreements,
    );
    put("workers", MetricKind::Gauge, "Threads that forward packets.", &[(&[], document.workers as u64)]);

    put("packets_received_total", MetricKind::Counter, "Packets received.", &[(&[], counters.get(PacketCounter::Received))]);
    put(
        "packets_transmitted_total",
        MetricKind::Counter,
        "Received packets forwarded to a backend.",
        &[(&[], counters.get(PacketCounter::Transmitted))],
    );
    put(
        "packets_to_host_total",
        MetricKind::Counter,
        "Received packets left to the host's kernel.",
        &[(&[], counters.get(PacketCounter::ToHost))],
    );
    put("packets_held", MetricKind::Gauge, "Early fragments held now.", &[(&[], counters.get(PacketCounter::Held))]);
    let labels: Vec<[(&str, &str); 1]> = Reason::ALL.iter().map(|reason| [("reason", reason.name())]).collect();
    let dropped: Vec<_> = labels.iter().zip(Reason::ALL).map(|(labels, reason)| (labels.as_slice(), counters.dropped(*reason))).collect();
    put("packets_dropped_total", MetricKind::Counter, "Received packets dropped, by the one reason of each.", &dropped);
    let losses = status.losses();
    let labels: Vec<[(&str, &str); 1]> = Loss::ALL.iter().map(|loss| [("reason", loss.name())]).collect();
    let lost: Vec<_> = labels.iter().zip(Loss::ALL).map(|(labels, loss)| (labels.as_slice(), losses.get(*loss))).collect();
    put(
        "packets_lost_total",
        MetricKind::Counter,
        "Packets that the kernel or the io lost before a worker received them, by reason.",
        &lost,
    );
    let trouble = u64::from(document.io.trouble.is_some());
    put("io_trouble", MetricKind::Gauge, "1 while the io does not receive what it should and all VIPs are withdrawn.", &[(&[], trouble)]);
    let originated = counters.get(PacketCounter::Originated);
    put(
        "packets_originated_total",
        MetricKind::Counter,
        "Packets that the director made itself: ICMP, and fragments beyond the first.",
        &[(&[], originated)],
    );
    let selections = [
        ("tid_range", PacketCounter::ByTidRange),
        ("flow", PacketCounter::ByFlow),
        ("maglev", PacketCounter::ByMaglev),
        ("successor", PacketCounter::BySuccessor),
        ("remote_site", PacketCounter::ByRemoteSite),
    ];
    let labels = selections.map(|(by, _)| [("by", by)]);
    let selections: Vec<_> = labels.iter().zip(selections).map(|(labels, (_, number))| (labels.as_slice(), counters.get(number))).collect();
    put("backend_selections_total", MetricKind::Counter, "Packets by what selected their backend.", &selections);

    let shed = [("vip", PacketCounter::ShedByVip), ("backend", PacketCounter::ShedByBackend), ("prefix", PacketCounter::ShedByPrefix)];
    let labels = shed.map(|(limit, _)| [("limit", limit)]);
    let shed: Vec<_> = labels.iter().zip(shed).map(|(labels, (_, number))| (labels.as_slice(), counters.get(number))).collect();
    put("requests_shed_total", MetricKind::Counter, "Requests beyond `admission`, by the limit that was reached first.", &shed);
    let chances = counters.get(PacketCounter::Redispatched);
    put(
        "requests_redispatched_total",
        MetricKind::Counter,
        "Requests that went to another backend, as the first left them unanswered.",
        &[(&[], chances)],
    );

    let handed_on = counters.get(PacketCounter::HandedOn);
    put(
        "fragments_handed_on_total",
        MetricKind::Counter,
        "Fragments that went to the director of the fleet that owns their datagram.",
        &[(&[], handed_on)],
    );

    let to_local_server = counters.get(PacketCounter::ToLocalServer);
    put(
        "packets_to_local_server_total",
        MetricKind::Counter,
        "Packets that another director, or a health check, sent to the server of this host.",
        &[(&[], to_local_server)],
    );

    put("flow_table_entries", MetricKind::Gauge, "Entries of the flow tables in use.", &[(&[], document.flows.used as u64)]);
    put("flow_table_capacity", MetricKind::Gauge, "Entries that the flow tables have room for.", &[(&[], document.flows.capacity as u64)]);
    let problems = status.host_problems().all();
    let labels = HostProblem::ALL.map(|problem| ([("kind", problem.name())], problems.iter().any(|(found, _)| *found == problem)));
    let problems: Vec<_> = labels.iter().map(|(labels, found)| (labels.as_slice(), u64::from(*found))).collect();
    put("host_problem", MetricKind::Gauge, "1 while something is wrong with the host; `guideway status` says what.", &problems);
    let labels: Vec<[(&str, &str); 1]> = BoundedTable::ALL.iter().map(|table| [("table", table.name())]).collect();
    let evicted: Vec<_> =
        labels.iter().zip(BoundedTable::ALL).map(|(labels, table)| (labels.as_slice(), counters.evicted(*table))).collect();
    put(
        "table_evictions_total",
        MetricKind::Counter,
        "Entries that a full table of the packet path evicted for newer ones or did not take, by table.",
        &evicted,
    );
    let reloads: [(&[(&str, &str)], u64); 2] =
        [(&[("outcome", "accepted")], document.reload.accepted), (&[("outcome", "refused")], document.reload.refused)];
    put("reloads_total", MetricKind::Counter, "Files accepted or refused since the start.", &reloads);
    let successful = u64::from(document.reload.last_error.is_none());
    put("last_reload_successful", MetricKind::Gauge, "1 when the last reload was accepted; the start counts.", &[(&[], successful)]);
    put(
        "last_reload_timestamp_seconds",
        MetricKind::Gauge,
        "When the file was last read, in seconds since 1970-01-01 UTC.",
        &[(&[], document.reload.last)],
    );

    // Nothing where nothing is announced. A VIP that was announced and is gone is 0 for an hour, so that an alert sees it.
    let vips: BTreeMap<String, u64> =
        status.announced_vips().into_iter().map(|(vip, announced)| (vip.to_string(), u64::from(announced))).collect();
    let labels: Vec<[(&str, &str); 1]> = vips.keys().map(|vip| [("vip", vip.as_str())]).collect();
    let announced: Vec<_> = labels.iter().zip(vips.values()).map(|(labels, value)| (labels.as_slice(), *value)).collect();
    put("vip_announced", MetricKind::Gauge, "1 when the VIP's route is in the kernel table that a BGP daemon exports.", &announced);

    // A map, for a series that stood twice would make Prometheus refuse the whole document. Labels are what a backend is, never its state:
    // a series lives as long as its backend.
    let backend = |backend: &BackendSummary| {
        let labels = (backend.pool.clone(), backend.name.clone(), backend.address.to_string());
        let active = matches!(backend.state, BackendState::Active | BackendState::Slow);
        let flags = [
            active,
            backend.state == BackendState::Down,
            backend.unknown_because.is_some(),
            backend.unresolved_because.is_some(),
            backend.suspected_because.is_some(),
        ];
        let values: Vec<u64> = std::iter::once(u64::from(backend.weight)).chain(flags.map(u64::from)).collect();
        (labels, values)
    };
    let backends: BTreeMap<_, Vec<u64>> = document.backends.iter().map(backend).collect();
    let labels: Vec<[(&str, &str); 3]> =
        backends.keys().map(|(pool, name, address)| [("pool", pool.as_str()), ("backend", name), ("address", address)]).collect();
    let metrics = [
        ("weight", "Weight of a backend, as configured."),
        ("active", "1 while a backend gets new flows."),
        ("down", "1 while the health controller sees a backend fail."),
        ("unknown", "1 while nobody knows whether a backend of a checked pool works; it keeps its last state."),
        ("unresolved", "1 when the next hop towards a backend is not known."),
        ("suspected", "1 while several clients of a backend repeat their requests and hear nothing."),
    ];
    for (at, (name, help)) in metrics.into_iter().enumerate() {
        let each: Vec<_> = labels.iter().zip(backends.values()).map(|(labels, values)| (labels.as_slice(), values[at])).collect();
        put(&format!("backend_{name}"), MetricKind::Gauge, help, &each);
    }
    let health = document.health;
    put(
        "health_leader",
        MetricKind::Gauge,
        "1 while a health controller publishes what it sees.",
        &[(&[], u64::from(health.leader.is_some()))],
    );
    let age = health.age_seconds.map_or(0, |seconds| seconds.ceil() as u64);
    put(
        "health_age_seconds",
        MetricKind::Gauge,
        "For how long no health controller was seen to publish; 0 while one does, and where no pool has a check.",
        &[(&[], age)],
    );
    put("suspicions_total", MetricKind::Counter, "How often a backend became suspected.", &[(&[], status.suspicions())]);
    let all = backends.values().map(|values| values[4]).sum();
    put("neighbours_unresolved", MetricKind::Gauge, "Backends whose next hop is not known.", &[(&[], all)]);
    let site: Vec<_> = document
        .remote_site
        .iter()
        .map(|director| (director.address.to_string(), u64::from(director.unresolved_because.is_some())))
        .collect();
    let labels: Vec<[(&str, &str); 1]> = site.iter().map(|(address, _)| [("address", address.as_str())]).collect();
    let site: Vec<_> = labels.iter().zip(&site).map(|(labels, (_, value))| (labels.as_slice(), *value)).collect();
    put("remote_site_unresolved", MetricKind::Gauge, "1 when the next hop towards a director of the remote site is not known.", &site);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CheckedHealth;
    use crate::{DirectorInfo, NextHops, View, WorkerStatus, Writer};
    use guideway_dataplane::counters::Counters;
    use guideway_store::{Health, Observation, Observed, PoolHealth};
    use guideway_testbed::exposition::parse;
    use std::sync::Arc;

    fn info() -> DirectorInfo {
        DirectorInfo {
            name: "d1".into(),
            kind: "af_xdp",
            interface: "eth0".into(),
            mode: "native".into(),
            cpus: vec![0],
            instance: Default::default(),
            started: std::time::Instant::now(),
        }
    }

    #[test]
    fn every_verdict_and_reason_is_there() {
        let shown = Arc::new(WorkerStatus::default());
        let mut counters = Counters::default();
        counters.add(PacketCounter::Received, 5);
        counters.add(PacketCounter::Transmitted, 3);
        counters.drop(Reason::NotTftp);
        counters.drop(Reason::NotTftp);
        counters.set_evicted(BoundedTable::Flows, 9);
        shown.set(&counters, 7);
        let status = Status::new(info(), vec![shown], None);
        let samples = parse(&render(&status));
        assert_eq!(samples["guideway_director_info{name=\"d1\",version=\"0.1.0\",io=\"af_xdp\",interface=\"eth0\"}"], 1.0);
        assert_eq!(samples["guideway_director_packets_transmitted_total"], 3.0);
        assert_eq!(samples["guideway_director_flow_table_entries"], 7.0);
        assert_eq!(samples["guideway_director_table_evictions_total{table=\"flows\"}"], 9.0);
        assert_eq!(samples["guideway_director_table_evictions_total{table=\"prefixes\"}"], 0.0);
        for reason in Reason::ALL {
            let series = format!("guideway_director_packets_dropped_total{{reason=\"{}\"}}", reason.name());
            assert_eq!(samples[&series], if *reason == Reason::NotTftp { 2.0 } else { 0.0 });
        }
    }

    #[test]
    fn a_series_lives_as_long_as_its_backend_whatever_its_state() {
        let text = |more: &str| {
            format!(
                r#"
                vip = [{{ address = "192.0.2.69", service = "tftp", pool = "p" }}]
                pool = [{{ name = "p", check = {{ kind = "icmp" }}, backends = [{{ name = "t1", address = "10.0.2.21"{more} }}] }}]
                director = {{ name = "d1", address = "10.0.1.11", key = "000102030405060708090a0b0c0d0e0f", io = {{ kind = "af_xdp", interface = "e" }} }}
                "#
            )
        };
        let status = Status::new(info(), Vec::new(), None);
        let mut writer = Writer::new();
        let mut samples = |more: &str, observed: Option<(Observation, bool)>| {
            let config = guideway_config::read(&text(more)).config.unwrap();
            let hops = NextHops::from_config(&config);
            let observed = observed.map(|(state, unknown)| Observed { state, since: 1, why: "test".into(), unknown });
            let pool = PoolHealth { backends: observed.map(|observed| ("t1".to_owned(), observed)).into_iter().collect() };
            let health: Health = [("p".to_owned(), Arc::new(pool))].into();
            let now = guideway_packet::time::Time::default();
            let snapshot = Arc::new(writer.apply_state(&config, 1, &health, &hops, now).unwrap());
            let checked = CheckedHealth::of(&config.pools, &health);
            let backends = writer.backends().collect();
            status.set_view(View { snapshot, vips: Vec::new(), keys: Default::default(), backends, hops, checked });
            let samples = parse(&render(&status)).into_iter().filter(|(name, _)| name.contains("_director_backend_"));
            let each: BTreeMap<String, f64> = samples.collect();
            let of = |name: &str| each[&format!("guideway_director_backend_{name}{{pool=\"p\",backend=\"t1\",address=\"10.0.2.21\"}}")];
            let values = ["weight", "active", "down", "unknown"].map(|name| of(name) as u64);
            (each.into_keys().collect::<Vec<_>>(), values)
        };
        let up = samples("", Some((Observation::Up, false)));
        assert_eq!(up.1, [100, 1, 0, 0]);
        for (more, observed, values) in [
            ("", None, [100, 1, 0, 1]),
            ("", Some((Observation::Slow { percent: 10 }, false)), [100, 1, 0, 0]),
            ("", Some((Observation::Down, false)), [100, 0, 1, 0]),
            ("", Some((Observation::Up, true)), [100, 1, 0, 1]),
            (", drain = true", Some((Observation::Up, false)), [100, 0, 0, 0]),
        ] {
            assert_eq!(samples(more, observed), (up.0.clone(), values), "{more} {observed:?}");
        }
        let unknown = samples("", None);
        assert_eq!(unknown.0, up.0);
        assert!(status.document().backends[0].unknown_because.is_some());
        let age = |status: &Status| parse(&render(status))["guideway_director_health_age_seconds"];
        assert!(age(&status) >= 1.0, "nobody was ever seen to lead");
        status.health_leader().set(Some("h1".to_owned()));
        assert_eq!((age(&status), status.document().health.leader.as_deref()), (0.0, Some("h1")));
        assert_eq!(parse(&render(&status))["guideway_director_health_leader"], 1.0);
        status.health_leader().set(None);
        assert!(age(&status) >= 1.0 && parse(&render(&status))["guideway_director_health_leader"] == 0.0);
    }

    fn with_view() -> Status {
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
        let hops = NextHops::from_config(&config);
        let mut writer = Writer::new();
        let status = Status::new(info(), Vec::new(), None);
        status.set_view(View {
            snapshot: Arc::new(writer.apply(&config, &hops, guideway_packet::time::Time::default()).unwrap()),
            vips: config.vips.iter().map(|vip| vip.address).collect(),
            keys: Default::default(),
            backends: writer.backends().collect(),
            hops,
            checked: Default::default(),
        });
        status
    }

    #[test]
    fn a_director_that_receives_nothing_or_is_ending_is_not_ready() {
        let status = with_view();
        let ready = || {
            let presence = status.presence()["ready"] == true;
            assert_eq!((presence, status.document().ready), (presence, presence));
            presence
        };
        assert!(ready());
        status.set_io_trouble(Some("a queue is busy".to_owned()));
        assert!(!ready());
        status.set_io_trouble(None);
        assert!(ready() && status.set_stuck(true) && !status.set_stuck(true) && !ready());
        assert!(status.set_stuck(false) && ready());
        assert!(status.set_ending() && !ready() && !status.set_ending());
    }

    #[test]
    fn each_vip_is_announced_or_not_where_any_is() {
        let status = with_view();
        assert!(!render(&status).contains("vip_announced{"), "this director announces nothing");
        assert_eq!(status.document().vips[0].announced, None);
        let why = "its service is paused";
        status.announce([("192.0.2.69".parse().unwrap(), Ok(())), ("192.0.2.53".parse().unwrap(), Err(why.to_owned()))].into());
        let samples = parse(&render(&status));
        assert_eq!(samples["guideway_director_vip_announced{vip=\"192.0.2.69\"}"], 1.0);
        assert_eq!(samples["guideway_director_vip_announced{vip=\"192.0.2.53\"}"], 0.0);
        // A store that was emptied: no VIP is left, and the alert must not end with it.
        status.announce(Default::default());
        let samples = parse(&render(&status));
        assert_eq!(samples["guideway_director_vip_announced{vip=\"192.0.2.69\"}"], 0.0);
        status.announce([("192.0.2.69".parse().unwrap(), Ok(())), ("192.0.2.53".parse().unwrap(), Err(why.to_owned()))].into());
        let vips = status.document().vips;
        assert_eq!((vips[0].announced, &vips[0].not_announced_because), (Some(true), &None));
        assert_eq!((vips[2].announced, vips[2].not_announced_because.as_deref()), (Some(false), Some(why)));
    }
}
