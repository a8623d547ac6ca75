use super::*;
use crate::content::{Source, Version as Tag};
use crate::handlers::http::disk::{self, Disk};
use crate::handlers::http::meta::Meta;
use crate::handlers::testing::read_source;

const FRESH: Duration = Duration::from_secs(10);

struct Fixture {
    directory: tempfile::TempDir,
    disk: Disk,
    index: Index,
    now: Instant,
}

fn fixture(limit: u64) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let (disk, _) = Disk::open(directory.path()).unwrap();
    Fixture { directory, disk, index: Index::new(limit), now: Instant::now() }
}

impl Fixture {
    fn object(&self, size: u64, whole: bool) -> Arc<Object> {
        let object = self.disk.create(Meta { size: Some(size), etag: Some("\"1\"".into()), last_modified: None, settled: false }).unwrap();
        if whole {
            object.finish(size, Tag([0; 16]));
        }
        Arc::new(object)
    }

    fn keep(&mut self, url: &str, size: u64, whole: bool) -> Option<Arc<Object>> {
        let object = self.object(size, whole);
        let cached = self.index.keep(url, Version::Open(object.clone()), size, Some(self.now));
        cached.then_some(object)
    }

    fn fresh(&mut self, url: &str) -> bool {
        matches!(self.index.look_up(url, FRESH, self.now), Lookup::Fresh(_))
    }

    /// Removes evicted files and returns the number of files on disk.
    fn files(&mut self) -> usize {
        self.index.gone.drain(..).for_each(|path| disk::remove(&path));
        std::fs::read_dir(self.directory.path()).unwrap().count() - 1
    }
}

#[test]
fn the_least_recently_used_is_evicted_and_running_fetches_stay() {
    let mut w = fixture(16 << 10);
    let a = w.keep("a", 4000, true).unwrap();
    w.keep("b", 4000, true).unwrap();
    w.keep("coming", 4000, false).unwrap();
    w.keep("d", 4000, true).unwrap();
    assert!(w.fresh("a"));
    w.keep("e", 1, true).unwrap();
    assert_eq!((w.fresh("a"), w.fresh("b"), w.fresh("coming"), w.fresh("d"), w.fresh("e")), (true, false, true, true, true));
    assert_eq!((w.index.bytes(), w.files()), (16 << 10, 4));
    assert!(w.keep("large", 13_000, true).is_none(), "the file that is being fetched takes the room");
    assert!(w.keep("huge", 17_000, true).is_none());
    assert_eq!((w.index.bytes(), w.files()), (4096, 1));
    assert!(!a.path().exists(), "files were evicted for the large one before it turned out not to fit");
}

#[test]
fn the_previous_version_stays_until_the_new_one_is_complete() {
    let mut w = fixture(1 << 20);
    let old = w.keep("f", 5000, true).unwrap();
    let new = w.keep("f", 5000, false).unwrap();
    assert!(w.files() == 2 && w.index.bytes() == 16 << 10);
    new.fail("gone");
    w.index.failed("f", &new, true);
    assert!(matches!(w.index.look_up("f", FRESH, w.now), Lookup::Revalidate(Some(object)) if Arc::ptr_eq(&object, &old)));
    assert!(w.files() == 1 && old.path().exists() && w.index.bytes() == 8 << 10);
    let newer = w.keep("f", 5000, false).unwrap();
    newer.finish(5000, Tag([0; 16]));
    w.index.whole("f", &newer);
    assert!(w.fresh("f"));
    assert_eq!((w.index.bytes(), w.files()), (8 << 10, 1));
    assert!(newer.path().exists());
}

#[test]
fn a_part_stays_only_when_it_can_be_continued() {
    let mut w = fixture(1 << 20);
    for continuable in [true, false] {
        let part = w.keep("f", 5000, false).unwrap();
        part.fail("gone");
        w.index.failed("f", &part, continuable);
        assert_eq!(matches!(w.index.look_up("f", FRESH, w.now), Lookup::Revalidate(Some(_))), continuable);
        assert_eq!(w.files() == 1, continuable);
    }
    assert_eq!((w.index.bytes(), w.files()), (0, 0));
}

#[test]
fn answers_of_the_origin_are_valid_for_a_while() {
    let mut w = fixture(1 << 20);
    let object = w.keep("f", 1, true).unwrap();
    w.now += FRESH - Duration::from_millis(1);
    assert!(w.fresh("f"));
    w.now += Duration::from_millis(1);
    assert!(!w.fresh("f"));
    w.index.checked("f", &object, w.now);
    assert!(w.fresh("f"));
    w.index.missing("f", w.now + FRESH);
    assert!(matches!(w.index.look_up("f", FRESH, w.now), Lookup::Missing));
    assert!(
        matches!(w.index.look_up("f", FRESH, w.now + FRESH), Lookup::Revalidate(None)),
        "the cached version was removed with the origin's answer"
    );
    assert_eq!(w.files(), 0);
}

#[test]
fn random_names_of_clients_do_not_fill_memory() {
    let mut w = fixture(1 << 20);
    for number in 0..MAX_MISSING + 1000 {
        w.index.missing(&number.to_string(), w.now + FRESH);
    }
    assert_eq!((w.index.missing.len(), w.index.missing_order.len()), (MAX_MISSING, MAX_MISSING));
    assert!(matches!(w.index.look_up("0", FRESH, w.now), Lookup::Revalidate(None)));
}

#[test]
fn a_file_on_the_disk_is_open_only_while_it_is_read() {
    let mut w = fixture(1 << 20);
    let object = w.keep("f", 3, false).unwrap();
    object.write(0, b"abc").unwrap();
    object.finish(3, Tag([1; 16]));
    let cached = disk::settle(&object, "f", 3, Tag([1; 16])).unwrap();
    w.index.settled("f", &object, cached);
    let open = Arc::downgrade(&object);
    let mut again = || match w.index.look_up("f", FRESH, w.now) {
        Lookup::Fresh(object) => Some(object),
        _ => None,
    };
    assert!(again().is_some_and(|again| Arc::ptr_eq(&again, &object)), "the same for everyone");
    drop(object);
    assert!(open.upgrade().is_none());
    let (one, two) = (again().unwrap(), again().unwrap());
    assert!(Arc::ptr_eq(&one, &two));
    assert_eq!((read_source(&*one).unwrap(), one.version()), (b"abc".to_vec(), Tag([1; 16])));
    w.index.forget("f");
    assert_eq!((w.files(), read_source(&*one).unwrap()), (0, b"abc".to_vec()), "readers continue");
}
