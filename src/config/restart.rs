//! What a reload cannot change.

use super::problem::{Problem, Severity};
use super::summary::{addresses, io};
use super::{Config, Director};

impl Config {
    /// What `new` says that only a restart of the director can bring about: an error for each key. Empty: a reload may take `new` over.
    ///
    /// VIPs, pools, routers, neighbours, timeouts, `unmatched` and `icmp_echo` may change at any time.
    pub fn changes_needing_restart(&self, new: &Config) -> Vec<Problem> {
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
        if old.key != new.key {
            let message = "is another key than when the director started; this needs a restart of every director of the fleet";
            problems.push(refused("key", None, message.to_owned()));
        }
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

fn refused(key: &str, value: Option<String>, message: String) -> Problem {
    let key = format!("director.{key}");
    Problem { severity: Severity::Error, line: 0, column: 0, place: key.clone(), key, value, message }
}
