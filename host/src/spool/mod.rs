//! The spool: what must not be lost while the store cannot be reached, on this host's disk.
//!
//! One file, written by one thread: a record is on the disk before whoever gave it is answered, and records that come
//! together share one sync. What is in it is replayed from the start and then cut off; a record is only ever read by
//! who knows that it may have been carried out before.

mod book;
mod disk;
mod frame;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use self::book::Book;
pub use self::disk::{Disk, Local};

/// Records that wait for the disk; more are refused.
const QUEUE: usize = 4_096;
/// Of the file, in bytes, that is read at once: however much waits, its replay needs no more memory than this. A record is
/// much smaller, since a request is.
const PIECE: u64 = 4 << 20;

/// How many records may be there when one is added that waits for something else than the store: these must not take the
/// room that an outage needs, and whoever looks through them must come to an end.
pub const MOST_WAITING: usize = 1_000;

/// Why a record was not kept.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// There is no room for it: its own limit, or the disk's.
    #[error("the spool is full")]
    Full,
    /// More records than the disk takes in time.
    #[error("more records than the disk takes in time")]
    Overloaded,
    /// As many wait already as may for something else than the store.
    #[error("too many records wait already")]
    TooManyWait,
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
    Read(Mark, Done<io::Result<(Vec<Vec<u8>>, Mark)>>),
    SetAside(Vec<Vec<u8>>, Done<io::Result<()>>),
    /// Replaces all records, if none has come since, by those that have to wait.
    Replace(Mark, Vec<Vec<u8>>, Done<io::Result<bool>>),
    /// The same, and stops taking records.
    Finish(Mark, Vec<Vec<u8>>, Box<dyn FnOnce() + Send>, Done<io::Result<bool>>),
    Accept,
    Hold,
}

/// How far somebody has read; the default is the start. It is good for as long as nobody else takes records out: what is
/// behind it then is something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    records: usize,
    bytes: u64,
    /// How often records had been taken out.
    era: Option<u64>,
}

impl Mark {
    /// How many records are before it.
    pub fn records(&self) -> usize {
        self.records
    }
}

struct Append {
    record: Vec<u8>,
    /// Even while the spool takes no records, if fewer than these have come since the last outage: it waits for something
    /// else than the store.
    always: Option<usize>,
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
        Self::open_on(Box::new(Local), dir, most_bytes)
    }

    /// As [`Spool::open`], on a disk of the caller's.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open_on(disk: Box<dyn Disk>, dir: &Path, most_bytes: u64) -> io::Result<(Self, Found)> {
        let (book, found) = Book::open(disk, dir, most_bytes)?;
        let (path, size) = (book.path().to_owned(), book.size());
        let (jobs, arrivals) = sync_channel(QUEUE);
        std::thread::Builder::new().name("spool".into()).spawn(move || book.run(&arrivals))?;
        Ok((Self { jobs, size, path }, found))
    }

    /// Keeps a record: it is on the disk when this returns.
    ///
    /// # Errors
    /// It was not kept; see [`SpoolError`].
    pub async fn append(&self, record: Vec<u8>) -> Result<(), SpoolError> {
        self.keep(record, None).await
    }

    /// As [`Spool::append`], for what waits for something else than the store, if fewer than `most` records have come since
    /// the last outage: [`MOST_WAITING`], or less for what matters less.
    ///
    /// # Errors
    /// It was not kept; see [`SpoolError`].
    pub async fn append_always(&self, record: Vec<u8>, most: usize) -> Result<(), SpoolError> {
        self.keep(record, Some(most)).await
    }

    async fn keep(&self, record: Vec<u8>, always: Option<usize>) -> Result<(), SpoolError> {
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

    /// The next records behind `mark`, and how far that is; none where it is the end.
    ///
    /// # Errors
    /// The disk; or somebody else has taken records out since.
    pub async fn read(&self, mark: Mark) -> io::Result<(Vec<Vec<u8>>, Mark)> {
        self.ask(|done| Job::Read(mark, done)).await?
    }

    /// Keeps records that cannot be carried out for their readers, beside the spool: all or none of them.
    ///
    /// # Errors
    /// The disk.
    pub async fn set_aside(&self, records: Vec<Vec<u8>>) -> io::Result<()> {
        self.ask(|done| Job::SetAside(records, done)).await?
    }

    /// If there are no records behind `mark`, and those before it are carried out but for those in `waiting`: only these
    /// stay, no more are taken, and `then` is called before anything else happens. Tells whether it did.
    ///
    /// # Errors
    /// The disk; or somebody else has taken records out since.
    pub async fn finish(
        &self,
        mark: Mark,
        waiting: Vec<Vec<u8>>,
        then: impl FnOnce() + Send + 'static,
    ) -> io::Result<bool> {
        self.ask(|done| Job::Finish(mark, waiting, Box::new(then), done)).await?
    }

    /// If there are no records behind `mark`: only those in `waiting` stay. Tells whether it was so.
    ///
    /// # Errors
    /// The disk; or somebody else has taken records out since.
    pub async fn replace(&self, mark: Mark, waiting: Vec<Vec<u8>>) -> io::Result<bool> {
        self.ask(|done| Job::Replace(mark, waiting, done)).await?
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

/// The record that has waited for the longest time in a spool's file, whoever has it open.
///
/// # Errors
/// The file cannot be read.
pub fn oldest(path: &Path) -> io::Result<Option<Vec<u8>>> {
    frame::first(std::io::BufReader::new(std::fs::File::open(path)?))
}

fn gone() -> SpoolError {
    SpoolError::Disk(Arc::new(io::Error::other("its thread is gone")))
}

#[cfg(test)]
mod tests;
