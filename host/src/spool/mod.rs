//! The spool: what must not be lost while the store cannot be reached, on this host's disk.
//!
//! One file, written by one thread: a record is on the disk before whoever gave it is answered, and records that come
//! together share one sync. What is in it is replayed from the start and then cut off; a record is only ever read by
//! who knows that it may have been carried out before.

mod frame;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use self::frame::{Scan, framed, scan};

/// Records that wait for the disk; more are refused.
const QUEUE: usize = 4_096;
/// Files that hosts with one data directory use side by side.
const MOST_FILES: u32 = 64;

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// There is no room for it: its own limit, or the disk's.
    #[error("the spool is full")]
    Full,
    /// More records than the disk takes in time.
    #[error("more records than the disk takes in time")]
    Overloaded,
    /// The store is back: there is no need for it.
    #[error("the store is back")]
    NotNeeded,
    /// The disk.
    #[error("the spool cannot be written: {0}")]
    Disk(Arc<io::Error>),
}

type Done<T> = oneshot::Sender<T>;

enum Job {
    Append(Append),
    Read(usize, Done<io::Result<Vec<Vec<u8>>>>),
    SetAside(Vec<u8>, Done<io::Result<()>>),
    /// Replaces all records, if there are so many, by those that have to wait, and stops taking them.
    Finish(usize, Vec<Vec<u8>>, Box<dyn FnOnce() + Send>, Done<io::Result<bool>>),
    Accept,
    Hold,
}

struct Append {
    record: Vec<u8>,
    /// Even while the spool takes no records: it waits for something else than the store.
    always: bool,
    done: Done<Result<(), SpoolError>>,
}

/// Takes records, and gives them back.
#[derive(Debug)]
pub struct Spool {
    jobs: SyncSender<Job>,
    size: Arc<Size>,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Size {
    bytes: AtomicU64,
    records: AtomicU64,
}

/// What was found when the spool was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Records of an outage whose end this host did not see.
    pub records: usize,
    /// Records that are damaged; they are kept beside the spool.
    pub damaged: usize,
    /// The last record was never finished, so nobody was told that it was kept.
    pub torn: bool,
}

impl Spool {
    /// Opens the spool in `dir`, which holds at most `most_bytes`. Hosts that share the directory have a file each, and
    /// what a host that is gone has left is taken over.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open(dir: &Path, most_bytes: u64) -> io::Result<(Self, Found)> {
        fs::create_dir_all(dir)?;
        let (path, file) = (1..=MOST_FILES)
            .find_map(|n| lock(dir.join(format!("{n}.spool"))).transpose())
            .ok_or_else(|| io::Error::other("every file of it is in use"))??;
        let mut book = Book { file, path: path.clone(), most_bytes, length: 0, records: 0, accepts: true, held: None };
        let mut found = book.recover()?;
        for other in others(dir, &path)? {
            found.damaged += book.take_over(other)?;
        }
        found.records = book.records;
        let size = Arc::new(Size::default());
        book.tell(&size);
        let (jobs, arrivals) = sync_channel(QUEUE);
        let told = size.clone();
        std::thread::Builder::new().name("spool".into()).spawn(move || book.run(&arrivals, &told))?;
        Ok((Self { jobs, size, path }, found))
    }

    /// Keeps a record: it is on the disk when this returns.
    ///
    /// # Errors
    /// It was not kept; see [`SpoolError`].
    pub async fn append(&self, record: Vec<u8>) -> Result<(), SpoolError> {
        self.keep(record, false).await
    }

    /// As [`Spool::append`], for what waits for something else than the store.
    ///
    /// # Errors
    /// It was not kept; see [`SpoolError`].
    pub async fn append_always(&self, record: Vec<u8>) -> Result<(), SpoolError> {
        self.keep(record, true).await
    }

    async fn keep(&self, record: Vec<u8>, always: bool) -> Result<(), SpoolError> {
        let (done, kept) = oneshot::channel();
        match self.jobs.try_send(Job::Append(Append { record, always, done })) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(SpoolError::Overloaded),
            Err(TrySendError::Disconnected(_)) => return Err(gone()),
        }
        kept.await.unwrap_or_else(|_| Err(gone()))
    }

    /// From now on records are taken.
    pub fn accept(&self) {
        // Where the queue is full, records are being taken already.
        let _ = self.jobs.try_send(Job::Accept);
    }

    /// From now on records wait, neither taken nor refused, until [`Spool::finish`] or [`Spool::accept`]: otherwise new
    /// ones could come faster than the old ones are carried out, for ever.
    ///
    /// # Errors
    /// The spool's thread is gone.
    pub async fn hold(&self) -> io::Result<()> {
        // Whatever is asked next finds it so.
        self.ask(|done| {
            let _ = done.send(());
            Job::Hold
        })
        .await
    }

    /// The records after the first `skip`.
    ///
    /// # Errors
    /// The disk.
    pub async fn read(&self, skip: usize) -> io::Result<Vec<Vec<u8>>> {
        self.ask(|done| Job::Read(skip, done)).await?
    }

    /// Keeps a record that cannot be carried out for its readers, beside the spool.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_aside(&self, record: Vec<u8>) -> io::Result<()> {
        self.ask(|done| Job::SetAside(record, done)).await?
    }

    /// If there are `records` records, all of them carried out but for those in `waiting`: only these stay, no more are
    /// taken, and `then` is called before anything else happens. Tells whether it did.
    ///
    /// # Errors
    /// The disk.
    pub async fn finish(
        &self,
        records: usize,
        waiting: Vec<Vec<u8>>,
        then: impl FnOnce() + Send + 'static,
    ) -> io::Result<bool> {
        self.ask(|done| Job::Finish(records, waiting, Box::new(then), done)).await?
    }

    /// Bytes on the disk.
    pub fn bytes(&self) -> u64 {
        self.size.bytes.load(Ordering::Relaxed)
    }

    /// Records that are not in the books yet.
    pub fn records(&self) -> u64 {
        self.size.records.load(Ordering::Relaxed)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    async fn ask<T>(&self, job: impl FnOnce(Done<T>) -> Job) -> io::Result<T> {
        let (done, answer) = oneshot::channel();
        let mut job = job(done);
        // Rare, and never from a request: it may wait for a place.
        loop {
            match self.jobs.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) => job = back,
                Err(TrySendError::Disconnected(_)) => return Err(io::Error::other("the spool's thread is gone")),
            }
            tokio::task::yield_now().await;
        }
        answer.await.map_err(|_| io::Error::other("the spool's thread is gone"))
    }
}

