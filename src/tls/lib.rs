//! TLS towards servers: whom we believe and who we are; for the TFTP server's origins and for etcd.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::error::Error;
use std::fmt::{Display, Write};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// An error with what caused it: hyper tells the reason there only.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// How to speak TLS. A server is believed when its certificate comes from one of `authorities`; `identity` is our certificate and its key, PEM.
///
/// # Errors
/// When the identity cannot be read; the file is named.
pub fn config(authorities: RootCertStore, identity: Option<(&Path, &Path)>) -> io::Result<ClientConfig> {
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let tls = tls.with_safe_default_protocol_versions().map_err(io::Error::other)?.with_root_certificates(authorities);
    let Some((cert, key)) = identity else { return Ok(tls.with_no_client_auth()) };
    let chain = certificates(cert).map_err(|why| wrong("cert", cert, &why))?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|why| wrong("key", key, &why))?;
    tls.with_client_auth_cert(chain, secret)
        .map_err(|why| wrong("cert", cert, &format!("does not go with key = {:?}: {why}", key.display())))
}

/// The authorities of the PEM file `ca`, or those that the host trusts.
///
/// # Errors
/// When there is none; the file is named.
pub fn authorities(ca: Option<&Path>) -> io::Result<RootCertStore> {
    let mut trusted = RootCertStore::empty();
    let Some(file) = ca else {
        let found = rustls_native_certs::load_native_certs();
        let (good, _) = trusted.add_parsable_certificates(found.certs);
        if good == 0 {
            return Err(io::Error::other("this host trusts no certificate authority (Debian's package ca-certificates); name one by ca"));
        }
        return Ok(trusted);
    };
    for certificate in certificates(file).map_err(|why| wrong("ca", file, &why))? {
        trusted.add(certificate).map_err(|why| wrong("ca", file, &why))?;
    }
    Ok(trusted)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(file).map_err(|why| why.to_string())?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(|why| why.to_string())?;
    if read.is_empty() { Err("there is no certificate in it; a PEM file is wanted".to_owned()) } else { Ok(read) }
}

fn wrong(key: &str, file: &Path, why: &dyn Display) -> io::Error {
    io::Error::other(format!("{key} = {:?}: {why}", file.display()))
}
