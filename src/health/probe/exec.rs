//! Runs a program that checks a backend. It must be in a directory that this host's own file allows, because the intent comes from
//! elsewhere.

use super::{Prober, Target};
use crate::outcome::{Failure, Outcome, printable};
use guideway_config::duration::human;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Maximum number of bytes of the program's output that are kept.
const MAX_BYTES: usize = 1024;

/// A process group that is killed unless it has ended.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have just ended.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Prober {
    pub(super) async fn exec(&self, target: &Target, command: &[String]) -> Outcome {
        let Some((program, arguments)) = command.split_first() else { return Outcome::NotRun("the command is empty".to_owned()) };
        if !Path::new(program).parent().is_some_and(|directory| self.exec_dirs.iter().any(|allowed| allowed == directory)) {
            let why = format!("{program} is not allowed: add its directory to [health] exec_dirs");
            return Outcome::NotRun(why);
        }
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // The environment may contain secrets of this process.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("GUIDEWAY_POOL", &*target.pool).env("GUIDEWAY_BACKEND", &*target.backend);
        command.env("GUIDEWAY_ADDRESS", target.address.to_string());
        guideway_sys::drop_capabilities(command.as_std_mut());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Outcome::NotRun(format!("cannot run {program}: {error}")),
        };
        let mut group = ProcessGroup(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let mut output = Vec::new();
        let run = async {
            if let Some(out) = child.stdout.take() {
                let mut limited = out.take(MAX_BYTES as u64);
                limited.read_to_end(&mut output).await?;
                // Further output is discarded, but must not block the program.
                tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
            }
            child.wait().await
        };
        let ended = timeout(target.check.timeout, run).await;
        match ended {
            Err(_) => Outcome::Failed(Failure::Timeout(format!("{program} was killed after {}", human(target.check.timeout)))),
            Ok(Err(error)) => Outcome::NotRun(format!("cannot wait for {program}: {error}")),
            Ok(Ok(status)) => {
                // Its process id may be reused from now on.
                group.0 = None;
                let output = printable(&output);
                let output = if output.is_empty() { output } else { format!(": {output}") };
                if status.success() {
                    Outcome::Passed
                } else {
                    Outcome::Failed(Failure::Refused(format!("{program} ended with {status}{output}")))
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;
    use guideway_config::Check;
    use std::time::Duration;

    #[tokio::test]
    async fn a_program_has_none_of_our_capabilities() {
        let command =
            vec!["/bin/grep".to_owned(), "-E".to_owned(), "^Cap(Inh|Prm|Eff|Amb):.*[1-9a-f]".to_owned(), "/proc/self/status".to_owned()];
        let check = Check { timeout: Duration::from_secs(10), ..Check::new(Probe::Exec { command: command.clone() }) };
        let target = Target {
            pool: "p".into(),
            backend: "b".into(),
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            vip: None,
            tid_range: None,
            check: Arc::new(check),
        };
        let outcome = Prober::new(Addresses { v4: None, v6: None }, vec!["/bin".into()]).exec(&target, &command).await;
        // grep ends with 1 when it finds no such line.
        assert!(
            matches!(&outcome, Outcome::Failed(Failure::Refused(why)) if why.contains("exit status: 1") && !why.contains("Cap")),
            "{outcome:?}"
        );
    }
}
