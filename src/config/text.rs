//! Parsers for strings of the file: names, addresses, prefixes, link-layer addresses, port ranges.
//!
//! Each function returns the value, or a phrase for the error. The phrase follows "`key = value`: " and says what is allowed.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Maximum length of `sockaddr_un.sun_path` without the final zero byte.
const MAX_SOCKET_PATH: usize = 107;

/// Parses a name of a director, pool or backend; it appears in paths, metrics and commands.
pub fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) {
        return Err("is not a valid name; a name has 1 to 63 characters of a-z, A-Z, 0-9, '-', '_' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses an address that one machine can have.
pub fn unicast(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        if text.parse::<IpNet>().is_ok() {
            "is a prefix; give an address without a prefix length".to_owned()
        } else {
            "is not an IP address; write it like 10.0.1.11 or 2001:db8::11".to_owned()
        }
    })?;
    let kind = match address {
        a if a.is_unspecified() => "the unspecified address",
        a if a.is_multicast() => "a multicast address",
        a if a.is_loopback() => "a loopback address",
        IpAddr::V4(a) if a.is_broadcast() => "the broadcast address",
        IpAddr::V6(a) if a.to_ipv4_mapped().is_some() => "an IPv4 address in IPv6 form (write it as IPv4)",
        _ => return Ok(address),
    };
    Err(format!("is {kind}; give the unicast address of one machine"))
}

/// Parses a prefix, or an address as a prefix of full length. Keeps bits beyond the prefix length.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1".to_owned())
}

/// Parses a link-layer address of one interface.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || "is not a link-layer address; write six pairs of hex digits with colons, like 02:00:00:00:01:11".to_owned();
    let mut mac = [0u8; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or_else(wrong)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
    }
    if parts.next().is_some() {
        return Err(wrong());
    }
    if mac == [0; 6] {
        return Err("is the zero address; give the link-layer address of one interface".to_owned());
    }
    if mac[0] & 1 == 1 {
        return Err(
            "is a multicast address (the lowest bit of its first byte is set); give the link-layer address of one interface".to_owned()
        );
    }
    Ok(mac)
}

/// Formats a link-layer address as [`mac`] reads it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Parses the name of a network interface, as the kernel allows it (`dev_valid_name`).
pub fn interface(text: &str) -> Result<String, String> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    if text.is_empty() || text.len() > 15 || matches!(text, "." | "..") || text.contains(forbidden) {
        return Err("is not an interface name; such a name has 1 to 15 characters, no space, '/' or ':'".to_owned());
    }
    Ok(text.to_owned())
}

/// Parses a port range `first-last`, both included, or one port; all ports are at least `lowest`.
pub fn port_range(text: &str, lowest: u16) -> Result<(u16, u16), String> {
    let number = |part: &str| -> Option<u32> {
        let part = part.trim();
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Err("is not a port range; write it like \"20000-20999\", both included, or \"20000\" for one port".to_owned());
    };
    if first > last {
        return Err("has a first port above the last; write the lower one first".to_owned());
    }
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) if first >= lowest => Ok((first, last)),
        _ => Err(format!("is out of range; allowed: ports {lowest} to 65535")),
    }
}

/// Formats a port range as [`port_range`] reads it.
pub fn port_range_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Parses an address with a port.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        if let Ok(address) = text.parse::<IpAddr>() {
            return format!("has no port; write it like \"{}\"", SocketAddr::new(address, 9069));
        }
        let name = text.rsplit_once(':').map_or(text, |(name, _)| name);
        let hint = if name.starts_with(|c: char| c.is_ascii_alphabetic()) && !name.contains(':') {
            format!("; {name} is a name: write the address of this interface or host")
        } else {
            String::new()
        };
        format!("is not an address with a port; write it like \"127.0.0.1:9069\" or \"[::1]:9069\"{hint}")
    })
}

/// Parses the path of a Unix socket.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!("has {} bytes; the path of a socket has at most {MAX_SOCKET_PATH}", text.len()));
    }
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err("is not a socket path; write an absolute path such as \"/run/guideway/d1.sock\"".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// Returns the default control socket of a daemon with this name.
pub fn default_socket(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/guideway/{name}.sock"))
}

/// Returns the element of `known` that `text` was probably meant to be.
pub fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One wrong character in three: enough for typing errors, too few to match another word.
    let limit = (text.chars().count() / 3).max(1);
    let near = known.into_iter().filter(|k| k.len().abs_diff(text.len()) <= 8);
    near.map(|k| (distance(text, k), k)).filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Returns the number of edits from one to the other; a difference in case counts as one.
fn distance(one: &str, other: &str) -> usize {
    if one.eq_ignore_ascii_case(other) { 1 } else { strsim::osa_distance(one, other) }
}

/// Returns `; did you mean "boot"?`, or nothing.
pub fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(text, known).map(|k| format!("; did you mean \"{k}\"?")).unwrap_or_default()
}

/// Returns `"a", "b" or "c"`.
pub fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|w| format!("\"{w}\"")).collect();
    match quoted.pop() {
        Some(last) if !quoted.is_empty() => format!("{} or {last}", quoted.join(", ")),
        Some(last) => last,
        None => String::new(),
    }
}

/// Returns the first names of a list that may be long: `t1, t2, t3 and 97 more`.
pub fn abbreviate_list<'a>(names: &[&'a str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<&'a str>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// Returns the word in the singular or plural: `1 error`, `2 errors`.
pub fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_without_port_and_names_are_told_apart() {
        assert_eq!(socket_address("[::1]:69"), Ok("[::1]:69".parse().unwrap()));
        for (text, part) in [
            ("eth0:69", "eth0 is a name: write the address of this interface"),
            ("localhost", "localhost is a name"),
            ("192.0.2.1", "has no port; write it like \"192.0.2.1:9069\""),
            ("::1", "has no port; write it like \"[::1]:9069\""),
            ("192.0.2.1:99999", "write it like \"127.0.0.1:9069\""),
        ] {
            let error = socket_address(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
