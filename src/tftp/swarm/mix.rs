//! Requests of real clients, with their order, ports and options, as captured on the wire.

use crate::client::RequestOption;
use std::net::IpAddr;

/// A kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// curl 7.88.
    Curl,
    /// tftp-hpa 5.2 with `-m binary`.
    TftpHpa,
    /// atftp 0.8.
    Atftp,
    /// busybox 1.35.
    Busybox,
    /// iPXE.
    Ipxe,
    /// PXELINUX 6.04: tries ten names for its configuration first.
    Pxelinux,
    /// EDK2, the firmware of most UEFI machines: requests the size, refuses the answer, requests the file from the next port.
    Edk2,
    /// shim, through EDK2: three requests for missing files first.
    Shim,
    /// GRUB 2.06: four requests for missing files first, ports from 25304 on after every boot.
    Grub,
    /// U-Boot 2023.01.
    Uboot,
    /// `guideway tftp get`.
    Guideway,
}

/// How a client chooses its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Any free port.
    Any,
    /// Consecutive ports from this one on, one for each request.
    From(u16),
}

/// One request of a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name on the wire.
    pub file: String,
    /// The options.
    pub ask: &'static [RequestOption],
    /// Whether it only requests the size.
    pub probe: bool,
    /// Whether servers usually do not have the file.
    pub may_be_missing: bool,
}

const EDK2: &[RequestOption] = &[RequestOption::Blksize(1468), RequestOption::Windowsize(4)];
const PXELINUX: &[RequestOption] = &[RequestOption::Tsize(0), RequestOption::Blksize(1408)];
const SHIM: &[RequestOption] = &[RequestOption::Blksize(512), RequestOption::Windowsize(4)];
const GRUB: &[RequestOption] = &[RequestOption::Blksize(1024), RequestOption::Tsize(0)];

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 11] = [
        Kind::Curl,
        Kind::TftpHpa,
        Kind::Atftp,
        Kind::Busybox,
        Kind::Ipxe,
        Kind::Pxelinux,
        Kind::Edk2,
        Kind::Shim,
        Kind::Grub,
        Kind::Uboot,
        Kind::Guideway,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Curl => "curl",
            Kind::TftpHpa => "tftp-hpa",
            Kind::Atftp => "atftp",
            Kind::Busybox => "busybox",
            Kind::Ipxe => "ipxe",
            Kind::Pxelinux => "pxelinux",
            Kind::Edk2 => "uefi",
            Kind::Shim => "shim",
            Kind::Grub => "grub",
            Kind::Uboot => "uboot",
            Kind::Guideway => "guideway",
        }
    }

    /// Returns the options with which it fetches a file.
    pub fn ask(self) -> &'static [RequestOption] {
        match self {
            Kind::Curl => &[RequestOption::Tsize(0), RequestOption::Blksize(512), RequestOption::Timeout(6)],
            Kind::TftpHpa | Kind::Atftp => &[],
            Kind::Busybox => &[RequestOption::Tsize(0)],
            Kind::Ipxe => &[RequestOption::Blksize(1432), RequestOption::Tsize(0)],
            Kind::Pxelinux => PXELINUX,
            Kind::Edk2 => EDK2,
            Kind::Shim => SHIM,
            Kind::Grub => GRUB,
            Kind::Uboot => &[RequestOption::Timeout(5), RequestOption::Tsize(0), RequestOption::Blksize(1468)],
            Kind::Guideway => &[RequestOption::Tsize(0), RequestOption::Blksize(1428), RequestOption::Windowsize(16)],
        }
    }

    /// Returns its ports. EDK2 starts at a random low port, chosen by `random`.
    pub fn ports(self, random: u16) -> Ports {
        match self {
            Kind::Edk2 | Kind::Shim => Ports::From(1024 + random % 2048),
            Kind::Grub => Ports::From(25_304),
            Kind::Pxelinux => Ports::From(49_152),
            _ => Ports::Any,
        }
    }

    /// Returns request `number` of a boot that fetches `file`; `None` after the last one, which is for the file itself.
    pub fn step(self, number: usize, file: &str, address: IpAddr, machine: u32) -> Option<Step> {
        let miss = |file: String, ask| Some(Step { file, ask, probe: false, may_be_missing: true });
        let misses = match self {
            Kind::Pxelinux => 10,
            Kind::Shim => 3,
            Kind::Grub => 4,
            _ => 0,
        };
        match (self, number) {
            (Kind::Pxelinux, _) if number < misses => miss(pxelinux_name(number, address, machine), PXELINUX),
            (Kind::Shim, _) if number < misses => {
                miss(["revocations_sku.efi", "revocations_sbat.efi", "shim_certificate_0.efi"][number].to_owned(), SHIM)
            }
            (Kind::Grub, _) if number < misses => {
                let list = ["command", "fs", "crypto", "terminal"][number];
                miss(format!("/grub/x86_64-efi/{list}.lst"), GRUB)
            }
            (Kind::Edk2, 0) => {
                let ask = &[RequestOption::Tsize(0), RequestOption::Blksize(1468), RequestOption::Windowsize(4)];
                Some(Step { file: file.to_owned(), ask, probe: true, may_be_missing: false })
            }
            (Kind::Edk2, 1) => Some(Step { file: file.to_owned(), ask: EDK2, probe: false, may_be_missing: false }),
            (Kind::Edk2, _) => None,
            _ if number == misses => {
                // GRUB's names start with a slash.
                let file = if self == Kind::Grub { format!("/{}", file.trim_start_matches('/')) } else { file.to_owned() };
                Some(Step { file, ask: self.ask(), probe: false, may_be_missing: false })
            }
            _ => None,
        }
    }
}

