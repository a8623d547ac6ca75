//! Who has attached the XDP program that is in our way, so that an error can say how to get rid of it.

use std::fs;

/// A BPF link that holds a program at an interface, and a process that has it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Id of the link, as `bpftool link` takes it.
    pub link: u32,
    /// The process.
    pub pid: u32,
    /// Its name.
    pub program: String,
}

/// Finds the link at an interface of this network namespace among the open files of all processes. Without root only our own are seen, and a link that is pinned
/// or a program that was attached without one is not found.
pub fn find(interface: u32) -> Option<Holder> {
    let ours = fs::read_link("/proc/thread-self/ns/net").ok()?;
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in processes {
        // The number of an interface means something in its namespace only. Our own threads may be in several.
        if pid != std::process::id() && fs::read_link(format!("/proc/{pid}/ns/net")).ok().as_ref() != Some(&ours) {
            continue;
        }
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { continue };
        let links = files.filter_map(|file| link_at(&fs::read_to_string(file.ok()?.path()).ok()?, interface));
        if let Some(link) = links.last() {
            let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
            return Some(Holder { link, pid, program });
        }
    }
    None
}

/// Id of the link that a file of `/proc/PID/fdinfo` describes, if it is one at this interface.
fn link_at(info: &str, interface: u32) -> Option<u32> {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("link_type")? != "xdp" || field("ifindex")?.parse::<u32>().ok()? != interface {
        return None;
    }
    field("link_id")?.parse().ok()
}
