//! Fence for `/dev/netmap`: opening it, the ioctls, and `poll(2)`.
#![allow(unsafe_code)]

use crate::error::OpenError;
use crate::memory::Region;
use crate::name::{Kind, PortName, Rings};
use crate::offload;
use netmap_sys::netmap::{
    NIOCGINFO, NIOCREGIF, NIOCRXSYNC, NIOCTXSYNC, NR_EXCLUSIVE, NR_REG_ALL_NIC, NR_REG_NIC_SW, NR_REG_ONE_NIC, NR_REG_SW, nmreq,
};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// The API version that is spoken: layouts of version 11, which the bindings have, are those of 14 for all that is used here.
const VERSION: u32 = 14;

/// Regions that are mapped now: each once, however many ports live in it.
static REGIONS: Mutex<Vec<Weak<Region>>> = Mutex::new(Vec::new());

/// The kernel's side of a port.
pub(crate) trait Kernel: Send + Sync + std::fmt::Debug {
    /// Has the kernel look at the transmit rings: it sends what was handed over, and gives back what is sent.
    fn sync_transmit(&self) -> Result<()>;
    /// Has the kernel look at the receive rings: it takes what was handed back, and hands over what has come.
    fn sync_receive(&self) -> Result<()>;
    /// The descriptor to wait on; none in a simulation.
    fn descriptor(&self) -> Option<BorrowedFd<'_>>;
    /// As [`wait`] for this port alone, where there is no descriptor.
    fn wait(&self, events: Events, timeout: Duration) -> Result<Ready>;
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Frames received. What was handed to the transmit rings is sent on the way.
    Receive,
    /// Room in transmit rings.
    Transmit,
    /// Either.
    Any,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// What was waited for has come, at one port at least.
    pub ready: bool,
    /// A port has an error: its interface is down, or gone, or a ring was reset.
    pub failed: bool,
}

/// `/dev/netmap`, bound to a port.
#[derive(Debug)]
pub(crate) struct Device(File);

/// What the kernel said when it bound a device to a port.
pub(crate) struct Bound {
    pub(crate) device: Device,
    pub(crate) region: Arc<Region>,
    /// Where the interface structure lies in the region.
    pub(crate) offset: usize,
}

fn request(name: &str) -> nmreq {
    // SAFETY: integers only; all may be zero.
    let mut request: nmreq = unsafe { std::mem::zeroed() };
    request.nr_version = VERSION;
    // The last byte stays zero.
    let room = request.nr_name.len() - 1;
    for (to, from) in request.nr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

impl Device {
    fn open() -> std::result::Result<Device, OpenError> {
        let opened = OpenOptions::new().read(true).write(true).open("/dev/netmap");
        opened.map(Device).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENXIO | libc::ENODEV) => OpenError::NoModule,
            Some(libc::EACCES | libc::EPERM) => OpenError::Permission,
            _ => OpenError::Kernel { name: "/dev/netmap".into(), what: "open it", error },
        })
    }

    fn ioctl(&self, command: libc::c_ulong, request: &mut nmreq) -> Result<()> {
        // SAFETY: both commands that are used read and write one `nmreq`.
        let rc = unsafe { libc::ioctl(self.0.as_raw_fd(), command as _, std::ptr::from_mut(request)) };
        if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    fn sync(&self, command: libc::c_uint) -> Result<()> {
        // SAFETY: takes no argument; what the kernel changes in the shared memory is read by atomic and volatile accesses only.
        let rc = unsafe { libc::ioctl(self.0.as_raw_fd(), command as _, std::ptr::null_mut::<u8>()) };
        if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Opens the device and binds it to the rings of a port.
    pub(crate) fn bind(name: &PortName, ignore_offloads: bool) -> std::result::Result<Bound, OpenError> {
        let device = Device::open()?;
        let text = name.as_str();
        // Without a name the kernel only tells of its default region, so that this can fail for one reason.
        if device.ioctl(NIOCGINFO, &mut request("")).is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL)) {
            return Err(OpenError::Version { ours: VERSION });
        }
        let refused = |what| move |error: Error| refusal(name, what, error);
        if name.kind() == Kind::Interface {
            let mut info = request(text);
            device.ioctl(NIOCGINFO, &mut info).map_err(refused("ask for its rings"))?;
            if let Rings::One(ring) = name.rings()
                && (ring >= info.nr_tx_rings || ring >= info.nr_rx_rings)
            {
                return Err(OpenError::NoRing { name: text.to_owned(), ring, tx: info.nr_tx_rings, rx: info.nr_rx_rings });
            }
            if !ignore_offloads {
                refuse_offloads(text)?;
            }
        }
        let mut bound = request(text);
        let (mode, ring) = match name.rings() {
            Rings::All => (NR_REG_ALL_NIC, 0),
            Rings::One(ring) => (NR_REG_ONE_NIC, ring),
            Rings::Host => (NR_REG_SW, 0),
            Rings::AllAndHost => (NR_REG_NIC_SW, 0),
        };
        // Two values for one ring would break what the safe types promise.
        (bound.nr_flags, bound.nr_ringid) = (mode | NR_EXCLUSIVE, ring);
        device.ioctl(NIOCREGIF, &mut bound).map_err(refused("bind its rings"))?;
        let region = device.region(bound.nr_arg2, bound.nr_memsize as usize).map_err(refused("map its memory"))?;
        Ok(Bound { device, region, offset: bound.nr_offset as usize })
    }

    /// The region of this number, mapped by this device if no other port of the process has it mapped.
    fn region(&self, id: u16, len: usize) -> Result<Arc<Region>> {
        let mut regions = REGIONS.lock().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|region| region.strong_count() > 0);
        // The kernel does not give the number away while a mapping lives.
        let known = regions.iter().filter_map(Weak::upgrade).find(|region| region.id() == id && region.size() == len);
        if let Some(region) = known {
            return Ok(region);
        }
        let region = Arc::new(Region::map(self.0.as_fd(), id, len)?);
        regions.push(Arc::downgrade(&region));
        Ok(region)
    }
}

