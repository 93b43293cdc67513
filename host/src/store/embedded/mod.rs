//! The embedded default: a private PostgreSQL from the machine's own programs. It lies in the data
//! directory, listens on a socket only, and ends with this process.
//!
//! A start, on a thread of its own that then watches the server (`PR_SET_PDEATHSIG` follows the thread
//! that spawned a child, and all of this blocks):
//!
//! 1. `lock`        one owner for each data directory
//! 2. `place`       where the cluster and its socket lie, and (`account`) whom the server runs as
//! 3. `binaries`    the machine's programs, of the cluster's version
//! 4. `postmaster`  create the cluster if there is none: beside its name, renamed when it is whole
//! 5. `pidfile`     let the server of an earlier host end, or end it
//! 6. `postmaster`  start the server, and wait until it says that it is ready
//! 7. here          connect, and create the database if it is missing
//!
//! The server ends when the [`Embedded`] is stopped or dropped, and by the kernel's signal when this process
//! is killed. If it ends by itself, it is started again.

mod account;
mod binaries;
mod error;
mod lock;
mod pidfile;
mod place;
mod postmaster;
mod process;

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, Executor, PgConnection};
use tokio::sync::oneshot;

use binaries::Binaries;
pub use error::EmbeddedError;
use lock::Owned;
use place::{Place, SOCKET};
use postmaster::{NAME, Postmaster};

/// How often the thread looks whether the server still runs: for so long nobody notices that it does not.
const WATCH: Duration = Duration::from_millis(50);
/// At least so long between two starts: a server that cannot start must not fill its log.
const BETWEEN_STARTS: Duration = Duration::from_millis(500);
/// SQLSTATE `invalid_catalog_name`: there is no such database.
const NO_SUCH_DATABASE: &str = "3D000";

/// A private PostgreSQL that lives in the data directory and ends with this process.
///
/// Dropped, it shuts down in the background; [`Self::stop`] waits for the end.
#[derive(Debug)]
pub struct Embedded {
    started: Started,
    version: String,
    /// The thread ends the server when this is dropped.
    keep: mpsc::Sender<Infallible>,
    ended: oneshot::Receiver<Result<(), EmbeddedError>>,
}

/// What the thread tells once the server is ready.
#[derive(Debug)]
struct Started {
    options: PgConnectOptions,
    cluster: PathBuf,
    created: bool,
}

impl Embedded {
    /// Starts the server of `data_dir` and returns when it is ready. Creates directory, cluster and database
    /// if they are missing (about a second). `search_path` is the value of `PATH`: where the programs are looked for
    /// before the distribution's folders.
    ///
    /// # Errors
    /// [`EmbeddedError`], with a hint. An owner of the data directory has 3 s to finish, a server that an
    /// earlier process left behind 30 s.
    pub async fn start(data_dir: &Path, search_path: &OsStr) -> Result<Self, EmbeddedError> {
        let (tell, told) = oneshot::channel();
        let (keep, asked) = mpsc::channel();
        let (tell_end, ended) = oneshot::channel();
        let (data_dir, search_path) = (data_dir.to_owned(), OsString::from(search_path));
        let thread = thread::Builder::new().name("postgres".to_owned());
        let run = move || {
            let end = run(&data_dir, &search_path, tell, &asked);
            let _ = tell_end.send(end);
        };
        thread.spawn(run).map_err(EmbeddedError::io("start a thread for", Path::new("postgres")))?;
        let started = told.await.unwrap_or(Err(EmbeddedError::GivenUp))?;
        let mut embedded = Self { started, version: String::new(), keep, ended };
        match open(&embedded.started.options).await {
            Ok(version) => {
                embedded.version = version;
                Ok(embedded)
            }
            Err(error) => {
                let _ = embedded.stop().await;
                Err(error.into())
            }
        }
    }

    /// How to connect: by its socket, as its owner, to its database.
    pub fn connect_options(&self) -> PgConnectOptions {
        self.started.options.clone()
    }

    /// Where the data lies: in the data directory, or in `/var/lib/tollgate` if the server's user cannot enter that.
    pub fn cluster_dir(&self) -> &Path {
        &self.started.cluster
    }

    /// Whether this start created the cluster.
    pub fn created(&self) -> bool {
        self.started.created
    }

    /// The server's version, such as `15.18 (Debian 15.18-0+deb12u1)`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Ends the server: a fast shutdown, which rolls back what is open. Returns when it has ended.
    ///
    /// # Errors
    /// When it took more than 30 s and was ended hard; it then recovers at its next start.
    pub async fn stop(self) -> Result<(), EmbeddedError> {
        drop(self.keep);
        // The thread cannot end without an answer but by a panic; then the server has ended with it.
        self.ended.await.unwrap_or(Ok(()))
    }
}

