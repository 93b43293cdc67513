//! The server's process: create the cluster, start, wait, stop. Everything here blocks.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::binaries::Binaries;
use super::error::EmbeddedError;
use super::pidfile::{self, PidFile};
use super::place::Place;
use super::process;

/// The role that owns everything, and its database.
pub(super) const NAME: &str = "tollgate";
/// Recovery after a crash replays up to `max_wal_size` (1 GB) of log.
const PATIENCE_AT_START: Duration = Duration::from_mins(5);
/// A fast shutdown writes all changed pages.
const PATIENCE_AT_STOP: Duration = Duration::from_secs(30);
/// An immediate shutdown writes nothing, and after 5 s kills what is left itself.
const PATIENCE_AT_QUIT: Duration = Duration::from_secs(10);
/// A log that is larger at a start begins anew.
const LARGEST_LOG: u64 = 8 << 20;
/// How much of the log goes into an error.
const TAIL_LINES: usize = 8;

/// Given as arguments, so that they hold whatever the cluster's files say.
const SETTINGS: [&str; 17] = [
    // Money: what is committed is on the disk.
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    // Whoever commits while a new file of the log is filled with zeros waits for it: the slowest hundredth took three times
    // as long.
    "wal_init_zero=off",
    // A socket in a private directory, and nothing on the network.
    "listen_addresses=",
    "port=5432",
    "unix_socket_permissions=0700",
    "ssl=off",
    // Modest, beside the host on one machine.
    "shared_buffers=128MB",
    "max_connections=64",
    // Compiling a query takes longer than any of ours runs.
    "jit=off",
    // To stderr, which is our log file.
    "logging_collector=off",
    "log_destination=stderr",
    "log_line_prefix=%m [%p] ",
    "log_timezone=UTC",
    "lc_messages=C",
    "cluster_name=tollgate",
];

/// Creates the cluster, unless it is there. True if it was created.
pub(super) fn create_cluster(place: &Place, binaries: &Binaries) -> Result<bool, EmbeddedError> {
    if place.exists {
        return Ok(false);
    }
    let new = place.prepare_new()?;
    let mut command = place.account.command(&binaries.initdb, &new);
    // Trust: whoever gets through the socket's directory is the server's user or root.
    command.args(["-A", "trust", "-U", NAME, "--no-locale", "-E", "UTF8", "--no-instructions", "-D"]).arg(&new);
    let output = command.output().map_err(EmbeddedError::io("run", &binaries.initdb))?;
    if !output.status.success() {
        return Err(EmbeddedError::Init(last_lines(&String::from_utf8_lossy(&output.stderr))));
    }
    place.adopt_new(&new)?;
    Ok(true)
}

/// A server that is our child.
#[derive(Debug)]
pub(super) struct Postmaster {
    child: Child,
    place: Place,
    binaries: Binaries,
    socket_dir: PathBuf,
    /// Where this server's part of the log begins.
    log_start: u64,
}

impl Postmaster {
    /// Starts the server; see [`Self::wait_until_ready`].
    ///
    /// # Errors
    /// When an earlier server does not end, or the program does not run.
    pub(super) fn spawn(place: Place, binaries: Binaries, socket_dir: PathBuf) -> Result<Self, EmbeddedError> {
        let (child, log_start) = spawn(&place, &binaries, &socket_dir)?;
        Ok(Self { child, place, binaries, socket_dir, log_start })
    }

    /// Starts it again, after it has ended.
    pub(super) fn respawn(&mut self) -> Result<(), EmbeddedError> {
        (self.child, self.log_start) = spawn(&self.place, &self.binaries, &self.socket_dir)?;
        Ok(())
    }

