//! `[api]`: the API over TCP. It is off without this section, and always has access control.

use super::reader::{Field, Table};
use super::text;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[api]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiListen {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// File with the token that clients must send; required unless there is a `client_ca`.
    pub token_file: Option<PathBuf>,
    /// TLS; required unless `listen` is a loopback address.
    pub tls: Option<Tls>,
}

/// Certificates of the API, and of its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Authorities of client certificates, PEM; clients then need a certificate.
    pub client_ca: Option<PathBuf>,
}

/// Reads `[api]`.
pub(super) fn read(mut table: Table<'_, '_>) -> Option<ApiListen> {
    let listen = table.required("listen", "listen = \"127.0.0.1:9443\"");
    let [token_file, cert, key, client_ca] = ["token_file", "cert", "key", "client_ca"].map(|name| table.optional(name));
    table.finish();
    let field = listen?;
    let has_access_control = token_file.is_some() || client_ca.is_some();
    let (with_cert, with_key, with_ca) = (cert.is_some(), key.is_some(), client_ca.is_some());
    let path = |field: Option<Field<'_, '_>>| match field {
        Some(field) => field.parse("a path in quotes", file).map(|located| Some(located.value)),
        None => Some(None),
    };
    let (token_file, cert, key, client_ca) = (path(token_file), path(cert), path(key), path(client_ca));
    let listen = field.clone().parse("an address with a port in quotes", text::socket_address)?.value;
    if !has_access_control {
        field.error("is open to everybody: give `token_file`, or `client_ca` with `cert` and `key`, or both");
        return None;
    }
    if with_cert != with_key {
        let (has, lacks) = if with_cert { ("cert", "key") } else { ("key", "cert") };
        field.error(format!("has `{has}` without `{lacks}`: TLS takes both"));
        return None;
    }
    if with_ca && !with_cert {
        field.error("has `client_ca` without `cert` and `key`: only TLS can require a client's certificate");
        return None;
    }
    if !with_cert && !listen.ip().is_loopback() {
        field
            .error("can be reached from other hosts, and the token would travel unencrypted: give `cert` and `key`, or a loopback address");
        return None;
    }
    let (token_file, client_ca) = (token_file?, client_ca?);
    let tls = cert?.zip(key?).map(|(cert, key)| Tls { cert, key, client_ca });
    Some(ApiListen { listen, token_file, tls })
}

/// Reads the absolute path of a file.
fn file(text: &str) -> Result<PathBuf, String> {
    if text.starts_with('/') && !text.ends_with('/') && !text.contains('\0') {
        Ok(PathBuf::from(text))
    } else {
        Err("is not the path of a file; write an absolute path such as \"/etc/guideway/token\"".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use crate::read;

    const REST: &str = "[director]\nname = \"d1\"\naddress = \"10.0.1.11\"\nkey = \"000102030405060708090a0b0c0d0e0f\"\n\
        io = { kind = \"af_xdp\", interface = \"eth0\" }\n";

    #[test]
    fn access_control_is_mandatory() {
        let read_section = |section: &str| -> Result<_, String> {
            let checked = read(&format!("{REST}[api]\n{section}"));
            let errors: Vec<String> = checked.errors().map(ToString::to_string).collect();
            checked.config.map(|config| config.api.unwrap()).ok_or(errors.join("\n"))
        };
        let (token, tls, ca) = ("token_file = \"/t\"\n", "cert = \"/c\"\nkey = \"/k\"\n", "client_ca = \"/a\"\n");
        let (local, wide) = ("listen = \"127.0.0.1:9443\"\n", "listen = \"0.0.0.0:9443\"\n");
        assert!(read_section(&format!("{local}{token}")).unwrap().tls.is_none());
        assert!(read_section(&format!("{wide}{tls}{ca}")).unwrap().token_file.is_none());
        assert_eq!(read_section(&format!("{wide}{tls}{token}{ca}")).unwrap().tls.unwrap().client_ca, Some("/a".into()));
        for (section, part) in [
            (local.to_owned(), "api.listen = \"127.0.0.1:9443\": is open to everybody"),
            (format!("{local}{tls}"), "open to everybody"),
            (format!("{wide}{token}"), "can be reached from other hosts"),
            (format!("{local}{token}cert = \"/c\"\n"), "has `cert` without `key`"),
            (format!("{local}{ca}"), "has `client_ca` without `cert`"),
            (token.to_owned(), "api.listen: is missing"),
            (format!("{local}token_file = \"token\"\n"), "api.token_file = \"token\": is not the path of a file"),
            (format!("listen = 9443\n{token}"), "expected an address with a port"),
            (format!("{local}{token}tokens = 1\n"), "api.tokens"),
        ] {
            let error = read_section(&section).unwrap_err();
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}
