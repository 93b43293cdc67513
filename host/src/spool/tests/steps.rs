//! Each step that the spool asks of its disk fails: once, or from then on until the disk is mended, or the process ends
//! with it. What was told to be kept is carried out or still there, after each.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::atomic::AtomicUsize;

use super::super::Disk;
use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    Once,
    UntilMended,
    /// As a process that ends with the step, and a new one on a disk that is well.
    UntilTheNextStart,
}

/// A disk whose `fails`-th step does not do what it should.
#[derive(Clone)]
struct Faulty {
    fails: usize,
    lasts: Lasts,
    steps: Arc<AtomicUsize>,
    mended_at: Arc<AtomicUsize>,
}

impl Faulty {
    fn at(fails: usize, lasts: Lasts) -> Self {
        let never = Arc::new(AtomicUsize::new(usize::MAX));
        Self { fails, lasts, steps: Arc::default(), mended_at: never }
    }

    fn steps(&self) -> usize {
        self.steps.load(Ordering::SeqCst)
    }

    fn mend(&self) {
        self.mended_at.store(self.steps(), Ordering::SeqCst);
    }
}

impl Disk for Faulty {
    fn step(&mut self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::SeqCst) + 1;
        let is_over = step > self.fails && (self.lasts == Lasts::Once || step > self.mended_at.load(Ordering::SeqCst));
        if step < self.fails || is_over {
            return Ok(());
        }
        let (full, broken) = (io::ErrorKind::StorageFull, io::ErrorKind::Other);
        Err(io::Error::new(if self.fails.is_multiple_of(2) { full } else { broken }, "a fault of the test"))
    }

    fn write(&mut self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        let done = self.step();
        // All but the last of several records, and half of that.
        let part = if done.is_ok() { bytes.len() } else { bytes.len() - bytes.len().min(10) };
        Local.write(file, at, &bytes[..part])?;
        done
    }
}

/// What was told to be kept, what was carried out, and whether the process has ended with a step.
#[derive(Default)]
struct Story {
    kept: BTreeSet<String>,
    carried_out: BTreeSet<String>,
    ended: bool,
}

impl Story {
    /// Asks until it is done, as callers and the gate do. `None`: the process ended first.
    async fn insist<T, E>(&mut self, disk: &Faulty, mut ask: impl AsyncFnMut() -> Result<T, E>) -> Option<T> {
        for _ in 0..5 {
            if self.ended {
                return None;
            }
            match ask().await {
                Ok(done) => return Some(done),
                Err(_) if disk.lasts == Lasts::UntilTheNextStart => self.ended = true,
                Err(_) => disk.mend(),
            }
        }
        panic!("step {}, {:?}: it is never done", disk.fails, disk.lasts);
    }

    async fn append(&mut self, disk: &Faulty, spool: &Spool, record: &str) {
        let kept = self.insist(disk, async || spool.append(record.as_bytes().to_vec()).await).await;
        self.kept.extend(kept.map(|()| record.to_owned()));
    }

    /// As the gate does it: reads, carries out, and is done if nothing has come since; all over again after an error.
    async fn replay(&mut self, disk: &Faulty, spool: &Spool, waiting: Option<&str>) {
        let read = |records: Vec<Vec<u8>>| -> Vec<String> {
            records.into_iter().map(|record| String::from_utf8(record).expect("a text")).collect()
        };
        let mut carried_out = Vec::new();
        let done = self.insist(disk, async || {
            let (records, mark) = spool.read(Mark::default()).await?;
            let records = read(records);
            carried_out.extend(records.iter().filter(|record| Some(record.as_str()) != waiting).cloned());
            let waits: Vec<Vec<u8>> = waiting.iter().map(|record| record.as_bytes().to_vec()).collect();
            // An empty spool after an error: what waits is not in it either.
            let waits = if records.is_empty() { Vec::new() } else { waits };
            let is_finished = spool.finish(mark, waits, || ()).await?;
            assert!(is_finished, "step {}, {:?}: {records:?} are not all that there is", disk.fails, disk.lasts);
            io::Result::Ok(())
        });
        done.await;
        self.carried_out.extend(carried_out);
    }
}

