//! TLS clients: trusted authorities and our own certificate, for the TFTP server's HTTPS origins and for etcd.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::fmt::{Display, Write};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Formats an error with its causes: hyper reports the reason only there.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Creates the TLS configuration of a client. It trusts certificates of `authorities`; `identity` is our certificate and its key, PEM.
///
/// # Errors
/// Returns an error that names the file when the identity cannot be read.
pub fn client_config(authorities: RootCertStore, identity: Option<(&Path, &Path)>) -> io::Result<ClientConfig> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().map_err(io::Error::other)?.with_root_certificates(authorities);
    let Some((cert, key)) = identity else { return Ok(tls.with_no_client_auth()) };
    let chain = certificates(cert).map_err(|why| file_error("cert", cert, &why))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|why| file_error("key", key, &why))?;
    tls.with_client_auth_cert(chain, secret)
        .map_err(|why| file_error("cert", cert, &format!("does not match key = {:?}: {why}", key.display())))
}

/// Loads the authorities of the PEM file `ca`, or those that the host trusts.
///
/// # Errors
/// Returns an error when there is no authority; it names the file.
pub fn authorities(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let mut trusted = RootCertStore::empty();
    let Some(file) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (good, _) = trusted.add_parsable_certificates(found.certs);
        if good == 0 {
            return Err(io::Error::other(
                "this host trusts no certificate authority; install Debian's package ca-certificates, or set `ca`",
            ));
        }
        return Ok(trusted);
    };
    for certificate in certificates(file).map_err(|why| file_error("ca", file, &why))? {
        trusted.add(certificate).map_err(|why| file_error("ca", file, &why))?;
    }
    Ok(trusted)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).map_err(|why| why.to_string())?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|why| why.to_string())?;
    if read.is_empty() { Err("contains no certificate; give a PEM file".to_owned()) } else { Ok(read) }
}

fn file_error(key: &str, file: &Path, why: &dyn Display) -> io::Error {
    io::Error::other(format!("{key} = {:?}: {why}", file.display()))
}
