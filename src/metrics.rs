//! Metrics for Prometheus: the text exposition format 0.0.4, and the small HTTP server that gives it to whoever scrapes.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use std::fmt::{Display, Write};
use std::net::{SocketAddr, TcpListener};

/// What the format calls itself.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its name ends with `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A document in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Begins a metric: its samples come next. `help` is one sentence.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> Metric<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {word}");
        Metric { out: &mut self.0, name: name.to_owned() }
    }

    /// The document.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A metric whose samples are being written.
#[derive(Debug)]
pub struct Metric<'e> {
    out: &'e mut String,
    name: String,
}

impl Metric<'_> {
    /// A sample; labels are names and values of any text.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.out.push_str(&self.name);
        for (index, (name, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.out, "{}{name}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.out, "{end} {value}");
        self
    }
}

/// The address cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served at {address}: {source}; `metrics` can name another address and port")]
pub struct Error {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: std::io::Error,
}

/// Binds the address; to be called before privileges are dropped.
///
/// # Errors
/// When the system refuses the address.
pub fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tracing::info!("metrics at http://{}/metrics", listener.local_addr()?);
        Ok(listener)
    };
    bind().map_err(|source| Error { address, source })
}

/// Answers `GET /metrics` with what `render` gives, until the runtime ends.
///
/// # Errors
/// When the listener cannot be used.
pub async fn serve(listener: TcpListener, render: impl Fn() -> String + Clone + Send + Sync + 'static) -> std::io::Result<()> {
    let metrics = move || {
        let text = render();
        async move { ([(header::CONTENT_TYPE, CONTENT_TYPE)], text) }
    };
    let router = Router::new().route("/metrics", get(metrics));
    let router = router.fallback(|| async { (StatusCode::NOT_FOUND, "see /metrics\n") });
    axum::serve(tokio::net::TcpListener::from_std(listener)?, router).await
}

#[cfg(test)]
pub(crate) mod testing {
    //! A reader of the exposition format, stricter than Prometheus.

    use std::collections::{BTreeMap, BTreeSet};

    /// Samples by name and labels, as they are written: `name{label="value"}`.
    pub(crate) fn parse(text: &str) -> BTreeMap<String, f64> {
        assert!(text.ends_with('\n'), "the last line ends");
        let (mut types, mut helped) = (BTreeMap::new(), BTreeSet::new());
        let mut samples = BTreeMap::new();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.len() > 5 && helped.insert(name.to_owned()), "{line}");
                name.clone_into(&mut current);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, current, "TYPE follows its HELP");
                assert!(kind == "counter" || kind == "gauge", "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} stands twice");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
                let name = series.split('{').next().unwrap();
                assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{line}");
                assert_eq!(name, current, "samples stand below their metric");
                assert!(types.contains_key(name), "{line}");
                labels(&series[name.len()..]);
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(samples.insert(series.to_owned(), value).is_none(), "{series} stands twice");
            }
        }
        samples
    }

    /// `{name="value",…}` or nothing.
    fn labels(text: &str) {
        if text.is_empty() {
            return;
        }
        let mut rest = text.strip_prefix('{').unwrap();
        loop {
            let (name, behind) = rest.split_once("=\"").unwrap_or_else(|| panic!("{text}"));
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') && !name.is_empty(), "{text}");
            let mut escaped = false;
            let end = behind.find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            rest = &behind[end.unwrap_or_else(|| panic!("{text}")) + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => return assert_eq!(rest, "}", "{text}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_is_escaped() {
        let mut out = Exposition::default();
        out.metric("a_total", Kind::Counter, "Of a\nkind \\ of.").sample(&[("x", "q\"\\\n"), ("y", "{,}=")], 3).sample(&[], u64::MAX);
        out.metric("b_seconds", Kind::Gauge, "Of another.").sample(&[], 1.5);
        let text = out.finish();
        let expected = "# HELP a_total Of a\\nkind \\\\ of.\n# TYPE a_total counter\na_total{x=\"q\\\"\\\\\\n\",y=\"{,}=\"} 3\n\
            a_total 18446744073709551615\n# HELP b_seconds Of another.\n# TYPE b_seconds gauge\nb_seconds 1.5\n";
        assert_eq!(text, expected);
        let samples = testing::parse(&text);
        assert_eq!((samples.len(), samples["b_seconds"]), (3, 1.5));
    }
}
