//! The PostgreSQL that takes writes, and the standby that takes its place.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tollgate::store::embedded::Embedded;

use crate::harness::{Scratch, until};

/// The name under which a primary waits for its standby.
const NAME: &str = "standby";

/// The one value of a query; `None` where the server does not answer.
pub async fn value(options: &PgConnectOptions, sql: &str) -> Option<String> {
    let mut connection = options.clone().disable_statement_logging().connect().await.ok()?;
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.ok()
}

/// Runs statements as they stand.
pub async fn run(options: &PgConnectOptions, sql: &str) {
    let mut connection = options.connect().await.expect("a connection");
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.expect(sql);
}

pub enum Primary {
    /// The first of a story.
    Embedded {
        server: Embedded,
        folder: Scratch,
    },
    Promoted(Standby),
}

impl Primary {
    pub async fn start() -> Self {
        let folder = Scratch::new();
        Self::Embedded { server: embedded(&folder).await, folder }
    }

    pub fn options(&self) -> PgConnectOptions {
        match self {
            Self::Embedded { server, .. } => server.connect_options(),
            Self::Promoted(standby) => standby.options.clone(),
        }
    }

    fn cluster(&self) -> PathBuf {
        match self {
            Self::Embedded { server, .. } => server.cluster_dir().to_owned(),
            Self::Promoted(standby) => standby.folder.join("data"),
        }
    }

    pub fn is_told(&self, signal: Signal) {
        kill(postmaster(&self.cluster()), signal).expect("a running server");
    }

    /// Starts again, after it was told to end.
    pub async fn start_again(self) -> Self {
        match self {
            Self::Embedded { server, folder } => {
                // Its watchdog starts it again, or its owner does.
                drop(server.stop().await);
                Self::Embedded { server: embedded(&folder).await, folder }
            }
            Self::Promoted(mut standby) => {
                standby.server.wait().expect("its end");
                standby.server = standby.programs.serve(&standby.folder);
                until("the server answers again", || async { value(&standby.options, "SELECT ''").await.is_some() })
                    .await;
                Self::Promoted(standby)
            }
        }
    }

    pub async fn end(self) {
        let cluster = self.cluster();
        if let Self::Embedded { server, .. } = self {
            drop(server.stop().await);
            // Where the server's user cannot enter the folder, the cluster is somewhere else.
            let elsewhere = cluster.parent().filter(|parent| parent.starts_with("/var/lib/tollgate"));
            elsewhere.map(fs::remove_dir_all);
        }
    }
}

async fn embedded(folder: &Scratch) -> Embedded {
    let search_path: OsString = std::env::var_os("PATH").unwrap_or_default();
    Embedded::start(folder.path(), &search_path).await.expect("a server")
}

fn postmaster(cluster: &Path) -> Pid {
    let pid = fs::read_to_string(cluster.join("postmaster.pid")).expect("a running server");
    Pid::from_raw(pid.lines().next().and_then(|line| line.parse().ok()).expect("its process id"))
}

/// Where the server's programs lie, and whom they run as.
#[derive(Clone)]
struct Programs {
    folder: PathBuf,
    user: u32,
    group: u32,
}

impl Programs {
    /// Those of a running server.
    fn of(cluster: &Path) -> Self {
        let server = fs::read_link(format!("/proc/{}/exe", postmaster(cluster))).expect("the server's program");
        let owner = fs::metadata(cluster).expect("a cluster");
        let folder = server.parent().expect("a folder").to_owned();
        Self { folder, user: owner.uid(), group: owner.gid() }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(self.folder.join(program));
        command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // PostgreSQL refuses to run as root.
        if geteuid().is_root() {
            command.uid(self.user).gid(self.group);
        }
        command
    }

    /// The server of the cluster `data` in `folder`, with its socket there.
    fn serve(&self, folder: &Path) -> Child {
        let socket = format!("unix_socket_directories={}", folder.display());
        let settings = ["-c", "listen_addresses=", "-c", "port=5432", "-c", "max_connections=64", "-c", &socket];
        self.command("postgres", folder).args(["-D", "data"]).args(settings).spawn().expect("a server")
    }
}

/// A hot standby, with every commit of its primary before that is answered.
pub struct Standby {
    server: Child,
    programs: Programs,
    /// Its own folder, whose path has to be short: it has the socket.
    folder: PathBuf,
    pub options: PgConnectOptions,
}

impl Standby {
    pub async fn of(primary: &Primary) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let programs = Programs::of(&primary.cluster());
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("tollgate-standby-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        chown(&folder, Some(programs.user), Some(programs.group)).expect("a folder that is the server's");
        let options = primary.options();
        let (socket, user) = (options.get_socket().expect("a socket").display(), options.get_username());
        let source = format!("host={socket} port=5432 user={user} application_name={NAME}");
        let mut copy = programs.command("pg_basebackup", &folder);
        copy.args(["-R", "-X", "stream", "-c", "fast", "-D", "data", "-d", &source]);
        // Beside the applications, which go on.
        let copied = tokio::task::spawn_blocking(move || copy.status()).await.expect("no panic");
        assert!(copied.expect("pg_basebackup").success(), "a copy of the primary");
        let database = options.get_database().expect("a database").to_owned();
        let own = PgConnectOptions::new_without_pgpass().socket(&folder).port(5432).username(user).database(&database);
        let (server, own) = (programs.serve(&folder), own.ssl_mode(PgSslMode::Disable));
        let standby = Self { server, programs, folder, options: own };
        // After the copy, so that the standby itself waits for nobody.
        run(&options, &format!("ALTER SYSTEM SET synchronous_standby_names = '{NAME}'")).await;
        run(&options, "SELECT pg_reload_conf()").await;
        let state = "SELECT string_agg(sync_state, ' ') FROM pg_stat_replication";
        until("the primary waits for its standby", || async {
            value(&options, state).await.as_deref() == Some("sync")
        })
        .await;
        standby
    }

    /// Where its socket lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// From now on it takes writes.
    pub async fn promote(self) -> Primary {
        assert_eq!(value(&self.options, "SELECT pg_promote()::text").await.as_deref(), Some("true"));
        Primary::Promoted(self)
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // A fast shutdown; it may have ended already.
        let _ = kill(Pid::from_raw(self.server.id().cast_signed()), Signal::SIGINT);
        let _ = self.server.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
