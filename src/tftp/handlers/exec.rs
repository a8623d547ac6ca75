//! Handler that runs a program: the program gets the request as JSON, and its output is the answer.

use super::concurrency::ConcurrencyLimit;
use super::decision::{Answer, apply_decision};
use super::json::{MAX_LOGGED, as_json, text};
use crate::handler::{Handler, Opened, Refusal, SharedHandler};
use crate::request::Request;
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

/// What a program printed so far.
#[derive(Debug, Default)]
struct Printed {
    stdout: Vec<u8>,
    /// The beginning.
    stderr: Vec<u8>,
}

/// Settings of an [`Exec`] handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The program, run without a shell.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Format of its output.
    pub answer: Answer,
    /// Time limit of a run. Waiting for a free process does not count: clients repeat their requests meanwhile.
    pub timeout: Duration,
    /// Largest output in bytes.
    pub output: usize,
    /// Largest number of processes at once.
    pub concurrency: usize,
}

/// Runs a program for each request.
///
/// The program gets the request as JSON on standard input, and in its environment: `GUIDEWAY_CLIENT`, `GUIDEWAY_PORT`, `GUIDEWAY_VIP`,
/// `GUIDEWAY_TID`, `GUIDEWAY_FILE`, `GUIDEWAY_MODE`; of the server's own environment it gets `PATH` only. Its process group is
/// killed when the time limit is reached, the output is too long, or the client is gone.
#[derive(Clone)]
pub struct Exec(Arc<Inner>);

struct Inner {
    settings: Settings,
    files: Option<SharedHandler>,
    gate: ConcurrencyLimit,
}

#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("cannot run: {0}")]
    Run(#[from] io::Error),
    #[error("output exceeds {0} bytes")]
    OutputTooLarge(usize),
    #[error("ended with {0}")]
    Status(ExitStatus),
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
}

/// Kills a process group on drop, unless its leader was waited for. Until then its number cannot be reused.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0.take() {
            // An error means that it has already ended.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

impl Exec {
    /// Creates a handler; `files` opens the files that the program decides on.
    pub fn new(settings: Settings, files: Option<SharedHandler>) -> Exec {
        let gate = ConcurrencyLimit::new(settings.concurrency);
        Exec(Arc::new(Inner { settings, files, gate }))
    }
}

impl Handler for Exec {
    async fn open(&self, request: Request) -> Opened {
        let inner = &*self.0;
        let place = inner.gate.enter().await?;
        let (limit, mut printed) = (inner.settings.timeout, Printed::default());
        let ran = timeout(limit, inner.run(&request, &mut printed)).await.unwrap_or(Err(ExecError::TimedOut(limit)));
        drop(place);
        match ran {
            Ok(()) => {
                let who = inner.settings.program.display().to_string();
                if !printed.stderr.is_empty() {
                    tracing::info!(program = who, file = %request.file().escape_ascii(), stderr = text(&printed.stderr).as_ref(), "program printed");
                }
                apply_decision(inner.settings.answer, printed.stdout, &who, request, inner.files.as_ref()).await
            }
            Err(ExecError::Run(error)) if is_shortage(&error) => Err(Refusal::overloaded()),
            Err(error) => Err(inner.failed(&error, &printed)),
        }
    }
}

/// Returns whether the host lacks processes, descriptors or memory now.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}

