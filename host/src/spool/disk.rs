//! What the spool asks of its disk, step by step: each of them can fail on its own, and none may cost a record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// A disk. What is not said otherwise is done as this machine does it.
pub trait Disk: Send {
    /// Comes before each step, and can keep it from being done.
    ///
    /// # Errors
    /// Those of the system; so in each step.
    fn step(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Opens a file.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn open(&mut self, path: &Path, how: &OpenOptions) -> io::Result<File> {
        self.step()?;
        how.open(path)
    }

    /// The bytes of a file that begin at `from`, `most` at most.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn read(&mut self, mut file: &File, from: u64, most: u64) -> io::Result<Vec<u8>> {
        self.step()?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(from))?;
        file.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Writes all of `bytes`, or a part of them where it fails.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn write(&mut self, file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.step()?;
        file.write_all_at(bytes, at)
    }

    /// What was written is there after a loss of power.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.step()?;
        file.sync_data()
    }

    /// So are the names in a folder.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn sync_folder(&mut self, folder: &Path) -> io::Result<()> {
        self.step()?;
        File::open(folder)?.sync_all()
    }

    /// Cuts a file off.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn cut(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.step()?;
        file.set_len(length)
    }

    /// Puts a file in the place of another.
    ///
    /// # Errors
    /// See [`Disk::step`].
    fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        fs::rename(from, to)
    }
}

/// This machine's.
#[derive(Debug)]
pub struct Local;

impl Disk for Local {}
