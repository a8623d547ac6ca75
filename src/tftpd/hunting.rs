//! Names that boot loaders try in vain, one after the other, before a general one. Their absence is no fault.

/// Returns whether a boot loader asks for this file only to see whether it exists.
///
/// | Boot loader | Names |
/// |---|---|
/// | PXELINUX, U-Boot | `pxelinux.cfg/` with a UUID, `01-` and a MAC address, or 1–8 upper-case hex digits of an address |
/// | U-Boot | `pxelinux.cfg/default-` with the architecture, and then the board |
/// | GRUB | `grub.cfg-` with `01-` and a MAC address, or 1–8 hex digits |
/// | iPXE | `autoexec.ipxe` |
pub fn is_hunting(file: &[u8]) -> bool {
    let name = file.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    if let Some(machine) = name.strip_prefix(b"grub.cfg-") {
        return names_machine(machine);
    }
    let directory = file.strip_suffix(name).unwrap_or_default();
    let pxelinux = directory == b"pxelinux.cfg/" || directory.ends_with(b"/pxelinux.cfg/");
    name == b"autoexec.ipxe" || pxelinux && (names_machine(name) || name.starts_with(b"default-"))
}

/// Returns whether this part of a name is a UUID, a MAC address after the type of its hardware, or the beginning of an IPv4 address in hex.
fn names_machine(name: &[u8]) -> bool {
    let hex = |part: &[u8]| part.iter().all(u8::is_ascii_hexdigit);
    let parts: Vec<&[u8]> = name.split(|&byte| byte == b'-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    parts.iter().all(|part| hex(part)) && (matches!(lengths[..], [1..=8] | [8, 4, 4, 4, 12]) || lengths == [2; 7])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_general_name_is_none_of_them() {
        for name in [
            "pxelinux.cfg/b8945908-d6a6-41a9-611d-74a6ab80b83d",
            "boot/pxelinux.cfg/01-88-99-aa-bb-cc-dd",
            "pxelinux.cfg/C0A8025B",
            "pxelinux.cfg/C",
            "pxelinux.cfg/default-arm-bcm283x-rpi",
            "grub/grub.cfg-01-88-99-aa-bb-cc-dd",
            "grub/grub.cfg-C0A8",
            "autoexec.ipxe",
        ] {
            assert!(is_hunting(name.as_bytes()), "{name}");
        }
        for name in ["pxelinux.cfg/default", "grub/grub.cfg", "C0A8025B", "vmlinuz", "pxelinux.cfg/C0A8025B7", "grub.cfg-host", "", "x/"] {
            assert!(!is_hunting(name.as_bytes()), "{name}");
        }
    }
}
