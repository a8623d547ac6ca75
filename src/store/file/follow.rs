//! Follows the directory: reads the set whenever the kernel says that something has changed, and puts in force what people have written. A thread, for
//! it does nothing but wait for the kernel and read files.

use super::super::{Seen, Set, Trouble};
use super::disk::{Disk, Edit, INTENT, SET, intent};
use super::edit::{EVENTS, Editing, Meaning};
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

/// How often a directory that is gone, or cannot be read, is looked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// The thread; it ends soon after this is dropped.
#[derive(Debug)]
pub(super) struct Following {
    stop: Arc<EventFd>,
}

impl Drop for Following {
    fn drop(&mut self) {
        // Cannot fail: nobody else counts in it.
        let _told = self.stop.write(1);
    }
}

/// Starts to follow.
pub(super) fn start(disk: Arc<Disk>) -> io::Result<(watch::Sender<Seen>, Following)> {
    let fresh = Instant::now();
    let nothing = Trouble { since: fresh, why: format!("{} has not been read yet", disk.directory().display()) };
    let seen = watch::Sender::new(Seen { set: Arc::default(), trouble: Some(nothing) });
    let stop = Arc::new(EventFd::new()?);
    let mut follower = Follower { disk, seen: seen.clone(), fresh, last: Arc::default(), told: false, stop: stop.clone() };
    thread::Builder::new().name("store".to_owned()).spawn(move || follower.run())?;
    Ok((seen, Following { stop }))
}

struct Follower {
    disk: Arc<Disk>,
    seen: watch::Sender<Seen>,
    /// When the set was last known to be the newest.
    fresh: Instant,
    last: Arc<Set>,
    /// Whether anything was shown yet.
    told: bool,
    stop: Arc<EventFd>,
}

/// Told to end.
struct Stopped;

/// How `intent.toml` stands to the intent in force.
enum State {
    /// It is that.
    Whole,
    /// It was just put in force.
    Taken,
    /// Nothing can be said yet: somebody is writing it.
    Open,
    /// It cannot be put in force, and why.
    Bad(String),
}

impl Follower {
    fn run(&mut self) {
        loop {
            match self.follow() {
                Ok(Stopped) => return,
                Err(why) => self.trouble(why.to_string()),
            }
            if let Ok(Some(Stopped)) = self.wait(None, Some(AGAIN)) {
                return;
            }
        }
    }

    /// Fails when the directory is gone, or something in it cannot be read.
    fn follow(&mut self) -> io::Result<Stopped> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watched = inotify.add_watch(self.disk.directory(), EVENTS);
        watched.map_err(|why| io::Error::other(format!("{}: {}", self.disk.directory().display(), io::Error::from(why))))?;
        let mut editing = Editing::default();
        loop {
            let (set, edit) = self.disk.read(&self.last)?;
            // What has happened while it was read; before anything is made of it.
            let mut changed = drain(&inotify, &mut editing)?;
            let unfinished = match &edit {
                Some(edit) => editing.wait(edit.text.as_deref(), Instant::now()),
                None => {
                    editing.is_over();
                    None
                }
            };
            let state = match edit {
                None => State::Whole,
                Some(_) if unfinished.is_some() || changed => State::Open,
                Some(edit) => self.take(edit)?,
            };
            match state {
                // It is read again, as a whole.
                State::Taken => continue,
                // The first word is a whole one: who looks only once would miss what is to be said of an edit.
                State::Open if !self.told => {}
                state => self.show(set, state),
            }
            let until = unfinished.map(|left| Instant::now() + left);
            while !changed {
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                if let Some(Stopped) = self.wait(Some(&inotify), left)? {
                    return Ok(Stopped);
                }
                changed = drain(&inotify, &mut editing)? || until.is_some_and(|until| Instant::now() >= until);
            }
        }
    }

    /// Puts an edit in force, if it is good.
    fn take(&self, edit: Edit) -> io::Result<State> {
        let path = self.disk.path(INTENT);
        let Some(text) = edit.text else {
            let why = format!("{} is gone; in-force.toml beside it is the one in force: copy that, or write another", path.display());
            return Ok(State::Bad(why));
        };
        match intent(&text) {
            Ok(_) => self.disk.take(&text).map(|()| State::Taken),
            Err(errors) => Ok(State::Bad(format!("{} has errors and is not in force:\n{errors}", path.display()))),
        }
    }

    /// Tells the set and what is to be said of it.
    fn show(&mut self, set: Set, state: State) {
        self.told = true;
        if set != *self.last {
            self.last = Arc::new(set);
        }
        let whole = matches!(state, State::Whole);
        if whole {
            self.fresh = Instant::now();
        }
        self.seen.send_if_modified(|seen| {
            let changed = *seen.set != *self.last;
            if changed {
                seen.set = self.last.clone();
            }
            let mended = whole && seen.trouble.take().is_some();
            let worse = if let State::Bad(why) = state { self.worse(seen, why) } else { false };
            changed || mended || worse
        });
    }

    /// Waits for the kernel's word, or to be told to end, or for `left`.
    fn wait(&self, inotify: Option<&Inotify>, left: Option<Duration>) -> io::Result<Option<Stopped>> {
        let stop = PollFd::new(self.stop.as_fd(), PollFlags::POLLIN);
        let mut all: Vec<PollFd<'_>> = [stop].into_iter().chain(inotify.map(|all| PollFd::new(all.as_fd(), PollFlags::POLLIN))).collect();
        // Rounded up, or the end of a wait would be many short ones.
        let left = left.map_or(Ok(PollTimeout::NONE), |left| PollTimeout::try_from(left.as_millis() + 1));
        match poll(&mut all, left.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(all.first().is_some_and(|stop| stop.any() == Some(true)).then_some(Stopped))
    }

    fn trouble(&self, why: String) {
        self.seen.send_if_modified(|seen| self.worse(seen, why));
    }

    fn worse(&self, seen: &mut Seen, why: String) -> bool {
        if seen.trouble.as_ref().is_some_and(|trouble| trouble.why == why) {
            return false;
        }
        tracing::warn!(generation = seen.set.generation, "the last good set stands: {why}");
        seen.trouble = Some(Trouble { since: self.fresh, why });
        true
    }
}

/// Takes note of everything that the kernel has to say now. Whether it is a reason to read.
fn drain(inotify: &Inotify, editing: &mut Editing) -> io::Result<bool> {
    let mut changed = false;
    loop {
        match inotify.read_events() {
            Err(Errno::EAGAIN) => return Ok(changed),
            Err(errno) => return Err(errno.into()),
            Ok(all) => {
                for event in all {
                    match editing.event(&event, INTENT, SET, Instant::now()) {
                        Meaning::Nothing => {}
                        Meaning::Changed => changed = true,
                        Meaning::Gone => return Err(io::Error::other("the directory of the store is gone")),
                    }
                }
            }
        }
    }
}
