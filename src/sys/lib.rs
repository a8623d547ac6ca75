//! Safe functions over system calls: socket options, `bind`, memory mappings, waiting.
//!
//! Everything here is a thin safe wrapper of one system call; the callers implement the protocols.
#![allow(unsafe_code)]

use guideway_packet::time::Time;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::time::Duration;

/// Types that the kernel may read and write as plain bytes.
///
/// # Safety
/// Every bit pattern must be a valid value, and the type must hold no pointer whose target the kernel would write.
pub unsafe trait Pod: Copy {}
// SAFETY: integers and C structures of integers; `sock_fprog` holds a pointer that the kernel only reads.
unsafe impl Pod for libc::c_int {}
// SAFETY: as above.
unsafe impl Pod for u32 {}
// SAFETY: as above.
unsafe impl Pod for libc::tpacket_req {}
// SAFETY: as above.
unsafe impl Pod for libc::sockaddr_ll {}
// SAFETY: as above.
unsafe impl Pod for libc::sockaddr_xdp {}
// SAFETY: as above.
unsafe impl Pod for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl Pod for libc::xdp_umem_reg {}
// SAFETY: as above.
unsafe impl Pod for libc::xdp_options {}
// SAFETY: as above.
unsafe impl Pod for libc::xdp_statistics {}
// SAFETY: as above.
unsafe impl Pod for libc::tpacket_stats {}

/// Sets a socket option.
pub fn set_option<T: Pod>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> Result<()> {
    // SAFETY: the pointer and the length are those of one live value, which the kernel copies.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t) };
    if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Attaches a classic BPF program to a socket and replaces an existing one.
pub fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> Result<()> {
    let len = u16::try_from(program.len()).map_err(|_| Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: the kernel copies the structure and the `len` instructions it points to, and writes neither.
    let rc =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, std::ptr::from_ref(&program).cast(), size) };
    if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Reads a socket option. Bytes that the kernel does not fill are zero.
pub fn get_option<T: Pod>(fd: BorrowedFd<'_>, level: i32, name: i32) -> Result<T> {
    // SAFETY: `Pod` types may be all zero.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, and any bytes make a valid `T`.
    let rc = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, std::ptr::from_mut(&mut value).cast(), &mut len) };
    if rc == 0 { Ok(value) } else { Err(Error::last_os_error()) }
}

/// Binds a socket to an address of its family.
pub fn bind<T: Pod>(fd: BorrowedFd<'_>, address: &T) -> Result<()> {
    // SAFETY: the pointer and the length are those of one live value, which the kernel only reads.
    let rc = unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), size_of::<T>() as libc::socklen_t) };
    if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Lets a program start without any capability of this process, also as root: programs that operators name need none of ours.
