//! Changes that a reload cannot apply.

use super::problem::{Problem, Severity};
use super::summary::{addresses, io};
use super::{Announce, Config, Director};

impl Config {
    /// Returns an error for each key of `new` that needs a restart. Empty: a reload may apply `new`.
    ///
    /// VIPs, pools, routers, the remote site, the fleet, neighbours, timeouts, `unmatched` and `icmp_echo` may change at any time.
    pub fn changes_needing_restart(&self, new: &Config) -> Vec<Problem> {
        let switched = new.active_key.is_some() || self.active_key() == new.active_key();
        let announce_change = announce_change(self.announce.as_ref(), new.announce.as_ref());
        let store = (self.store != new.store).then(|| {
            let message = "differs from the store that the director started with; restart the director to apply it".to_owned();
            Problem {
                severity: Severity::Error,
                line: 0,
                column: 0,
                path: "store".to_owned(),
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
                problems.push(director_problem(
                    key,
                    Some(now),
                    format!("was {before} when the director started; restart the director to apply it"),
                ));
            }
        };
        compare("name", |d| format!("{:?}", d.name));
        compare("address", |d| addresses(d.address));
        compare("io", |d| io(&d.io));
        compare("socket", |d| format!("{:?}", d.socket));
        compare("steering", |d| d.steering.to_string());
        compare("mark", |d| d.mark.map_or_else(|| "none".to_owned(), |mark| mark.to_string()));
        compare("metrics", |d| d.metrics.map_or_else(|| "off".to_owned(), |at| format!("\"{at}\"")));
        compare("flows", |d| d.flows.to_string());
        if !switched {
            let message = "differs from the key in use; to change the key of a running fleet, add the new key as `next_key` on every director, then set `active_key` to its id";
            problems.push(director_problem("key", None, message.to_owned()));
        }
        problems.extend(announce_change);
        problems.extend(store);
        if api {
            let path = "api".to_owned();
            let message = "differs from the section that the director started with; restart the director to apply it".to_owned();
            problems.push(Problem { severity: Severity::Error, line: 0, column: 0, path: path.clone(), key: path, value: None, message });
        }
        problems
    }
}

/// Reports a change of the device or the table, which are set up once.
fn announce_change(old: Option<&Announce>, new: Option<&Announce>) -> Option<Problem> {
    let show = |announce: Option<&Announce>| announce.map_or_else(|| "off".to_owned(), |a| format!("table {} by {}", a.table, a.interface));
    let (before, now) = (show(old), show(new));
    (before != now).then(|| {
        problem("announce".to_owned(), Some(now), format!("was {before} when the director started; restart the director to apply it"))
    })
}

fn director_problem(key: &str, value: Option<String>, message: String) -> Problem {
    problem(format!("director.{key}"), value, message)
}

fn problem(key: String, value: Option<String>, message: String) -> Problem {
    Problem { severity: Severity::Error, line: 0, column: 0, path: key.clone(), key, value, message }
}