/// A host on a folder with records of its own, one of them damaged, and with those of a host that is gone.
async fn life(dir: &Path, disk: &Faulty) -> Story {
    let mut story = Story::default();
    let _ = fs::remove_dir_all(dir);
    fs::create_dir_all(dir).expect("a folder");
    let old = [framed(b"old-1"), b"damaged".to_vec(), framed(b"old-2")].concat();
    fs::write(dir.join("1.spool"), old).expect("a file");
    fs::write(dir.join("2.spool"), framed(b"a gone host's")).expect("a file");
    story.kept.extend(["old-1", "old-2", "a gone host's"].map(str::to_owned));
    let opened = story.insist(disk, async || Spool::open_on(Box::new(disk.clone()), dir, 1 << 20)).await;
    let Some((spool, _)) = opened else { return story };
    story.append(disk, &spool, "one").await;
    story.append(disk, &spool, "waits").await;
    // Together: one write, one sync.
    let together = ["two", "three", "four"].map(|record| spool.append(record.as_bytes().to_vec()));
    let [two, three, four] = together;
    let (two, three, four) = tokio::join!(two, three, four);
    for (kept, record) in [(two, "two"), (three, "three"), (four, "four")] {
        if kept.is_ok() {
            story.kept.insert(record.to_owned());
        } else if disk.lasts == Lasts::UntilTheNextStart {
            story.ended = true;
        } else {
            story.append(disk, &spool, record).await;
        }
    }
    story.insist(disk, async || spool.set_aside(vec![b"no good".to_vec()]).await).await;
    story.replay(disk, &spool, Some("waits")).await;
    spool.accept();
    story.append(disk, &spool, "of the next outage").await;
    story.replay(disk, &spool, None).await;
    story
}

/// Returns when whoever had a folder's files has let go of them.
fn until_all_let_go(dir: &Path) {
    for file in ["1.spool", "2.spool"] {
        until_let_go(&dir.join(file));
    }
}

/// What the next process finds in a folder, which it lets go of.
async fn left_in(dir: &Path) -> BTreeSet<String> {
    until_all_let_go(dir);
    let (spool, found) = open(dir);
    let left: Vec<String> = texts(&spool).await;
    assert_eq!(found.records, left.len());
    drop(spool);
    until_all_let_go(dir);
    left.into_iter().collect()
}

#[tokio::test]
async fn whichever_step_of_the_disk_fails_what_was_kept_is_carried_out_or_still_there() {
    let dir = dir("steps");
    for lasts in [Lasts::Once, Lasts::UntilMended, Lasts::UntilTheNextStart] {
        let mut step = 0;
        loop {
            step += 1;
            let disk = Faulty::at(step, lasts);
            let story = life(&dir, &disk).await;
            let left = left_in(&dir).await;
            let (lost, place) = (&story.kept - &(&story.carried_out | &left), format!("step {step}, {lasts:?}"));
            assert!(lost.is_empty(), "{place}: lost {lost:?}");
            let damaged = fs::read(dir.join("1.damaged")).expect("what was damaged");
            assert!(damaged.starts_with(b"damaged\n"), "{place}: {damaged:?}");
            if !story.ended {
                assert!(left.is_empty(), "{place}: {left:?}");
                assert_eq!(story.carried_out, story.kept, "{place}");
                let rejected = fs::read_to_string(dir.join("1.rejected")).expect("what was set aside");
                assert!(rejected.lines().all(|line| line == "no good"), "{place}: {rejected}");
            }
            if disk.steps() < step {
                break;
            }
        }
        assert!(step > 30, "{lasts:?}: {step} steps");
    }
    fs::remove_dir_all(dir).expect("a folder");
}

#[tokio::test]
async fn half_a_record_that_could_not_be_cut_off_at_once_is_cut_off_before_the_next() {
    let dir = dir("half");
    fs::create_dir_all(&dir).expect("a folder");
    // The same files, so that each start has the same steps.
    assert_eq!(left_in(&dir).await, BTreeSet::new());
    let well = Faulty::at(usize::MAX, Lasts::Once);
    drop(Spool::open_on(Box::new(well.clone()), &dir, 1 << 20).expect("a spool"));
    assert_eq!(left_in(&dir).await, BTreeSet::new());
    let steps = well.steps();
    let disk = Faulty::at(steps + 1, Lasts::UntilMended);
    let (spool, _) = Spool::open_on(Box::new(disk.clone()), &dir, 1 << 20).expect("a spool");
    spool.append(b"a record that is long".to_vec()).await.expect_err("a disk that fails, twice");
    assert_eq!(disk.steps(), steps + 2);
    disk.mend();
    spool.append(b"short".to_vec()).await.expect("room");
    let file = fs::read(dir.join("1.spool")).expect("a file");
    assert_eq!(file, framed(b"short"), "and nothing behind it");
    drop(spool);
    until_all_let_go(&dir);
    fs::remove_dir_all(dir).expect("a folder");
}