fn gone() -> SpoolError {
    SpoolError::Disk(Arc::new(io::Error::other("its thread is gone")))
}

/// The file if nobody else has it.
fn lock(path: PathBuf) -> io::Result<Option<(PathBuf, File)>> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some((path, file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Files of hosts that are gone.
fn others(dir: &Path, own: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path != own
            && path.extension().is_some_and(|extension| extension == "spool")
            && let Some((_, file)) = lock(path)?
        {
            files.push(file);
        }
    }
    Ok(files)
}

/// The file, as its one thread knows it.
struct Book {
    file: File,
    path: PathBuf,
    most_bytes: u64,
    /// Of what is whole and on the disk.
    length: u64,
    records: usize,
    accepts: bool,
    /// Records that wait, while they do.
    held: Option<Vec<Append>>,
}

impl Book {
    /// Reads what is there, puts what is damaged aside, and cuts off what was never finished.
    fn recover(&mut self) -> io::Result<Found> {
        let found = read_all(&mut self.file)?;
        if found.damaged.is_empty() {
            self.length = found.end;
            self.file.set_len(found.end)?;
        } else {
            for bytes in &found.damaged {
                self.aside("damaged", bytes)?;
            }
            self.rewrite(&found.records)?;
        }
        self.file.sync_all()?;
        self.records = found.records.len();
        Ok(Found { records: self.records, damaged: found.damaged.len(), torn: found.torn })
    }

    /// Writes `records` to a new file, and puts it in the place of this one.
    fn rewrite(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let whole: Vec<u8> = records.iter().flat_map(|record| framed(record)).collect();
        let next = self.path.with_extension("next");
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&next)?;
        file.write_all(&whole)?;
        file.sync_all()?;
        file.lock()?;
        fs::rename(&next, &self.path)?;
        self.file = file;
        self.length = whole.len() as u64;
        Ok(())
    }

    /// Takes over the records of a host that is gone; tells how many were damaged.
    fn take_over(&mut self, mut other: File) -> io::Result<usize> {
        let found = read_all(&mut other)?;
        for bytes in &found.damaged {
            self.aside("damaged", bytes)?;
        }
        let whole: Vec<u8> = found.records.iter().flat_map(|record| framed(record)).collect();
        self.write(&whole, found.records.len())?;
        // Only now: what is there twice is carried out once.
        other.set_len(0)?;
        other.sync_all()?;
        Ok(found.damaged.len())
    }

    fn run(mut self, arrivals: &Receiver<Job>, size: &Size) {
        while let Ok(first) = arrivals.recv() {
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append(append) => next = self.append_all(append, arrivals),
                    Job::Read(skip, done) => {
                        let read = read_all(&mut self.file);
                        let _ = done.send(read.map(|found| found.records.into_iter().skip(skip).collect()));
                    }
                    Job::SetAside(record, done) => {
                        let _ = done.send(self.aside("rejected", &record));
                    }
                    Job::Finish(records, waiting, then, done) => {
                        let _ = done.send(self.finish(records, &waiting, then));
                    }
                    Job::Accept => {
                        self.accepts = true;
                        for append in self.held.take().unwrap_or_default() {
                            self.append_one(append);
                        }
                    }
                    Job::Hold => drop(self.held.get_or_insert_default()),
                }
                self.tell(size);
            }
        }
    }

    /// Writes a record and those that wait behind it, with one sync; returns the first job that is none.
    fn append_all(&mut self, append: Append, arrivals: &Receiver<Job>) -> Option<Job> {
        let (mut bytes, mut waiting, mut next) = (Vec::new(), Vec::new(), None);
        let mut arrived = Some(append);
        while let Some(append) = arrived.take() {
            if let Some(held) = &mut self.held
                && !append.always
            {
                held.push(append);
                match arrivals.try_recv() {
                    Ok(Job::Append(append)) => arrived = Some(append),
                    Ok(other) => next = Some(other),
                    Err(_) => {}
                }
                continue;
            }
            let Append { record, always, done } = append;
            let frame = framed(&record);
            if !self.accepts && !always {
                let _ = done.send(Err(SpoolError::NotNeeded));
            } else if self.length + (bytes.len() + frame.len()) as u64 > self.most_bytes {
                let _ = done.send(Err(SpoolError::Full));
            } else {
                bytes.extend_from_slice(&frame);
                waiting.push(done);
            }
            match arrivals.try_recv() {
                Ok(Job::Append(append)) if waiting.len() < QUEUE => arrived = Some(append),
                Ok(other) => next = Some(other),
                Err(_) => {}
            }
        }
        let written = self.write(&bytes, waiting.len()).map_err(Arc::new);
        for done in waiting {
            let _ = done.send(written.clone().map_err(|error| match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                    SpoolError::Full
                }
                _ => SpoolError::Disk(error),
            }));
        }
        next
    }

    fn append_one(&mut self, Append { record, done, .. }: Append) {
        let frame = framed(&record);
        let kept = if self.length + frame.len() as u64 > self.most_bytes {
            Err(SpoolError::Full)
        } else {
            self.write(&frame, 1).map_err(|error| SpoolError::Disk(Arc::new(error)))
        };
        let _ = done.send(kept);
    }

    /// Writes whole records to the disk, or none of them.
    fn write(&mut self, bytes: &[u8], records: usize) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self
            .file
            .seek(SeekFrom::Start(self.length))
            .and_then(|_| self.file.write_all(bytes))
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Half a record would hide those behind it.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.records += records;
        Ok(())
    }

    fn finish(&mut self, records: usize, waiting: &[Vec<u8>], then: Box<dyn FnOnce() + Send>) -> io::Result<bool> {
        if self.records != records {
            return Ok(false);
        }
        if waiting.is_empty() {
            self.file.set_len(0)?;
            self.file.sync_data()?;
            self.length = 0;
        } else {
            self.rewrite(waiting)?;
        }
        (self.records, self.accepts) = (waiting.len(), false);
        then();
        for append in self.held.take().unwrap_or_default() {
            let _ = append.done.send(Err(SpoolError::NotNeeded));
        }
        Ok(true)
    }

    /// Adds to the file that keeps what cannot be carried out.
    fn aside(&self, what: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).create(true).open(self.path.with_extension(what))?;
        file.write_all(bytes)?;
        file.write_all(b"\n")?;
        file.sync_data()
    }

    fn tell(&self, size: &Size) {
        size.bytes.store(self.length, Ordering::Relaxed);
        size.records.store(self.records as u64, Ordering::Relaxed);
    }
}

