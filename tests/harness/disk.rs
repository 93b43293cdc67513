//! A small disk of a test's own.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Scratch;

/// A file system in memory; it goes with the test.
pub struct SmallDisk(PathBuf);

/// Somebody else's file, which takes the room.
const BALLAST: &str = "ballast";

impl SmallDisk {
    /// Over a folder, which must outlive it. `None`: this user may not mount.
    pub fn over(folder: &Scratch, mib: u32) -> Option<Self> {
        let size = format!("size={mib}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).output();
        mounted.is_ok_and(|mounted| mounted.status.success()).then(|| Self(folder.path().to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Leaves so many bytes free.
    pub fn fills_up_to(&self, free: usize) {
        let disk = nix::sys::statvfs::statvfs(&self.0).expect("a disk");
        let room = usize::try_from(disk.blocks_available() * disk.fragment_size()).expect("a small disk");
        assert!(room > free, "more than {room} bytes are taken already");
        let mut ballast = File::create(self.0.join(BALLAST)).expect("a file");
        match ballast.write_all(&vec![0; room - free]) {
            // The host has taken some of it meanwhile.
            Err(error) if error.kind() == ErrorKind::StorageFull => {}
            written => written.expect("room"),
        }
    }

    pub fn has_room_again(&self) {
        fs::remove_file(self.0.join(BALLAST)).expect("the file");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the host may still be about to end.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
