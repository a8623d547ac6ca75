//! Which handler serves which file to whom.

use super::name::normal;
use crate::handler::{Handler, Opening, Refusal, Request};
use globset::{Candidate, GlobSet};
use ipnet::IpNet;
use regex::bytes::Regex;
use std::net::IpAddr;
use std::sync::Arc;

/// Ordered rules. The first one that matches and decides, decides; a file that no rule decides on is not found.
///
/// Rules see names in their one spelling ([`normal`]), and so do the handlers behind them: what was matched is what is opened. A name that
/// leads upwards is refused before any rule.
pub struct Rules(Vec<Rule>);

/// One rule. It matches when each of its conditions does; an empty one always does.
pub struct Rule {
    /// Patterns of names; one of them must match.
    pub files: Option<GlobSet>,
    /// Prefixes of clients; one of them must hold the client.
    pub clients: Vec<IpNet>,
    /// Addresses that were asked.
    pub vips: Vec<IpAddr>,
    /// Changes of the name, one after the other; for this rule's handler and for the rules behind it.
    pub remap: Vec<Remap>,
    /// What is done.
    pub action: Action,
}

/// A change of a name.
pub struct Remap {
    /// What is replaced, the first time that it is found.
    pub pattern: Regex,
    /// By what; `$name` or `${1}` is what was captured.
    pub to: String,
}

/// What a rule does with a request that it matches.
pub enum Action {
    /// The rules behind it decide; only the name is changed.
    GoOn,
    /// ERROR 2.
    Deny,
    /// This handler serves it.
    Serve(Arc<dyn Handler>),
}

impl Rules {
    /// These rules, in this order.
    pub fn new(rules: Vec<Rule>) -> Rules {
        Rules(rules)
    }
}

impl Rule {
    fn matches(&self, name: &[u8], client: IpAddr, vip: IpAddr) -> bool {
        self.files.as_ref().is_none_or(|files| files.is_match_candidate(&Candidate::from_bytes(name)))
            && (self.clients.is_empty() || self.clients.iter().any(|prefix| prefix.contains(&client)))
            && (self.vips.is_empty() || self.vips.contains(&vip))
    }
}

impl Handler for Rules {
    fn open(&self, request: &Request<'_>) -> Opening {
        let mut name = match normal(request.file) {
            Ok(name) => name,
            Err(error) => return Opening::refuse(error.into()),
        };
        let (client, vip) = (request.client.ip().to_canonical(), request.vip.to_canonical());
        for rule in &self.0 {
            if !rule.matches(&name, client, vip) {
                continue;
            }
            for Remap { pattern, to } in &rule.remap {
                let changed = pattern.replace(&name, to.as_bytes()).into_owned();
                name = match normal(&changed) {
                    Ok(name) => name,
                    Err(error) => return Opening::refuse(error.into()),
                };
            }
            match &rule.action {
                Action::GoOn => {}
                Action::Deny => return Opening::refuse(Refusal::access()),
                Action::Serve(handler) => return handler.open(&Request { file: &name, ..*request }),
            }
        }
        Opening::refuse(Refusal::not_found())
    }
}
