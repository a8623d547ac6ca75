//! The secrets of the API over TCP: its token and its certificate. They are read again when the file is reloaded.

use arc_swap::ArcSwap;
use guideway_config::secret_file::exposed_because;
use guideway_config::{ApiListen, Tls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A shorter token could be guessed.
const MIN_TOKEN_LEN: usize = 16;

/// A file of `[api]` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("api.{key} = {}: {why}", path.display())]
pub struct FileError {
    /// Which key of `[api]`.
    key: &'static str,
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    why: String,
}

/// Token and certificate in use. Clones share them.
#[derive(Clone)]
pub struct Credentials(Arc<ArcSwap<Secrets>>);

/// What the files hold.
pub(super) struct Secrets {
    /// SHA-256 of the token.
    pub(super) token: Option<[u8; 32]>,
    pub(super) tls: Option<TlsAcceptor>,
}

impl Credentials {
    /// Reads every file of `[api]`.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(super) fn read(config: &ApiListen) -> Result<Credentials, FileError> {
        secrets(config).map(|secrets| Credentials(Arc::new(ArcSwap::from_pointee(secrets))))
    }

    /// Reads every file again; connections from now on need what they hold.
    ///
    /// # Errors
    /// When one of them cannot be used; then nothing changes.
    pub fn reload(&self, config: &ApiListen) -> Result<(), FileError> {
        self.0.store(Arc::new(secrets(config)?));
        Ok(())
    }

    /// Returns what is in use now.
    pub(super) fn get(&self) -> Arc<Secrets> {
        self.0.load_full()
    }

    #[cfg(test)]
    pub(super) fn with_token(token: &[u8]) -> Credentials {
        Credentials(Arc::new(ArcSwap::from_pointee(Secrets { token: Some(Sha256::digest(token).into()), tls: None })))
    }
}

fn secrets(config: &ApiListen) -> Result<Secrets, FileError> {
    let tls = config.tls.as_ref().map(acceptor).transpose()?;
    let token = config.token_file.as_deref().map(token).transpose()?;
    Ok(Secrets { token, tls })
}

fn token(path: &Path) -> Result<[u8; 32], FileError> {
    let failed = |why: String| FileError { key: "token_file", path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    if let Some(why) = exposed_because(path) {
        return Err(failed(why));
    }
    let token = text.trim_ascii();
    if token.len() < MIN_TOKEN_LEN || !token.iter().all(u8::is_ascii_graphic) {
        let why = format!("holds no token; one has at least {MIN_TOKEN_LEN} printable characters without spaces (openssl rand -hex 32)");
        return Err(failed(why));
    }
    Ok(Sha256::digest(token).into())
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, FileError> {
    let failed = |key: &'static str, path: &Path, why: String| FileError { key, path: path.to_owned(), why };
    let chain = certificates("cert", &tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|e| failed("key", &tls.key, format!("no private key can be read: {e}")))?;
    if let Some(why) = exposed_because(&tls.key) {
        return Err(failed("key", &tls.key, why));
    }
    let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|e| failed("cert", &tls.cert, e.to_string()))?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca", path)? {
                roots.add(certificate).map_err(|e| failed("client_ca", path, e.to_string()))?;
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| failed("client_ca", path, e.to_string()))?)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(|e| failed("cert", &tls.cert, format!("does not go with the key: {e}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let failed = |why: String| FileError { key, path: path.to_owned(), why };
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(|e| failed(format!("no certificates can be read: {e}")))?;
    if read.is_empty() { Err(failed("has no certificate".to_owned())) } else { Ok(read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_everybody_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        let with = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            token(&path).map_err(|error| error.to_string())
        };
        assert_eq!(with("0123456789abcdef\n", 0o600), Ok(Sha256::digest(b"0123456789abcdef").into()));
        assert!(with("0123456789abcdef", 0o644).unwrap_err().contains("mode 644"));
        assert!(with("short", 0o600).unwrap_err().contains("at least 16"));
        assert!(with("0123456789 abcdef", 0o600).unwrap_err().contains("without spaces"));
    }
}
