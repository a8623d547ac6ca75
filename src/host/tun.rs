//! TUN devices.

use crate::error::{Context, Error};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Opens a TUN device and switches it on.
pub fn open_tun(name: &str) -> Result<SyncDevice, Error> {
    check_tun()?;
    DeviceBuilder::new().name(name).layer(Layer::L3).enable(true).build_sync().with_context(|| format!("making the TUN device {name}"))
}

/// Returns an error with a remedy when TUN devices are not available.
pub fn check_tun() -> Result<(), Error> {
    let missing = |why: &str, hint: &str| Error::Missing { what: format!("/dev/net/tun {why}"), hint: hint.to_owned() };
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Err(missing("may not be opened", "run as root, or allow it with `chmod 666 /dev/net/tun`"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(missing("does not exist", "load the module with `modprobe tun`")),
        Err(e) => Err(missing("cannot be opened", &e.to_string())),
    }
}