    /// Waits until the server takes connections.
    ///
    /// # Errors
    /// When it ends instead, takes minutes, or when nobody waits any more.
    pub(super) fn wait_until_ready(&mut self, given_up: impl Fn() -> bool) -> Result<(), EmbeddedError> {
        let own = self.pid();
        let ready = process::within(PATIENCE_AT_START, || {
            if given_up() {
                return Some(Err(EmbeddedError::GivenUp));
            }
            match (self.ended(), PidFile::read(&self.place.cluster)) {
                (Some(_), _) => Some(Err(self.not_started())),
                (None, Err(error)) => Some(Err(error)),
                (None, Ok(file)) => file.is_some_and(|file| file.ready && Some(file.pid) == own).then_some(Ok(())),
            }
        });
        ready.unwrap_or_else(|| Err(self.not_started()))
    }

    /// How the server ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// A fast shutdown; a hard one if that takes too long.
    ///
    /// # Errors
    /// When it took too long.
    pub(super) fn stop(mut self) -> Result<(), EmbeddedError> {
        if self.ends_after(Signal::SIGINT, PATIENCE_AT_STOP) {
            return Ok(());
        }
        if !self.ends_after(Signal::SIGQUIT, PATIENCE_AT_QUIT) {
            let _ = self.child.kill().and_then(|()| self.child.wait());
        }
        Err(EmbeddedError::NotStopped)
    }

    fn ends_after(&mut self, signal: Signal, patience: Duration) -> bool {
        // Once it has ended and was waited for, its number may be somebody else's.
        if self.ended().is_some() {
            return true;
        }
        if let Some(pid) = self.pid() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        process::within(patience, || self.ended()).is_some()
    }

    fn pid(&self) -> Option<i32> {
        i32::try_from(self.child.id()).ok()
    }

    fn not_started(&self) -> EmbeddedError {
        let tail = read_from(&self.place.log, self.log_start).unwrap_or_else(|error| error.to_string());
        EmbeddedError::NotStarted { tail: last_lines(&tail), log: self.place.log.clone() }
    }
}

fn spawn(place: &Place, binaries: &Binaries, socket_dir: &Path) -> Result<(Child, u64), EmbeddedError> {
    pidfile::clear_the_way(&place.cluster, socket_dir)?;
    // Opened by us: the server need not be able to reach the data directory.
    let opened = open_log(&place.log).and_then(|(log, start)| Ok((log.try_clone()?, log, start)));
    let (out, err, log_start) = opened.map_err(EmbeddedError::io("open", &place.log))?;
    let mut command = place.account.command(&binaries.postgres, &place.cluster);
    command.arg("-D").arg(&place.cluster).stdout(out).stderr(err);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.arg("-c").arg(socket_setting(socket_dir));
    let child = command.spawn().map_err(EmbeddedError::io("run", &binaries.postgres))?;
    Ok((child, log_start))
}

/// The setting is a list; in quotes a path may hold commas and spaces.
fn socket_setting(directory: &Path) -> OsString {
    format!("unix_socket_directories=\"{}\"", directory.to_string_lossy().replace('"', "\"\"")).into()
}

/// The log, for appending, and its length.
fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let log = File::options().append(true).create(true).mode(0o600).open(path)?;
    if log.metadata()?.len() > LARGEST_LOG {
        log.set_len(0)?;
    }
    let length = log.metadata()?.len();
    Ok((log, length))
}

fn read_from(path: &Path, start: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_LOG).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The end of a program's output, each line on one of its own.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].iter().flat_map(|line| ["\n  ", line]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_directory_with_commas_and_quotes_stays_one_entry() {
        let setting = socket_setting(Path::new("/a, b/\"c\""));
        assert_eq!(setting, "unix_socket_directories=\"/a, b/\"\"c\"\"\"");
    }

    #[test]
    fn an_error_shows_the_end_of_the_log_and_no_empty_lines() {
        let text: String = (1..=20).flat_map(|n| [format!("line {n}"), "\n\n".to_owned()]).collect();
        let shown = last_lines(&text);
        assert_eq!(shown.lines().count(), TAIL_LINES + 1);
        assert!(shown.starts_with("\n  line 13\n") && shown.ends_with("\n  line 20"));
        assert_eq!(last_lines(""), "");
    }
}
