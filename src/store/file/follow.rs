//! Follows the directory: reads the cluster state whenever the kernel reports a change, and puts valid edits of operators in force. It is a
//! thread, because it only waits for the kernel and reads files.

use super::super::known::Known;
use super::super::{Stale, StaleReason, StoreView};
use super::disk::{Disk, INTENT, IntentCache, PendingEdit, STATE, intent};
use super::edits::{EVENTS, EditTracker, FileEvent};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::inotify::{InitFlags, Inotify};
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Interval at which a missing or unreadable directory is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The thread; it ends soon after this is dropped.
#[derive(Debug)]
pub(super) struct FollowHandle {
    stop: Arc<EventFd>,
}

impl Drop for FollowHandle {
    fn drop(&mut self) {
        // Cannot fail: only this guard writes to it.
        let _told = self.stop.write(1);
    }
}

/// Starts to follow. `known` is what this host knows already.
pub(super) fn start(disk: Arc<Disk>, known: Known) -> io::Result<(watch::Sender<StoreView>, FollowHandle)> {
    let last_fresh = Instant::now();
    let not_read_yet =
        Stale { since: last_fresh, reason: StaleReason::Unavailable, why: format!("{} has not been read yet", disk.directory().display()) };
    let view = watch::Sender::new(StoreView { cluster: Arc::default(), stale: Some(not_read_yet) });
    let stop = Arc::new(EventFd::new()?);
    let last = IntentCache::default();
    let mut follower = Follower { disk, view: view.clone(), last_fresh, last, known, published: false, stop: stop.clone() };
    thread::Builder::new().name("store".to_owned()).spawn(move || follower.run())?;
    Ok((view, FollowHandle { stop }))
}

struct Follower {
    disk: Arc<Disk>,
    view: watch::Sender<StoreView>,
    /// Last time at which the cluster state was known to be the newest.
    last_fresh: Instant,
    last: IntentCache,
    /// What this process knows, which the contents of the directory may replace.
    known: Known,
    /// Whether a view was published yet.
    published: bool,
    stop: Arc<EventFd>,
}

/// The stop signal.
struct StopRequested;

/// The relation of `intent.toml` to the intent in force.
enum EditState {
    /// It is the intent in force.
    InForce,
    /// It was just put in force.
    Activated,
    /// Unknown: a process is writing the file.
    InProgress,
    /// It cannot be put in force, with the reason.
    Invalid(String),
}

impl Follower {
    fn run(&mut self) {
        loop {
            match self.follow() {
                Ok(StopRequested) => return,
                Err(why) => {
                    let reason = if why.kind() == io::ErrorKind::InvalidData { StaleReason::Invalid } else { StaleReason::Unavailable };
                    self.stale(reason, why.to_string());
                }
            }
            if let Ok(Some(StopRequested)) = self.wait(None, Some(RETRY_INTERVAL)) {
                return;
            }
        }
    }