/// Refuses an interface that would leave work to its card.
fn refuse_offloads(interface: &str) -> std::result::Result<(), OpenError> {
    // What ethtool does not know of has none.
    let on = offload::offloads_on(interface).unwrap_or_default();
    if on.is_empty() {
        return Ok(());
    }
    let fix = format!("ethtool -K {interface}{}", on.iter().map(|name| format!(" {name} off")).collect::<String>());
    Err(OpenError::Offloads { interface: interface.to_owned(), on: on.join(", "), fix })
}

/// What the kernel's refusal means.
fn refusal(name: &PortName, what: &'static str, error: Error) -> OpenError {
    let text = name.as_str().to_owned();
    match error.raw_os_error() {
        Some(libc::ENXIO | libc::ENODEV | libc::ENOENT) if name.kind() == Kind::Interface => OpenError::NoInterface { name: text },
        Some(libc::EBUSY) => OpenError::Busy { name: text },
        Some(libc::ENOMEM) => OpenError::Memory { name: text },
        Some(libc::EACCES | libc::EPERM) => OpenError::Permission,
        Some(libc::EOPNOTSUPP) => OpenError::Unsupported { name: text },
        // The version was good a moment ago: what is invalid is the kind of port or its rings.
        Some(libc::EINVAL | libc::ENXIO) => OpenError::Unsupported { name: text },
        Some(libc::ENOBUFS | libc::ENAMETOOLONG) => OpenError::NoRoomForName { name: text },
        _ => OpenError::Kernel { name: text, what, error },
    }
}

impl Kernel for Device {
    fn sync_transmit(&self) -> Result<()> {
        self.sync(NIOCTXSYNC)
    }

    fn sync_receive(&self) -> Result<()> {
        self.sync(NIOCRXSYNC)
    }

    fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    fn wait(&self, events: Events, timeout: Duration) -> Result<Ready> {
        poll(&[self.0.as_fd()], events, timeout)
    }
}

/// Most ports that are waited for at once.
pub(crate) const MAX_PORTS: usize = 8;

/// Waits for at most [`MAX_PORTS`] ports.
pub(crate) fn poll(descriptors: &[BorrowedFd<'_>], events: Events, timeout: Duration) -> Result<Ready> {
    let wanted = match events {
        Events::Receive => libc::POLLIN,
        Events::Transmit => libc::POLLOUT,
        Events::Any => libc::POLLIN | libc::POLLOUT,
    };
    let mut polled = [libc::pollfd { fd: -1, events: wanted, revents: 0 }; MAX_PORTS];
    for (polled, descriptor) in polled.iter_mut().zip(descriptors) {
        polled.fd = descriptor.as_raw_fd();
    }
    // An hour is as good as for ever, and fits every type of `timespec`.
    let timeout = timeout.min(Duration::from_secs(3600));
    let timeout = libc::timespec { tv_sec: timeout.as_secs() as _, tv_nsec: timeout.subsec_nanos() as _ };
    // SAFETY: an array of so many entries, and a time; both live until it returns. Negative descriptors are skipped.
    let rc = unsafe { libc::ppoll(polled.as_mut_ptr(), MAX_PORTS as libc::nfds_t, &raw const timeout, std::ptr::null()) };
    if rc < 0 {
        let error = Error::last_os_error();
        return if error.kind() == ErrorKind::Interrupted { Ok(Ready::default()) } else { Err(error) };
    }
    let said = polled.iter().fold(0, |said, polled| said | polled.revents);
    Ok(Ready { ready: said & wanted != 0, failed: said & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 })
}
