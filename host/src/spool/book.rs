//! The file of a spool, as its one thread knows it.

pub(super) mod opening;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::disk::Disk;
use super::frame::{framed, scan};
use super::{Append, Job, Mark, PIECE, QUEUE, Size, SpoolError};

/// What the thread owns.
pub(super) struct Book {
    disk: Box<dyn Disk>,
    file: File,
    path: PathBuf,
    most_bytes: u64,
    /// Of what is whole and on the disk.
    length: u64,
    records: usize,
    /// Of them, how many an outage has left: those of a row that somebody had, however many they are.
    left: usize,
    /// How often records were taken out.
    era: u64,
    /// Behind `length` there is what was never finished.
    is_torn: bool,
    accepts: bool,
    /// Records that wait, while they do.
    held: Option<Vec<Append>>,
    /// What others may know of `length` and `records`, before they are told that something was kept.
    size: Arc<Size>,
}

impl Book {
    pub(super) fn size(&self) -> Arc<Size> {
        self.size.clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `records` to a new file, and puts it in the place of this one.
    fn rewrite<R: AsRef<[u8]>>(&mut self, records: &[R]) -> io::Result<()> {
        let whole: Vec<u8> = records.iter().flat_map(|record| framed(record.as_ref())).collect();
        let next = self.path.with_extension("next");
        let file = self.disk.open(&next, OpenOptions::new().read(true).write(true).create(true).truncate(true))?;
        self.disk.write(&file, 0, &whole)?;
        self.disk.sync(&file)?;
        file.lock()?;
        self.disk.rename(&next, &self.path)?;
        self.file = file;
        self.length = whole.len() as u64;
        self.is_torn = false;
        Ok(())
    }

    /// Until every [`Spool`](super::Spool) is gone.
    pub(super) fn run(mut self, arrivals: &Receiver<Job>) {
        while let Ok(first) = arrivals.recv() {
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Append(append) => {
                        let (appends, other) = those_that_wait_behind(append, arrivals);
                        self.append_all(appends);
                        next = other;
                    }
                    Job::Read(mark, done) => {
                        let _ = done.send(self.read(mark));
                    }
                    Job::SetAside(records, done) => {
                        let _ = done.send(self.aside("rejected", &records.join(&b'\n')));
                    }
                    Job::Replace(mark, waiting, done) => {
                        let _ = done.send(self.replace(mark, &waiting));
                    }
                    Job::Finish(mark, waiting, then, done) => {
                        let _ = done.send(self.finish(mark, &waiting, then));
                    }
                    Job::Accept => {
                        self.accepts = true;
                        let held = self.held.take().unwrap_or_default();
                        self.append_all(held);
                    }
                    Job::Hold => drop(self.held.get_or_insert_default()),
                }
            }
        }
    }

    fn read(&mut self, mark: Mark) -> io::Result<(Vec<Vec<u8>>, Mark)> {
        self.is_good(mark)?;
        // Not what is behind `length`: nobody was told that it was kept.
        let most = PIECE.min(self.length.saturating_sub(mark.bytes));
        let piece = self.disk.read(&self.file, mark.bytes, most)?;
        let found = scan(&piece);
        // A record that the piece ends in the middle of is for the next one.
        if !found.damaged.is_empty() || found.records.is_empty() && most > 0 {
            return Err(io::Error::other("what it holds is damaged: start again, and that is set aside"));
        }
        let end =
            Mark { records: mark.records + found.records.len(), bytes: mark.bytes + found.end, era: Some(self.era) };
        Ok((found.records.into_iter().map(<[u8]>::to_vec).collect(), end))
    }

    fn is_good(&self, mark: Mark) -> io::Result<()> {
        match mark.era {
            Some(era) if era != self.era => Err(io::Error::other("records were taken out of the spool meanwhile")),
            _ => Ok(()),
        }
    }

    /// Writes records with one sync, and tells whoever gave them.
    fn append_all(&mut self, appends: Vec<Append>) {
        let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
        for append in appends {
            if let Some(held) = &mut self.held
                && append.always.is_none()
            {
                held.push(append);
                continue;
            }
            let Append { record, always, done } = append;
            let frame = framed(&record);
            if !self.accepts && always.is_none() {
                let _ = done.send(Err(SpoolError::NotNeeded));
            } else if always.is_some_and(|most| self.records - self.left + waiting.len() >= most) {
                let _ = done.send(Err(SpoolError::TooManyWait));
            } else if self.length + (bytes.len() + frame.len()) as u64 > self.most_bytes {
                let _ = done.send(Err(SpoolError::Full));
            } else {
                bytes.extend_from_slice(&frame);
                waiting.push(done);
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
    }

    /// Writes whole records to the disk, or none of them.
    fn write(&mut self, bytes: &[u8], records: usize) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.cut_off()?;
        let written = self.disk.write(&self.file, self.length, bytes).and_then(|()| self.disk.sync(&self.file));
        if let Err(error) = written {
            // Half a record would hide those behind it: it is cut off now, or before the next one.
            self.is_torn = true;
            let _ = self.cut_off();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.records += records;
        self.tell();
        Ok(())
    }

    fn cut_off(&mut self) -> io::Result<()> {
        if self.is_torn {
            self.disk.cut(&self.file, self.length)?;
            self.is_torn = false;
        }
        Ok(())
    }

    fn replace(&mut self, mark: Mark, waiting: &[Vec<u8>]) -> io::Result<bool> {
        self.is_good(mark)?;
        if self.records != mark.records {
            return Ok(false);
        }
        if waiting.is_empty() {
            self.disk.cut(&self.file, 0)?;
            // Whatever becomes of the sync: from here on this is what the file holds.
            (self.length, self.records, self.left, self.is_torn) = (0, 0, 0, false);
            self.era += 1;
            self.tell();
            self.disk.sync(&self.file)?;
        } else {
            self.rewrite(waiting)?;
            self.records = waiting.len();
            self.left = self.left.min(self.records);
            self.era += 1;
            self.tell();
        }
        Ok(true)
    }

    fn finish(&mut self, mark: Mark, waiting: &[Vec<u8>], then: Box<dyn FnOnce() + Send>) -> io::Result<bool> {
        if !self.replace(mark, waiting)? {
            return Ok(false);
        }
        self.accepts = false;
        self.left = self.records;
        then();
        for append in self.held.take().unwrap_or_default() {
            let _ = append.done.send(Err(SpoolError::NotNeeded));
        }
        Ok(true)
    }

    /// Adds to the file that keeps what cannot be carried out.
    fn aside(&mut self, what: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path.with_extension(what);
        let file = self.disk.open(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
        let end = file.metadata()?.len();
        let written = self.disk.write(&file, end, &[bytes, b"\n"].concat()).and_then(|()| self.disk.sync(&file));
        if written.is_err() {
            // It is asked again, and then once is enough.
            let _ = self.disk.cut(&file, end);
        }
        written?;
        self.disk.sync_folder(path.parent().unwrap_or(&path))
    }

    fn tell(&self) {
        self.size.bytes.store(self.length, Ordering::Relaxed);
        self.size.records.store(self.records as u64, Ordering::Relaxed);
    }
}

/// The records that have arrived by now, and the first job that is none.
fn those_that_wait_behind(first: Append, arrivals: &Receiver<Job>) -> (Vec<Append>, Option<Job>) {
    let mut appends = vec![first];
    while appends.len() < QUEUE {
        match arrivals.try_recv() {
            Ok(Job::Append(append)) => appends.push(append),
            Ok(other) => return (appends, Some(other)),
            Err(_) => break,
        }
    }
    (appends, None)
}