impl Inner {
    async fn run(&self, request: &Request, printed: &mut Printed) -> Result<(), ExecError> {
        let Printed { stdout: output, stderr: errors } = printed;
        let json = as_json(request);
        let mut command = Command::new(&self.settings.program);
        command.args(&self.settings.arguments).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        for name in ["client", "port", "vip", "tid", "file", "mode"] {
            let value = &json[name];
            // An environment cannot contain NUL; nor can a request from the wire.
            let text = value.as_str().map_or_else(|| value.to_string(), |text| text.replace('\0', "\u{fffd}"));
            command.env(format!("GUIDEWAY_{}", name.to_ascii_uppercase()), text);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        guideway_sys::drop_capabilities(command.as_std_mut());
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let mut group = ProcessGroup(pid.map(Pid::from_raw));
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                // The program need not read its input.
                let _ = stdin.write_all(json.to_string().as_bytes()).await;
            }
            Ok(())
        };
        let read = async {
            let limit = self.settings.output;
            if let Some(stdout) = stdout {
                stdout.take(limit as u64 + 1).read_to_end(output).await?;
            }
            if output.len() > limit { Err(ExecError::OutputTooLarge(limit)) } else { Ok(()) }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                read_stderr(stderr, errors).await;
            }
            Ok(())
        };
        tokio::try_join!(write, read, listen)?;
        let status = child.wait().await?;
        group.0 = None;
        if status.success() { Ok(()) } else { Err(ExecError::Status(status)) }
    }

    fn failed(&self, error: &ExecError, printed: &Printed) -> Refusal {
        let (stdout, stderr) = (text(&printed.stdout), text(&printed.stderr));
        tracing::error!(program = %self.settings.program.display(), %error, stdout = stdout.as_ref(), stderr = stderr.as_ref(), "program failed");
        Refusal::failed("the server's logic failed")
    }
}

