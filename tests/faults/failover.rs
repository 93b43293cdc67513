//! A primary that is gone for good, and a standby that takes its place: what was answered is in its books.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _};
use tollgate::store::embedded::Embedded;

use super::report::Report;
use super::workload::Workload;
use super::{Host, check};
use crate::harness::{Scratch, until};
use crate::outages::switch::Wire;

/// The name under which the primary waits for it.
const NAME: &str = "standby";

async fn value(options: &PgConnectOptions, sql: &str) -> Option<String> {
    let mut connection = options.clone().disable_statement_logging().connect().await.ok()?;
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut connection).await.ok()
}

fn postmaster(cluster: &Path) -> Pid {
    let pid = fs::read_to_string(cluster.join("postmaster.pid")).expect("a running server");
    Pid::from_raw(pid.lines().next().and_then(|line| line.parse().ok()).expect("its process id"))
}

/// A hot standby, with every commit of its primary before that is answered.
struct Standby {
    server: Child,
    /// Its own folder, whose path has to be short: it has the socket.
    folder: PathBuf,
    options: PgConnectOptions,
}

impl Standby {
    async fn of(primary: &Embedded) -> Self {
        let cluster = primary.cluster_dir();
        let programs = fs::read_link(format!("/proc/{}/exe", postmaster(cluster))).expect("the server's program");
        let owner = fs::metadata(cluster).expect("a cluster");
        let folder = std::env::temp_dir().join(format!("tollgate-standby-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
        chown(&folder, Some(owner.uid()), Some(owner.gid())).expect("a folder that is the server's");
        // PostgreSQL refuses to run as root.
        let command = |program: &str| {
            let mut command = Command::new(programs.with_file_name(program));
            command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if geteuid().is_root() {
                command.uid(owner.uid()).gid(owner.gid());
            }
            command
        };
        let options = primary.connect_options();
        let (socket, user) = (options.get_socket().expect("a socket").display(), options.get_username());
        let source = format!("host={socket} port=5432 user={user} application_name={NAME}");
        let copied =
            command("pg_basebackup").args(["-R", "-X", "stream", "-c", "fast", "-D", "data", "-d", &source]).status();
        assert!(copied.expect("pg_basebackup").success(), "a copy of the primary");
        let socket = format!("unix_socket_directories={}", folder.display());
        let settings = ["-c", "listen_addresses=", "-c", "port=5432", "-c", "max_connections=64", "-c", &socket];
        let server = command("postgres").args(["-D", "data"]).args(settings).spawn().expect("a standby");
        let database = options.get_database().expect("a database").to_owned();
        let own = PgConnectOptions::new_without_pgpass().socket(&folder).port(5432).username(user).database(&database);
        let standby = Self { server, folder: folder.clone(), options: own.ssl_mode(PgSslMode::Disable) };
        // After the copy, so that the standby itself waits for nobody.
        for change in
            [format!("ALTER SYSTEM SET synchronous_standby_names = '{NAME}'"), "SELECT pg_reload_conf()".into()]
        {
            let mut connection = options.connect().await.expect("a connection");
            sqlx::raw_sql(AssertSqlSafe(change)).execute(&mut connection).await.expect("a changed setting");
        }
        let state = "SELECT string_agg(sync_state, ' ') FROM pg_stat_replication";
        until("the primary waits for its standby", || async {
            value(&options, state).await.as_deref() == Some("sync")
        })
        .await;
        standby
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

async fn are_degraded(hosts: &[Host], degraded: bool) {
    for host in hosts {
        until("a host knows how its store is", || async {
            host.gate().send("GET", "/readyz", json!(null)).await.at("/degraded") == json!(degraded)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_standby_takes_the_place_of_its_primary_everything_that_was_answered_is_in_its_books() {
    let (folder, search_path) = (Scratch::new(), std::env::var_os("PATH").unwrap_or_default());
    let primary = Embedded::start(folder.path(), &search_path).await.expect("a server");
    let cluster = primary.cluster_dir().to_owned();
    let hosts = [0, 1].map(|_| Host::new(&primary.connect_options()));
    for tenant in 0..4 {
        let path = format!("/v1/quotas/tenant/t-{tenant}/llm/lifetime");
        hosts[0].gate().send("PUT", &path, json!({ "limitUsd": 1_000_000 })).await.expect_status(201);
    }
    let standby = Standby::of(&primary).await;
    let workload = Workload::start(hosts.iter().map(|host| host.gate().url.clone()).collect(), 2026);
    workload.answers(150).await;

    // In the middle of it the primary is gone: if it comes back, nobody is there to hear it.
    kill(postmaster(&cluster), Signal::SIGKILL).expect("a running primary");
    for host in &hosts {
        host.switch.now(Wire::Refuses);
        host.switch.leads_to(&standby.folder);
        host.switch.now(Wire::Forwards);
    }
    are_degraded(&hosts, true).await;
    // The standby answers, and takes no writes: that is no store yet.
    assert_eq!(value(&standby.options, "SELECT pg_is_in_recovery()::text").await.as_deref(), Some("true"));
    workload.answers(100).await;
    are_degraded(&hosts, true).await;

    let promoted = Instant::now();
    assert_eq!(value(&standby.options, "SELECT pg_promote()::text").await.as_deref(), Some("true"));
    for host in &hosts {
        until("a host is well and has brought everything into the books", || host.is_well()).await;
    }
    println!("well {} ms after the promotion", promoted.elapsed().as_millis());
    workload.answers(100).await;
    let answered = workload.stop().await;
    for host in &hosts {
        until("a host is well and has brought everything into the books", || host.is_well()).await;
    }
    let mut report = Report::default();
    check(&standby.options, &answered, &mut report).await;
    assert!(answered.degraded > 0 && answered.costs.len() > 20, "{} costs", answered.costs.len());
    assert!(report.violations().is_empty(), "{:#?}", report.violations());
    for host in hosts {
        assert_eq!(host.gate.expect("a host").interrupt().code, Some(0));
    }
    drop(standby);
    drop(primary.stop().await);
    // Where the server's user cannot enter the folder, the cluster is somewhere else.
    let elsewhere = cluster.parent().filter(|parent| parent.starts_with("/var/lib/tollgate"));
    elsewhere.map(fs::remove_dir_all);
}
