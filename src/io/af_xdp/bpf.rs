//! Fence for bpf(2): two kinds of map, one program, its test run, and the link that holds it at an interface.
//!
//! The structures are the leading parts of `union bpf_attr` (linux/bpf.h); the kernel takes what is missing as zero.
#![allow(unsafe_code)]

use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE: libc::c_long = 2;
const MAP_DELETE: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
#[cfg(test)]
const LINK_GET_FD_BY_ID: libc::c_long = 30;
#[cfg(test)]
const LINK_DETACH: libc::c_long = 34;
const TYPE_HASH: u32 = 1;
const TYPE_XSKMAP: u32 = 17;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_XDP: u32 = 37;

/// What a program returns to give a frame to a socket.
pub const XDP_REDIRECT: u32 = 4;

/// Attached to the driver.
pub const NATIVE: u32 = 1 << 2;
/// Attached behind the driver: works everywhere, slower.
pub const GENERIC: u32 = 1 << 1;

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct Element {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
struct ObjectInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` as far as an XDP link has it.
#[repr(C, align(8))]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    interface: u32,
}

/// # Safety
/// Every pointer in `attr` must be valid for what `command` does with it.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> Result<libc::c_long> {
    // SAFETY: `attr` is live and of the size given; for what it points to the caller answers.
    let rc = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if rc >= 0 { Ok(rc) } else { Err(Error::last_os_error()) }
}

fn owned(fd: libc::c_long) -> Result<OwnedFd> {
    let fd = i32::try_from(fd).map_err(|_| Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just made this descriptor for us (close-on-exec, as it always is for bpf).
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn map(map_type: u32, key_size: u32, value_size: u32, max_entries: u32) -> Result<OwnedFd> {
    let mut attr = MapCreate { map_type, key_size, value_size, max_entries };
    // SAFETY: holds no pointers.
    owned(unsafe { bpf(MAP_CREATE, &mut attr) }?)
}

fn update<K, V>(map: &OwnedFd, key: &K, value: &V) -> Result<()> {
    let (key, value) = (std::ptr::from_ref(key) as u64, std::ptr::from_ref(value) as u64);
    let mut attr = Element { map_fd: raw(map.as_fd()), padding: 0, key, value, flags: 0 };
    // SAFETY: both callers pass a key and a value of the sizes with which they made the map; the kernel reads them.
    unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
}

/// A set of keys of 16 bytes.
#[derive(Debug)]
pub struct VipMap(OwnedFd);

impl VipMap {
    /// A set with room for so many.
    pub fn new(capacity: u32) -> Result<VipMap> {
        map(TYPE_HASH, 16, 1, capacity).map(VipMap)
    }

    /// Puts a key in. `E2BIG` when the set is full.
    pub fn insert(&self, key: &[u8; 16]) -> Result<()> {
        update(&self.0, key, &1u8)
    }

    /// Takes a key out; one that is not there is no error.
    pub fn remove(&self, key: &[u8; 16]) -> Result<()> {
        let mut attr = Element { map_fd: raw(self.0.as_fd()), padding: 0, key: std::ptr::from_ref(key) as u64, value: 0, flags: 0 };
        // SAFETY: the kernel reads the 16 bytes that are the key size of the map.
        match unsafe { bpf(MAP_DELETE, &mut attr) } {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }

    /// What a program calls it.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// Which AF_XDP socket gets the frames of which receive queue.
#[derive(Debug)]
pub struct XskMap(OwnedFd);

impl XskMap {
    /// For queues 0 to `queues` − 1.
    pub fn new(queues: u32) -> Result<XskMap> {
        map(TYPE_XSKMAP, 4, 4, queues).map(XskMap)
    }

    /// Gives a queue to a socket, until the socket is closed.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<()> {
        update(&self.0, &queue, &raw(socket))
    }

    /// What a program calls it.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// A program attached to an interface; dropping this detaches it.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Whether the program is still attached: anybody with the right may detach it (`bpftool link detach`).
    pub fn is_attached(&self) -> Result<bool> {
        let mut info = LinkInfo::default();
        let (fd, info_len) = (raw(self.0.as_fd()), size_of::<LinkInfo>() as u32);
        let mut attr = ObjectInfo { fd, info_len, info: std::ptr::from_mut(&mut info) as u64 };
        // SAFETY: the kernel writes at most `info_len` bytes to `info`, which any bytes make valid.
        unsafe { bpf(OBJ_GET_INFO_BY_FD, &mut attr) }?;
        Ok(info.interface != 0)
    }

    /// Detaches the link with this id, as `bpftool link detach` does.
    #[cfg(test)]
    pub fn detach_by_id(id: u32) -> Result<()> {
        // The leading fields of both commands: an id, and a descriptor.
        // SAFETY: holds no pointers.
        let link = owned(unsafe { bpf(LINK_GET_FD_BY_ID, &mut [id, 0, 0]) }?)?;
        // SAFETY: as above.
        unsafe { bpf(LINK_DETACH, &mut [raw(link.as_fd())]) }.map(drop)
    }

    /// Puts another program in its place; no frame passes between the two.
    pub fn replace(&self, program: &Program) -> Result<()> {
        let mut attr = LinkUpdate { link_fd: raw(self.0.as_fd()), new_prog_fd: raw(program.0.as_fd()), flags: 0, old_prog_fd: 0 };
        // SAFETY: holds no pointers.
        unsafe { bpf(LINK_UPDATE, &mut attr) }.map(drop)
    }
}

/// An XDP program that the kernel has verified.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads it. When the verifier refuses it, the error holds the end of what the verifier says.
    pub fn load(code: &[u64]) -> Result<Program> {
        let mut log = Vec::new();
        match Self::try_load(code, &mut log) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
                log = vec![0; 256 << 10];
                let again = Self::try_load(code, &mut log);
                let said = String::from_utf8_lossy(log.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
                let tail: Vec<&str> = said.lines().rev().take(4).collect();
                again.map_err(|_| if tail.is_empty() { error } else { Error::new(error.kind(), format!("{error}: {}", tail.join(" < "))) })
            }
            other => other,
        }
    }

    fn try_load(code: &[u64], log: &mut [u8]) -> Result<Program> {
        let license = c"Dual MIT/GPL";
        let mut attr = ProgLoad {
            prog_type: PROG_TYPE_XDP,
            insn_cnt: u32::try_from(code.len()).unwrap_or(u32::MAX),
            insns: code.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: u32::from(!log.is_empty()),
            log_size: u32::try_from(log.len()).unwrap_or(u32::MAX),
            log_buf: if log.is_empty() { 0 } else { log.as_mut_ptr() as u64 },
            kern_version: 0,
            prog_flags: 0,
            prog_name: *b"guideway\0\0\0\0\0\0\0\0",
            prog_ifindex: 0,
            expected_attach_type: ATTACH_XDP,
        };
        // SAFETY: the kernel reads `insn_cnt` instructions of 8 bytes and the license up to its zero, and writes at most `log_size` bytes of log.
        owned(unsafe { bpf(PROG_LOAD, &mut attr) }?).map(Program)
    }

    /// Attaches it to an interface until the link is closed; `mode` is `NATIVE` or `GENERIC`.
    pub fn attach(&self, interface: u32, mode: u32) -> Result<Link> {
        let mut attr = LinkCreate { prog_fd: raw(self.0.as_fd()), target_ifindex: interface, attach_type: ATTACH_XDP, flags: mode };
        // SAFETY: holds no pointers.
        owned(unsafe { bpf(LINK_CREATE, &mut attr) }?).map(Link)
    }

    /// Runs it once over a frame; what it returned.
    pub fn test_run(&self, frame: &[u8]) -> Result<u32> {
        #[repr(C)]
        struct TestRun {
            prog_fd: u32,
            retval: u32,
            data_size_in: u32,
            data_size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
        }
        let mut attr = TestRun {
            prog_fd: raw(self.0.as_fd()),
            retval: u32::MAX,
            data_size_in: u32::try_from(frame.len()).unwrap_or(u32::MAX),
            data_size_out: 0,
            data_in: frame.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        // SAFETY: the kernel reads the frame and writes into `attr` only, since there is no output buffer.
        unsafe { bpf(PROG_TEST_RUN, &mut attr) }?;
        Ok(attr.retval)
    }
}