/// Keeps the beginning of standard error and drops the rest, so that the program never waits for a reader.
async fn read_stderr(mut stderr: impl AsyncRead + Unpin, log: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    while let Ok(len @ 1..) = stderr.read(&mut buffer).await {
        let room = MAX_LOGGED.saturating_sub(log.len()).min(len);
        log.extend_from_slice(&buffer[..room]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::handler::handler_fn;
    use crate::handlers::testing::{ask, read_all, request, runtime, settle, start};
    use crate::packet::ErrorCode;

    fn shell(script: &str, answer: Answer, change: impl FnOnce(&mut Settings)) -> Exec {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let program = "/bin/sh".into();
        let mut settings = Settings { program, arguments, answer, timeout: Duration::from_secs(60), output: 1000, concurrency: 2 };
        change(&mut settings);
        Exec::new(settings, Some(SharedHandler::new(handler_fn(|request| Ok(Content::bytes(request.file()))))))
    }

    fn answer_text(handler: &Exec, file: &[u8]) -> Result<String, Refusal> {
        ask(handler, file).map(|content| String::from_utf8(read_all(&content).unwrap()).unwrap())
    }

    #[test]
    fn a_program_sees_the_request_and_its_output_is_the_file() {
        let handler = shell("cat; echo; echo \"$GUIDEWAY_CLIENT $GUIDEWAY_PORT $GUIDEWAY_FILE\"", Answer::Bytes, |_| {});
        let json = r#"{"client":"10.0.0.7","port":2070,"vip":"192.0.2.69","tid":20000,"file":"$(id) `x`","mode":"octet","options":{}}"#;
        assert_eq!(answer_text(&handler, b"$(id) `x`"), Ok(format!("{json}\n10.0.0.7 2070 $(id) `x`\n")));
        assert_eq!(
            answer_text(&shell("env | grep -c HOME; true", Answer::Bytes, |_| {}), b"f"),
            Ok("0\n".into()),
            "the environment contains only the listed variables"
        );
    }

    #[test]
    fn a_program_has_none_of_our_capabilities() {
        let handler = shell("grep -E '^Cap(Inh|Prm|Eff|Amb):.*[1-9a-f]' /proc/self/status; true", Answer::Bytes, |_| {});
        assert_eq!(answer_text(&handler, b"f"), Ok(String::new()));
    }

    #[test]
    fn a_program_decides() {
        let decide = |json: &str| answer_text(&shell(&format!("cat <<'E'\n{json}\nE"), Answer::Decision, |_| {}), b"f");
        assert_eq!(decide(r#"{"file": "other"}"#), Ok("other".into()));
        assert_eq!(decide(r#"{"content": "text"}"#), Ok("text".into()));
        assert_eq!(decide(r#"{"error": {"code": 1, "text": "none"}}"#), Err(Refusal::new(ErrorCode::NOT_FOUND, "none")));
        assert_eq!(decide("nonsense"), Err(Refusal::failed("the server's logic failed")));
    }

    #[test]
    fn what_a_failed_program_printed_is_known_on_both_streams() {
        let (handler, mut printed) = (shell("echo some; echo why >&2; exit 3", Answer::Bytes, |_| {}), Printed::default());
        let ran = runtime().block_on(handler.0.run(&request("10.0.0.7:2070".parse().unwrap(), b"f"), &mut printed));
        assert!(matches!(ran, Err(ExecError::Status(status)) if status.code() == Some(3)), "{ran:?}");
        assert_eq!((text(&printed.stdout), text(&printed.stderr)), ("some\n".into(), "why\n".into()));
    }

    #[test]
    fn a_failed_program_is_an_error() {
        let failed = Err(Refusal::failed("the server's logic failed"));
        assert_eq!(answer_text(&shell("echo some; echo why >&2; exit 3", Answer::Bytes, |_| {}), b"f"), failed);
        assert_eq!(answer_text(&shell("head -c 1001 /dev/zero; sleep 1000", Answer::Bytes, |_| {}), b"f"), failed, "too much");
        assert_eq!(answer_text(&shell("exec >&- 2>&-; kill -9 $$", Answer::Bytes, |_| {}), b"f"), failed);
        let missing = shell("", Answer::Bytes, |settings| settings.program = "/does/not/exist".into());
        assert_eq!(answer_text(&missing, b"f"), failed);
        let large = shell("head -c 100000 /dev/zero >&2; echo good", Answer::Bytes, |_| {});
        assert_eq!(answer_text(&large, b"f").as_deref(), Ok("good\n"), "a program with much output on standard error does not block");
    }

    /// Waits until a process has ended.
    fn gone(pid: i32) {
        while nix::sys::signal::kill(Pid::from_raw(pid), None).is_ok() && !zombie(pid) {
            std::thread::yield_now();
        }
    }

    fn zombie(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
    }

    #[test]
    fn a_slow_program_is_killed_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
        let handler = shell(&script, Answer::Bytes, |settings| settings.timeout = Duration::from_secs(1));
        assert_eq!(answer_text(&handler, b"f"), Err(Refusal::failed("the server's logic failed")));
        gone(std::fs::read_to_string(file).unwrap().trim().parse().unwrap());
    }

    #[test]
    fn a_program_whose_client_has_gone_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("echo $$ > {0}.part; mv {0}.part {0}; sleep 1000", file.display());
        let handler = shell(&script, Answer::Bytes, |_| {});
        let opening = start(&handler, b"f");
        while !file.exists() {
            std::thread::yield_now();
        }
        opening.abort();
        gone(std::fs::read_to_string(&file).unwrap().trim().parse().unwrap());
    }

    #[test]
    fn waiting_for_a_free_process_is_no_timeout() {
        let handler = shell("sleep 0.4; echo one", Answer::Bytes, |settings| {
            (settings.concurrency, settings.timeout) = (1, Duration::from_secs(1));
        });
        let openings: Vec<_> = (0..5).map(|_| start(&handler, b"f")).collect();
        assert!(openings.into_iter().all(|opening| settle(opening).is_ok()), "together they take 2 s");
    }

    #[test]
    fn no_more_programs_at_once_than_allowed() {
        let directory = tempfile::tempdir().unwrap();
        let script = format!("cd {}; mkdir only || exit 1; rmdir only || exit 1; echo one", directory.path().display());
        let handler = shell(&script, Answer::Bytes, |settings| settings.concurrency = 1);
        let openings: Vec<_> = (0..20).map(|_| start(&handler, b"f")).collect();
        assert!(openings.into_iter().all(|opening| settle(opening).is_ok()));
    }
}
