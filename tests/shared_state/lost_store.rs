//! Directors, a health controller and transfers while etcd loses everything, and gets it back; and directors that disagree.

use crate::fleet::{Fleet, FleetOptions};
use crate::netns_fixture::hosts::{Clients, program_on, until};
use crate::netns_fixture::{self, GUIDEWAY};
use crate::{FALL, INTERVAL, NEEDS};
use guideway_daemon::client::Client;
use guideway_testbed::servers::Server;
use nix::sys::signal::Signal;
use std::time::Instant;

#[test]
fn etcd_is_wiped_and_restored_and_no_transfer_fails() {
    netns_fixture::in_namespace(NEEDS, || {
        let check = format!("interval = \"{}ms\", timeout = \"200ms\", rise = 2, fall = {FALL}, slow_start = \"1s\"", INTERVAL.as_millis());
        let mut fleet =
            Fleet::start(FleetOptions { directors: 2, controllers: 1, servers: &[Server::InTftpd], ranges: true, etcd: true, check });
        fleet.agree();
        fleet.server("t1", Signal::SIGSTOP);
        fleet.wait_state("t1 stopped", "t1", "down");
        fleet.agree();
        let clients = Clients::start(&fleet.topology.client, fleet.plan.vip, fleet.directory.path(), 4);
        let before = fleet.status(0);

        fleet.etcd = None;
        std::fs::remove_dir_all(fleet.directory.path().join("etcd")).unwrap();
        fleet.start_etcd();
        let reason = |fleet: &Fleet, number: usize| fleet.status(number)["store"]["stale"]["reason"].clone();
        fleet.wait_all("etcd wiped", &[0, 1], |number| reason(&fleet, number) == "rolled_back");
        for number in 0..2 {
            let now = fleet.status(number);
            assert_eq!((&now["generation"], &now["vips"], &now["ready"]), (&before["generation"], &before["vips"], &true.into()));
            assert_eq!(fleet.backend(number, "t1", "state"), "down");
        }
        let own = fleet.directory.path().join("d1.toml").display().to_string();
        let socket = fleet.socket("d1").display().to_string();
        let shown = fleet.guideway(&["status", "--socket", &socket]);
        assert!(
            shown.contains("the etcd store was emptied, rolled back or replaced for ") && shown.contains("guideway store restore"),
            "{shown}"
        );
        let events = Client::Socket(fleet.socket("d1"));
        events.follow("/v1/events?since=0", |line| !(line.contains("store_unavailable") && line.contains("rolled_back"))).unwrap();
        // Somebody who knows nothing of it cannot fill it by mistake: directors are there that know more.
        let whole = fleet.directory.path().join("whole.toml").display().to_string();
        until("the directors are in the store again", || {
            let shown = fleet.guideway(&["store", "show", "--config", &own]);
            if shown.contains("directors 2") { Ok(()) } else { Err(shown) }
        });
        let imported =
            program_on(&fleet.topology.router, GUIDEWAY).args(["store", "import", "--config", &own, "--from", &whole]).output().unwrap();
        let said = String::from_utf8_lossy(&imported.stderr).into_owned();
        assert!(imported.status.code() == Some(1) && said.contains("decide first by `guideway store restore`"), "{imported:?}");

        let restored = fleet.guideway(&["store", "restore", "--config", &own, "--socket", &socket]);
        assert!(restored.contains("1 VIP, 1 pool, 4 backends"), "{restored}");
        fleet.wait_all("etcd restored", &[0, 1], |number| reason(&fleet, number).is_null());
        fleet.agree();
        assert_eq!(fleet.backend(0, "t1", "state"), "down", "health came back with it");
        fleet.server("t1", Signal::SIGCONT);
        fleet.wait_state("the health controller publishes again", "t1", "active");
        fleet.commit(50);
        fleet.wait_all("changes are taken again", &[0, 1], |number| fleet.backend(number, "t4", "weight") == 50);
        let verified = clients.verified();
        println!("{verified} transfers meanwhile, all verified");
        assert!(verified > 20);

        // A director with the name of another one.
        let text = std::fs::read_to_string(&own).unwrap();
        let file = fleet.directory.path().join("same-name.toml");
        std::fs::write(&file, text.replace(&socket, &fleet.socket("other").display().to_string())).unwrap();
        let refused = program_on(&fleet.topology.directors[0], GUIDEWAY).args(["director", "--config"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && said.contains("another director of the store has this name"), "{said}");

        // A director is killed, comes back under its name at once, and has another key now.
        let other = fleet.directory.path().join("d2.toml");
        let text = std::fs::read_to_string(&other).unwrap();
        let key = |line: &&str| line.starts_with("key = ") || line.starts_with("next_key = ");
        let rest = text.lines().filter(|line| !key(line)).collect::<Vec<_>>().join("\n");
        std::fs::write(&other, rest.replace("[director]", "[director]\nkey = \"ffffffffffffffffffffffffffffffff\"")).unwrap();
        fleet.directors.truncate(1);
        let began = Instant::now();
        fleet.start_director(1);
        println!("restarted after {:?}", began.elapsed());
        until("both see that their keys differ", || {
            let kinds: Vec<_> = (0..2).map(|number| fleet.status(number)["disagreements"][0]["kind"].clone()).collect();
            if kinds.iter().all(|kind| kind == "key") { Ok(()) } else { Err(format!("{kinds:?}")) }
        });
        let shown = fleet.guideway(&["status", "--socket", &socket]);
        assert!(shown.contains("d2 disagrees: it uses key "), "{shown}");
        let shown = fleet.guideway(&["store", "show", "--config", &own]);
        assert!(shown.contains("disagrees with d1: it uses key "), "{shown}");
    });
}
