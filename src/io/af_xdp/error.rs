//! Why AF_XDP cannot be opened, and what to do about it.

use super::holder::Holder;
use crate::interface;

/// Why an interface cannot be opened, or the filter cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The interface itself.
    #[error(transparent)]
    Interface(#[from] interface::Error),
    /// No permission.
    #[error(
        "no permission to {what}: io `af_xdp` needs CAP_NET_ADMIN, CAP_BPF and CAP_NET_RAW on the host itself (a user namespace does not do); \
         run as root, or use io `af_packet`"
    )]
    Permission {
        /// What was tried.
        what: &'static str,
    },
    /// Frames do not fit a page.
    #[error(
        "interface `{interface}` has MTU {mtu}: io `af_xdp` can do at most {most}; lower it (`ip link set {interface} mtu {most}`) or use io `af_packet`"
    )]
    Mtu {
        /// Name of the interface.
        interface: String,
        /// Its MTU in bytes.
        mtu: u32,
        /// The largest that works.
        most: u32,
    },
    /// Somebody else's program.
    #[error("interface `{interface}` has another XDP program already: {}", detach(interface, holder.as_ref()))]
    Attached {
        /// Name of the interface.
        interface: String,
        /// The process that holds it, if that can be seen.
        holder: Option<Holder>,
    },
    /// Nothing to receive by.
    #[error("bond `{bond}` has no slaves: add some (`ip link set eth0 master {bond}`) before the director starts")]
    NoSlaves {
        /// Name of the bond.
        bond: String,
    },
    /// Somebody else's socket.
    #[error("receive queue {queue} of `{interface}` is in use by another AF_XDP socket: is another director running on this interface?")]
    Busy {
        /// Name of the interface.
        interface: String,
        /// Number of the queue.
        queue: u32,
    },
    /// The kernel lets the process lock too little memory.
    #[error(
        "cannot lock {bytes} bytes for frames of queue {queue}: RLIMIT_MEMLOCK is too low; raise it (`LimitMEMLOCK=infinity`, `ulimit -l unlimited`) \
         or give CAP_IPC_LOCK"
    )]
    Memory {
        /// Bytes requested.
        bytes: usize,
        /// Number of the queue.
        queue: u32,
    },
    /// More VIPs than the filter was made for.
    #[error("{vips} VIPs: the filter of this director has room for {most}; restart it with more")]
    Vips {
        /// How many were requested.
        vips: usize,
        /// How many there may be.
        most: u32,
    },
    /// The kernel has no AF_XDP.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): use io `af_packet`")]
    NoXdp,
    /// The filter could not be written down.
    #[error("the filter: {0}")]
    Filter(String),
    /// Any other refusal of the kernel.
    #[error("io `af_xdp` on `{interface}`: cannot {what}: {error}")]
    Kernel {
        /// Name of the interface.
        interface: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
}

/// What to do about a program that is attached.
fn detach(interface: &str, holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { link, pid, program }) => {
            format!(
                "process {pid} ({program}) holds it by BPF link {link}; stop that process, or detach the program by `bpftool link detach id {link}`"
            )
        }
        None => format!(
            "detach it by `ip link set dev {interface} xdpdrv off && ip link set dev {interface} xdpgeneric off`; if that says \"active BPF XDP link\", \
             find the link by `bpftool link show` and use `bpftool link detach id N`"
        ),
    }
}

impl Error {
    /// The error for something that the kernel refused.
    pub(super) fn kernel(interface: &str, what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let interface = interface.to_owned();
        move |error| match error.raw_os_error() {
            Some(libc::EPERM) => Error::Permission { what },
            Some(libc::EAFNOSUPPORT) => Error::NoXdp,
            _ => Error::Kernel { interface, what, error },
        }
    }
}