/// Returns the names in order: MAC address, IPv4 address in hexadecimal with one digit less each time, `default`.
fn pxelinux_name(number: usize, address: IpAddr, machine: u32) -> String {
    let [a, b, c, d] = machine.to_be_bytes();
    let address = match address {
        IpAddr::V4(address) if !address.is_unspecified() => u32::from(address),
        _ => u32::from_be_bytes([10, b, c, d]),
    };
    match number {
        0 => format!("pxelinux.cfg/01-52-54-{a:02x}-{b:02x}-{c:02x}-{d:02x}"),
        1..=8 => format!("pxelinux.cfg/{}", &format!("{address:08X}")[..9 - number]),
        _ => "pxelinux.cfg/default".to_owned(),
    }
}

/// Kinds of clients and their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u32)>);

impl Mix {
    /// Returns the kind of client `number`. Multiples of the golden ratio spread the kinds evenly for any number of clients.
    pub fn kind(&self, number: u32) -> Kind {
        let total: u64 = self.0.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let mut at = ((u64::from(number.wrapping_mul(0x9e37_79b9)) * total) >> 32) as u32;
        for (kind, weight) in &self.0 {
            match at.checked_sub(*weight) {
                None => return *kind,
                Some(rest) => at = rest,
            }
        }
        Kind::Ipxe
    }
}

impl Default for Mix {
    fn default() -> Self {
        Mix(Kind::ALL.map(|kind| (kind, 1)).to_vec())
    }
}

impl std::str::FromStr for Mix {
    type Err = String;

    /// Reads `curl=3,ipxe=2,uefi`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (name, weight) = part.split_once('=').unwrap_or((part, "1"));
            let name = if name == "edk2" { "uefi" } else { name };
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                format!("unknown client `{name}`; known: {}", names.join(", "))
            })?;
            let weight = weight.parse().ok().filter(|weight| (1..=1000).contains(weight));
            mix.push((kind, weight.ok_or_else(|| format!("`{part}`: a weight is a number from 1 to 1000"))?));
        }
        Ok(Mix(mix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_gives_every_kind_its_share() {
        let mix: Mix = "curl=3,ipxe=2,edk2".parse().unwrap();
        let count = |kind| (0..600).filter(|number| mix.kind(*number) == kind).count();
        for (kind, share) in [(Kind::Curl, 300), (Kind::Ipxe, 200), (Kind::Edk2, 100usize)] {
            assert!(count(kind).abs_diff(share) <= 2, "{kind:?}: {}", count(kind));
        }
        for bad in ["", "lynx", "curl=0", "curl=x", "curl=1001", "curl,,ipxe"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_boot_ends_with_its_file() {
        let address = "192.0.2.91".parse().unwrap();
        for kind in Kind::ALL {
            let steps: Vec<_> = (0..).map_while(|number| kind.step(number, "vmlinuz", address, 7)).collect();
            let (last, before) = steps.split_last().unwrap();
            assert_eq!(last.file.trim_start_matches('/'), "vmlinuz", "{kind:?}");
            assert!(!last.probe && !last.may_be_missing);
            assert!(before.iter().all(|step| step.probe || step.may_be_missing), "{kind:?}");
        }
    }

    #[test]
    fn pxelinux_tries_ten_names() {
        let address = "192.0.2.91".parse().unwrap();
        let names: Vec<_> = (0..10).map(|number| Kind::Pxelinux.step(number, "x", address, 7).unwrap().file).collect();
        assert_eq!(names[0], "pxelinux.cfg/01-52-54-00-00-00-07");
        assert_eq!(
            (names[1].as_str(), names[2].as_str(), names[8].as_str()),
            ("pxelinux.cfg/C000025B", "pxelinux.cfg/C000025", "pxelinux.cfg/C")
        );
        assert_eq!(names[9], "pxelinux.cfg/default");
    }
}