/// How to connect to the server that another process of ours runs on `data_dir`, if one does and is ready.
///
/// Reads a file and tries the socket, both local: it blocks for less than a millisecond.
///
/// # Errors
/// When the database is there, but not for this user.
pub fn running(data_dir: &Path) -> Result<Option<PgConnectOptions>, EmbeddedError> {
    let data_dir = match fs::canonicalize(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        canonical => canonical.map_err(EmbeddedError::io("read", data_dir))?,
    };
    let Some(cluster) = place::existing_cluster(&data_dir)? else { return Ok(None) };
    let Some(server) = pidfile::server(&cluster)?.filter(|server| server.ready) else { return Ok(None) };
    let socket = server.socket_dir.join(SOCKET);
    match UnixStream::connect(&socket) {
        Ok(_) => Ok(Some(connect_options(&server.socket_dir))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(EmbeddedError::io("connect to", &socket)(error)),
    }
}

/// Whether `data_dir` has a cluster, running or not.
///
/// # Errors
/// The system refuses to tell.
pub fn exists(data_dir: &Path) -> Result<bool, EmbeddedError> {
    match fs::canonicalize(data_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        canonical => {
            let data_dir = canonical.map_err(EmbeddedError::io("read", data_dir))?;
            Ok(place::existing_cluster(&data_dir)?.is_some())
        }
    }
}

/// The thread's life: start the server, tell, and watch it until nobody keeps it any more.
fn run(
    data_dir: &Path,
    search_path: &OsStr,
    tell: oneshot::Sender<Result<Started, EmbeddedError>>,
    asked: &mpsc::Receiver<Infallible>,
) -> Result<(), EmbeddedError> {
    let given_up = || matches!(asked.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    match start(data_dir, search_path, given_up) {
        Ok((started, server, owned)) => {
            // If nobody hears this, nobody keeps it either.
            let _ = tell.send(Ok(started));
            let end = watch(server, asked);
            drop(owned);
            end
        }
        Err(error) => {
            let _ = tell.send(Err(error));
            Ok(())
        }
    }
}

/// Steps 1 to 6.
fn start(
    data_dir: &Path,
    search_path: &OsStr,
    given_up: impl Fn() -> bool,
) -> Result<(Started, Postmaster, Owned), EmbeddedError> {
    fs::create_dir_all(data_dir).map_err(EmbeddedError::io("create", data_dir))?;
    let data_dir = fs::canonicalize(data_dir).map_err(EmbeddedError::io("read", data_dir))?;
    let owned = Owned::take(&data_dir)?;
    let place = Place::choose(&data_dir)?;
    let binaries = Binaries::find(search_path, &place.account, &place.cluster, place.major()?)?;
    let created = postmaster::create_cluster(&place, &binaries)?;
    let socket_dir = place.socket_dir()?;
    let started = Started { options: connect_options(&socket_dir), cluster: place.cluster.clone(), created };
    let mut server = Postmaster::spawn(place, binaries, socket_dir)?;
    match server.wait_until_ready(given_up) {
        Ok(()) => Ok((started, server, owned)),
        Err(error) => {
            let _ = server.stop();
            Err(error)
        }
    }
}

/// Starts the server again when it ends by itself (the system may kill it for its memory), and ends it
/// when nobody keeps it any more.
fn watch(mut server: Postmaster, asked: &mpsc::Receiver<Infallible>) -> Result<(), EmbeddedError> {
    let mut started = Instant::now();
    loop {
        if let Err(mpsc::RecvTimeoutError::Disconnected) = asked.recv_timeout(WATCH) {
            return server.stop();
        }
        if started.elapsed() < BETWEEN_STARTS {
            continue;
        }
        if let Some(status) = server.ended() {
            started = Instant::now();
            tracing::error!(%status, "the embedded PostgreSQL ended by itself; starting it again");
            if let Err(error) = server.respawn() {
                tracing::error!(%error, "the embedded PostgreSQL does not start; trying again");
            }
        }
    }
}

fn connect_options(socket_dir: &Path) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .socket(socket_dir)
        .port(5432)
        .username(NAME)
        .database(NAME)
        .ssl_mode(PgSslMode::Disable)
}

/// Step 7: connects, creating the database if it is missing. Returns the server's version.
async fn open(options: &PgConnectOptions) -> Result<String, sqlx::Error> {
    let mut connection = match PgConnection::connect_with(options).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(NO_SUCH_DATABASE) => {
            let mut maintenance = PgConnection::connect_with(&options.clone().database("postgres")).await?;
            maintenance.execute("CREATE DATABASE tollgate").await?;
            maintenance.close().await?;
            PgConnection::connect_with(options).await?
        }
        connected => connected?,
    };
    let version = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(version)
}
