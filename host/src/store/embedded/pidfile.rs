//! What a server says about itself in `postmaster.pid`, and what a server of an earlier host needs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::EmbeddedError;
use super::place::SOCKET;
use super::process;

/// What an earlier server gets when, and how long it may take then: a host that was killed has already
/// asked for a fast shutdown, which usually ends within a second.
const LAST_CALLS: [(Option<Signal>, Duration); 3] = [
    (None, Duration::from_secs(3)),
    (Some(Signal::SIGINT), Duration::from_secs(12)),
    (Some(Signal::SIGQUIT), Duration::from_secs(15)),
];

/// The server of a cluster, in its own words.
#[derive(Debug, PartialEq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    /// Where its socket lies. Empty as long as it has none.
    pub(super) socket_dir: PathBuf,
    /// Whether it takes connections.
    pub(super) ready: bool,
}

impl PidFile {
    /// Reads the file, if it is there and begun. A server that was killed leaves it behind.
    pub(super) fn read(cluster: &Path) -> Result<Option<Self>, EmbeddedError> {
        let path = cluster.join("postmaster.pid");
        match fs::read(&path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EmbeddedError::io("read", &path)(error)),
        }
    }

    /// The lines of pidfile.h: pid, cluster, start time, port, socket directory, address, shared memory, status.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        let socket_dir = lines.nth(3).unwrap_or_default().into();
        let ready = lines.nth(2).is_some_and(|status| status.trim() == "ready");
        Some(Self { pid, socket_dir, ready })
    }
}

/// The server that runs on `cluster`, if one does.
pub(super) fn server(cluster: &Path) -> Result<Option<PidFile>, EmbeddedError> {
    Ok(PidFile::read(cluster)?.filter(|file| is_alive(file.pid) && is_server(file.pid, cluster)))
}

/// Waits for a server that an earlier host left behind, ends it if it stays, and removes what would keep
/// the next one from starting.
///
/// # Errors
/// When it does not end within half a minute.
pub(super) fn clear_the_way(cluster: &Path, socket_dir: &Path) -> Result<(), EmbeddedError> {
    for (signal, patience) in LAST_CALLS {
        let Some(old) = server(cluster)? else { break };
        if let Some(signal) = signal {
            tracing::warn!(pid = old.pid, %signal, "ending a PostgreSQL that an earlier process left behind");
            let _ = kill(Pid::from_raw(old.pid), signal);
        }
        process::within(patience, || (!matches!(server(cluster), Ok(Some(_)))).then_some(()));
    }
    if let Some(old) = server(cluster)? {
        return Err(EmbeddedError::Lingering(old.pid));
    }
    // PostgreSQL itself clears the files of a dead server, but not where the number has passed to another
    // process of the same user, which is common in containers.
    for path in [cluster.join("postmaster.pid"), socket_dir.join(format!("{SOCKET}.lock"))] {
        let pid = fs::read_to_string(&path).ok().and_then(|text| text.lines().next()?.trim().parse().ok());
        if pid.is_some_and(is_alive) {
            fs::remove_file(&path).map_err(EmbeddedError::io("remove", &path))?;
        }
    }
    Ok(())
}

fn is_alive(pid: i32) -> bool {
    // A negative number or zero would mean a group.
    pid > 0 && kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

/// Whether this living process is a server on `cluster` and not one that got the same number. Without
/// /proc (macOS) it is taken for one.
fn is_server(pid: i32, cluster: &Path) -> bool {
    if !Path::new("/proc/self/cmdline").exists() {
        return true;
    }
    // A postmaster keeps its arguments; those of a zombie are empty.
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|&byte| byte == 0).any(|argument| argument == cluster.as_os_str().as_encoded_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "4242\n/data/postgres\n1767225600\n5432\n/data/run\n\n  5432001    131072\nready   \n";

    #[test]
    fn a_server_is_ready_only_when_its_last_line_says_so() {
        let file = PidFile::parse(WHOLE);
        assert_eq!(file, Some(PidFile { pid: 4242, socket_dir: "/data/run".into(), ready: true }));
        for other in ["starting", "stopping", "standby "] {
            assert!(!PidFile::parse(&WHOLE.replace("ready   ", other)).expect("a file").ready);
        }
    }

    #[test]
    fn a_file_that_is_being_written_is_not_ready() {
        assert_eq!(PidFile::parse(""), None);
        let begun = PidFile::parse("4242\n/data/postgres\n");
        assert_eq!(begun, Some(PidFile { pid: 4242, socket_dir: PathBuf::new(), ready: false }));
    }

    #[test]
    fn a_process_that_got_the_number_of_a_dead_server_is_no_server() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(is_alive(me));
        assert!(!is_server(me, Path::new("/data/postgres")) || cfg!(not(target_os = "linux")));
    }
}
