//! Runs the transfers: a process of a real client for each, so many at a time, every file checked.

use super::clients::{Client, Fetch};
use super::files::{self, Files};
use futures_util::StreamExt;
use guideway_host::error::{Doing, Error};
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
pub struct Order {
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
    pub lasts: Option<Duration>,
    /// How long one may take.
    pub timeout: Duration,
    /// Which files.
    pub files: Files,
}

/// What became of one transfer.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Its number, from 0.
    pub number: u32,
    /// The name that it asked for.
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
    Wrong(String),
    /// The client failed, or took too long; with what it said.
    Failed(String),
}

/// What happens, as it happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A transfer was started; its number.
    Started(u32),
    /// A transfer ended.
    Ended(Transfer),
}

/// Starts the transfers on the host `client`. The channel closes when all have ended, or, with what is under way killed, soon after
/// `interrupted` becomes true.
pub fn start(client: &Namespace, order: Order, interrupted: watch::Receiver<bool>) -> Result<mpsc::Receiver<Event>, Error> {
    let (sender, events) = mpsc::channel();
    client.thread("transfers", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing(|| "starting a runtime".to_owned())?;
        runtime.block_on(run(order, interrupted, &sender));
        Ok(())
    })?;
    Ok(events)
}

async fn run(order: Order, mut interrupted: watch::Receiver<bool>, events: &mpsc::Sender<Event>) {
    let order = &order;
    let one = |number| async move {
        // Nobody listens any more only when the lab itself has failed.
        let _unheard = events.send(Event::Started(number));
        let _unheard = events.send(Event::Ended(transfer(order, number).await));
    };
    let since = Instant::now();
    let in_time = |_: &u32| std::future::ready(order.lasts.is_none_or(|time| since.elapsed() < time));
    let all = futures_util::stream::iter(0..order.transfers).take_while(in_time).map(one).buffer_unordered(order.concurrency as usize);
    tokio::select! {
        () = all.for_each(|()| std::future::ready(())) => {}
        _ = interrupted.wait_for(|stop| *stop) => {}
    }
}

async fn transfer(order: &Order, number: u32) -> Transfer {
    let since = Instant::now();
    let file = Files::name(number);
    let to = order.files.fetched.join(&file);
    let mut ended = since;
    let outcome = match order.files.offer(number) {
        Ok(()) => fetch(order, number, &file, &to, &mut ended).await,
        Err(e) => Outcome::Failed(format!("offering the file: {e}")),
    };
    order.files.withdraw(number);
    // Failed transfers leave part of a file, or none.
    let _gone = std::fs::remove_file(&to);
    Transfer { number, file, seconds: since.elapsed().as_secs_f64(), ended, outcome }
}

async fn fetch(order: &Order, number: u32, file: &str, to: &PathBuf, ended: &mut Instant) -> Outcome {
    let Some((client, program)) = order.clients.get(number as usize % order.clients.len().max(1)) else {
        return Outcome::Failed("there is no client to fetch with".to_owned());
    };
    let fetch = Fetch { vip: order.vip, file, to, blksize: order.blksize, windowsize: order.windowsize, timeout: order.timeout };
    let mut command = client.command(program, &fetch);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(order.timeout, command.output()).await;
    *ended = Instant::now();
    let output = match output {
        Ok(Ok(output)) => output,
        Ok(Err(e)) => return Outcome::Failed(format!("starting {}: {e}", client.name())),
        Err(_) => return Outcome::Failed(format!("not done after {:?}", order.timeout)),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = last_line(&String::from_utf8_lossy(&said)).to_owned();
    if !output.status.success() {
        return Outcome::Failed(format!("{said} ({})", output.status));
    }
    let path = to.clone();
    match tokio::task::spawn_blocking(move || files::sum_of(&path)).await {
        Ok(Ok((sum, _))) if order.files.accepts(number, &sum) => Outcome::Verified,
        Ok(Ok((_, length))) => Outcome::Wrong(format!("{length} bytes with a wrong SHA-256; the client said: {said}")),
        Ok(Err(e)) => Outcome::Failed(format!("no file: {e}; the client said: {said}")),
        Err(e) => Outcome::Failed(format!("checking the file: {e}")),
    }
}
