//! Redirects of the origin: where they may lead.

use hyper::header::LOCATION;
use hyper::{Response, StatusCode, Uri};

/// Redirects that are followed for one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Hosts that redirects may lead to.
pub(super) struct Redirects {
    origin: Uri,
    hosts: Vec<String>,
}

/// Reasons not to follow a redirect.
#[derive(Debug, thiserror::Error)]
pub(super) enum RedirectError {
    #[error("a redirect without a usable Location")]
    Invalid,
    #[error("a redirect from https to {0}")]
    Downgrade(String),
    #[error("a redirect to {0}, which is neither the host of `url` nor in `redirect_hosts`")]
    Host(String),
    #[error("more than {MAX_REDIRECTS} redirects")]
    TooMany,
}

impl Redirects {
    /// Allows the origin itself, its host by https, and `hosts`, as `name` or `name:port`.
    pub(super) fn new(origin: &Uri, hosts: Vec<String>) -> Redirects {
        Redirects { origin: origin.clone(), hosts }
    }

    /// Returns the URL that an answer to a request for `url` leads to; `None` if it is no redirect.
    pub(super) fn next<B>(&self, url: &str, answer: &Response<B>) -> Result<Option<String>, RedirectError> {
        let redirects = matches!(
            answer.status(),
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        if !redirects {
            return Ok(None);
        }
        let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        self.allowed(url, location.ok_or(RedirectError::Invalid)?).map(Some)
    }

    /// Resolves a location, if it is allowed.
    fn allowed(&self, url: &str, location: &str) -> Result<String, RedirectError> {
        let from: Uri = url.parse().map_err(|_| RedirectError::Invalid)?;
        let (Some(scheme), Some(authority)) = (from.scheme_str(), from.authority()) else { return Err(RedirectError::Invalid) };
        let to = if location.starts_with("//") {
            format!("{scheme}:{location}")
        } else if location.starts_with('/') {
            format!("{scheme}://{authority}{location}")
        } else {
            location.to_owned()
        };
        let to: Uri = to.parse().map_err(|_| RedirectError::Invalid)?;
        let (Some(new_scheme @ ("http" | "https")), Some(new)) = (to.scheme_str(), to.authority()) else {
            return Err(RedirectError::Invalid);
        };
        if scheme == "https" && new_scheme != "https" {
            return Err(RedirectError::Downgrade(to.to_string()));
        }
        let same_host = to.host().zip(self.origin.host()).is_some_and(|(to, own)| to.eq_ignore_ascii_case(own));
        let own = Some(new) == self.origin.authority() || (new_scheme == "https" && new.port().is_none() && same_host);
        if !own && !self.hosts.iter().any(|host| new.as_str().eq_ignore_ascii_case(host)) {
            return Err(RedirectError::Host(new.to_string()));
        }
        Ok(to.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_at_allowed_hosts_and_never_leave_https() {
        let http = Redirects::new(&"http://Files.example:8080/images/".parse().unwrap(), vec!["cdn.example".into(), "b.example:81".into()]);
        let from = "http://files.example:8080/images/a";
        for (location, to) in [
            ("/b", "http://files.example:8080/b"),
            ("//cdn.example/b", "http://cdn.example/b"),
            ("https://files.example/b?x=1", "https://files.example/b?x=1"),
            ("https://CDN.example/b", "https://CDN.example/b"),
            ("http://b.example:81/b#part", "http://b.example:81/b"),
        ] {
            assert_eq!(http.allowed(from, location).ok().as_deref(), Some(to), "{location}");
        }
        for location in [
            "http://files.example/b",
            "http://files.example:22/b",
            "https://files.example:444/b",
            "http://cdn.example:81/b",
            "http://cdn.example@evil.example/b",
            "http://evil@cdn.example/b",
            "http://169.254.169.254/",
            "http://sub.cdn.example/b",
            "ftp://cdn.example/b",
            "b",
            "",
        ] {
            assert!(http.allowed(from, location).is_err(), "{location}");
        }
        let https = Redirects::new(&"https://files.example/".parse().unwrap(), vec!["cdn.example".into()]);
        assert!(matches!(https.allowed("https://files.example/a", "http://cdn.example/a"), Err(RedirectError::Downgrade(_))));
        assert!(https.allowed("https://files.example/a", "/c").is_ok());
    }
}
