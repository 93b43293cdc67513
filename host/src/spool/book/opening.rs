//! What a spool finds when it is opened: its own file, what was damaged or never finished in it, and the files of hosts that
//! are gone.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::Found;
use super::super::disk::Disk;
use super::super::frame::{framed, scan};
use super::Book;

/// Files that hosts with one data directory use side by side.
const MOST_FILES: u32 = 64;

/// The file if nobody else has it.
pub(in super::super) fn lock(disk: &mut dyn Disk, path: PathBuf) -> io::Result<Option<(PathBuf, File)>> {
    let file = disk.open(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
    match file.try_lock() {
        Ok(()) => Ok(Some((path, file))),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Files of hosts that are gone.
fn others(disk: &mut dyn Disk, dir: &Path, own: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path != own
            && path.extension().is_some_and(|extension| extension == "spool")
            && let Some((_, file)) = lock(disk, path)?
        {
            files.push(file);
        }
    }
    Ok(files)
}

impl Book {
    /// The first file of `dir` that nobody has, with what hosts that are gone have left in the others.
    pub(in super::super) fn open(mut disk: Box<dyn Disk>, dir: &Path, most_bytes: u64) -> io::Result<(Self, Found)> {
        fs::create_dir_all(dir)?;
        let (path, file) = (1..=MOST_FILES)
            .find_map(|n| lock(disk.as_mut(), dir.join(format!("{n}.spool"))).transpose())
            .ok_or_else(|| io::Error::other("every file of it is in use"))??;
        let mut book = Self {
            disk,
            file,
            path,
            most_bytes,
            length: 0,
            records: 0,
            left: 0,
            era: 0,
            is_torn: false,
            accepts: true,
            held: None,
            size: Arc::default(),
        };
        let mut found = book.recover()?;
        for other in others(book.disk.as_mut(), dir, &book.path)? {
            found.damaged += book.take_over(&other)?;
        }
        found.records = book.records;
        book.tell();
        // A new file is on the disk when its folder is.
        book.disk.sync_folder(dir)?;
        Ok((book, found))
    }

    /// Reads what is there, puts what is damaged aside, and cuts off what was never finished.
    fn recover(&mut self) -> io::Result<Found> {
        let whole = self.disk.read(&self.file, 0, u64::MAX)?;
        let found = scan(&whole);
        if found.damaged.is_empty() {
            self.length = found.end;
            self.disk.cut(&self.file, found.end)?;
        } else {
            for bytes in &found.damaged {
                self.aside("damaged", bytes)?;
            }
            self.rewrite(&found.records)?;
        }
        self.disk.sync(&self.file)?;
        self.records = found.records.len();
        Ok(Found { records: self.records, damaged: found.damaged.len(), torn: found.torn })
    }

    /// Takes over the records of a host that is gone; tells how many were damaged.
    fn take_over(&mut self, other: &File) -> io::Result<usize> {
        let theirs = self.disk.read(other, 0, u64::MAX)?;
        let found = scan(&theirs);
        for bytes in &found.damaged {
            self.aside("damaged", bytes)?;
        }
        let whole: Vec<u8> = found.records.iter().flat_map(|record| framed(record)).collect();
        self.write(&whole, found.records.len())?;
        // Only now: what is there twice is carried out once.
        self.disk.cut(other, 0)?;
        self.disk.sync(other)?;
        Ok(found.damaged.len())
    }
}
