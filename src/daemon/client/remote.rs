//! Connections to a director over TCP: URL, TLS and credentials.

use super::error::Error;
use hyper::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// Credentials for a director, and the authorities that its certificate may be of.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// The file with the token.
    pub token_file: Option<PathBuf>,
    /// Authorities that its certificate may be of, PEM; those of the system otherwise.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A director that is reached over TCP.
#[derive(Clone)]
pub struct Remote {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
}

impl fmt::Debug for Remote {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Remote({})", self.url())
    }
}

impl Remote {
    /// The director at `url`, `https://d1.example:9443`; `http://` only to this host.
    ///
    /// # Errors
    /// When the URL or a file cannot be used.
    pub fn new(url: &str, credentials: &Credentials) -> Result<Remote, Error> {
        let wrong = |why: &str| Error::Config(format!("--url {url}: {why}; it is written like https://d1.example:9443"));
        let uri: Uri = url.parse().map_err(|_| wrong("is no URL"))?;
        let host = uri.host().ok_or_else(|| wrong("has no host"))?.trim_matches(['[', ']']).to_owned();
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("has a path"));
        }
        let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let tls = match uri.scheme_str() {
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong("names no host"))?;
                Some((TlsConnector::from(Arc::new(config(credentials)?)), name))
            }
            Some("http") if local => None,
            Some("http") => return Err(wrong("would show the token to everybody on the way: use https")),
            _ => return Err(wrong("is neither https nor http")),
        };
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let token = credentials.token_file.as_deref().map(|path| read(path, "--token-file")).transpose()?;
        let token = token.map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        Ok(Remote { host, port, tls, token })
    }

    /// The URL.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.authority())
    }

    /// Host and port.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }

    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    pub(super) async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        Ok(match &self.tls {
            None => Box::new(stream),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
        })
    }
}

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|e| Error::Config(format!("{flag} {}: {e}", path.display())))
}

/// Errors of the files name the flag: `--ca = "/etc/ca.pem": …`.
fn config(credentials: &Credentials) -> Result<ClientConfig, Error> {
    let setting = |error: std::io::Error| Error::Config(format!("--{error}"));
    let identity = credentials.identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let authorities = guideway_tls::authorities(credentials.ca.as_deref()).map_err(setting)?;
    guideway_tls::client_config(authorities, identity).map_err(setting)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_never_goes_over_a_wire_that_others_read() {
        let url = |url: &str| Remote::new(url, &Credentials::default()).map(|remote| remote.url()).map_err(|e| e.to_string());
        assert_eq!(url("https://d1.example:9443"), Ok("https://d1.example:9443".to_owned()));
        assert_eq!(url("https://[2001:db8::1]:9443/"), Ok("https://[2001:db8::1]:9443".to_owned()));
        assert_eq!(url("http://127.0.0.1:9443"), Ok("http://127.0.0.1:9443".to_owned()));
        for (bad, why) in
            [("http://d1.example:9443", "use https"), ("d1.example", "neither"), ("ftp://d1", "neither"), ("https://d1/v1", "path")]
        {
            assert!(url(bad).unwrap_err().contains(why), "{bad}: {:?}", url(bad));
        }
    }
}
