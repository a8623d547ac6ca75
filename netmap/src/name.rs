//! Names of ports: `netmap:eth0`, `netmap:eth0-2`, `netmap:eth0^`, `netmap:eth0*`, `vale0:1`, `netmap:x{1`.

use std::fmt;
use std::str::FromStr;

/// Maximum bytes of a name for the kernel: `IFNAMSIZ` less the final zero.
pub const MAX_NAME_LEN: usize = 15;
/// Highest number of a ring that a request can carry (`NETMAP_RING_MASK`).
pub const MAX_RING: u16 = 0x0fff;

/// Which rings of a port are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rings {
    /// All of the card, the switch port or the pipe.
    All,
    /// One pair of the card's, from 0.
    One(u16),
    /// Those to the host's network stack only (`^`).
    Host,
    /// All of the card, and those to the host's network stack (`*`).
    AllAndHost,
}

/// What a port is, as far as its name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A network interface, which must exist.
    Interface,
    /// A port of a VALE switch; both are made when they are not there.
    Vale,
    /// One end of a pipe.
    Pipe,
}

/// The checked name of a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PortName {
    name: String,
    rings: Rings,
    kind: Kind,
}

/// Why a text is no name of a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing there.
    #[error("the name of a port is empty: write `netmap:eth0`, `vale0:1` or `netmap:x{{1`")]
    Empty,
    /// The kernel has no room for it.
    #[error("`{name}` has {} bytes: the kernel takes at most {MAX_NAME_LEN} for the name of a port, a pipe's number included", name.len())]
    TooLong {
        /// The name for the kernel.
        name: String,
    },
    /// A byte that no name has.
    #[error("`{name}` has {character:?}, which stands in no name of a port")]
    Character {
        /// The name.
        name: String,
        /// The first that is wrong.
        character: char,
    },
    /// A pipe without its number, or with more than a number.
    #[error("`{name}` is no pipe: after `{{` (one end) or `}}` (the other) comes a number, 0 to {MAX_RING}, and nothing else")]
    Pipe {
        /// The name.
        name: String,
    },
    /// A switch port without its name.
    #[error(
        "`{name}` is no port of a VALE switch: write `vale0:1`, a switch whose name starts with `vale`, a colon, and a name of the port"
    )]
    Vale {
        /// The name.
        name: String,
    },
    /// Ring numbers that the request cannot carry.
    #[error("`{name}`: there is no ring {ring}; the highest number is {MAX_RING}")]
    Ring {
        /// The name.
        name: String,
        /// The number.
        ring: String,
    },
    /// Rings that such a port does not have.
    #[error("`{name}` has no {what}: that is for network interfaces")]
    NoSuchRings {
        /// The name.
        name: String,
        /// The requested rings.
        what: &'static str,
    },
}

impl PortName {
    /// Rings of a network interface. Unlike a parsed name, `name` may end as it likes (`veth-1` is an interface, not its ring 1).
    ///
    /// # Errors
    /// When it is empty, too long, or no name of an interface.
    pub fn interface(name: &str, rings: Rings) -> Result<PortName, NameError> {
        if let Rings::One(ring) = rings
            && ring > MAX_RING
        {
            return Err(NameError::Ring { name: name.to_owned(), ring: ring.to_string() });
        }
        checked(name, rings, Kind::Interface)
    }

    /// Returns the name for the kernel.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The rings.
    pub fn rings(&self) -> Rings {
        self.rings
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl FromStr for PortName {
    type Err = NameError;

    /// Reads a name, with `netmap:` before it or without.
    fn from_str(text: &str) -> Result<PortName, NameError> {
        let text = text.strip_prefix("netmap:").unwrap_or(text);
        if text.starts_with("vale") && text.contains(':') {
            return vale(text);
        }
        if let Some(at) = text.find(['{', '}']) {
            let (base, number) = (&text[..at], &text[at + 1..]);
            if base.is_empty() || ring(number).is_none() {
                return Err(NameError::Pipe { name: text.to_owned() });
            }
            return checked(text, Rings::All, Kind::Pipe);
        }
        if let Some(base) = text.strip_suffix('^') {
            return checked(base, Rings::Host, Kind::Interface);
        }
        if let Some(base) = text.strip_suffix('*') {
            return checked(base, Rings::AllAndHost, Kind::Interface);
        }
        match text.rsplit_once('-') {
            Some((base, number)) if !base.is_empty() && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) => {
                let ring = ring(number).ok_or_else(|| NameError::Ring { name: base.to_owned(), ring: number.to_owned() })?;
                checked(base, Rings::One(ring), Kind::Interface)
            }
            _ => checked(text, Rings::All, Kind::Interface),
        }
    }
}

/// Written as [`FromStr`] reads it.
impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.kind == Kind::Vale { "" } else { "netmap:" };
        write!(f, "{prefix}{}", self.name)?;
        match self.rings {
            Rings::All => Ok(()),
            Rings::One(ring) => write!(f, "-{ring}"),
            Rings::Host => f.write_str("^"),
            Rings::AllAndHost => f.write_str("*"),
        }
    }
}