    /// Returns an error when the directory is gone or one of its files cannot be read.
    fn follow(&mut self) -> io::Result<StopRequested> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watched = inotify.add_watch(self.disk.directory(), EVENTS);
        watched.map_err(|why| io::Error::other(format!("{}: {}", self.disk.directory().display(), io::Error::from(why))))?;
        let mut edit_tracker = EditTracker::default();
        loop {
            let (cluster, edit) = self.disk.read(&mut self.last)?;
            let taken = self.known.take(Arc::new(cluster));
            // Takes the events that came while the files were read, before the result is used.
            let mut changed = drain(&inotify, &mut edit_tracker)?;
            let unfinished = match &edit {
                Some(edit) => edit_tracker.settle_delay(edit.text.as_deref(), Instant::now()),
                None => {
                    edit_tracker.reset();
                    None
                }
            };
            let edit_state = match edit {
                _ if taken.is_err() => EditState::InForce,
                None => EditState::InForce,
                Some(_) if unfinished.is_some() || changed => EditState::InProgress,
                Some(edit) => self.activate(edit)?,
            };
            match edit_state {
                // It is read again, as a whole.
                EditState::Activated => continue,
                // The first view must be complete: a reader that looks only once must see an error about an edit.
                EditState::InProgress if !self.published => {}
                edit_state => self.publish(taken, edit_state),
            }
            let until = unfinished.map(|left| Instant::now() + left);
            while !changed {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                if let Some(StopRequested) = self.wait(Some(&inotify), left)? {
                    return Ok(StopRequested);
                }
                changed = drain(&inotify, &mut edit_tracker)? || until.is_some_and(|until| Instant::now() >= until);
            }
        }
    }

    /// Puts a valid edit in force.
    fn activate(&self, edit: PendingEdit) -> io::Result<EditState> {
        let path = self.disk.path(INTENT);
        let Some(text) = edit.text else {
            let why =
                format!("{} is missing; active.toml beside it holds the intent in force: copy it, or write a new file", path.display());
            return Ok(EditState::Invalid(why));
        };
        match intent(&text) {
            // Most likely the beginning of a file whose writer died or had no space left.
            Ok(intent) if intent.vips.is_empty() && !self.known.state().intent.vips.is_empty() => {
                let why =
                    format!("{} has no VIP any more and is not in force; if that is meant: `guideway store accept --yes`", path.display());
                Ok(EditState::Invalid(why))
            }
            Ok(_) => self.disk.activate(&text).map(|()| EditState::Activated),
            Err(errors) => Ok(EditState::Invalid(format!("{} has errors and is not in force:\n{errors}", path.display()))),
        }
    }

    /// Publishes the known cluster state, whether the directory holds it, and the state of the edit.
    fn publish(&mut self, taken: Result<(), String>, edit_state: EditState) {
        self.published = true;
        let trouble = match (taken, edit_state) {
            (Err(why), _) => Some((StaleReason::RolledBack, why)),
            (_, EditState::Invalid(why)) => Some((StaleReason::Invalid, why)),
            (_, EditState::InForce) => None,
            (_, EditState::Activated | EditState::InProgress) => return self.show_known(),
        };
        if trouble.is_none() {
            self.last_fresh = Instant::now();
        }
        self.view.send_if_modified(|view| {
            let changed = view.cluster != *self.known.state();
            if changed {
                view.cluster = self.known.state().clone();
            }
            changed
                | match trouble {
                    None => view.stale.take().is_some(),
                    Some((reason, why)) => view.set_stale(Stale { since: self.last_fresh, reason, why }),
                }
        });
    }

    /// Publishes the known cluster state; whether it is the newest stays open.
    fn show_known(&self) {
        let known = self.known.state();
        self.view.send_if_modified(|view| {
            view.cluster != *known && {
                view.cluster = known.clone();
                true
            }
        });
    }

    /// Waits for a kernel event, for the stop signal, or for `left`.
    fn wait(&self, inotify: Option<&Inotify>, left: Option<Duration>) -> io::Result<Option<StopRequested>> {
        let stop = PollFd::new(self.stop.as_fd(), PollFlags::POLLIN);
        let mut all: Vec<PollFd<'_>> = [stop].into_iter().chain(inotify.map(|all| PollFd::new(all.as_fd(), PollFlags::POLLIN))).collect();
        // Rounds up; otherwise the end of a wait would be many short ones.
        let left = left.map_or(Ok(PollTimeout::NONE), |left| PollTimeout::try_from(left.as_millis() + 1));
        match poll(&mut all, left.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(all.first().is_some_and(|stop| stop.any() == Some(true)).then_some(StopRequested))
    }

    fn stale(&self, reason: StaleReason, why: String) {
        if reason == StaleReason::Invalid {
            self.show_known();
        }
        self.view.send_if_modified(|view| view.set_stale(Stale { since: self.last_fresh, reason, why }));
    }
}

/// Takes all pending kernel events. Returns whether the files must be read.
fn drain(inotify: &Inotify, edit_tracker: &mut EditTracker) -> io::Result<bool> {
    let mut changed = false;
    loop {
        match inotify.read_events() {
            Err(Errno::EAGAIN) => return Ok(changed),
            Err(errno) => return Err(errno.into()),
            Ok(all) => {
                for event in all {
                    match edit_tracker.event(&event, INTENT, STATE, Instant::now()) {
                        FileEvent::Ignored => {}
                        FileEvent::Changed => changed = true,
                        FileEvent::Gone => return Err(io::Error::other("the directory of the store is gone")),
                    }
                }
            }
        }
    }
}
