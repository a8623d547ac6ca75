//! Runs the transfers: a process of a real client for each, so many at a time, every file checked.

use super::clients::{Client, FetchRequest};
use super::files::{self, Files};
use futures_util::StreamExt;
use guideway_host::error::{Context, Error};
use guideway_host::netns::Namespace;
use guideway_testbed::servers::last_line;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What to fetch, and how.
#[derive(Clone, Debug)]
pub struct Workload {
    /// With what, in turn, and where those programs are.
    pub clients: Vec<(Client, PathBuf)>,
    /// From where.
    pub vip: IpAddr,
    /// Bytes in a block.
    pub blksize: u16,
    /// Blocks in a window, where it is said.
    pub windowsize: Option<u16>,
    /// How many in all.
    pub transfers: u32,
    /// How many at a time.
    pub concurrency: u32,
    /// For how long transfers begin, if not until there were so many.
    pub duration: Option<Duration>,
    /// How long one may take.
    pub timeout: Duration,
    /// Which files.
    pub files: Files,
}

impl Workload {
    fn client(&self, number: u32) -> Option<&(Client, PathBuf)> {
        self.clients.get(number as usize % self.clients.len().max(1))
    }
}

/// What became of one transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Its number, from 0.
    pub number: u32,
    /// The name that it requested.
    pub file: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// When its client ended; checking the file takes its time after that.
    pub ended: Instant,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client was content, and the bytes are right.
    Verified,
    /// The client was content, and the bytes are wrong.
    ChecksumMismatch(String),
    /// The client failed, or took too long; with what it said.
    Failed(String),
}

/// What happens, as it happens.
#[derive(Clone, Debug)]
pub enum TransferEvent {
    /// A transfer was started; its number.
    Started(u32),
    /// A transfer ended.
    Ended(Transfer),
}

/// Starts the transfers on the host `client`. The channel closes when all have ended, or, with what is under way killed, soon after
/// `interrupted` becomes true.
pub fn start(client: &Namespace, workload: Workload, interrupted: watch::Receiver<bool>) -> Result<mpsc::Receiver<TransferEvent>, Error> {
    let (sender, events) = mpsc::channel();
    client.thread("transfers", move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "starting a runtime".to_owned())?;
        runtime.block_on(run(workload, interrupted, &sender));
        Ok(())
    })?;
    Ok(events)
}

async fn run(workload: Workload, mut interrupted: watch::Receiver<bool>, events: &mpsc::Sender<TransferEvent>) {
    let workload = &workload;
    let one = |number| async move {
        // Nobody listens any more only when the lab itself has failed.
        let _no_receiver = events.send(TransferEvent::Started(number));
        let _no_receiver = events.send(TransferEvent::Ended(transfer(workload, number).await));
    };
    let since = Instant::now();
    let in_time = |_: &u32| std::future::ready(workload.duration.is_none_or(|time| since.elapsed() < time));
    let all =
        futures_util::stream::iter(0..workload.transfers).take_while(in_time).map(one).buffer_unordered(workload.concurrency as usize);
    tokio::select! {
        () = all.for_each(|()| std::future::ready(())) => {}
        _ = interrupted.wait_for(|stop| *stop) => {}
    }
}

async fn transfer(workload: &Workload, number: u32) -> Transfer {
    let since = Instant::now();
    let file = Files::name(number);
    let to = workload.files.download_dir.join(&file);
    let mut ended = since;
    let uploads = workload.client(number).is_some_and(|(client, _)| client.uploads());
    let offered = if uploads { Ok(()) } else { workload.files.link_file(number) };
    let outcome = match offered {
        Ok(()) if uploads => fetch(workload, number, &file, &workload.files.source(number), &mut ended).await,
        Ok(()) => fetch(workload, number, &file, &to, &mut ended).await,
        Err(e) => Outcome::Failed(format!("offering the file: {e}")),
    };
    workload.files.unlink_file(number);
    // Failed transfers leave part of a file, or none.
    let _gone = std::fs::remove_file(&to);
    Transfer { number, file, seconds: since.elapsed().as_secs_f64(), ended, outcome }
}

async fn fetch(workload: &Workload, number: u32, file: &str, to: &PathBuf, ended: &mut Instant) -> Outcome {
    let Some((client, program)) = workload.client(number) else {
        return Outcome::Failed("there is no client to fetch with".to_owned());
    };
    let fetch =
        FetchRequest { vip: workload.vip, file, to, blksize: workload.blksize, windowsize: workload.windowsize, timeout: workload.timeout };
    let mut command = client.command(program, &fetch);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(workload.timeout, command.output()).await;
    *ended = Instant::now();
    let output = match output {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Outcome::Failed(format!("starting {}: {e}", client.name())),
        Err(_) => return Outcome::Failed(format!("not done after {:?}", workload.timeout)),
    };
    let status = output.status;
    let output = last_line(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat())).to_owned();
    if !status.success() {
        return Outcome::Failed(format!("{output} ({status})"));
    }
    let path = match &workload.files.uploaded(number)[..] {
        _ if !client.uploads() => to.clone(),
        [file] => file.clone(),
        files => return Outcome::Failed(format!("{} servers have the file; the client said: {output}", files.len())),
    };
    match tokio::task::spawn_blocking(move || files::sha256_of(&path)).await {
        Ok(Ok((digest, _))) if workload.files.accepts(number, &digest) => Outcome::Verified,
        Ok(Ok((_, length))) => Outcome::ChecksumMismatch(format!("{length} bytes with a wrong SHA-256; the client said: {output}")),
        Ok(Err(e)) => Outcome::Failed(format!("no file: {e}; the client said: {output}")),
        Err(e) => Outcome::Failed(format!("checking the file: {e}")),
    }
}
