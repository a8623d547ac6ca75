//! Location of a file: `tftp://HOST[:PORT]/FILE[;mode=MODE]` (RFC 3617) or `HOST[:PORT]:FILE`.

use std::net::Ipv6Addr;

/// The port of TFTP.
pub const PORT: u16 = 69;

/// A host, a port and the name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Name or address, without brackets.
    pub host: String,
    /// Port, if given.
    pub port: Option<u16>,
    /// The file's name on the server, byte for byte; may be empty.
    pub file: Vec<u8>,
    /// `;mode=` of the URL.
    pub netascii: Option<bool>,
}

/// A text that is not a valid target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}`: {why}; write tftp://HOST[:PORT]/FILE or HOST[:PORT]:FILE, an IPv6 address in brackets: [2001:db8::69]:boot.img")]
pub struct BadTarget {
    text: String,
    why: &'static str,
}

impl std::str::FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let bad = |why| BadTarget { text: text.to_owned(), why };
        match text.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("tftp://")) {
            Some(_) => url(&text[7..]).map_err(bad),
            None if text.contains("://") => Err(bad("only the scheme tftp is supported")),
            None => short(text).map_err(bad),
        }
    }
}

fn url(rest: &str) -> Result<Target, &'static str> {
    let (authority, path) = rest.split_once('/').ok_or("the / after the host is missing")?;
    let (host, behind) = host(authority)?;
    let port = match behind {
        "" => None,
        _ => Some(port(behind.strip_prefix(':').ok_or("the host is not followed by a port")?)?),
    };
    let (path, netascii) = match path.rsplit_once(";mode=") {
        None => (path, None),
        Some((path, "octet")) => (path, Some(false)),
        Some((path, "netascii")) => (path, Some(true)),
        Some(_) => return Err("the mode must be octet or netascii"),
    };
    Ok(Target { host, port, file: percent_decoded(path)?, netascii })
}

fn short(text: &str) -> Result<Target, &'static str> {
    let (host, behind) = host(text)?;
    let rest = behind.strip_prefix(':').ok_or("the : after the host is missing")?;
    let (port, file) = match rest.split_once(':') {
        Some((number, file)) if !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => (Some(port(number)?), file),
        _ => (None, rest),
    };
    Ok(Target { host, port, file: checked(file.as_bytes().to_vec())?, netascii: None })
}

/// Splits a text into the host and the rest.
fn host(text: &str) -> Result<(String, &str), &'static str> {
    let (host, behind) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']').ok_or("the bracket is not closed")?;
            let plain = address.split_once('%').map_or(address, |(plain, _)| plain);
            plain.parse::<Ipv6Addr>().map_err(|_| "the brackets do not contain an IPv6 address")?;
            (address, behind)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    if host.is_empty() || host.contains('/') { Err("the host is missing") } else { Ok((host.to_owned(), behind)) }
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.parse().ok().filter(|port| *port > 0).ok_or("a port is a number from 1 to 65535")
}

fn percent_decoded(text: &str) -> Result<Vec<u8>, &'static str> {
    const BAD: &str = "a % must be followed by two hexadecimal digits";
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok()).ok_or(BAD);
                digit()? << 4 | digit()?
            }
            other => other,
        });
    }
    checked(out)
}

fn checked(file: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    if file.contains(&0) { Err("a name cannot contain a NUL") } else { Ok(file) }
}

impl Target {
    /// Returns the last part of the name, as the default local name; `None` if it is not valid as one.
    pub fn base_name(&self) -> Option<String> {
        let name = self.file.rsplit(|b| matches!(b, b'/' | b'\\')).next()?;
        let name = std::str::from_utf8(name).ok()?;
        if matches!(name, "" | "." | "..") { None } else { Some(name.to_owned()) }
    }

    /// Formats the target for output: host, port (`otherwise` if none is given) unless it is the default one, and file.
    pub fn shown(&self, otherwise: u16) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = match self.port.unwrap_or(otherwise) {
            PORT => String::new(),
            port => format!(":{port}"),
        };
        format!("{host}{port}:{}", String::from_utf8_lossy(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_shown_as_it_is_written() {
        let shown = |text: &str, otherwise| text.parse::<Target>().unwrap().shown(otherwise);
        assert_eq!(shown("tftp://192.0.2.69/boot/x", 69), "192.0.2.69:boot/x");
        assert_eq!(shown("192.0.2.69:6969:x", 69), "192.0.2.69:6969:x");
        assert_eq!(shown("[2001:db8::69]:x", 6969), "[2001:db8::69]:6969:x");
    }

    fn target(text: &str) -> (String, Option<u16>, String, Option<bool>) {
        let t: Target = text.parse().unwrap();
        (t.host, t.port, String::from_utf8(t.file).unwrap(), t.netascii)
    }

    #[test]
    fn both_ways_of_writing() {
        for (text, host, port, file, netascii) in [
            ("tftp://boot/vmlinuz", "boot", None, "vmlinuz", None),
            ("TFTP://192.0.2.1:6969//abs/a%20b;mode=netascii", "192.0.2.1", Some(6969), "/abs/a b", Some(true)),
            ("tftp://[2001:db8::1]/x;mode=octet", "2001:db8::1", None, "x", Some(false)),
            ("tftp://[fe80::1%eth0]:70/x", "fe80::1%eth0", Some(70), "x", None),
            ("tftp://boot/", "boot", None, "", None),
            ("boot:vmlinuz", "boot", None, "vmlinuz", None),
            ("192.0.2.1:6969:/a:b", "192.0.2.1", Some(6969), "/a:b", None),
            ("[::1]:C:\\boot", "::1", None, "C:\\boot", None),
            ("[::1]:69:f", "::1", Some(69), "f", None),
        ] {
            assert_eq!(target(text), (host.to_owned(), port, file.to_owned(), netascii), "{text}");
        }
    }

    #[test]
    fn invalid_targets_are_refused_with_a_reason() {
        for (text, why) in [
            ("boot", ": after the host"),
            ("", "host is missing"),
            ("/etc/passwd", "host is missing"),
            ("tftp:///x", "host is missing"),
            ("tftp://boot", "/ after the host"),
            ("http://boot/x", "only the scheme tftp"),
            ("tftp://boot:0/x", "from 1 to 65535"),
            ("tftp://boot:70000/x", "from 1 to 65535"),
            ("boot:70000:x", "from 1 to 65535"),
            ("tftp://[::1/x", "not closed"),
            ("tftp://[::g]/x", "IPv6 address"),
            ("tftp://boot/%4", "hexadecimal"),
            ("tftp://boot/%00", "NUL"),
            ("tftp://boot/x;mode=mail", "octet or netascii"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn the_local_name_is_the_last_part() {
        let base = |text: &str| text.parse::<Target>().unwrap().base_name();
        assert_eq!(base("boot:/a/b.img").as_deref(), Some("b.img"));
        assert_eq!(base("boot:a\\b.img").as_deref(), Some("b.img"));
        for none in ["boot:", "boot:a/", "boot:..", "tftp://boot/%ff"] {
            assert_eq!(base(none), None, "{none}");
        }
    }
}
