//! Logic in any language as a program: it gets the request as JSON, and its output is the answer.

use super::background::{Background, Gate};
use super::decision::{Answer, carry_out};
use super::owned::{OwnedRequest, as_json};
use crate::handler::{Handler, Opened, Opening, Refusal, Request};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

/// Of what the program says on standard error, so much is logged.
const LOGGED: usize = 4096;

/// What an [`Exec`] handler is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The program, run without a shell.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// How its output is to be read.
    pub answer: Answer,
    /// Time for waiting for its turn and running.
    pub timeout: Duration,
    /// Bytes of output at most.
    pub output: usize,
    /// Processes at once.
    pub concurrency: usize,
}

/// Runs a program for each request.
///
/// The request stands on its standard input as JSON and in its environment: `GUIDEWAY_CLIENT`, `GUIDEWAY_PORT`, `GUIDEWAY_VIP`,
/// `GUIDEWAY_TID`, `GUIDEWAY_FILE`, `GUIDEWAY_MODE`; of the server's own environment it sees `PATH`. Whatever it starts is in its process
/// group, and that is killed when the time is up, the output too long, or the client gone.
pub struct Exec {
    shared: Arc<Shared>,
    background: Background,
}

struct Shared {
    settings: Settings,
    files: Option<Arc<dyn Handler>>,
    gate: Gate,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("it cannot be run: {0}")]
    Run(#[from] io::Error),
    #[error("its output has more than {0} bytes")]
    TooMuch(usize),
    #[error("it ends with {0}")]
    Status(ExitStatus),
    #[error("it takes longer than {0:?}")]
    TooLong(Duration),
}

/// Kills a process group unless its leader was waited for: until then its number belongs to nobody else.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // That it has ended already is no error.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Exec {
    /// A handler; `files` opens the files that the program decides on.
    pub fn new(settings: Settings, files: Option<Arc<dyn Handler>>, background: &Background) -> Exec {
        let gate = Gate::new(settings.concurrency);
        Exec { shared: Arc::new(Shared { settings, files, gate }), background: background.clone() }
    }
}

impl Handler for Exec {
    fn open(&self, request: &Request<'_>) -> Opening {
        let (shared, request) = (self.shared.clone(), OwnedRequest::new(request));
        self.background.open(async move {
            let limit = shared.settings.timeout;
            match timeout(limit, shared.open(&request)).await {
                Ok(opened) => opened,
                Err(_) => Err(shared.failed(&ExecError::TooLong(limit), "")),
            }
        })
    }
}

impl Shared {
    async fn open(&self, request: &OwnedRequest) -> Opened {
        let _place = self.gate.enter().await?;
        let mut said = Vec::new();
        match self.run(request, &mut said).await {
            Ok(output) => {
                let who = self.settings.program.display().to_string();
                carry_out(self.settings.answer, output, &who, request.clone(), self.files.as_ref()).await
            }
            Err(error) => Err(self.failed(&error, &String::from_utf8_lossy(&said))),
        }
    }

    async fn run(&self, request: &OwnedRequest, said: &mut Vec<u8>) -> Result<Vec<u8>, ExecError> {
        let json = as_json(&request.request());
        let mut command = Command::new(&self.settings.program);
        command.args(&self.settings.arguments).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        for name in ["client", "port", "vip", "tid", "file", "mode"] {
            let value = &json[name];
            // A NUL cannot be in an environment; from the wire it cannot come.
            let text = value.as_str().map_or_else(|| value.to_string(), |text| text.replace('\0', "\u{fffd}"));
            command.env(format!("GUIDEWAY_{}", name.to_ascii_uppercase()), text);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let mut group = Group(pid.map(Pid::from_raw));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read its input need not.
                let _ = stdin.write_all(json.to_string().as_bytes()).await;
            }
            Ok(())
        };
        let read = async {
            let mut output = Vec::new();
            let limit = self.settings.output;
            if let Some(stdout) = stdout {
                stdout.take(limit as u64 + 1).read_to_end(&mut output).await?;
            }
            if output.len() > limit { Err(ExecError::TooMuch(limit)) } else { Ok(output) }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                hear(stderr, said).await;
            }
            Ok(())
        };
        let ((), output, ()) = tokio::try_join!(write, read, listen)?;
        let status = child.wait().await?;
        group.0 = None;
        if status.success() { Ok(output) } else { Err(ExecError::Status(status)) }
    }

    fn failed(&self, error: &ExecError, said: &str) -> Refusal {
        tracing::error!(program = %self.settings.program.display(), %error, said, "a program that handles requests failed");
        Refusal::failed("the server's logic failed")
    }
}