///
/// The child keeps its user, and files with capabilities of their own (such as `ping`) still work.
pub fn drop_capabilities(command: &mut Command) {
    /// `_LINUX_CAPABILITY_VERSION_3`
    const VERSION: u32 = 0x2008_0522;
    /// `SECBIT_NOROOT` and its lock: the user root gets no capabilities by an exec.
    const NO_ROOT: libc::c_ulong = 0b11;
    let drop_all = || {
        // SAFETY: these calls take integers, and pointers to live values that the kernel only reads. They are safe after a fork: no
        // allocation, no lock. Without CAP_SETPCAP the security bits stay, and then an exec gives no capabilities anyway.
        unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            libc::prctl(libc::PR_SET_SECUREBITS, NO_ROOT, 0, 0, 0);
            let (header, none) = ([VERSION, 0u32], [0u32; 6]);
            if libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) != 0 {
                return Err(Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: see above: what runs between fork and exec makes system calls only.
    unsafe { command.pre_exec(drop_all) };
}

/// Takes ownership of an inherited descriptor; child processes do not inherit it.
///
/// # Errors
/// Returns an error when there is no such descriptor, or when it was opened by this process: an inherited one does not close on exec.
pub fn inherited(fd: i32) -> Result<OwnedFd> {
    // The standard streams belong to the standard library.
    if fd <= libc::STDERR_FILENO {
        return Err(Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the call takes integers only.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags < 0 {
        return Err(Error::last_os_error());
    }
    // Everything that this program opens closes on exec, so a descriptor that does not was inherited. From now on it closes on exec, too,
    // so it cannot be taken twice.
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: as above.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the descriptor is open and inherited, and the flag set above prevents a second owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Memory that is mapped for the lifetime of this value.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory of the process; the owner of this value controls all access.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives only an address and a length.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps zeroed memory of our own, with its pages present from the start.
    pub fn anonymous(len: usize) -> Result<Mapping> {
        Self::map(-1, len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, 0)
    }

    /// Maps memory that is shared with the kernel through `fd`.
    pub fn shared(fd: BorrowedFd<'_>, len: usize, offset: u64) -> Result<Mapping> {
        let offset = libc::off_t::try_from(offset).map_err(|_| Error::from_raw_os_error(libc::EOVERFLOW))?;
        Self::map(fd.as_raw_fd(), len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE, offset)
    }

    /// Maps the first `len` bytes of a file for reading, and only by the kernel. When the file is truncated, a system call with these bytes
    /// fails with EFAULT, but direct access raises SIGBUS.
    pub fn file(fd: BorrowedFd<'_>, len: usize) -> Result<Mapping> {
        Self::map(fd.as_raw_fd(), len, libc::PROT_READ, libc::MAP_SHARED, 0)
    }

    fn map(fd: i32, len: usize, access: i32, flags: i32, offset: libc::off_t) -> Result<Mapping> {
        // SAFETY: a new mapping at an address that the kernel chooses touches no memory that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        NonNull::new(start.cast()).map(|start| Mapping { start, len }).ok_or_else(|| Error::from_raw_os_error(libc::ENOMEM))
    }

    /// Brings pages of the mapping into memory (MADV_POPULATE_READ, Linux 5.14). Blocks while they are read.
    ///
    /// # Errors
    /// When the file has no such bytes or cannot be read, or the kernel is older.
    pub fn populate(&self, range: std::ops::Range<usize>) -> Result<()> {
        if range.is_empty() || range.end > self.len {
            return Err(Error::from_raw_os_error(libc::EINVAL));
        }
        // SAFETY: the range lies in the mapping, which lives; populating pages for reading changes none of their bytes.
        let rc = unsafe { libc::madvise(self.start.as_ptr().wrapping_add(range.start).cast(), range.len(), libc::MADV_POPULATE_READ) };
        if rc == 0 { Ok(()) } else { Err(Error::last_os_error()) }
    }

    /// Returns its start. Valid for `len` bytes while the mapping lives.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Returns its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether its length is zero.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `map` mapped, unmapped once; holders of pointers into it hold this value, too.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Reads bytes of a file that are in the kernel's cache (RWF_NOWAIT). Fewer than requested if the rest is not.
///
/// # Errors
/// EAGAIN when none of them is cached, EOPNOTSUPP when the file system cannot tell.
pub fn read_cached(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize> {
    let offset = libc::off64_t::try_from(offset).map_err(|_| Error::from_raw_os_error(libc::EOVERFLOW))?;
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: the kernel writes at most `iov_len` bytes to the exclusively borrowed buffer.
    let got = unsafe { libc::preadv64v2(fd.as_raw_fd(), &raw const vector, 1, offset, libc::RWF_NOWAIT) };
    usize::try_from(got).map_err(|_| Error::last_os_error())
}

/// Returns device and inode of an open file, from what the kernel has in memory: a file system of another host is not asked.
pub fn file_id(fd: BorrowedFd<'_>) -> Result<(u64, u64)> {
    let found = statx(fd, libc::AT_STATX_DONT_SYNC, libc::STATX_INO)?;
    Ok((u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor), found.stx_ino))
}

/// Size and times of a file, in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Size in bytes.
    pub size: u64,
    /// When its bytes were modified; programs may set it.
    pub modified: (i64, u32),
    /// When its bytes or metadata were changed.
    pub changed: (i64, u32),
}

/// Returns the state of an open file. A file system of another host is asked for it, however recently it was.
pub fn file_state(fd: BorrowedFd<'_>) -> Result<FileState> {
    let found = statx(fd, libc::AT_STATX_FORCE_SYNC, libc::STATX_SIZE | libc::STATX_MTIME | libc::STATX_CTIME)?;
    let time = |time: libc::statx_timestamp| (time.tv_sec, time.tv_nsec);
    Ok(FileState { size: found.stx_size, modified: time(found.stx_mtime), changed: time(found.stx_ctime) })
}

fn statx(fd: BorrowedFd<'_>, flags: libc::c_int, mask: libc::c_uint) -> Result<libc::statx> {
    let mut found = std::mem::MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: an empty path, and one structure, which the kernel fills; every bit pattern is a valid value of it.
    unsafe {
        if libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags | libc::AT_EMPTY_PATH, mask, found.as_mut_ptr()) != 0 {
            return Err(Error::last_os_error());
        }
        Ok(found.assume_init())
    }
}

/// Waits until `fd` is readable or has an error, at most `wait`. An interrupting signal ends the wait too.
pub fn wait_readable(fd: BorrowedFd<'_>, wait: Duration) -> Result<PollFlags> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    match ppoll(&mut fds, Some(TimeSpec::from_duration(wait.min(Duration::from_secs(3600)))), None) {
        Ok(_) => Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
        Err(nix::errno::Errno::EINTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Waits until one of at most [`MAX_WAIT`] descriptors is readable or has an error, at most `wait`. An interrupting signal ends the wait too.
pub fn wait_any_readable<'f>(fds: impl Iterator<Item = BorrowedFd<'f>>, wait: Duration) -> Result<()> {
    let mut polled = [const { libc::pollfd { fd: -1, events: libc::POLLIN, revents: 0 } }; MAX_WAIT];
    for (polled, fd) in polled.iter_mut().zip(fds) {
        polled.fd = fd.as_raw_fd();
    }
    let wait = wait.min(Duration::from_secs(3600));
    let wait = libc::timespec { tv_sec: wait.as_secs() as _, tv_nsec: wait.subsec_nanos() as _ };
    // SAFETY: an array of so many entries, and a time; both live until it returns. Negative descriptors are skipped.
    let rc = unsafe { libc::ppoll(polled.as_mut_ptr(), MAX_WAIT as libc::nfds_t, &raw const wait, std::ptr::null()) };
    match Error::last_os_error() {
        error if rc < 0 && error.kind() != std::io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Most descriptors that are waited for at once.
pub const MAX_WAIT: usize = 64;

/// Takes the pending error of a socket. `Err` when its interface is gone permanently; an interface that is only down may come back.
pub fn socket_error(fd: BorrowedFd<'_>, interface: u32) -> Result<()> {
    let pending = get_option::<libc::c_int>(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    if pending != 0 { interface_error(Error::from_raw_os_error(pending), interface) } else { Ok(()) }
}

/// `Err(error)` when the interface is gone permanently, `Ok` when it still exists and a retry may succeed.
pub fn interface_error(error: Error, interface: u32) -> Result<()> {
    // nix 0.31 returns `Ok` with an empty name where the C library returns no name.
    match nix::net::if_::if_indextoname(interface) {
        Ok(name) if !name.is_empty() => Ok(()),
        _ => Err(Error::new(error.kind(), format!("the network interface with index {interface} is gone ({error})"))),
    }
}

/// Returns the monotonic clock in nanoseconds since boot.
pub fn monotonic() -> Time {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
    Time(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}
