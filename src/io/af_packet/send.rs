//! Fence for `sendmmsg`: a whole batch of frames, from where they stand, in one system call.
#![allow(unsafe_code)]

use guideway_packet::frame::{Frame, Output};
use guideway_packet::io::BATCH;
use guideway_packet::verdict::Verdict;
use std::io::{Error, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sends every frame that leaves by `output` and whose verdict is `Transmit`, waiting for none. Returns how many found no room, and the error
/// that says that the interface may be gone, if there was one.
pub fn transmit(fd: BorrowedFd<'_>, frames: &mut [Frame<'_>], output: Output) -> (usize, Result<()>) {
    let mut parts = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut messages = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut count = 0;
    for frame in frames.iter_mut().filter(|f| f.verdict == Verdict::Transmit && f.output == output).take(BATCH) {
        let bytes = frame.bytes_mut();
        let part = parts[count].write(libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        // SAFETY: a message header of zero bytes is valid: no address, no parts, no control data.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        messages[count].write(message);
        count += 1;
    }
    let (mut done, mut full) = (0, 0);
    while done < count {
        let first = messages[done].as_mut_ptr();
        // SAFETY: the messages from `done` to `count` are initialised, as are the parts that they point to, and the frames that these point to
        // are borrowed by this function; the kernel only reads the frames.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), first, (count - done) as libc::c_uint, libc::MSG_DONTWAIT as _) };
        if let Ok(sent) = usize::try_from(sent) {
            done += sent.max(1);
            continue;
        }
        let error = Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => (),
            Some(libc::EAGAIN) => return (full + count - done, Ok(())),
            Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => return (full + count - done, Err(error)),
            // The queue of the card had no room for this one, or it is too long for the card: the next may pass.
            _ => {
                full += 1;
                done += 1;
            }
        }
    }
    (full, Ok(()))
}
