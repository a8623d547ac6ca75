//! Whether somebody is in the middle of writing a file, told from the kernel's events: half of an intent may well be a good one.
//!
//! An editor that writes in place truncates the file first, and the kernel queues that event before it does so. Who reads the file and then finds no
//! such event in the queue has read what was there before.

use nix::sys::inotify::{AddWatchFlags, InotifyEvent};
use std::time::{Duration, Instant};

/// A file that somebody holds open for longer than this is read as it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// The events that [`Editing`] is to be told, and the end of the directory.
pub(super) const EVENTS: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Editing {
    since: Option<Instant>,
}

/// What an event means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Something else.
    Nothing,
    /// The files are to be read.
    Changed,
    /// The directory is gone.
    Gone,
}

impl Editing {
    /// Takes note of an event in the directory.
    pub(super) fn event(&mut self, event: &InotifyEvent, intent: &str, set: &str, now: Instant) -> Meaning {
        let is = |flags: AddWatchFlags| event.mask.intersects(flags);
        if is(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED) {
            return Meaning::Gone;
        }
        if is(AddWatchFlags::IN_Q_OVERFLOW) {
            return Meaning::Changed;
        }
        let Some(name) = &event.name else { return Meaning::Nothing };
        if name == set {
            return if is(AddWatchFlags::IN_MODIFY) { Meaning::Nothing } else { Meaning::Changed };
        }
        if name != intent {
            return Meaning::Nothing;
        }
        self.since = is(AddWatchFlags::IN_MODIFY).then(|| self.since.unwrap_or(now));
        Meaning::Changed
    }

    /// How long to wait before the file may be taken for whole; `None`: it may.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let left = PATIENCE.checked_sub(now.saturating_duration_since(self.since?))?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::inotify::{InitFlags, Inotify};
    use std::fs;
    use std::io::Write;

    #[test]
    fn a_file_is_whole_when_its_writer_has_closed_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intent.toml");
        fs::write(&path, "old").unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        inotify.add_watch(directory.path(), EVENTS).unwrap();
        let (mut editing, now) = (Editing::default(), Instant::now());
        let told = |editing: &mut Editing| {
            let events = inotify.read_events().unwrap_or_default();
            events.iter().map(|event| editing.event(event, "intent.toml", "set.json", now)).collect::<Vec<_>>()
        };
        let mut file = fs::File::create(&path).unwrap();
        assert_eq!(told(&mut editing), [Meaning::Changed]);
        assert_eq!(editing.wait(now), Some(PATIENCE), "it is truncated");
        assert_eq!(editing.wait(now + PATIENCE), None, "nobody writes for so long");
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(told(&mut editing).len(), 2);
        assert_eq!(editing.wait(now), None);
        fs::write(directory.path().join("other"), "x").unwrap();
        assert!(told(&mut editing).iter().all(|meaning| *meaning == Meaning::Nothing));
        fs::write(directory.path().join(".new"), "x").unwrap();
        fs::rename(directory.path().join(".new"), directory.path().join("set.json")).unwrap();
        assert_eq!(told(&mut editing).pop(), Some(Meaning::Changed));
        fs::remove_file(&path).unwrap();
        assert_eq!(told(&mut editing), [Meaning::Changed]);
        drop(directory);
        assert!(told(&mut editing).contains(&Meaning::Gone));
    }
}
