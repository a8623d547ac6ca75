//! A machine within the machine: PID, mount and network namespaces that the kernel takes away with everything in them when the lab ends.
//!
//! Three processes. The *launcher* is what the user started: it makes the namespaces and passes signals on. *Init* is process 1 of
//! the PID namespace and only collects the dead; when it ends, the kernel kills whatever is left inside, and it ends when the launcher
//! does, even by SIGKILL. The *lab* is its child and does the work; its files are on a tmpfs that nobody outside sees.

use guideway_host::error::{Context, Error};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid, getpid, getppid};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Tells the program that started itself again which of the three it is.
const ROLE: &str = "GUIDEWAY_LAB_ROLE";
const INIT: &str = "init";
const LAB: &str = "lab";
/// Said by the launcher when it needed a user namespace, in a variable of its own.
const USER_NAMESPACE: &str = "GUIDEWAY_LAB_USER_NAMESPACE";

/// Which of the three processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// What the user started.
    Launcher,
    /// Process 1 inside.
    Init,
    /// The one that does the work.
    Lab,
}

/// What the lab needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct SandboxInfo {
    /// A directory on a tmpfs of its own.
    pub directory: PathBuf,
    /// The lab's process number as seen from outside.
    pub host_pid: String,
    /// Whether it runs in a user namespace, without the powers of root over the machine.
    pub user_namespace: bool,
}

/// Which of the three this process is. The numbers are checked so that a stray variable cannot make the lab work on the machine itself.
pub fn role() -> ProcessRole {
    match std::env::var(ROLE).as_deref() {
        Ok(INIT) if getpid() == Pid::from_raw(1) => ProcessRole::Init,
        Ok(LAB) if getppid() == Pid::from_raw(1) && getpid() != Pid::from_raw(1) => ProcessRole::Lab,
        _ => ProcessRole::Launcher,
    }
}

/// Makes the namespaces, starts this program in them again with the same arguments, passes signals on, and returns its exit code.
/// To be called before the program starts threads.
///
/// # Errors
/// When namespaces are not permitted here.
pub fn launch() -> Result<u8, Error> {
    let user_namespace = make_namespaces()?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .with_context(|| "making mounts private".to_owned())?;
    let signals = blocked_signals()?;
    let mut command = reexec_command(INIT)?;
    // Its own process group, so that a Ctrl-C at the terminal reaches the launcher alone, which passes it on once.
    command.env(USER_NAMESPACE, if user_namespace { "1" } else { "0" }).stdin(Stdio::piped()).process_group(0);
    let mut init = command.spawn().with_context(|| "starting the lab's process 1".to_owned())?;
    let pid = Pid::from_raw(i32::try_from(init.id()).with_context(|| "starting the lab".to_owned())?);
    let mut forwarded = 0;
    loop {
        match signals.wait().with_context(|| "waiting for the lab".to_owned())? {
            Signal::SIGCHLD => {
                if let Some(status) = init.try_wait().with_context(|| "waiting for the lab".to_owned())? {
                    return Ok(exit_code(status));
                }
            }
            signal => {
                forwarded += 1;
                // Two signals had no effect: SIGKILL to process 1 ends everything inside.
                let signal = if forwarded > 2 { Signal::SIGKILL } else { signal };
                kill(pid, signal).with_context(|| "passing a signal on".to_owned())?;
            }
        }
    }
}

/// Process 1: starts the lab, collects the dead, passes signals on, and ends with the lab's exit code.
///
/// # Errors
/// When the lab cannot be started.
pub fn init() -> Result<u8, Error> {
    set_pdeathsig(Signal::SIGKILL).with_context(|| "tying the lab to the process that started it".to_owned())?;
    if launcher_exited()? {
        return Ok(1);
    }
    let signals = blocked_signals()?;
    let lab: Child = reexec_command(LAB)?.stdin(Stdio::null()).spawn().with_context(|| "starting the lab".to_owned())?;
    let pid = Pid::from_raw(i32::try_from(lab.id()).with_context(|| "starting the lab".to_owned())?);
    loop {
        match signals.wait().with_context(|| "waiting for the lab".to_owned())? {
            Signal::SIGCHLD => {
                if let Some(code) = reap_children(pid) {
                    return Ok(code);
                }
            }
            // The lab may have ended in this moment; its SIGCHLD follows.
            signal => drop(kill(pid, signal)),
        }
    }
}

