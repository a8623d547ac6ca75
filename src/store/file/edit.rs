//! Whether somebody is in the middle of writing a file, told from the kernel's events: half of an intent may well be a good one.
//!
//! An editor that writes in place truncates the file first. The kernel queues its event a little after the deed, as for every write, so a reader may see
//! what no event has told of yet. Hence a text is taken only when it has stood unchanged for a moment, and an empty file, which is what
//! is seen between truncation and event, only when it has stayed empty for long.

use nix::sys::inotify::{AddWatchFlags, InotifyEvent};
use std::time::{Duration, Instant};

/// A file that somebody holds open for longer than this is read as it is.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a text stands before it is taken; events come microseconds after the deed, on a busy disk milliseconds.
const SETTLED: Duration = Duration::from_millis(50);

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
    /// Since when somebody writes.
    since: Option<Instant>,
    /// What was read last (absent: there was no file), and when first.
    read: Option<(Option<String>, Instant)>,
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

    /// How long to wait before the file may be taken for whole, when `text` was just read from it; `None`: it may.
    pub(super) fn wait(&mut self, text: Option<&str>, now: Instant) -> Option<Duration> {
        let first = match &self.read {
            Some((read, first)) if read.as_deref() == text => *first,
            _ => self.read.insert((text.map(str::to_owned), now)).1,
        };
        let settled = first + if text == Some("") { PATIENCE } else { SETTLED };
        let whole = self.since.map_or(settled, |since| settled.max(since + PATIENCE));
        let left = whole.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The file holds what is in force: what was read of an edit says nothing of the next one.
    pub(super) fn is_over(&mut self) {
        self.read = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::inotify::{InitFlags, Inotify};
    use std::fs;
    use std::io::Write;

    #[test]
    fn what_was_read_of_one_edit_is_not_old_in_the_next() {
        let (mut editing, now) = (Editing::default(), Instant::now());
        assert_eq!(editing.wait(Some(""), now), Some(PATIENCE));
        editing.is_over();
        assert_eq!(editing.wait(Some(""), now + 2 * PATIENCE), Some(PATIENCE));
    }

    #[test]
    fn what_no_event_has_told_of_yet_is_not_taken() {
        let (mut editing, now) = (Editing::default(), Instant::now());
        assert_eq!(editing.wait(Some(""), now), Some(PATIENCE), "truncated, and the event is on its way");
        assert_eq!(editing.wait(Some("half"), now + SETTLED), Some(SETTLED));
        assert_eq!(editing.wait(Some("whole"), now + SETTLED * 2), Some(SETTLED));
        assert_eq!(editing.wait(Some("whole"), now + SETTLED * 3), None);
        assert_eq!(editing.wait(None, now + SETTLED * 3), Some(SETTLED), "an editor that puts another in its place");
        assert_eq!(editing.wait(Some(""), now), Some(PATIENCE));
        assert_eq!(editing.wait(Some(""), now + PATIENCE), None, "somebody wants it empty");
    }

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
        assert_eq!(editing.wait(Some("n"), now), Some(PATIENCE), "it is truncated");
        assert_eq!(editing.wait(Some("n"), now + PATIENCE), None, "nobody writes for so long");
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(told(&mut editing).len(), 2);
        assert_eq!(editing.wait(Some("new"), now), Some(SETTLED));
        assert_eq!(editing.wait(Some("new"), now + SETTLED), None);
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