fn read_all(file: &mut File) -> io::Result<Scan> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(scan(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("tollgate-spool-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    async fn filled(dir: &Path, records: &[&str]) -> PathBuf {
        let (spool, _) = Spool::open(dir, 1 << 20).expect("a spool");
        for record in records {
            spool.append(record.as_bytes().to_vec()).await.expect("room");
        }
        spool.path().to_owned()
    }

    async fn texts(spool: &Spool) -> Vec<String> {
        let records = spool.read(0).await.expect("records");
        records.into_iter().map(|record| String::from_utf8(record).expect("a text")).collect()
    }

    /// The last owner's thread may still be about to let go of the file.
    fn open(dir: &Path) -> (Spool, Found) {
        Spool::open(dir, 1 << 20).expect("a spool")
    }

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart_in_its_order() {
        let dir = dir("order");
        filled(&dir, &["one", "two", "three"]).await;
        let (spool, found) = open(&dir);
        assert_eq!(
            (found, texts(&spool).await),
            (Found { records: 3, ..Found::default() }, vec!["one".into(), "two".into(), "three".into()])
        );
        fs::remove_dir_all(dir).expect("a folder");
    }

    #[tokio::test]
    async fn a_torn_tail_costs_only_the_record_that_nobody_was_told_of() {
        let dir = dir("torn");
        let path = filled(&dir, &["one", "two"]).await;
        let whole = fs::read(&path).expect("a file");
        for cut in 1..framed(b"two").len() {
            fs::write(&path, &whole[..whole.len() - cut]).expect("a file");
            let (spool, found) = open(&dir);
            assert_eq!((found.records, found.damaged, found.torn), (1, 0, true), "{cut}");
            spool.append(b"three".to_vec()).await.expect("room");
            assert_eq!(texts(&spool).await, ["one", "three"], "{cut}");
            drop(spool);
            fs::remove_dir_all(&dir).expect("a folder");
            fs::create_dir_all(&dir).expect("a folder");
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_sets_its_record_aside_and_no_other() {
        let dir = dir("flipped");
        let path = filled(&dir, &["one", "two", "three"]).await;
        let whole = fs::read(&path).expect("a file");
        let second = framed(b"one").len()..framed(b"one").len() + framed(b"two").len();
        for at in second {
            fs::remove_dir_all(&dir).expect("a folder");
            fs::create_dir_all(&dir).expect("a folder");
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            fs::write(&path, &flipped).expect("a file");
            let (spool, found) = open(&dir);
            assert_eq!((found.damaged, texts(&spool).await), (1, vec!["one".into(), "three".into()]), "byte {at}");
            assert!(path.with_extension("damaged").exists());
        }
        fs::remove_dir_all(dir).expect("a folder");
    }

    #[tokio::test]
    async fn beyond_its_limit_nothing_is_kept_and_nothing_is_lost() {
        let dir = dir("full");
        let (spool, _) = Spool::open(&dir, 3 * framed(b"one").len() as u64).expect("a spool");
        for _ in 0..3 {
            spool.append(b"one".to_vec()).await.expect("room");
        }
        assert!(matches!(spool.append(b"one".to_vec()).await, Err(SpoolError::Full)));
        assert_eq!(spool.records(), 3);
        fs::remove_dir_all(dir).expect("a folder");
    }

    #[tokio::test]
    async fn it_is_finished_only_when_everything_was_carried_out() {
        let dir = dir("finish");
        let (spool, _) = open(&dir);
        for record in [b"one", b"two"] {
            spool.append(record.to_vec()).await.expect("room");
        }
        assert!(!spool.finish(1, Vec::new(), || ()).await.expect("no error"));
        assert!(spool.finish(2, Vec::new(), || ()).await.expect("no error"));
        assert!(matches!(spool.append(b"late".to_vec()).await, Err(SpoolError::NotNeeded)));
        spool.accept();
        spool.append(b"again".to_vec()).await.expect("room");
        assert_eq!(texts(&spool).await, ["again"]);
        fs::remove_dir_all(dir).expect("a folder");
    }

    #[tokio::test]
    async fn two_hosts_of_one_directory_have_a_file_each_and_the_next_takes_over_what_one_left() {
        let dir = dir("two");
        let (first, _) = open(&dir);
        let (second, _) = open(&dir);
        assert_ne!(first.path(), second.path());
        second.append(b"left".to_vec()).await.expect("room");
        let path = second.path().to_owned();
        drop((first, second));
        // The threads let go of their files when their spools are dropped.
        while lock(path.clone()).expect("a file").is_none() || lock(dir.join("1.spool")).expect("a file").is_none() {
            std::thread::yield_now();
        }
        let (third, found) = open(&dir);
        assert_eq!((found.records, texts(&third).await), (1, vec!["left".to_owned()]));
        fs::remove_dir_all(dir).expect("a folder");
    }
}
