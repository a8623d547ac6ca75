//! Metadata of a file at the origin: its size, and validators that distinguish its versions.

use crate::content::Version;
use hyper::HeaderMap;
use hyper::header::{CONTENT_LENGTH, DATE, ETAG, HeaderName, LAST_MODIFIED};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The relevant headers of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    /// Size in bytes, if announced.
    pub(super) size: Option<u64>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Whether `last_modified` identifies one version: the file had not changed for a second when it was requested (RFC 9110 section
    /// 8.8.2.2).
    pub(super) settled: bool,
}

impl Meta {
    /// Reads the headers of a 200 answer.
    pub(super) fn of(headers: &HeaderMap) -> Meta {
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let time = |text: &Option<String>| text.as_deref().and_then(|text| httpdate::parse_http_date(text).ok());
        let last_modified = text(LAST_MODIFIED);
        let settled = match (time(&last_modified), time(&text(DATE))) {
            (Some(changed), Some(requested)) => requested.duration_since(changed).is_ok_and(|age| age >= Duration::from_secs(1)),
            _ => false,
        };
        Meta { size: text(CONTENT_LENGTH).and_then(|text| text.parse().ok()), etag: text(ETAG), last_modified, settled }
    }

    /// Returns a validator that identifies this version alone, for `If-Range`: a strong ETag (RFC 9110 section 8.8.1), else a settled date.
    pub(super) fn validator(&self) -> Option<&str> {
        match self.etag.as_deref() {
            Some(etag) if etag.starts_with('"') => Some(etag),
            _ => self.last_modified.as_deref().filter(|_| self.settled),
        }
    }

    /// Returns whether two answers are certain to have the same bytes.
    pub(super) fn same_bytes(&self, other: &Meta) -> bool {
        self.validator().is_some() && self.validator() == other.validator() && self.size == other.size
    }

    /// Returns the tag of the bytes, if the headers determine it.
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
    fn validators_that_identify_one_version() {
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
