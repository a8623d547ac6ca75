//! What an origin says of a file: how large it is, and what tells its versions apart.

use crate::content::Version;
use hyper::HeaderMap;
use hyper::header::{CONTENT_LENGTH, DATE, ETAG, HeaderName, LAST_MODIFIED};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The head of an answer, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Bytes, when the origin says.
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// The date of change is sure to name one version: the file had not been changed for a second when it was asked for (RFC 9110 section
    /// 8.8.2.2).
    pub(super) settled: bool,
}

impl Meta {
    /// Of the head of a 200 answer.
    pub(super) fn of(headers: &HeaderMap) -> Meta {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let time = |text: &Option<String>| text.as_deref().and_then(|text| httpdate::parse_http_date(text).ok());
        let last_modified = text(LAST_MODIFIED);
        let settled = match (time(&last_modified), time(&text(DATE))) {
            (Some(changed), Some(asked)) => asked.duration_since(changed).is_ok_and(|age| age >= Duration::from_secs(1)),
            _ => false,
        };
        Meta { size: text(CONTENT_LENGTH).and_then(|text| text.parse().ok()), etag: text(ETAG), last_modified, settled }
    }

    /// What names this version and no other: an ETag that is not weak (RFC 9110 section 8.8.1), else a settled date. To be sent as `If-Range`.
    pub(super) fn validator(&self) -> Option<&str> {
        match self.etag.as_deref() {
            Some(etag) if etag.starts_with('"') => Some(etag),
            _ => self.last_modified.as_deref().filter(|_| self.settled),
        }
    }

    /// Whether two answers are about the same bytes, for sure.
    pub(super) fn same_bytes(&self, other: &Meta) -> bool {
        self.validator().is_some() && self.validator() == other.validator() && self.size == other.size
    }

    /// The tag of the bytes, when the head alone says so.
    pub(super) fn version(&self) -> Option<Version> {
        let size = self.size?.to_string();
        self.validator().map(|validator| Version::of(&[b"http", validator.as_bytes(), size.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(headers: &[(&str, &str)]) -> Meta {
        Meta::of(&headers.iter().map(|(n, v)| (n.parse::<HeaderName>().unwrap(), v.parse().unwrap())).collect())
    }

    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    #[test]
    fn what_names_one_version() {
        let strong = meta(&[("etag", "\"a\""), ("content-length", "5")]);
        assert_eq!((strong.validator(), strong.size), (Some("\"a\""), Some(5)));
        assert_eq!(meta(&[("etag", "W/\"a\"")]).validator(), None, "a weak tag stands for several versions");
        assert_eq!(meta(&[("last-modified", AT), ("date", LATER)]).validator(), Some(AT));
        assert_eq!(meta(&[("last-modified", AT), ("date", AT)]).validator(), None, "it may change again within the second");
        assert_eq!(meta(&[("last-modified", AT)]).validator(), None);
        assert!(strong.version().is_some() && strong.same_bytes(&strong.clone()));
        assert_eq!(meta(&[("etag", "\"a\"")]).version(), None, "the size is part of it");
        assert_ne!(strong.version(), meta(&[("etag", "\"a\""), ("content-length", "6")]).version());
    }
}
