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

/// Token and certificate that were read again and are not in use yet.
#[must_use]
pub struct Renewal {
    credentials: Credentials,
    secrets: Secrets,
}

impl Renewal {
    /// Puts them in use: connections from now on need them.
    pub fn install(self) {
        self.credentials.0.store(Arc::new(self.secrets));
    }
}

/// What the files hold.
pub(super) struct Secrets {
    /// The tokens, if there is a `token_file`.
    pub(super) tokens: Option<Vec<Token>>,
    pub(super) tls: Option<TlsAcceptor>,
}

/// A token of the `token_file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Token {
    /// Who has it.
    pub(super) name: String,
    pub(super) role: Role,
    /// SHA-256 of the token.
    pub(super) sha256: [u8; 32],
}

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Reads.
    ReadOnly,
    /// Reads and changes.
    Operator,
}

impl Credentials {
    /// Reads every file of `[api]`.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub(super) fn read(config: &ApiListen) -> Result<Credentials, FileError> {
        secrets(config).map(|secrets| Credentials(Arc::new(ArcSwap::from_pointee(secrets))))
    }

    /// Reads every file again. Nothing changes before [`Renewal::install`].
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn read_again(&self, config: &ApiListen) -> Result<Renewal, FileError> {
        Ok(Renewal { credentials: self.clone(), secrets: secrets(config)? })
    }

    /// Returns what is in use now.
    pub(super) fn get(&self) -> Arc<Secrets> {
        self.0.load_full()
    }

    #[cfg(test)]
    pub(super) fn with_token(token: &[u8]) -> Credentials {
        Credentials(Arc::new(ArcSwap::from_pointee(Secrets { tokens: tokens_of(token).ok(), tls: None })))
    }
}

fn secrets(config: &ApiListen) -> Result<Secrets, FileError> {
    let tls = config.tls.as_ref().map(acceptor).transpose()?;
    let tokens = config.token_file.as_deref().map(tokens).transpose()?;
    Ok(Secrets { tokens, tls })
}

/// Reads the tokens, which only their owner may read.
fn tokens(path: &Path) -> Result<Vec<Token>, FileError> {
    let failed = |why: String| FileError { key: "token_file", path: path.to_owned(), why };
    let text = std::fs::read(path).map_err(|e| failed(e.to_string()))?;
    if let Some(why) = exposed_because(path) {
        return Err(failed(why));
    }
    tokens_of(&text).map_err(failed)
}

/// Parses one token alone, which is an operator's, or lines `NAME ROLE TOKEN`. Errors never show a token.
fn tokens_of(text: &[u8]) -> Result<Vec<Token>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())?;
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<(usize, Vec<&str>)> = lines.map(|(number, line)| (number, line.split_whitespace().collect())).collect();
    if let [(_, fields)] = lines.as_slice()
        && let [token] = fields.as_slice()
    {
        return Ok(vec![Token { name: "token".to_owned(), role: Role::Operator, sha256: digest(token)? }]);
    }
    let mut tokens: Vec<Token> = Vec::new();
    for (number, fields) in lines {
        let wrong = |why: String| format!("line {number}: {why}");
        let [name, role, token] = fields.as_slice() else {
            return Err(wrong("NAME ROLE TOKEN is expected, with the role operator or read-only".to_owned()));
        };
        let role = match *role {
            "operator" => Role::Operator,
            "read-only" => Role::ReadOnly,
            other => return Err(wrong(format!("the role {other:?} is neither operator nor read-only"))),
        };
        if tokens.iter().any(|token| token.name == *name) {
            return Err(wrong(format!("the name {name:?} is given twice")));
        }
        tokens.push(Token { name: (*name).to_owned(), role, sha256: digest(token).map_err(wrong)? });
    }
    if tokens.is_empty() { Err("holds no token; openssl rand -hex 32 makes one".to_owned()) } else { Ok(tokens) }
}

/// Returns the SHA-256 of a token, which may be written as `sha256:HEX`.
fn digest(token: &str) -> Result<[u8; 32], String> {
    if let Some(hex) = token.strip_prefix("sha256:") {
        let byte = |at: usize| hex.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
        let bytes = bytes.filter(|_| hex.len() == 64).and_then(|bytes| bytes.try_into().ok());
        return bytes.ok_or_else(|| "sha256: is followed by 64 hexadecimal digits".to_owned());
    }
    if token.len() < MIN_TOKEN_LEN || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("a token has at least {MIN_TOKEN_LEN} printable characters without spaces (openssl rand -hex 32)"));
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
            tokens(&path).map_err(|error| error.to_string())
        };
        let sha256: [u8; 32] = Sha256::digest(b"0123456789abcdef").into();
        let token = |name: &str, role| Token { name: name.to_owned(), role, sha256 };
        assert_eq!(with("0123456789abcdef\n", 0o600), Ok(vec![token("token", Role::Operator)]));
        let hex: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
        let several = format!("# who\nalice operator 0123456789abcdef\n\nmonitor  read-only\tsha256:{hex}\n");
        assert_eq!(with(&several, 0o600), Ok(vec![token("alice", Role::Operator), token("monitor", Role::ReadOnly)]));
        for (bad, why) in [
            ("alice operator 0123456789abcdef\nalice read-only 0123456789abcdeF\n", "line 2: the name \"alice\" is given twice"),
            ("alice admin 0123456789abcdef\n", "line 1: the role \"admin\""),
            ("a operator 0123456789abcdef\n0123456789abcdef\n", "line 2: NAME ROLE TOKEN"),
            ("a operator sha256:12\nb operator 0123456789abcdef", "line 1: sha256: is followed by 64"),
            ("# nothing\n", "holds no token"),
        ] {
            let said = with(bad, 0o600).unwrap_err();
            assert!(said.contains(why) && !said.contains("0123456789abcde"), "{said}");
        }
        assert!(with("0123456789abcdef", 0o644).unwrap_err().contains("mode 644"));
        assert!(with("short", 0o600).unwrap_err().contains("at least 16"));
        assert!(with("0123456789 abcdef", 0o600).unwrap_err().contains("NAME ROLE TOKEN"));
    }
}
