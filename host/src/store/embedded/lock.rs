//! One owner for each data directory.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use super::error::EmbeddedError;
use super::process;

/// How long another owner may take to finish: a command runs a moment.
const PATIENCE: Duration = Duration::from_secs(3);

/// Holds the data directory for this process. The system lets go of it when the process ends, however it does.
#[derive(Debug)]
pub(super) struct Owned(#[expect(dead_code, reason = "held, not read")] File);

impl Owned {
    /// Takes the data directory, waiting a moment for an owner that is about to finish.
    pub(super) fn take(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let path = data_dir.join("postgres.lock");
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(EmbeddedError::io("open", &path))?;
        let taken = process::within(PATIENCE, || match file.try_lock() {
            Ok(()) => Some(Ok(())),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => Some(Err(EmbeddedError::io("lock", &path)(error))),
        });
        let Some(taken) = taken else {
            let pid = fs::read_to_string(&path).ok().and_then(|pid| pid.trim().parse().ok());
            return Err(EmbeddedError::Taken { data_dir: data_dir.to_owned(), pid });
        };
        taken?;
        let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(EmbeddedError::io("write", &path))?;
        Ok(Self(file))
    }
}
