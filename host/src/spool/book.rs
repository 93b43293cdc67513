//! The file of a spool, as its one thread knows it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::frame::{Scan, framed, scan};
use super::{Append, Found, Job, QUEUE, Size, SpoolError};

/// Files that hosts with one data directory use side by side.
const MOST_FILES: u32 = 64;

/// The file if nobody else has it.
pub(super) fn lock(path: PathBuf) -> io::Result<Option<(PathBuf, File)>> {
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

/// What the thread owns.
pub(super) struct Book {
    file: File,
    path: PathBuf,
    most_bytes: u64,
    /// Of what is whole and on the disk.
    length: u64,
    records: usize,
    accepts: bool,
    /// Records that wait, while they do.
    held: Option<Vec<Append>>,
    /// What others may know of `length` and `records`, before they are told that something was kept.
    size: Arc<Size>,
}

impl Book {
    /// The first file of `dir` that nobody has, with what hosts that are gone have left in the others.
    pub(super) fn open(dir: &Path, most_bytes: u64) -> io::Result<(Self, Found)> {
        fs::create_dir_all(dir)?;
        let (path, file) = (1..=MOST_FILES)
            .find_map(|n| lock(dir.join(format!("{n}.spool"))).transpose())
            .ok_or_else(|| io::Error::other("every file of it is in use"))??;
        let mut book =
            Self { file, path, most_bytes, length: 0, records: 0, accepts: true, held: None, size: Arc::default() };
        let mut found = book.recover()?;
        for other in others(dir, &book.path)? {
            found.damaged += book.take_over(other)?;
        }
        found.records = book.records;
        book.tell();
        // A new file is on the disk when its folder is.
        File::open(dir)?.sync_all()?;
        Ok((book, found))
    }

    pub(super) fn size(&self) -> Arc<Size> {
        self.size.clone()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

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
                    Job::Read(skip, done) => {
                        let read = read_all(&mut self.file);
                        let _ = done.send(read.map(|found| found.records.into_iter().skip(skip).collect()));
                    }
                    Job::SetAside(record, done) => {
                        let _ = done.send(self.aside("rejected", &record));
                    }
                    Job::Replace(records, waiting, done) => {
                        let _ = done.send(self.replace(records, &waiting));
                    }
                    Job::Finish(records, waiting, then, done) => {
                        let _ = done.send(self.finish(records, &waiting, then));
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

    /// Writes records with one sync, and tells whoever gave them.
    fn append_all(&mut self, appends: Vec<Append>) {
        let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
        for append in appends {
            if let Some(held) = &mut self.held
                && !append.always
            {
                held.push(append);
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
        self.tell();
        Ok(())
    }

    fn replace(&mut self, records: usize, waiting: &[Vec<u8>]) -> io::Result<bool> {
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
        self.records = waiting.len();
        self.tell();
        Ok(true)
    }

    fn finish(&mut self, records: usize, waiting: &[Vec<u8>], then: Box<dyn FnOnce() + Send>) -> io::Result<bool> {
        if !self.replace(records, waiting)? {
            return Ok(false);
        }
        self.accepts = false;
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

fn read_all(file: &mut File) -> io::Result<Scan> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(scan(&bytes))
}
