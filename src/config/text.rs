//! What stands inside the strings of the file: names, addresses, prefixes, link-layer addresses, ranges of ports.
//!
//! Each function gives the value, or a phrase that follows "`key = value`: " and says what is allowed.

use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// Room in `sockaddr_un.sun_path` without the final zero byte.
const LONGEST_SOCKET: usize = 107;

/// A name of a director, pool or backend: it appears in paths, metrics and commands.
pub fn name(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if text.is_empty() || text.len() > 63 || !text.chars().all(allowed) {
        return Err("is no name; a name has 1 to 63 characters of a-z, A-Z, 0-9, '-', '_' and '.'".to_owned());
    }
    Ok(text.to_owned())
}

/// An address that one machine can have.
pub fn unicast(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        if text.parse::<IpNet>().is_ok() {
            "is a prefix; an address without a prefix length is wanted".to_owned()
        } else {
            "is no IP address; write it like 10.0.1.11 or 2001:db8::11".to_owned()
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
    Err(format!("is {kind}; a unicast address of one machine is wanted"))
}

/// A prefix, or an address that stands for itself alone. Bits behind the prefix length are kept.
pub fn prefix(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "is neither a prefix nor an address; write it like 10.0.0.0/24, 2001:db8::/64 or 10.0.0.1".to_owned())
}

/// A link-layer address of one interface.
pub fn mac(text: &str) -> Result<[u8; 6], String> {
    let wrong = || "is no link-layer address; write six pairs of hex digits with colons, like 02:00:00:00:01:11".to_owned();
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
        return Err("is the zero address; a link-layer address of one interface is wanted".to_owned());
    }
    if mac[0] & 1 == 1 {
        return Err("is a multicast address (the lowest bit of its first byte is set); that of one interface is wanted".to_owned());
    }
    Ok(mac)
}

/// A link-layer address as [`mac`] reads it.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The name of a network interface, as the kernel allows it (`dev_valid_name`).
pub fn interface(text: &str) -> Result<String, String> {
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
    if text.is_empty() || text.len() > 15 || matches!(text, "." | "..") || text.contains(forbidden) {
        return Err("is no name of an interface; such a name has 1 to 15 characters, no space, '/' or ':'".to_owned());
    }
    Ok(text.to_owned())
}

/// A range of ports `first-last`, both included, or one port; all of them at least `lowest`.
pub fn port_range(text: &str, lowest: u16) -> Result<(u16, u16), String> {
    let number = |part: &str| -> Option<u32> {
        let part = part.trim();
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten()
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Some(first), Some(last)) = (number(first), number(last)) else {
        return Err("is no range of ports; write it like \"20000-20999\", both included, or \"20000\" for one port".to_owned());
    };
    if first > last {
        return Err("the first port is above the last; write the lower one first".to_owned());
    }
    match (u16::try_from(first), u16::try_from(last)) {
        (Ok(first), Ok(last)) if first >= lowest => Ok((first, last)),
        _ => Err(format!("is outside of what is allowed, ports {lowest} to 65535")),
    }
}

/// A range of ports as [`port_range`] reads it.
pub fn port_range_text((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// An address with a port.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no address with a port; write it like \"127.0.0.1:9069\" or \"[::1]:9069\"".to_owned())
}

/// The path of a Unix socket.
pub fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > LONGEST_SOCKET {
        return Err(format!("has {} bytes; the path of a socket has at most {LONGEST_SOCKET}", text.len()));
    }
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err("is no path of a socket; write an absolute path such as \"/run/guideway/d1.sock\"".to_owned());
    }
    Ok(PathBuf::from(text))
}

/// The control socket of a daemon of this name, unless its file says otherwise.
pub fn socket_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/run/guideway/{name}.sock"))
}

/// The one of `known` that `text` was probably meant to be.
pub fn closest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // One slip in three characters: enough for typing errors, too little for another word.
    let limit = (text.chars().count() / 3).max(1);
    let near = known.into_iter().filter(|k| k.len().abs_diff(text.len()) <= 8);
    near.map(|k| (distance(text, k), k)).filter(|(d, _)| *d <= limit).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// Edits from one to the other; only a difference in case counts as one.
fn distance(one: &str, other: &str) -> usize {
    if one.eq_ignore_ascii_case(other) { 1 } else { strsim::osa_distance(one, other) }
}

/// `; did you mean "boot"?`, or nothing.
pub fn did_you_mean<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(text, known).map(|k| format!("; did you mean \"{k}\"?")).unwrap_or_default()
}

/// `"a", "b" or "c"`.
pub fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut quoted: Vec<String> = words.into_iter().map(|w| format!("\"{w}\"")).collect();
    match quoted.pop() {
        Some(last) if !quoted.is_empty() => format!("{} or {last}", quoted.join(", ")),
        Some(last) => last,
        None => String::new(),
    }
}

/// The first names of a list that may be long: `t1, t2, t3 and 97 more`.
pub fn some_of<'a>(names: &[&'a str]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<&'a str>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} more", names.len() - SHOWN) } else { shown }
}

/// `1 error`, `2 errors`: the word for so many.
pub fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}
