//! Rules that choose the handler of a request.

use super::replacement::Replacement;
use crate::handler::{Accepted, Handler, Opened, Refusal, SharedHandler};
use crate::name::normalize;
use crate::request::Request;
use globset::{Candidate, GlobSet};
use ipnet::IpNet;
use regex::bytes::{Captures, Regex};
use std::net::IpAddr;

/// Ordered rules. The first one that matches and has a decision wins. Without a decision, the file is not found.
///
/// Rules and their handlers see [normalized](normalize) names, so that the matched name is the opened one. A name that leads out is
/// refused before any rule.
///
/// They hold for write requests, too: a rule that denies refuses them, and names are changed. All others go to the handler of uploads.
pub struct Rules {
    rules: Vec<Rule>,
    uploads: Option<SharedHandler>,
}

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
    /// The replacement.
    pub to: Replacement,
}

/// Action of a rule.
pub enum Action {
    /// Later rules decide; only the name changes.
    FallThrough,
    /// ERROR 2.
    Deny,
    /// Serves the file with this handler.
    Serve(SharedHandler),
}

impl Rules {
    /// Creates a handler from rules, in order; `uploads` takes the files that clients write.
    pub fn new(rules: Vec<Rule>, uploads: Option<SharedHandler>) -> Rules {
        Rules { rules, uploads }
    }

    /// Returns the handler of a request, and the request with its changed name.
    fn route(&self, request: &Request) -> Result<(Option<&SharedHandler>, Request), Refusal> {
        let mut name = normalize(request.file())?;
        let (client, vip) = (request.client.ip().to_canonical(), request.vip.to_canonical());
        for rule in &self.rules {
            if !rule.matches(&name, client, vip) {
                continue;
            }
            for Remap { pattern, to } in &rule.remap {
                name = normalize(&pattern.replace(&name, |captures: &Captures<'_>| to.expand(captures, client)))?;
            }
            match &rule.action {
                Action::FallThrough => {}
                Action::Deny => return Err(Refusal::access()),
                Action::Serve(handler) => return Ok((Some(handler), request.clone().with_file(&name))),
            }
        }
        Ok((None, request.clone().with_file(&name)))
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
    async fn open(&self, request: Request) -> Opened {
        match self.route(&request)? {
            (Some(handler), request) => handler.open(request).await,
            (None, _) => Err(Refusal::not_found()),
        }
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        match self.route(request) {
            Ok((Some(handler), request)) => handler.open_now(&request),
            Ok((None, _)) => Some(Err(Refusal::not_found())),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    fn accepts_uploads(&self) -> bool {
        self.uploads.is_some()
    }

    async fn store(&self, request: Request) -> Accepted {
        let (_, request) = self.route(&request)?;
        match &self.uploads {
            Some(uploads) => uploads.store(request).await,
            None => Err(Refusal::access()),
        }
    }
}
