//! Rules that choose the handler of a request.

use crate::handler::{Handler, Opening, Refusal, Request};
use crate::name::normalize;
use globset::{Candidate, GlobSet};
use ipnet::IpNet;
use regex::bytes::Regex;
use std::net::IpAddr;
use std::sync::Arc;

/// Ordered rules. The first one that matches and has a decision wins. Without a decision, the file is not found.
///
/// Rules and their handlers see [normalized](normalize) names, so that the matched name is the opened one. A name that leads out is
/// refused before any rule.
pub struct Rules(Vec<Rule>);

/// One rule. It matches when all its conditions match; an empty condition always matches.
pub struct Rule {
    /// Patterns of names; one of them must match.
    pub files: Option<GlobSet>,
    /// Prefixes of clients; one of them must contain the client.
    pub clients: Vec<IpNet>,
    /// Destination addresses of requests.
    pub vips: Vec<IpAddr>,
    /// Changes of the name, in order. They apply to this rule's handler and to later rules.
    pub remap: Vec<Remap>,
    /// The action of a rule that matches.
    pub action: Action,
}

/// A change of a name.
pub struct Remap {
    /// Pattern whose first match is replaced.
    pub pattern: Regex,
    /// The replacement; `$name` and `${1}` refer to captures.
    pub to: String,
}

/// Action of a rule.
pub enum Action {
    /// Later rules decide; only the name changes.
    FallThrough,
    /// ERROR 2.
    Deny,
    /// Serves the file with this handler.
    Serve(Arc<dyn Handler>),
}

impl Rules {
    /// Creates a handler from rules, in order.
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
        let mut name = match normalize(request.file) {
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
                name = match normalize(&changed) {
                    Ok(name) => name,
                    Err(error) => return Opening::refuse(error.into()),
                };
            }
            match &rule.action {
                Action::FallThrough => {}
                Action::Deny => return Opening::refuse(Refusal::access()),
                Action::Serve(handler) => return handler.open(&Request { file: &name, ..*request }),
            }
        }
        Opening::refuse(Refusal::not_found())
    }
}
