//! Detects from the kernel's events whether a process is still writing a file: half of an intent may be a valid intent.
//!
//! An editor that writes in place truncates the file first. The kernel queues the event of a write shortly after the write, so a reader may
//! see contents whose event is still to come. So a text is taken only when it has not changed for a moment. An empty file may be a
//! truncated one, so it is taken only when it has been empty for long.

use nix::sys::inotify::{AddWatchFlags, InotifyEvent};
use std::time::{Duration, Instant};

/// A file that is held open for longer than this is read as it is.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for which a text must not change before it is taken. Events come microseconds after the write, on a busy disk milliseconds.
const SETTLE_TIME: Duration = Duration::from_millis(50);

/// The events that [`EditTracker`] needs, and the end of the directory.
pub(super) const EVENTS: AddWatchFlags = AddWatchFlags::IN_MODIFY
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF);

/// Tracks edits; see the module.
#[derive(Debug, Default)]
pub(super) struct EditTracker {
    /// Time since which a process writes.
    since: Option<Instant>,
    /// The last text (absent: there was no file), and when it was first read.
    read: Option<(Option<String>, Instant)>,
}

/// The meaning of an event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// An irrelevant event.
    Ignored,
    /// The files must be read.
    Changed,
    /// The directory is gone.
    Gone,
}

impl EditTracker {
    /// Records an event in the directory.
    pub(super) fn event(&mut self, event: &InotifyEvent, intent: &str, state: &str, now: Instant) -> FileEvent {
        let is = |flags: AddWatchFlags| event.mask.intersects(flags);
        if is(AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED) {
            return FileEvent::Gone;
        }
        if is(AddWatchFlags::IN_Q_OVERFLOW) {
            return FileEvent::Changed;
        }
        let Some(name) = &event.name else { return FileEvent::Ignored };
        if name == state {
            return if is(AddWatchFlags::IN_MODIFY) { FileEvent::Ignored } else { FileEvent::Changed };
        }
        if name != intent {
            return FileEvent::Ignored;
        }
        self.since = is(AddWatchFlags::IN_MODIFY).then(|| self.since.unwrap_or(now));
        FileEvent::Changed
    }

    /// Returns how long to wait before the file can be taken as complete, when `text` was just read; `None`: now.
    pub(super) fn settle_delay(&mut self, text: Option<&str>, now: Instant) -> Option<Duration> {
        let first = match &self.read {
            Some((read, first)) if read.as_deref() == text => *first,
            _ => self.read.insert((text.map(str::to_owned), now)).1,
        };
        let settled = first + if text == Some("") { WRITE_TIMEOUT } else { SETTLE_TIME };
        let whole = self.since.map_or(settled, |since| settled.max(since + WRITE_TIMEOUT));
        let left = whole.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// The file holds the intent in force: forgets the text of the last edit.
    pub(super) fn reset(&mut self) {
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
    fn the_age_of_a_text_starts_anew_with_each_edit() {
        let (mut edit_tracker, now) = (EditTracker::default(), Instant::now());
        assert_eq!(edit_tracker.settle_delay(Some(""), now), Some(WRITE_TIMEOUT));
        edit_tracker.reset();
        assert_eq!(edit_tracker.settle_delay(Some(""), now + 2 * WRITE_TIMEOUT), Some(WRITE_TIMEOUT));
    }

    #[test]
    fn a_change_before_its_event_is_not_taken() {
        let (mut edit_tracker, now) = (EditTracker::default(), Instant::now());
        assert_eq!(edit_tracker.settle_delay(Some(""), now), Some(WRITE_TIMEOUT), "truncated, and the event is still to come");
        assert_eq!(edit_tracker.settle_delay(Some("half"), now + SETTLE_TIME), Some(SETTLE_TIME));
        assert_eq!(edit_tracker.settle_delay(Some("whole"), now + SETTLE_TIME * 2), Some(SETTLE_TIME));
        assert_eq!(edit_tracker.settle_delay(Some("whole"), now + SETTLE_TIME * 3), None);
        assert_eq!(edit_tracker.settle_delay(None, now + SETTLE_TIME * 3), Some(SETTLE_TIME), "an editor that replaces the file");
        assert_eq!(edit_tracker.settle_delay(Some(""), now), Some(WRITE_TIMEOUT));
        assert_eq!(edit_tracker.settle_delay(Some(""), now + WRITE_TIMEOUT), None, "the file is meant to be empty");
    }

    #[test]
    fn a_file_is_complete_when_its_writer_has_closed_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("intent.toml");
        fs::write(&path, "old").unwrap();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        inotify.add_watch(directory.path(), EVENTS).unwrap();
        let (mut edit_tracker, now) = (EditTracker::default(), Instant::now());
        let take_events = |edit_tracker: &mut EditTracker| {
            let events = inotify.read_events().unwrap_or_default();
            events.iter().map(|event| edit_tracker.event(event, "intent.toml", "state.json", now)).collect::<Vec<_>>()
        };
        let mut file = fs::File::create(&path).unwrap();
        assert_eq!(take_events(&mut edit_tracker), [FileEvent::Changed]);
        assert_eq!(edit_tracker.settle_delay(Some("n"), now), Some(WRITE_TIMEOUT), "it is truncated");
        assert_eq!(edit_tracker.settle_delay(Some("n"), now + WRITE_TIMEOUT), None, "no process writes for this long");
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(take_events(&mut edit_tracker).len(), 2);
        assert_eq!(edit_tracker.settle_delay(Some("new"), now), Some(SETTLE_TIME));
        assert_eq!(edit_tracker.settle_delay(Some("new"), now + SETTLE_TIME), None);
        fs::write(directory.path().join("other"), "x").unwrap();
        assert!(take_events(&mut edit_tracker).iter().all(|meaning| *meaning == FileEvent::Ignored));
        fs::write(directory.path().join(".new"), "x").unwrap();
        fs::rename(directory.path().join(".new"), directory.path().join("state.json")).unwrap();
        assert_eq!(take_events(&mut edit_tracker).pop(), Some(FileEvent::Changed));
        fs::remove_file(&path).unwrap();
        assert_eq!(take_events(&mut edit_tracker), [FileEvent::Changed]);
        drop(directory);
        assert!(take_events(&mut edit_tracker).contains(&FileEvent::Gone));
    }
}