fn vale(text: &str) -> Result<PortName, NameError> {
    let wrong = || NameError::Vale { name: text.to_owned() };
    let (switch, port) = text.split_once(':').ok_or_else(wrong)?;
    if port.is_empty() || !switch["vale".len()..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(wrong());
    }
    if port.ends_with(['^', '*']) {
        return Err(NameError::NoSuchRings { name: text[..text.len() - 1].to_owned(), what: "host rings" });
    }
    // A pipe may hang from a switch port.
    match port.find(['{', '}']) {
        Some(at) if at == 0 || ring(&port[at + 1..]).is_none() => Err(NameError::Pipe { name: text.to_owned() }),
        Some(_) => checked(text, Rings::All, Kind::Pipe),
        None => checked(text, Rings::All, Kind::Vale),
    }
}

/// A number without sign or needless zeros, so that one port has one name.
fn ring(number: &str) -> Option<u16> {
    let canonical = number == "0" || number.starts_with(|c: char| ('1'..='9').contains(&c));
    (canonical && number.bytes().all(|b| b.is_ascii_digit())).then(|| number.parse().ok()).flatten().filter(|ring| *ring <= MAX_RING)
}

fn checked(name: &str, rings: Rings, kind: Kind) -> Result<PortName, NameError> {
    let name = name.to_owned();
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong { name });
    }
    let allowed = |c: char| match c {
        ':' => kind != Kind::Interface,
        '{' | '}' => kind == Kind::Pipe,
        '/' | '^' | '*' | '@' => false,
        c => c.is_ascii_graphic(),
    };
    if let Some(character) = name.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character { name, character });
    }
    Ok(PortName { name, rings, kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Rings, Kind) {
        let name: PortName = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(name.to_string().parse(), Ok(name.clone()), "{text}: read as it is written");
        (name.name, name.rings, name.kind)
    }

    #[test]
    fn every_form_is_read() {
        let interface = |name: &str, rings| (name.to_owned(), rings, Kind::Interface);
        assert_eq!(parts("netmap:eth0"), interface("eth0", Rings::All));
        assert_eq!(parts("eth0"), interface("eth0", Rings::All));
        assert_eq!(parts("netmap:eth0-2"), interface("eth0", Rings::One(2)));
        assert_eq!(parts("eth0-0"), interface("eth0", Rings::One(0)));
        assert_eq!(parts("eth0^"), interface("eth0", Rings::Host));
        assert_eq!(parts("netmap:eth0*"), interface("eth0", Rings::AllAndHost));
        assert_eq!(parts("br-lan"), interface("br-lan", Rings::All));
        assert_eq!(parts("br-lan-1"), interface("br-lan", Rings::One(1)));
        assert_eq!(parts("vale0"), interface("vale0", Rings::All));
        assert_eq!(parts("vale0:1"), ("vale0:1".into(), Rings::All, Kind::Vale));
        assert_eq!(parts("netmap:x{1"), ("x{1".into(), Rings::All, Kind::Pipe));
        assert_eq!(parts("netmap:x}1"), ("x}1".into(), Rings::All, Kind::Pipe));
        assert_eq!(parts("vale0:a{7"), ("vale0:a{7".into(), Rings::All, Kind::Pipe));
        assert_eq!(parts("exactly-fifteen"), interface("exactly-fifteen", Rings::All));
        let dashed = PortName::interface("veth-1", Rings::One(0)).unwrap();
        assert_eq!((dashed.as_str(), dashed.to_string()), ("veth-1", "netmap:veth-1-0".into()));
    }

    #[test]
    fn every_error_says_what_is_wrong() {
        let cases = [
            ("", "empty"),
            ("netmap:", "empty"),
            ("*", "empty"),
            ("sixteen-letters!", "16 bytes"),
            ("fourteen-bytes{10", "17 bytes"),
            ("a b", "' '"),
            ("eth0:1", "':'"),
            ("eth0^^", "'^'"),
            ("eth0/1", "'/'"),
            ("ethü", "'ü'"),
            ("x{", "after `{`"),
            ("x{one", "after `{`"),
            ("x{01", "after `{`"),
            ("x{4096", "after `{`"),
            ("{1", "after `{`"),
            ("x{1-0", "after `{`"),
            ("eth0-4096", "no ring 4096"),
            ("eth0-99999999999999999999", "no ring 99999999999999999999"),
            ("vale0:", "write `vale0:1`"),
            ("vale-0:1", "write `vale0:1`"),
            ("vale0:1^", "no host rings"),
        ];
        for (text, expected) in cases {
            let error = text.parse::<PortName>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(PortName::interface("eth0", Rings::One(4096)).is_err());
    }
}
