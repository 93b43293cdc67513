//! Compiled code that is kept: by the digest of the component and all that its engine depends on, behind a checksum.
//!
//! It is machine code, and whoever can write it decides what this process runs. So it is read from a directory of our own,
//! never from the policy folder: a host has one in its data directory, and the commands of authors share one among what
//! their user caches.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::hash::{Hash as _, Hasher};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use nix::unistd::Uid;
use sha2::{Digest as _, Sha256};
use wasmtime::Engine as Wasmtime;

use crate::policy::{build, engine};

/// Code that nothing uses now, and that is kept for a way back.
const UNUSED_KEPT: usize = 32;
/// Of a user's; a policy in Python takes most of a tenth.
const LARGEST_OF_A_USER: u64 = 512 << 20;
const EXTENSION: &str = "compiled";
const CHECKSUM: usize = 32;

/// Where compiled code is kept.
#[derive(Clone, Debug)]
pub struct Shelf {
    dir: PathBuf,
    /// The files that were read or written since [`Shelf::prune`] kept them.
    used: Arc<Mutex<BTreeSet<PathBuf>>>,
    /// Bytes, beyond which the oldest go.
    largest: Option<u64>,
}

impl Shelf {
    /// In a directory that belongs to this program.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, used: Arc::default(), largest: None }
    }

    /// Among what this user caches, in `cache`; bounded in size. None where it could be somebody else's: in a directory
    /// that others may enter, or below the working directory `here`, which may be a checkout with anything in it.
    pub fn of_the_user(cache: &Path, here: &Path) -> Option<Self> {
        let dir = cache.join("tollgate/compiled");
        if dir.starts_with(here) {
            return None;
        }
        make(&dir).ok()?;
        let dir = dir.canonicalize().ok()?;
        let is = fs::symlink_metadata(&dir).ok()?;
        let is_ours = is.is_dir() && is.uid() == Uid::effective().as_raw() && is.mode() & 0o777 == 0o700;
        let shelf = Self { largest: Some(LARGEST_OF_A_USER), ..Self::new(dir) };
        (is_ours && !shelf.dir.starts_with(here)).then_some(shelf)
    }

    /// Where the code of `bytes` is kept, or would be.
    pub(super) fn file(&self, engine: &Wasmtime, bytes: &[u8]) -> PathBuf {
        let file = self.dir.join(format!("{}.{EXTENSION}", key(engine, bytes)));
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(file.clone());
        file
    }

    /// The code that is kept there, if it is whole.
    pub(super) fn read(file: &Path) -> Option<Vec<u8>> {
        let mut code = fs::read(file).ok()?;
        if code.len() < CHECKSUM {
            return None;
        }
        let checksum: Vec<u8> = code.drain(..CHECKSUM).collect();
        (Sha256::digest(&code)[..] == checksum[..]).then_some(code)
    }

    /// Keeps code.
    pub(super) fn write(&self, file: &Path, code: &[u8]) -> std::io::Result<()> {
        make(&self.dir)?;
        build::replace_file(file, &[&Sha256::digest(code)[..], code].concat())?;
        if let Some(largest) = self.largest {
            trim(&self.dir, largest);
        }
        Ok(())
    }

    /// Removes code that nothing has asked for since the last time, but for the newest.
    pub(super) fn prune(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        let unused = newest_first(&self.dir).into_iter().filter(|(_, _, file)| !used.contains(file));
        for (_, _, file) in unused.skip(UNUSED_KEPT) {
            // One that stays is in nobody's way.
            let _ = fs::remove_file(file);
        }
    }
}

/// A directory that is this user's alone.
fn make(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Removes the oldest files, until the rest is no larger than this.
fn trim(dir: &Path, largest: u64) {
    let mut size = 0;
    for (_, length, file) in newest_first(dir) {
        size += length;
        if size > largest {
            let _ = fs::remove_file(file);
        }
    }
}

/// When each file was written, and how large it is.
fn newest_first(dir: &Path) -> Vec<(SystemTime, u64, PathBuf)> {
    let files = fs::read_dir(dir).into_iter().flatten().flatten().filter_map(|entry| {
        let is = entry.metadata().ok()?;
        Some((is.modified().ok()?, is.len(), entry.path()))
    });
    let mut files: Vec<_> = files.collect();
    files.sort_unstable_by(|a, b| b.cmp(a));
    files
}

/// The digest of all that decides what the code is: the component, the engine's version and settings.
fn key(engine: &Wasmtime, bytes: &[u8]) -> String {
    struct Into256(Sha256);
    impl Hasher for Into256 {
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut hasher = Into256(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.update(Sha256::digest(bytes));
    engine::hexadecimal(&hasher.0.finalize())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_oldest_go_where_the_rest_would_be_too_large() {
        let dir = std::env::temp_dir().join(format!("tollgate-shelf-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        for (name, age) in [("new", 1), ("old", 3), ("middle", 2)] {
            let file = fs::File::create(dir.join(name)).expect("a file");
            file.set_len(100).expect("a length");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(100 - age)).expect("a time");
        }
        let left = |largest| {
            trim(&dir, largest);
            newest_first(&dir).into_iter().map(|(_, _, file)| file.file_name().unwrap_or_default().to_owned()).collect()
        };
        let (all, two, none): (Vec<_>, Vec<_>, Vec<_>) = (left(300), left(299), left(99));
        fs::remove_dir_all(&dir).expect("a folder");
        assert_eq!(
            (all, two, none),
            (vec!["new".into(), "middle".into(), "old".into()], vec!["new".into(), "middle".into()], vec![])
        );
    }
}