/// The lab itself: mounts what it needs.
///
/// # Errors
/// When mounting is refused.
pub fn enter() -> Result<SandboxInfo, Error> {
    set_pdeathsig(Signal::SIGKILL).with_context(|| "tying the lab to its process 1".to_owned())?;
    // Process 1 blocks what it waits for, and its child inherits that.
    SigSet::empty().thread_set_mask().with_context(|| "unblocking signals".to_owned())?;
    // /proc is still that of the world outside, so this is our number there.
    let host_pid = std::fs::read_link("/proc/self").with_context(|| "reading /proc/self".to_owned())?.to_string_lossy().into_owned();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // In a container whose /proc is partly covered the kernel refuses a fresh one; the old one then does as well, only shows too much.
    let _best_effort = mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
    let mount_point = mount_point()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("guideway-lab"), &mount_point, Some("tmpfs"), flags, Some("mode=755"))
        .with_context(|| format!("mounting a tmpfs on {}", mount_point.display()))?;
    let directory = mount_point.join("guideway-lab");
    std::fs::create_dir(&directory).with_context(|| format!("making {}", directory.display()))?;
    let user_namespace = std::env::var(USER_NAMESPACE).as_deref() == Ok("1");
    Ok(SandboxInfo { directory, host_pid, user_namespace })
}

/// A directory that exists everywhere and that no program is looked for in. Only the lab sees what is mounted there.
fn mount_point() -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_use = |candidate: &Path| std::env::split_paths(&path).any(|p| p.starts_with(candidate));
    ["/run", "/mnt", "/media", "/srv"]
        .into_iter()
        .map(PathBuf::from)
        .find(|candidate| candidate.is_dir() && !in_use(candidate))
        .ok_or_else(|| Error::failed("looking for a place for the lab's files", "there is none of /run, /mnt, /media and /srv"))
}

/// Returns whether a user namespace was needed.
fn make_namespaces() -> Result<bool, Error> {
    let flags = CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if geteuid().is_root() && unshare(flags).is_ok() {
        return Ok(false);
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(flags | CloneFlags::CLONE_NEWUSER).map_err(|e| Error::Missing {
        what: format!("namespaces are not permitted here ({e})"),
        hint: "run as root, or allow unprivileged user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
               kernel.apparmor_restrict_unprivileged_userns)"
            .to_owned(),
    })?;
    for (file, content) in [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {uid} 1")), ("gid_map", format!("0 {gid} 1"))] {
        std::fs::write(format!("/proc/self/{file}"), content).with_context(|| format!("writing {file} of the user namespace"))?;
    }
    Ok(true)
}

fn reexec_command(role: &str) -> Result<Command, Error> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "guideway-lab".into());
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).env(ROLE, role);
    Ok(command)
}

/// The signals that launcher and init wait for, blocked.
fn blocked_signals() -> Result<SigSet, Error> {
    let mut signals = SigSet::empty();
    [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| signals.add(s));
    signals.thread_block().with_context(|| "blocking signals".to_owned())?;
    Ok(signals)
}

/// The launcher holds the other end of our stdin. If it died before we requested its death signal, that end is closed.
fn launcher_exited() -> Result<bool, Error> {
    let stdin = std::io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).with_context(|| "looking for the process that started the lab".to_owned())?;
    Ok(fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLHUP)))
}

/// Collects every dead child, adopted ones included; the exit code of `lab` when it was among them.
fn reap_children(lab: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == lab => code = Some(u8::try_from(status).unwrap_or(1)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == lab => code = Some(signal_code(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(1),
        (None, signal) => signal_code(signal.unwrap_or(0)),
    }
}

/// As shells do: 128 and the number of the signal.
fn signal_code(signal: i32) -> u8 {
    u8::try_from(signal).map_or(1, |s| 128u8.saturating_add(s))
}