/// Keeps the beginning and drops the rest, so that the program never waits for a reader.
async fn hear(mut stderr: impl AsyncRead + Unpin, said: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        let room = LOGGED.saturating_sub(said.len()).min(len);
        said.extend_from_slice(&buffer[..room]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bytes;
    use crate::handlers::testing::{ask, read_all, request, settle};
    use crate::packet::ErrorCode;

    fn shell(script: &str, answer: Answer, change: impl FnOnce(&mut Settings)) -> Exec {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let program = "/bin/sh".into();
        let mut settings = Settings { program, arguments, answer, timeout: Duration::from_secs(60), output: 1000, concurrency: 2 };
        change(&mut settings);
        let files = Arc::new(|request: &Request<'_>| Opening::content(Bytes::new(request.file)));
        Exec::new(settings, Some(files), &Background::new(1).unwrap())
    }

    fn said(handler: &Exec, file: &[u8]) -> Result<String, Refusal> {
        ask(handler, file).map(|content| String::from_utf8(read_all(&*content).unwrap()).unwrap())
    }

    #[test]
    fn a_program_sees_the_request_and_its_output_is_the_file() {
        let handler = shell("cat; echo; echo \"$GUIDEWAY_CLIENT $GUIDEWAY_PORT $GUIDEWAY_FILE\"", Answer::Bytes, |_| {});
        let json = r#"{"client":"10.0.0.7","port":2070,"vip":"192.0.2.69","tid":20000,"file":"$(id) `x`","mode":"octet","options":{}}"#;
        assert_eq!(said(&handler, b"$(id) `x`"), Ok(format!("{json}\n10.0.0.7 2070 $(id) `x`\n")));
        assert_eq!(said(&shell("env | grep -c HOME; true", Answer::Bytes, |_| {}), b"f"), Ok("0\n".into()), "only what it is given");
    }

    #[test]
    fn a_program_decides() {
        let decide = |json: &str| said(&shell(&format!("cat <<'E'\n{json}\nE"), Answer::Decision, |_| {}), b"f");
        assert_eq!(decide(r#"{"file": "other"}"#), Ok("other".into()));
        assert_eq!(decide(r#"{"content": "text"}"#), Ok("text".into()));
        assert_eq!(decide(r#"{"error": {"code": 1, "text": "none"}}"#), Err(Refusal::new(ErrorCode::NOT_FOUND, "none")));
        assert_eq!(decide("nonsense"), Err(Refusal::failed("the server's logic failed")));
    }

    #[test]
    fn a_program_that_fails_is_an_error_and_nothing_more() {
        let failed = Err(Refusal::failed("the server's logic failed"));
        assert_eq!(said(&shell("echo some; echo why >&2; exit 3", Answer::Bytes, |_| {}), b"f"), failed);
        assert_eq!(said(&shell("head -c 1001 /dev/zero; sleep 1000", Answer::Bytes, |_| {}), b"f"), failed, "too much");
        assert_eq!(said(&shell("exec >&- 2>&-; kill -9 $$", Answer::Bytes, |_| {}), b"f"), failed);
        let missing = shell("", Answer::Bytes, |settings| settings.program = "/does/not/exist".into());
        assert_eq!(said(&missing, b"f"), failed);
        let large = shell("head -c 100000 /dev/zero >&2; echo good", Answer::Bytes, |_| {});
        assert_eq!(said(&large, b"f").as_deref(), Ok("good\n"), "a loud program is not stuck");
    }

    /// Waits until a process is gone.
    fn gone(pid: i32) {
        while nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok() && !zombie(pid) {
            std::thread::yield_now();
        }
    }

    fn zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let handler = shell(&script, Answer::Bytes, |settings| settings.timeout = Duration::from_secs(1));
        assert_eq!(said(&handler, b"f"), Err(Refusal::failed("the server's logic failed")));
        gone(std::fs::read_to_string(file).unwrap().trim().parse().unwrap());
    }

    #[test]
    fn a_program_whose_client_has_gone_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("echo $$ > {0}.part; mv {0}.part {0}; sleep 1000", file.display());
        let handler = shell(&script, Answer::Bytes, |_| {});
        let opening = handler.open(&request("10.0.0.7:1".parse().unwrap(), b"f"));
        while !file.exists() {
            std::thread::yield_now();
        }
        drop(opening);
        gone(std::fs::read_to_string(&file).unwrap().trim().parse().unwrap());
    }

    #[test]
    fn no_more_programs_at_once_than_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("cd {}; mkdir only || exit 1; rmdir only || exit 1; echo one", directory.path().display());
        let handler = shell(&script, Answer::Bytes, |settings| settings.concurrency = 1);
        let openings: Vec<_> = (0..20).map(|_| handler.open(&request("10.0.0.7:1".parse().unwrap(), b"f"))).collect();
        assert!(openings.into_iter().all(|opening| settle(opening).is_ok()));
    }
}
