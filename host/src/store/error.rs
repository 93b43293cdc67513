//! Why the store did not do what it was asked.

use nix::errno::Errno;
use sqlx::migrate::MigrateError;
use sqlx::postgres::PgDatabaseError;

/// SQLSTATE: no lock within `lock_timeout`.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The same id came with another body.
    #[error("{0}")]
    Conflict(String),
    /// A row would break one of the tables' constraints.
    #[error("{0}")]
    Refused(String),
    /// The migrations could not be applied.
    #[error("cannot migrate the database")]
    Migrate(#[source] MigrateError),
    /// Tables with names of ours that no migration of ours has made.
    #[error("another system's table has a name that Tollgate needs: {}", .0.join(", "))]
    InTheWay(Vec<String>),
    /// The replaced system's table is not as it has to be: why, and what to do.
    #[error("{0} (nothing was changed)")]
    NotTakenOver(String, Option<String>),
    /// It cannot be reached: refused, reset, shutting down, read-only, or silent.
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    /// It is there, and did not answer in time.
    #[error("the database did not answer in time")]
    Slow(#[source] sqlx::Error),
    /// The database did not answer as it should.
    #[error("the database did not answer")]
    Database(#[source] sqlx::Error),
}

impl StoreError {
    /// Nothing was heard in time.
    pub(crate) fn too_late() -> Self {
        Self::Slow(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
    }

    /// Whether a row was waited for in vain: then nothing was done.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Slow(sqlx::Error::Database(error)) if error.code().as_deref() == Some(LOCK_NOT_AVAILABLE))
    }

    /// Whether the store counts as down: what a request then gets is the operator's choice.
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::InTheWay(tables) => {
                let table = tables.first().map_or("", String::as_str);
                Some(format!(
                    "rename it or move it to another schema (ALTER TABLE {table} SET SCHEMA ...), then start again"
                ))
            }
            Self::NotTakenOver(_, hint) => hint.clone(),
            Self::Migrate(MigrateError::ExecuteMigration(error, _)) => {
                let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
                error.hint().map(str::to_owned)
            }
            Self::Database(_) | Self::Unreachable(_) => {
                Some("check DATABASE_URL, or leave it unset to use the embedded PostgreSQL".into())
            }
            Self::Conflict(_) | Self::Refused(_) | Self::Migrate(_) | Self::Slow(_) => None,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) if database.constraint().is_some() => Self::Refused(database.to_string()),
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // An amount beyond what a column or a number holds, before a constraint could say so: what came together
                // may do so where each by itself does not.
                Some(code) if code.starts_with("22") => Self::Refused(database.to_string()),
                // Read-only: a standby. Shutting down, crashed, starting up. And whatever concerns the connection.
                Some("25006" | "57P01" | "57P02" | "57P03") => Self::Unreachable(database.to_string()),
                Some(code) if code.starts_with("08") => Self::Unreachable(database.to_string()),
                // Cancelled after `statement_timeout`, no lock in time, no more connections.
                Some("57014" | LOCK_NOT_AVAILABLE | "53300") => Self::Slow(error),
                _ => Self::Database(error),
            },
            // This host's own shortage says nothing of the store, and must open no free passage.
            sqlx::Error::Io(io) if is_shortage(io) => Self::Slow(error),
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
                Self::Unreachable(error.to_string())
            }
            sqlx::Error::PoolTimedOut => Self::Slow(error),
            _ => Self::Database(error),
        }
    }
}

/// No more descriptors, memory or room in a queue.
fn is_shortage(error: &std::io::Error) -> bool {
    let shortages = [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::ENOBUFS, Errno::EAGAIN];
    error.raw_os_error().is_some_and(|code| shortages.contains(&Errno::from_raw(code)))
}
