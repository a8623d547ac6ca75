//! What a reload cannot change.

use super::problem::{Problem, Severity};
use super::summary::{addresses, io};
use super::{Announce, Config, Director};

impl Config {
    /// What `new` says that only a restart of the director can bring about: an error for each key. Empty: a reload may take `new` over.
    ///
    /// VIPs, pools, routers, the other site, neighbours, timeouts, `unmatched` and `icmp_echo` may change at any time.
    pub fn changes_needing_restart(&self, new: &Config) -> Vec<Problem> {
        let switched = new.active_key.is_some() || self.active_key() == new.active_key();
        let announced = announced(self.announce.as_ref(), new.announce.as_ref());
        let store = (self.store != new.store).then(|| {
            let message = "is another store than when the director started; this needs a restart".to_owned();
            Problem {
                severity: Severity::Error,
                line: 0,
                column: 0,
                place: "store".to_owned(),
                key: "store".to_owned(),
                value: None,
                message,
            }
        });
        let api = self.api != new.api;
        let (old, new) = (&self.director, &new.director);
        let mut problems = Vec::new();
        let mut compare = |key: &str, show: fn(&Director) -> String| {
            let (before, now) = (show(old), show(new));
            if before != now {
                problems.push(refused(key, Some(now), format!("was {before} when the director started; this needs a restart")));
            }
        };
        compare("name", |d| format!("{:?}", d.name));
        compare("address", |d| addresses(d.address));
        compare("io", |d| io(&d.io));
        compare("socket", |d| format!("{:?}", d.socket));
        compare("steering", |d| d.steering.to_string());
        compare("metrics", |d| d.metrics.map_or_else(|| "off".to_owned(), |at| format!("\"{at}\"")));
        compare("flows", |d| d.flows.to_string());
        if !switched {
            let message = "is another key than the one in use, and a running fleet changes its key by name: let every director know it as `next_key`, \
                           then set `active_key` to its id";
            problems.push(refused("key", None, message.to_owned()));
        }
        problems.extend(announced);
        problems.extend(store);
        if api {
            let place = "api".to_owned();
            let message = "is not what it was when the director started; this needs a restart".to_owned();
            problems.push(Problem {
                severity: Severity::Error,
                line: 0,
                column: 0,
                place: place.clone(),
                key: place,
                value: None,
                message,
            });
        }
        problems
    }
}

/// The device and its routes are made once.
fn announced(old: Option<&Announce>, new: Option<&Announce>) -> Option<Problem> {
    let show = |announce: Option<&Announce>| announce.map_or_else(|| "off".to_owned(), |a| format!("table {} by {}", a.table, a.interface));
    let (before, now) = (show(old), show(new));
    (before != now)
        .then(|| problem("announce".to_owned(), Some(now), format!("was {before} when the director started; this needs a restart")))
}

fn refused(key: &str, value: Option<String>, message: String) -> Problem {
    problem(format!("director.{key}"), value, message)
}

fn problem(key: String, value: Option<String>, message: String) -> Problem {
    Problem { severity: Severity::Error, line: 0, column: 0, place: key.clone(), key, value, message }
}
