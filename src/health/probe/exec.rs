//! Runs a program that checks a backend. It may only be one of a directory that this host's own file allows: the intent comes from elsewhere.

use super::{Prober, Target};
use crate::outcome::{Failure, Outcome, shown};
use guideway_config::duration::human;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

/// How much is kept of what the program says.
const MOST: usize = 1024;

/// A process group that is killed unless it ended by itself.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended in this moment.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Prober {
    pub(super) async fn exec(&self, target: &Target, command: &[String]) -> Outcome {
        let Some((program, arguments)) = command.split_first() else { return Outcome::NotMade("there is no program to run".to_owned()) };
        if !Path::new(program).parent().is_some_and(|directory| self.exec.iter().any(|allowed| allowed == directory)) {
            let why = format!("{program} may not be run: [health] exec names the directories whose programs may");
            return Outcome::NotMade(why);
        }
        let mut command = Command::new(program);
        command.args(arguments).process_group(0).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        // What this process was told in confidence is not for them.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("GUIDEWAY_POOL", &*target.pool).env("GUIDEWAY_BACKEND", &*target.backend);
        command.env("GUIDEWAY_ADDRESS", target.address.to_string());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Outcome::NotMade(format!("running {program}: {error}")),
        };
        let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
        let mut said = Vec::new();
        let run = async {
            if let Some(out) = child.stdout.take() {
                let mut limited = out.take(MOST as u64);
                limited.read_to_end(&mut said).await?;
                // What more it says is of no interest, but must not stop it.
                tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
            }
            child.wait().await
        };
        let ended = timeout(target.check.timeout, run).await;
        match ended {
            Err(_) => Outcome::Failed(Failure::Silent(format!("{program} was killed after {}", human(target.check.timeout)))),
            Ok(Err(error)) => Outcome::NotMade(format!("waiting for {program}: {error}")),
            Ok(Ok(status)) => {
                // Its number may be another's from now on.
                group.0 = None;
                let said = shown(&said);
                let said = if said.is_empty() { said } else { format!(": {said}") };
                if status.success() {
                    Outcome::Good
                } else {
                    Outcome::Failed(Failure::Refused(format!("{program} ended with {status}{said}")))
                }
            }
        }
    }
}
