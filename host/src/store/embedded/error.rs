//! Why the embedded database did not start, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::binaries::OLDEST_MAJOR;

/// What to do without an embedded database; ends most hints.
const WAY_OUT: &str = "set DATABASE_URL to a PostgreSQL of your own";

/// Why the embedded database did not start or stop. [`Self::hint`] says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server programs, or only too old ones.
    #[error("no PostgreSQL server {OLDEST_MAJOR} or later on this machine{}", in_brackets(.found))]
    NoBinaries {
        /// The versions that are there.
        found: Vec<String>,
    },
    /// The cluster was made by a major version whose programs are gone.
    #[error(
        "the database in {} was made by PostgreSQL {needed}, and this machine has {}",
        .cluster.display(),
        .found.join(", ")
    )]
    OtherMajor {
        /// The cluster's directory.
        cluster: PathBuf,
        /// The major version that it needs.
        needed: u32,
        /// The versions that are there.
        found: Vec<String>,
    },
    /// We are root, and there is nobody else to run the server as.
    #[error("PostgreSQL refuses to run as root, and there is neither a user `postgres` nor `nobody`")]
    NoAccount,
    /// We run as a uid without an entry among the users, for which `initdb` refuses to work.
    #[error("PostgreSQL needs a user name, and uid {0} has none")]
    Nameless(u32),
    /// A cluster or its socket's directory belongs to somebody else.
    #[error("{} belongs to {owner}", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner's name, or uid.
        owner: String,
    },
    /// A cluster is there, but its owner cannot enter one of the directories above it any more.
    #[error("user {user} cannot enter {}", .path.display())]
    Unreachable {
        /// The directory that holds the cluster.
        path: PathBuf,
        /// Who the server runs as.
        user: String,
    },
    /// Another process of ours owns the data directory.
    #[error("{} is in use by {}", .data_dir.display(), match .pid {
        Some(pid) => format!("another Tollgate, process {pid}"),
        None => "another Tollgate".to_owned(),
    })]
    Taken {
        /// The data directory.
        data_dir: PathBuf,
        /// Its owner, where known.
        pid: Option<i32>,
    },
    /// A server that an earlier process of ours left behind does not end.
    #[error("an earlier PostgreSQL on this data directory, process {0}, does not end")]
    Lingering(i32),
    /// The cluster could not be created; holds what `initdb` said.
    #[error("initdb failed:{0}")]
    Init(String),
    /// The server ended, or did not become ready; holds the end of its log.
    #[error("PostgreSQL did not start; its log ends with:{tail}")]
    NotStarted {
        /// The last lines of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The server did not shut down in time and was stopped hard. It recovers at its next start.
    #[error("PostgreSQL did not shut down in time and was stopped hard")]
    NotStopped,
    /// The start was given up: whoever asked for it is gone.
    #[error("the start of PostgreSQL was given up")]
    GivenUp,
    /// The system refused something.
    #[error("cannot {doing} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The server runs, and did not answer as expected.
    #[error("the embedded PostgreSQL does not answer: {0}")]
    Database(#[from] sqlx::Error),
}

impl EmbeddedError {
    /// What to do next, where there is something.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoBinaries { .. } => format!(
                "apt install postgresql, dnf install postgresql-server, or brew install postgresql; or {WAY_OUT}"
            ),
            Self::OtherMajor { cluster, needed, .. } => format!(
                "install PostgreSQL {needed} beside it (Debian: apt install postgresql-{needed}), or move the \
                 data over with pg_upgrade, or move {} away to begin anew",
                cluster.display()
            ),
            Self::NoAccount => format!("useradd --system postgres, or run as an ordinary user, or {WAY_OUT}"),
            Self::Nameless(_) => format!("run as a user of /etc/passwd, or use nss_wrapper, or {WAY_OUT}"),
            Self::Foreign { owner, .. } => {
                format!("run as {owner}, or change its owner (chown -R), or use another --data-dir")
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("run as its owner or as root, or use another --data-dir, or {WAY_OUT}")
            }
            Self::Unreachable { user, .. } => {
                format!("let {user} enter it and what is above it (chmod o+x), or move the data directory")
            }
            Self::Taken { .. } => "stop it, or use another --data-dir".to_owned(),
            Self::Lingering(pid) => format!("look at it with `ps -fp {pid}`; `kill -QUIT {pid}` ends it at once"),
            Self::NotStarted { log, .. } => format!("the whole log is {}", log.display()),
            Self::Init(_) | Self::Io { .. } => format!("use another --data-dir, or {WAY_OUT}"),
            Self::NotStopped | Self::GivenUp | Self::Database(_) => return None,
        })
    }

    /// For `map_err`: what was tried, with what.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

fn in_brackets(versions: &[String]) -> String {
    if versions.is_empty() { String::new() } else { format!(" (found: {})", versions.join(", ")) }
}
